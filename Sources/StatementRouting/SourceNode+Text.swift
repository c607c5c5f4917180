internal import CPgQuery

/// What the tree does not tell: where in the text a part of a statement stands. All of it goes by tokens.
extension SourceNode {
    /// The bytes after the first `keyword` that stands outside brackets.
    func after(keyword: StaticString, in range: Range<Int>) -> Range<Int> {
        var depth = 0
        var lexer = Lexer(bytes, from: range.lowerBound, to: range.upperBound)
        while let token = lexer.next() {
            if bytes.isMark(token, "(") { depth += 1 }
            if bytes.isMark(token, ")") { depth -= 1 }
            guard depth == 0, bytes.isWord(token, keyword), let next = lexer.next() else { continue }
            return next.start..<range.upperBound
        }
        return range.upperBound..<range.upperBound
    }

    /// What stands in the first pair of brackets, without them.
    func firstBrackets(in range: Range<Int>) -> Range<Int> {
        var depth = 0
        var start = range.upperBound
        var lexer = Lexer(bytes, from: range.lowerBound, to: range.upperBound)
        while let token = lexer.next() {
            if bytes.isMark(token, "(") {
                if depth == 0 { start = token.end }
                depth += 1
            } else if bytes.isMark(token, ")") {
                depth -= 1
                if depth == 0 { return start..<token.start }
            }
        }
        return range.upperBound..<range.upperBound
    }

    /// The items, separated by commas, in the first pair of brackets.
    func bracketedItems(in range: Range<Int>) -> [String] {
        bytes.items(in: firstBrackets(in: range)).map { bytes.text($0) }
    }

    /// The statement behind EXPLAIN and its options.
    func explained(in range: Range<Int>) -> Range<Int> {
        var lexer = Lexer(bytes, from: range.lowerBound, to: range.upperBound)
        _ = lexer.next()
        guard var token = lexer.next() else { return range.upperBound..<range.upperBound }
        if bytes.isMark(token, "("), !beginsQuery(after: token, range) {
            var depth = 1
            while depth > 0, let next = lexer.next() {
                if bytes.isMark(next, "(") { depth += 1 }
                if bytes.isMark(next, ")") { depth -= 1 }
            }
            token = lexer.next() ?? token
        } else {
            while bytes.isWord(token, "analyze") || bytes.isWord(token, "analyse") || bytes.isWord(token, "verbose") {
                guard let next = lexer.next() else { break }
                token = next
            }
        }
        return token.start..<range.upperBound
    }

    /// `EXPLAIN (SELECT 1)` has no options.
    private func beginsQuery(after bracket: Token, _ range: Range<Int>) -> Bool {
        var lexer = Lexer(bytes, from: bracket.end, to: range.upperBound)
        guard let first = lexer.next() else { return false }
        return bytes.isMark(first, "(") || bytes.isWord(first, "select") || bytes.isWord(first, "with")
            || bytes.isWord(first, "values") || bytes.isWord(first, "table")
    }

    /// A SELECT INTO without its INTO; nil if that stands within brackets.
    func withoutInto(in range: Range<Int>) -> String? {
        let tokens = Lexer.tokens(bytes, from: range.lowerBound, to: range.upperBound)
        var depth = 0
        let into = tokens.firstIndex { token in
            if bytes.isMark(token, "(") { depth += 1 }
            if bytes.isMark(token, ")") { depth -= 1 }
            return depth == 0 && bytes.isWord(token, "into")
        }
        guard let into else { return nil }
        // TEMPORARY TABLE, and a name that may be qualified.
        var last = into + 1
        while last + 1 < tokens.count, ["temporary", "temp", "table", "local"].contains(word(tokens[last])) {
            last += 1
        }
        while last + 2 < tokens.count, bytes.isMark(tokens[last + 1], ".") { last += 2 }
        guard last < tokens.count else { return nil }
        return bytes.text(range.lowerBound..<tokens[into].start) + bytes.text(tokens[last].end..<range.upperBound)
    }

    private func word(_ token: Token) -> String { bytes.text(token.start..<token.end).lowercased() }

