/// What a statement is besides its literals: the next one that differs from it in these alone is known by it, in a
/// small part of the time that ``StatementNormalizer`` takes, and without looking up its text.
///
/// A text is of the shape when it has the same bytes around its literals and each of these is one token of the same
/// kind. What else the normalizer goes by are the tokens between them, and where a token begins and ends depends on no
/// literal's value; so what it would make of the text is the same.
public struct StatementShape: Sendable {
    /// A literal: how it was read, and the bytes between the one before and it.
    private struct Literal {
        let gap: Range<Int>
        let kind: TokenKind
        let isSigned: Bool
        let cast: ParameterCast
    }

    /// The text without its literals.
    private let bytes: [UInt8]
    private let literals: [Literal]
    /// The bytes behind the last literal.
    private let rest: Range<Int>

    /// Makes the shape of a statement and what was made of it.
    public init(of text: String, _ normalized: StatementNormalizer.Normalized) {
        var (bytes, literals): ([UInt8], [Literal]) = ([], [])
        rest = text.withBytes { text in
            var position = 0
            func takeGap(to end: Int) -> Range<Int> {
                let start = bytes.count
                bytes += text[position..<end]
                return start..<bytes.count
            }
            for range in normalized.replaced.map(\.literal) {
                guard let read = text.literal(at: range.lowerBound) else {
                    preconditionFailure("no literal at byte \(range.lowerBound)")
                }
                literals.append(
                    Literal(
                        gap: takeGap(to: range.lowerBound), kind: read.token.kind, isSigned: read.isSigned,
                        cast: text.parameter(read).cast))
                position = range.upperBound
            }
            return takeGap(to: text.count)
        }
        (self.bytes, self.literals) = (bytes, literals)
    }

    /// The values of a text's literals, as ``StatementNormalizer/normalize(_:)`` gives them; nil for a text of another
    /// shape.
    public func values(of text: String) -> [String]? {
        text.withBytes { text in
            bytes.withUnsafeBufferPointer { bytes in
                var values: [String] = []
                values.reserveCapacity(literals.count)
                var position = 0
                for literal in literals {
                    guard text.hasBytes(of: bytes, literal.gap, at: position),
                        let read = text.literal(at: position + literal.gap.count), read.token.kind == literal.kind,
                        read.isSigned == literal.isSigned
                    else { return nil }
                    let (cast, value) = text.parameter(read)
                    guard cast == literal.cast else { return nil }
                    values.append(value)
                    position = read.token.end
                }
                return text.count - position == rest.count && text.hasBytes(of: bytes, rest, at: position)
                    ? values : nil
            }
        }
    }
}

/// The shapes of the statements that came last, each with what is known of it.
public struct RecentShapes<Known: Sendable>: Sendable {
    @usableFromInline let capacity: Int
    /// The more often one comes, the further to the front.
    @usableFromInline var entries: [(shape: StatementShape, known: Known)] = []

    /// Looks through up to `capacity` of them: a few, since all are tried.
    @inlinable
    public init(capacity: Int) {
        self.capacity = capacity
    }

    /// What is known of the text's shape, if that is usable, and the values of the text's literals.
    @inlinable
    public mutating func find(_ text: String, where isUsable: (Known) -> Bool) -> (known: Known, values: [String])? {
        for index in entries.indices {
            guard let values = entries[index].shape.values(of: text), isUsable(entries[index].known) else { continue }
            let known = entries[index].known
            if index > 0 { entries.swapAt(index, index - 1) }
            return (known, values)
        }
        return nil
    }

    /// Remembers a shape that was not found, in the last one's place if there are too many.
    @inlinable
    public mutating func insert(_ shape: StatementShape, _ known: Known) {
        if entries.count >= capacity { entries.removeLast() }
        entries.append((shape, known))
    }
}

/// A literal in a text.
struct LiteralToken {
    /// The number without its sign, or the string.
    let token: Token
    /// Where it begins: at its sign, if it has one.
    let start: Int
    var isSigned: Bool { start < token.start }
}

/// What keeps the type of a literal that becomes a parameter.
enum ParameterCast: String {
    /// A string takes its type from its place.
    case none = ""
    case int4 = "::int4"
    case int8 = "::int8"
    case numeric = "::numeric"
}

extension UnsafeBufferPointer<UInt8> {
    /// The literal, signed or not, that begins at a place.
    func literal(at start: Int) -> LiteralToken? {
        var lexer = Lexer(self, from: start)
        guard var token = lexer.next(), token.start == start else { return nil }
        if token.kind == .symbol, token.end == start + 1, self[start] == UInt8(ascii: "-") {
            guard let number = lexer.next(), !lexer.sawComment, number.kind != .string else { return nil }
            token = number
        }
        switch token.kind {
        case .integer, .decimal, .string: return LiteralToken(token: token, start: start)
        default: return nil
        }
    }

    /// The cast that keeps the literal's type, and its value in text format.
    func parameter(_ literal: LiteralToken) -> (cast: ParameterCast, value: String) {
        let token = literal.token
        guard token.kind != .string else { return (.none, unquoted(token)) }
        let number = literal.isSigned ? "-" + text(token.start..<token.end) : text(token.start..<token.end)
        guard token.kind == .integer else { return (.numeric, number) }
        return (Int32(number) != nil ? .int4 : Int64(number) != nil ? .int8 : .numeric, number)
    }

    private func unquoted(_ token: Token) -> String {
        let inner = self[(token.start + 1)..<(token.end - 1)]
        let quote = UInt8(ascii: "'")
        guard inner.contains(quote) else { return String(decoding: inner, as: UTF8.self) }
        var isSecond = false
        let bytes = inner.filter { byte in
            isSecond = byte == quote && !isSecond
            return byte != quote || isSecond
        }
        return String(decoding: bytes, as: UTF8.self)
    }

    fileprivate func hasBytes(of other: Self, _ range: Range<Int>, at start: Int) -> Bool {
        guard count - start >= range.count else { return false }
        for offset in 0..<range.count where self[start + offset] != other[range.lowerBound + offset] { return false }
        return true
    }
}
