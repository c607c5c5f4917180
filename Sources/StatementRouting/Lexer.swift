/// What a lexical token is; PostgreSQL's `scan.l` with `standard_conforming_strings` on.
enum TokenKind: UInt8 {
    /// An unquoted identifier or keyword.
    case word
    /// `"quoted"`, also `U&"…"`.
    case quotedIdentifier
    /// `'…'` without prefix.
    case string
    /// `E'…'`, `B'…'`, `X'…'`, `N'…'`, `U&'…'` or `$tag$…$tag$`.
    case oddString
    case integer
    /// A number with a point or an exponent.
    case decimal
    /// `$1`.
    case parameter
    /// One or more operator characters, or `::`, `:=`, `..`.
    case symbol
    /// One of `( ) [ ] , ; .` and `:`.
    case punctuation
    /// A byte that begins nothing, or a literal or comment without an end.
    case broken
}

/// A token: what it is, and where its bytes stand.
struct Token {
    var kind: TokenKind
    var start: Int
    var end: Int
}

/// Cuts SQL text into PostgreSQL's tokens; white space and comments lie between them.
struct Lexer {
    let bytes: UnsafeBufferPointer<UInt8>
    private(set) var position: Int
    private let end: Int
    /// A comment was passed over.
    private(set) var sawComment = false

    init(_ bytes: UnsafeBufferPointer<UInt8>, from start: Int = 0, to end: Int? = nil) {
        self.bytes = bytes
        position = start
        self.end = end ?? bytes.count
    }

    /// All tokens of `bytes[start..<end]`.
    static func tokens(_ bytes: UnsafeBufferPointer<UInt8>, from start: Int = 0, to end: Int? = nil) -> [Token] {
        var lexer = Lexer(bytes, from: start, to: end)
        var tokens: [Token] = []
        while let token = lexer.next() { tokens.append(token) }
        return tokens
    }

    /// The next token; nil at the end.
    mutating func next() -> Token? {
        guard skipBlanks() else { return take(.broken, end) }
        guard position < end else { return nil }
        let byte = bytes[position]
        switch Class.of(byte) {
        case .letter: return wordOrPrefixedString(byte)
        case .digit: return number()
        case .quote: return quoted(from: position + 1, .string)
        case .doubleQuote: return identifier(from: position + 1)
        case .dollar: return dollar()
        case .dot:
            if peek(1).map(Class.isDigit) == true { return number() }
            return peek(1) == UInt8(ascii: ".") ? take(.symbol, position + 2) : take(.punctuation, position + 1)
        case .colon:
            let isLong = peek(1) == UInt8(ascii: ":") || peek(1) == UInt8(ascii: "=")
            return isLong ? take(.symbol, position + 2) : take(.punctuation, position + 1)
        case .punctuation: return take(.punctuation, position + 1)
        case .operator: return symbol()
        case .blank, .other: return take(.broken, position + 1)
        }
    }

    private func peek(_ distance: Int) -> UInt8? { position + distance < end ? bytes[position + distance] : nil }

    private mutating func take(_ kind: TokenKind, _ end: Int) -> Token? {
        defer { position = end }
        return position < end ? Token(kind: kind, start: position, end: end) : nil
    }

    /// Passes over white space and comments; false when a comment has no end.
    private mutating func skipBlanks() -> Bool {
        while position < end {
            let byte = bytes[position]
            if Class.of(byte) == .blank {
                position += 1
            } else if byte == UInt8(ascii: "-"), peek(1) == byte {
                sawComment = true
                while position < end, bytes[position] != 10, bytes[position] != 13 { position += 1 }
            } else if byte == UInt8(ascii: "/"), peek(1) == UInt8(ascii: "*") {
                sawComment = true
                guard let past = endOfComment() else { return false }
                position = past
            } else {
                return true
            }
        }
        return true
    }

