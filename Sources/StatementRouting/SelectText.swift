internal import CPgQuery

/// Where the clauses of a plain SELECT stand in the text: found by tokens outside brackets, checked against the tree.
struct SelectText {
    /// The output expressions, with their aliases.
    var items: [Range<Int>] = []
    /// From FROM to the end of WHERE; empty without FROM.
    var source: Range<Int>
    var groups: [Range<Int>] = []
    var having: Range<Int>?
    var sorts: [Range<Int>] = []
    /// From LIMIT, OFFSET or FETCH, whichever comes first, to the end of the last of them.
    var limits: Range<Int>?

    private enum Clause: Int {
        case items, source, group, having, window, order, limits, locking
    }

    /// Nil for a text that does not begin with SELECT, has set operations, or isn't cut as the tree says.
    init?(_ select: PgQuery__SelectStmt, _ bytes: UnsafeBufferPointer<UInt8>, in range: Range<Int>) {
        let tokens = Lexer.tokens(bytes, from: range.lowerBound, to: range.upperBound)
        guard let first = tokens.first, bytes.isWord(first, "select") else { return nil }
        var start = 1
        if let word = tokens[safe: 1], bytes.isWord(word, "all") || bytes.isWord(word, "distinct") { start = 2 }
        source = range.upperBound..<range.upperBound
        var clause = Clause.items
        var begin = tokens[safe: start]?.start ?? range.upperBound
        var end = begin
        var depth = 0
        var index = start
        while index < tokens.count {
            let token = tokens[index]
            if bytes.isMark(token, "(") || bytes.isMark(token, "[") { depth += 1 }
            if bytes.isMark(token, ")") || bytes.isMark(token, "]") { depth -= 1 }
            if depth == 0, let next = Self.clause(at: index, of: tokens, bytes), next != clause {
                guard next.rawValue > clause.rawValue else { return nil }
                take(clause, begin..<end, bytes)
                clause = next
                let skipped = next == .group || next == .order ? 2 : next == .having ? 1 : 0
                index += skipped
                begin = tokens[safe: index]?.start ?? range.upperBound
                end = begin
                if skipped > 0 { continue }
            }
            end = token.end
            index += 1
        }
        take(clause, begin..<end, bytes)
        guard items.count == select.n_target_list, groups.count == select.n_group_clause,
            sorts.count == select.n_sort_clause, (having != nil) == (select.having_clause != nil),
            (limits != nil) == (select.limit_count != nil || select.limit_offset != nil)
        else { return nil }
    }

    private mutating func take(_ clause: Clause, _ range: Range<Int>, _ bytes: UnsafeBufferPointer<UInt8>) {
        switch clause {
        case .items: items = bytes.items(in: range)
        case .source: source = range
        case .group: groups = bytes.items(in: range)
        case .having: having = range
        case .order: sorts = bytes.items(in: range)
        case .limits: limits = range
        case .window, .locking: break
        }
    }

    /// The clause that a word begins; the words are reserved, but labels and IS DISTINCT FROM have them too.
    private static func clause(
        at index: Int, of tokens: [Token], _ bytes: UnsafeBufferPointer<UInt8>
    ) -> Clause? {
        let token = tokens[index]
        guard token.kind == .word, index > 0 else { return nil }
        let before = tokens[index - 1]
        if bytes.isWord(before, "as") || bytes.isMark(before, ".") { return nil }
        if bytes.isWord(token, "from") {
            let isComparison = bytes.isWord(before, "distinct") && index > 2
            return isComparison ? nil : .source
        }
        if bytes.isWord(token, "where") { return .source }
        if bytes.isWord(token, "group") { return bytes.isWord(before, "within") ? nil : .group }
        if bytes.isWord(token, "having") { return .having }
        if bytes.isWord(token, "window") { return .window }
        if bytes.isWord(token, "order") { return .order }
        if bytes.isWord(token, "limit") || bytes.isWord(token, "offset") || bytes.isWord(token, "fetch") {
            return .limits
        }
        return bytes.isWord(token, "for") ? .locking : nil
    }
}

extension UnsafeBufferPointer<UInt8> {
    /// An output expression without its alias.
    func expression(_ item: Range<Int>, hasAlias: Bool) -> Range<Int> {
        guard hasAlias else { return item }
        var tokens = Lexer.tokens(self, from: item.lowerBound, to: item.upperBound)
        tokens.removeLast()
        if let last = tokens.last, isWord(last, "as") { tokens.removeLast() }
        return item.lowerBound..<(tokens.last?.end ?? item.lowerBound)
    }

    /// A sort expression and what follows it: ASC, DESC, NULLS FIRST, NULLS LAST.
    func sortParts(_ item: Range<Int>) -> (expression: Range<Int>, direction: Range<Int>) {
        let tokens = Lexer.tokens(self, from: item.lowerBound, to: item.upperBound)
        var count = tokens.count
        if count > 2, isWord(tokens[count - 2], "nulls"),
            isWord(tokens[count - 1], "first") || isWord(tokens[count - 1], "last")
        {
            count -= 2
        }
        if count > 1, isWord(tokens[count - 1], "asc") || isWord(tokens[count - 1], "desc") { count -= 1 }
        let end = tokens[count - 1].end
        let rest = count < tokens.count ? tokens[count].start..<item.upperBound : item.upperBound..<item.upperBound
        return (item.lowerBound..<end, rest)
    }

    /// Where the call ends that begins at `start`: behind its arguments and FILTER.
    func endOfCall(at start: Int, in range: Range<Int>) -> Int? {
        var lexer = Lexer(self, from: start, to: range.upperBound)
        var depth = 0
        var end: Int?
        var isFilter = false
        while let token = lexer.next() {
            if let end, depth == 0, !isFilter {
                guard isWord(token, "filter") else { return end }
                isFilter = true
            }
            if isMark(token, "(") { depth += 1 }
            if isMark(token, ")") {
                depth -= 1
                if depth == 0 {
                    end = token.end
                    if isFilter { return end }
                }
            }
        }
        return end
    }

    /// Where the possibly qualified name ends that begins at `start`.
    func endOfName(at start: Int, in range: Range<Int>) -> Int {
        var lexer = Lexer(self, from: start, to: range.upperBound)
        var end = lexer.next()?.end ?? start
        while let dot = lexer.next(), isMark(dot, "."), let part = lexer.next() { end = part.end }
        return end
    }
}