    /// A query without WITH DATA behind it.
    func withoutDataClause(in range: Range<Int>) -> Range<Int> {
        let tokens = Lexer.tokens(bytes, from: range.lowerBound, to: range.upperBound)
        guard let data = tokens.last, bytes.isWord(data, "data"), tokens.count > 2,
            bytes.isWord(tokens[tokens.count - 2], "with")
        else { return range }
        return range.lowerBound..<tokens[tokens.count - 3].end
    }

    /// The statement's first two words in upper case, to name it in an error.
    func leadingWords(in range: Range<Int>) -> String {
        var lexer = Lexer(bytes, from: range.lowerBound, to: range.upperBound)
        var words: [String] = []
        while words.count < 2, let token = lexer.next(), token.kind == .word {
            words.append(bytes.text(token.start..<token.end).uppercased())
        }
        return words.joined(separator: " ")
    }

    /// Meridian's own options of a CREATE TABLE, and the text without them.
    func withoutOwnOptions(in range: Range<Int>) -> (DistributionRequest?, String) {
        guard node.kind == PG_QUERY__NODE__NODE_CREATE_STMT || node.kind == PG_QUERY__NODE__NODE_CREATE_TABLE_AS_STMT
        else { return (nil, bytes.text(range)) }
        let options: [Node]
        if node.kind == PG_QUERY__NODE__NODE_CREATE_STMT {
            options = nodes(node.pointee.create_stmt.pointee.n_options, node.pointee.create_stmt.pointee.options)
        } else {
            let into = node.pointee.create_table_as_stmt.pointee.into.pointee
            options = nodes(into.n_options, into.options)
        }
        let own = options.compactMap(\.defElem).filter { name($0.pointee.defnamespace)?.lowercased() == "meridian" }
        guard !own.isEmpty else { return (nil, bytes.text(range)) }
        var request = DistributionRequest()
        for option in own {
            let value = option.pointee.arg.map(literal)
            switch name(option.pointee.defname)?.lowercased() {
            case "shard_key": request.shardKey = value
            case "table": request.table = value
            default: request.table = request.table ?? name(option.pointee.defname)
            }
        }
        let locations = Set(own.map { Int($0.pointee.location) })
        return (request, removingOptions(at: locations, all: options.count == own.count, in: range))
    }

    /// The text without the options of WITH that begin at `locations`; without the whole clause when that is `all`.
    private func removingOptions(at locations: Set<Int>, all: Bool, in range: Range<Int>) -> String {
        let tokens = Lexer.tokens(bytes, from: range.lowerBound, to: range.upperBound)
        guard let first = tokens.firstIndex(where: { locations.contains($0.start) }),
            let open = tokens[..<first].lastIndex(where: { bytes.isMark($0, "(") }), open > 0
        else { return bytes.text(range) }
        var depth = 0
        let close = tokens[open...].firstIndex { token in
            if bytes.isMark(token, "(") { depth += 1 }
            if bytes.isMark(token, ")") { depth -= 1 }
            return depth == 0
        }
        guard let close else { return bytes.text(range) }
        let items = bytes.items(in: tokens[open].end..<tokens[close].start)
        let kept = items.filter { item in !locations.contains(item.lowerBound) }.map { bytes.text($0) }
        let head = bytes.text(range.lowerBound..<(all ? tokens[open - 1].start : tokens[open].end))
        let tail = bytes.text((all ? tokens[close].end : tokens[close].start)..<range.upperBound)
        return head + kept.joined(separator: ", ") + tail
    }
}

extension UnsafeBufferPointer<UInt8> {
    /// The parts of a range between commas that stand outside brackets, without the blanks around them.
    func items(in range: Range<Int>) -> [Range<Int>] {
        var items: [Range<Int>] = []
        var depth = 0
        var current: Range<Int>?
        var lexer = Lexer(self, from: range.lowerBound, to: range.upperBound)
        while let token = lexer.next() {
            if isMark(token, "(") || isMark(token, "[") { depth += 1 }
            if isMark(token, ")") || isMark(token, "]") { depth -= 1 }
            if depth == 0, isMark(token, ",") {
                if let current { items.append(current) }
                current = nil
            } else {
                current = (current?.lowerBound ?? token.start)..<token.end
            }
        }
        if let current { items.append(current) }
        return items
    }
}