    private func endOfComment() -> Int? {
        var depth = 0
        var index = position
        while index + 1 < end {
            if bytes[index] == UInt8(ascii: "/"), bytes[index + 1] == UInt8(ascii: "*") {
                depth += 1
                index += 2
            } else if bytes[index] == UInt8(ascii: "*"), bytes[index + 1] == UInt8(ascii: "/") {
                depth -= 1
                index += 2
                if depth == 0 { return index }
            } else {
                index += 1
            }
        }
        return nil
    }
}

extension Lexer {
    private mutating func wordOrPrefixedString(_ byte: UInt8) -> Token? {
        if peek(1) == UInt8(ascii: "'") {
            switch byte | 0x20 {
            case UInt8(ascii: "e"): return escapedString(from: position + 2)
            case UInt8(ascii: "b"), UInt8(ascii: "x"), UInt8(ascii: "n"): return quoted(from: position + 2, .oddString)
            default: break
            }
        }
        if byte | 0x20 == UInt8(ascii: "u"), peek(1) == UInt8(ascii: "&") {
            if peek(2) == UInt8(ascii: "'") { return quoted(from: position + 3, .oddString) }
            if peek(2) == UInt8(ascii: "\"") { return identifier(from: position + 3) }
        }
        var index = position + 1
        while index < end, Class.continuesWord(bytes[index]) { index += 1 }
        return take(.word, index)
    }

    private mutating func identifier(from start: Int) -> Token? {
        var index = start
        while index < end {
            guard bytes[index] == UInt8(ascii: "\"") else {
                index += 1
                continue
            }
            guard index + 1 < end, bytes[index + 1] == UInt8(ascii: "\"") else {
                return take(.quotedIdentifier, index + 1)
            }
            index += 2
        }
        return take(.broken, end)
    }

    /// A literal without backslash escapes. Literals with a line end between them are one literal, as in the standard.
    private mutating func quoted(from start: Int, _ kind: TokenKind) -> Token? {
        var index = start
        var isContinued = false
        while index < end {
            guard bytes[index] == UInt8(ascii: "'") else {
                index += 1
                continue
            }
            if index + 1 < end, bytes[index + 1] == UInt8(ascii: "'") {
                index += 2
            } else if let next = continuation(after: index + 1) {
                isContinued = true
                index = next
            } else {
                return take(isContinued ? .oddString : kind, index + 1)
            }
        }
        return take(.broken, end)
    }

    private mutating func escapedString(from start: Int) -> Token? {
        var index = start
        while index < end {
            switch bytes[index] {
            case UInt8(ascii: "\\"): index += 2
            case UInt8(ascii: "'"):
                if index + 1 < end, bytes[index + 1] == UInt8(ascii: "'") {
                    index += 2
                } else if let next = continuation(after: index + 1) {
                    index = next
                } else {
                    return take(.oddString, index + 1)
                }
            default: index += 1
            }
        }
        return take(.broken, end)
    }

    /// Where the rest of a literal that ended before `start` goes on: past white space with a line end, comments too.
    private func continuation(after start: Int) -> Int? {
        var index = start
        var sawLineEnd = false
        while index < end {
            let byte = bytes[index]
            if byte == 10 || byte == 13 {
                sawLineEnd = true
                index += 1
            } else if Class.of(byte) == .blank {
                index += 1
            } else if sawLineEnd, byte == UInt8(ascii: "-"), index + 1 < end, bytes[index + 1] == byte {
                while index < end, bytes[index] != 10, bytes[index] != 13 { index += 1 }
            } else {
                return sawLineEnd && byte == UInt8(ascii: "'") ? index + 1 : nil
            }
        }
        return nil
    }

    private mutating func number() -> Token? {
        var index = position
        var kind = TokenKind.integer
        func skipDigits() { while index < end, Class.isDigit(bytes[index]) { index += 1 } }
        skipDigits()
        // `1..2` is a range of two integers.
        if index < end, bytes[index] == UInt8(ascii: "."), !(index + 1 < end && bytes[index + 1] == UInt8(ascii: ".")) {
            kind = .decimal
            index += 1
            skipDigits()
        }
        if index < end, bytes[index] | 0x20 == UInt8(ascii: "e") {
            var digits = index + 1
            if digits < end, bytes[digits] == UInt8(ascii: "+") || bytes[digits] == UInt8(ascii: "-") { digits += 1 }
            if digits < end, Class.isDigit(bytes[digits]) {
                kind = .decimal
                index = digits
                skipDigits()
            }
        }
        return take(kind, index)
    }

