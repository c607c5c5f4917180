/// Replaces the literals of a simple statement by parameters, so that statements which differ in them alone share a
/// plan here and a prepared statement on the shards.
///
/// Goes by tokens, and only where a parameter is sure to mean the same: a literal compared with `=`, `<>`, `<`, `>`,
/// `<=`, `>=` in WHERE, assigned by SET, an item of VALUES, or a number that SET reckons with. All else stays, and
/// anything odd (prefixed or dollar-quoted strings, comments, parameters, several statements) makes it give up.
public enum StatementNormalizer {
    /// A statement without its literals.
    public struct Normalized: Hashable, Sendable {
        /// The text, with `$1`, `$2` … for literals. Numbers keep their type by a cast: `$1::int4`.
        public var text: String
        /// The literals' values, in text format.
        public var values: [String]
        /// Which bytes of the statement became which of ``text``.
        var replaced: [Replacement]

        struct Replacement: Hashable, Sendable {
            var literal: Range<Int>
            var parameter: Range<Int>
        }

        /// The place in the statement, `original`, of a place in ``text``: characters, counted from 1, as in the errors
        /// of PostgreSQL.
        public func position(in original: String, of position: Int) -> Int {
            let offset = Self.bytes(before: position, in: text)
            var (start, end) = (0, 0)
            for place in replaced where place.parameter.lowerBound <= offset {
                if offset < place.parameter.upperBound {
                    return Self.characters(to: place.literal.lowerBound, original)
                }
                (start, end) = (place.parameter.upperBound, place.literal.upperBound)
            }
            return Self.characters(to: end + offset - start, original)
        }

        private static func bytes(before position: Int, in text: String) -> Int {
            text.unicodeScalars.prefix(max(0, position - 1)).reduce(0) { $0 + UTF8.width($1) }
        }

        private static func characters(to offset: Int, _ text: String) -> Int {
            var bytes = 0
            return 1
                + text.unicodeScalars.prefix { scalar in
                    bytes += UTF8.width(scalar)
                    return bytes <= offset
                }.count
        }
    }

    /// A statement with more is a bulk load: the next one has as many by chance only.
    static let valuesMax = 64

    /// The statement without its literals; nil when it has none that may be replaced, too many, or is too odd.
    public static func normalize(_ text: String) -> Normalized? {
        text.withBytes { bytes in
            var normalizer = Normalizer(bytes)
            return normalizer.run()
        }
    }
}

private struct Normalizer {
    let bytes: UnsafeBufferPointer<UInt8>
    private var tokens: [Token] = []
    private var text: [UInt8] = []
    private var values: [String] = []
    private var replaced: [StatementNormalizer.Normalized.Replacement] = []
    private var position = 0
    private var region = Region.other
    private var depth = 0
    /// Between CONFLICT and DO.
    private var isInConflictTarget = false

    /// Which clause the tokens are of, outside brackets.
    private enum Region {
        case other, filter, assignments, rows
    }

    init(_ bytes: UnsafeBufferPointer<UInt8>) {
        self.bytes = bytes
    }

    mutating func run() -> StatementNormalizer.Normalized? {
        guard take() else { return nil }
        text.reserveCapacity(bytes.count + 16)
        for index in tokens.indices where !follow(index) { return nil }
        guard (1...StatementNormalizer.valuesMax).contains(values.count) else { return nil }
        text += bytes[position...]
        return StatementNormalizer.Normalized(
            text: String(decoding: text, as: UTF8.self), values: values, replaced: replaced)
    }

    /// Cuts the text into tokens; false when something is odd.
    private mutating func take() -> Bool {
        var lexer = Lexer(bytes)
        tokens.reserveCapacity(bytes.count / 4)
        while let token = lexer.next() {
            switch token.kind {
            case .oddString, .parameter, .broken: return false
            case .punctuation where bytes[token.start] == UInt8(ascii: ";"):
                guard lexer.next() == nil else { return false }
            default: tokens.append(token)
            }
        }
        guard !lexer.sawComment, let first = tokens.first else { return false }
        return bytes.isWord(first, "select") || bytes.isWord(first, "insert") || bytes.isWord(first, "update")
            || bytes.isWord(first, "delete")
    }

    private mutating func follow(_ index: Int) -> Bool {
        let token = tokens[index]
        switch token.kind {
        case .punctuation:
            if bytes.isMark(token, "(") { depth += 1 }
            if bytes.isMark(token, ")") { depth -= 1 }
            return depth >= 0
        case .word:
            // A label or a column may be called like a keyword.
            if index > 0, bytes.isMark(tokens[index - 1], ".") || bytes.isWord(tokens[index - 1], "as") { return true }
            if depth == 0 { enter(token) }
            // Levels of their own have clauses of their own, and branches must agree on the types of columns.
            let isOdd = depth > 0 ? ["select"] : ["union", "except", "intersect"] as [StaticString]
            return !isAnyWord(token, isOdd)
        case .integer, .decimal, .string:
            let isSigned = isSigned(index)
            if isReplaceable(index, behind: isSigned ? index - 2 : index - 1) {
                replace(token, from: isSigned ? tokens[index - 1] : token)
            }
            return true
        default: return true
        }
    }

