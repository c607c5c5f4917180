/// Swift source with its comments, and on request its string literals, blanked out; lines stay where they are.
///
/// Knows line comments, nested block comments, and string literals with escapes, of several lines, and raw. Code in an
/// interpolation is taken for part of its literal.
struct SwiftText {
    /// The source without comments.
    let code: String
    /// The source without comments and without what string literals say.
    let bareCode: String

    init(_ text: String) {
        var scanner = Scanner(bytes: Array(text.utf8))
        scanner.run()
        code = String(decoding: scanner.code, as: UTF8.self)
        bareCode = String(decoding: scanner.bareCode, as: UTF8.self)
    }
}

private struct Scanner {
    let bytes: [UInt8]
    var position = 0
    var code: [UInt8] = []
    var bareCode: [UInt8] = []

    init(bytes: [UInt8]) {
        self.bytes = bytes
    }

    mutating func run() {
        while position < bytes.count {
            if startsWith("//") {
                while position < bytes.count, bytes[position] != UInt8(ascii: "\n") { blank(inCode: true) }
            } else if startsWith("/*") {
                skipBlockComment()
            } else if let hashes = rawDelimiterLength() {
                skipLiteral(hashes: hashes)
            } else {
                keep()
            }
        }
    }

    private func startsWith(_ text: String) -> Bool { bytes[position...].starts(with: text.utf8) }

    private mutating func keep() {
        code.append(bytes[position])
        bareCode.append(bytes[position])
        position += 1
    }

    /// Leaves line ends, so that line numbers hold.
    private mutating func blank(inCode: Bool) {
        let byte = bytes[position]
        let shown = byte == UInt8(ascii: "\n") ? byte : UInt8(ascii: " ")
        code.append(inCode ? shown : byte)
        bareCode.append(shown)
        position += 1
    }

    private mutating func skipBlockComment() {
        var depth = 0
        repeat {
            if startsWith("/*") {
                depth += 1
            } else if startsWith("*/") {
                depth -= 1
            } else {
                blank(inCode: true)
                continue
            }
            blank(inCode: true)
            blank(inCode: true)
        } while depth > 0 && position < bytes.count
    }

    /// How many `#` stand before a string literal that begins here; nil when none begins here.
    private func rawDelimiterLength() -> Int? {
        let hashes = bytes[position...].prefix { $0 == UInt8(ascii: "#") }.count
        return bytes[(position + hashes)...].first == UInt8(ascii: "\"") ? hashes : nil
    }

    private mutating func skipLiteral(hashes: Int) {
        for _ in 0..<hashes { keep() }
        let hash = String(repeating: "#", count: hashes)
        let quote = startsWith("\"\"\"") ? "\"\"\"" : "\""
        for _ in quote.utf8 { keep() }
        while position < bytes.count, !startsWith(quote + hash) {
            // Not a literal then, but a quote in a regular expression.
            if bytes[position] == UInt8(ascii: "\n"), quote == "\"" { return }
            let isEscape = startsWith("\\" + hash)
            blank(inCode: false)
            if isEscape, position < bytes.count { blank(inCode: false) }
        }
        for _ in 0..<(quote.utf8.count + hashes) where position < bytes.count { keep() }
    }
}