    private mutating func dollar() -> Token? {
        var index = position + 1
        if index < end, Class.isDigit(bytes[index]) {
            while index < end, Class.isDigit(bytes[index]) { index += 1 }
            return take(.parameter, index)
        }
        while index < end, Class.continuesWord(bytes[index]), bytes[index] != UInt8(ascii: "$") { index += 1 }
        guard index < end, bytes[index] == UInt8(ascii: "$") else { return take(.broken, position + 1) }
        let tag = bytes[position...index]
        index += 1
        while index + tag.count <= end {
            if bytes[index] == UInt8(ascii: "$"), bytes[index..<(index + tag.count)].elementsEqual(tag) {
                return take(.oddString, index + tag.count)
            }
            index += 1
        }
        return take(.broken, end)
    }

    /// The longest run of operator characters that no comment begins in, with PostgreSQL's rule for a last `+` or `-`.
    private mutating func symbol() -> Token? {
        var index = position
        while index < end, Class.of(bytes[index]) == .operator {
            let isComment =
                index + 1 < end
                && (bytes[index] == UInt8(ascii: "-") && bytes[index + 1] == UInt8(ascii: "-")
                    || bytes[index] == UInt8(ascii: "/") && bytes[index + 1] == UInt8(ascii: "*"))
            if isComment, index > position { break }
            index += 1
        }
        let mayEndInSign = bytes[position..<index].contains { "~!@#^&|`?%".utf8.contains($0) }
        while !mayEndInSign, index - position > 1,
            bytes[index - 1] == UInt8(ascii: "+") || bytes[index - 1] == UInt8(ascii: "-")
        {
            index -= 1
        }
        return take(.symbol, index)
    }

    /// What a byte may begin.
    private enum Class: UInt8 {
        case blank, letter, digit, quote, doubleQuote, dollar, dot, colon, punctuation, `operator`, other

        private static let table: [Class] = (0...255).map { byte in
            switch UInt8(byte) {
            case 9, 10, 11, 12, 13, 32: .blank
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"), UInt8(ascii: "_"),
                128...255:
                .letter
            case UInt8(ascii: "0")...UInt8(ascii: "9"): .digit
            case UInt8(ascii: "'"): .quote
            case UInt8(ascii: "\""): .doubleQuote
            case UInt8(ascii: "$"): .dollar
            case UInt8(ascii: "."): .dot
            case UInt8(ascii: ":"): .colon
            case let punctuation where "()[],;".utf8.contains(punctuation): .punctuation
            case let symbol where "~!@#^&|`?+-*/%<>=".utf8.contains(symbol): .operator
            default: .other
            }
        }

        static func of(_ byte: UInt8) -> Class { table[Int(byte)] }
        static func isDigit(_ byte: UInt8) -> Bool { byte &- 48 < 10 }
        static func continuesWord(_ byte: UInt8) -> Bool {
            let kind = table[Int(byte)]
            return kind == .letter || kind == .digit || kind == .dollar
        }
    }
}

extension UnsafeBufferPointer<UInt8> {
    /// Whether a token's bytes are this lower-case keyword in any case.
    func isWord(_ token: Token, _ keyword: StaticString) -> Bool {
        guard token.kind == .word, token.end - token.start == keyword.utf8CodeUnitCount else { return false }
        for offset in 0..<keyword.utf8CodeUnitCount {
            guard self[token.start + offset] | 0x20 == keyword.utf8Start[offset] else { return false }
        }
        return true
    }

    /// Whether a token is this punctuation mark.
    func isMark(_ token: Token, _ mark: Unicode.Scalar) -> Bool {
        token.kind == .punctuation && self[token.start] == UInt8(ascii: mark)
    }

    /// The text of these bytes.
    func text(_ range: Range<Int>) -> String { String(decoding: self[range], as: UTF8.self) }
}
