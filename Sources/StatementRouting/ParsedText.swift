internal import CPgQuery

/// SQL text that PostgreSQL's own grammar accepted: its statements, each with its part of the text and its kind.
///
/// Owns the parse tree. Statements are planned one by one with ``plan(_:in:searchPath:)``, since one may change the
/// catalog for the next.
public final class ParsedText {
    /// The whole text.
    public let text: String
    /// Its statements in their sequence; none for blanks and comments.
    public let statements: [Statement]

    let tree: UnsafeMutablePointer<PgQuery__ParseResult>

    /// Parses `text`.
    ///
    /// Throws 42601 with PostgreSQL's message and position for what is not SQL, 22021 for a NUL byte, and 54001 for
    /// what is nested too deeply for the parser's stack.
    public init(_ text: String) throws(StatementError) {
        self.text = text
        tree = try Self.parse(text)
        let parsed = tree
        statements = text.withBytes { bytes in
            (0..<parsed.pointee.n_stmts).map { index in
                let raw = parsed.pointee.stmts[index]!
                let range = Self.range(of: raw, in: bytes)
                let kind = raw.pointee.stmt.map { StatementKind(SourceNode($0, bytes), range: range) }
                return Statement(
                    text: bytes.text(range), range: range, kind: kind ?? .unsupported("an empty statement"))
            }
        }
    }

    deinit {
        pg_query__parse_result__free_unpacked(tree, nil)
    }

    private static func parse(_ text: String) throws(StatementError) -> UnsafeMutablePointer<PgQuery__ParseResult> {
        let problem: StatementError? = text.withBytes { bytes in
            if bytes.contains(0) {
                return StatementError(.characterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00")
            }
            if NestingBound.permits(bytes) { return nil }
            return StatementError(
                .statementTooComplex, "statement is nested too deeply",
                hint: "write it with fewer levels: lists in place of chains of operators, CTEs in place of subqueries")
        }
        if let problem { throw problem }
        let result = pg_query_parse_protobuf(text)
        defer { pg_query_free_protobuf_parse_result(result) }
        if let error = result.error {
            let position = Int(error.pointee.cursorpos)
            throw StatementError(
                .syntaxError, error.pointee.message.map { String(cString: $0) } ?? "syntax error",
                position: position > 0 ? position : nil)
        }
        let packed = result.parse_tree
        let tree = packed.data.withMemoryRebound(to: UInt8.self, capacity: packed.len) {
            pg_query__parse_result__unpack(nil, packed.len, $0)
        }
        guard let tree else { throw StatementError(.internalError, "the parse tree could not be read") }
        return tree
    }

    /// The statement's bytes without the blanks and comments around it.
    private static func range(
        of raw: UnsafeMutablePointer<PgQuery__RawStmt>, in bytes: UnsafeBufferPointer<UInt8>
    ) -> Range<Int> {
        let start = Int(raw.pointee.stmt_location)
        let length = Int(raw.pointee.stmt_len)
        var lexer = Lexer(bytes, from: start, to: length == 0 ? bytes.count : start + length)
        guard let first = lexer.next() else { return start..<start }
        var end = first.end
        while let token = lexer.next(), !bytes.isMark(token, ";") || length > 0 { end = token.end }
        return first.start..<end
    }
}

/// One statement of a text.
public struct Statement: Hashable, Sendable {
    /// The statement's own text, without a semicolon.
    public let text: String
    /// Which bytes of the whole text it is.
    public let range: Range<Int>
    /// What it does.
    public let kind: StatementKind

    /// A part of the statement, by its bytes in the whole text.
    public func part(_ part: Range<Int>) -> String {
        let bytes = text.utf8
        let start = bytes.index(bytes.startIndex, offsetBy: part.lowerBound - range.lowerBound)
        return String(text[start..<bytes.index(start, offsetBy: part.count)])
    }
}

extension String {
    /// The text's UTF-8 bytes.
    func withBytes<Value>(_ body: (UnsafeBufferPointer<UInt8>) -> Value) -> Value {
        var copy = self
        return copy.withUTF8(body)
    }
}