    private mutating func enter(_ token: Token) {
        if bytes.isWord(token, "where") {
            // The condition of ON CONFLICT's index is compared with the index's own when the statement is planned.
            region = isInConflictTarget ? .other : .filter
        } else if bytes.isWord(token, "set") {
            region = bytes.isWord(tokens[0], "update") || bytes.isWord(tokens[0], "insert") ? .assignments : .other
        } else if bytes.isWord(token, "values") {
            region = bytes.isWord(tokens[0], "insert") ? .rows : .other
        } else if Self.ends.contains(where: { bytes.isWord(token, $0) }) {
            region = .other
            if bytes.isWord(token, "conflict") { isInConflictTarget = true }
            if bytes.isWord(token, "do") { isInConflictTarget = false }
        }
    }

    private static let ends: [StaticString] = [
        "from", "group", "having", "window", "order", "limit", "offset", "fetch", "for", "returning", "on", "conflict",
        "do", "select",
    ]

    /// Whether a number has a minus in front of it that is its own, as PostgreSQL's parser takes it.
    private func isSigned(_ index: Int) -> Bool {
        guard index > 1, tokens[index].kind != .string, isSymbol(tokens[index - 1], ["-"]) else { return false }
        let before = tokens[index - 2]
        return before.kind == .symbol || bytes.isMark(before, "(") || bytes.isMark(before, ",")
    }

    /// Whether a literal stands alone between tokens that leave its meaning to itself; `last` is the one before it.
    private func isReplaceable(_ index: Int, behind last: Int) -> Bool {
        guard region != .other, last >= 0, tokens[index].kind == .string || isPlainNumber(tokens[index]) else {
            return false
        }
        let before = tokens[last]
        let after = index + 1 < tokens.count ? tokens[index + 1] : nil
        switch region {
        case .rows:
            guard depth == 1 else { return false }
            let opens = bytes.isMark(before, "(") || bytes.isMark(before, ",")
            return opens && after.map { bytes.isMark($0, ")") || bytes.isMark($0, ",") } == true
        case .assignments:
            // A string next to an operator takes its type from the other side, a number has its own.
            let isOperand = tokens[index].kind != .string
            guard depth == 0, isSymbol(before, ["="]) || isOperand && isArithmetic(last) else { return false }
            guard let after else { return true }
            return bytes.isMark(after, ",") || isAnyWord(after, ["where", "returning", "from"])
                || isOperand && isSymbol(after, Self.arithmetic)
        case .filter:
            guard depth == 0, isSymbol(before, ["=", "<", ">", "<=", ">=", "<>", "!="]), last > 0,
                tokens[last - 1].kind == .word || tokens[last - 1].kind == .quotedIdentifier
            else { return false }
            return after.map { isAnyWord($0, ["and", "or", "order", "limit", "group", "returning", "for"]) } ?? true
        case .other: return false
        }
    }

    private static let arithmetic: [StaticString] = ["+", "-", "*", "/", "%"]

    /// Whether a token is an operator between two values. As a sign it would be the literal's, or another sign's: the
    /// least integers have types that depend on it.
    private func isArithmetic(_ index: Int) -> Bool {
        guard isSymbol(tokens[index], Self.arithmetic), index > 0 else { return false }
        guard isSymbol(tokens[index], ["+", "-"]) else { return true }
        let before = tokens[index - 1]
        switch before.kind {
        case .word: return !isAnyWord(before, Self.wordsBeforeValues)
        case .quotedIdentifier, .integer, .decimal, .string: return true
        default: return bytes.isMark(before, ")") || bytes.isMark(before, "]")
        }
    }

    /// Keywords behind which a value begins.
    private static let wordsBeforeValues: [StaticString] = [
        "then", "else", "when", "case", "and", "or", "not", "in", "between", "symmetric", "like", "ilike", "to",
        "similar", "escape", "is", "from", "any", "some", "all", "distinct", "collate", "zone", "operator", "set",
    ]

    /// A number whose type its digits tell: `int4`, `int8` or `numeric`.
    private func isPlainNumber(_ token: Token) -> Bool {
        // A letter right behind digits is an alias of the literal, and odd.
        guard token.end < bytes.count else { return true }
        let next = bytes[token.end]
        return !(next | 0x20 >= UInt8(ascii: "a") && next | 0x20 <= UInt8(ascii: "z")) && next != UInt8(ascii: "_")
    }

    private func isSymbol(_ token: Token, _ symbols: [StaticString]) -> Bool {
        guard token.kind == .symbol else { return false }
        return symbols.contains { symbol in
            symbol.utf8CodeUnitCount == token.end - token.start
                && (0..<symbol.utf8CodeUnitCount).allSatisfy { bytes[token.start + $0] == symbol.utf8Start[$0] }
        }
    }

    private func isAnyWord(_ token: Token, _ words: [StaticString]) -> Bool {
        words.contains { bytes.isWord(token, $0) }
    }

    /// Puts a parameter in place of a literal that begins with the token `first`: itself, or its sign.
    private mutating func replace(_ token: Token, from first: Token) {
        let (cast, value) = bytes.parameter(LiteralToken(token: token, start: first.start))
        values.append(value)
        text += bytes[position..<first.start]
        let start = text.count
        text += "$\(values.count)\(cast.rawValue)".utf8
        replaced.append(.init(literal: first.start..<token.end, parameter: start..<text.count))
        position = token.end
    }
}
