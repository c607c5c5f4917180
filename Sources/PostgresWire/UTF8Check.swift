import TransactionCore

/// Whether bytes are UTF-8, by the rules PostgreSQL's `pg_utf8_verifystr` has: no overlong form, no surrogate, nothing
/// above U+10FFFF, no NUL.
enum UTF8Check {
    /// Where the first character that is not valid begins; nil when all are valid.
    static func firstInvalid(in bytes: UnsafeRawBufferPointer) -> Int? {
        var position = 0
        while position < bytes.count {
            if position + 8 <= bytes.count, isPlain(bytes.loadUnaligned(fromByteOffset: position, as: UInt64.self)) {
                position += 8
                continue
            }
            guard let length = validLength(in: bytes, at: position) else { return position }
            position += length
        }
        return nil
    }

    /// The error for the character at `position`, showing the bytes that its first one claims.
    static func error(for bytes: UnsafeRawBufferPointer, at position: Int) -> WireError {
        let end = min(bytes.count, position + claimedLength(bytes[position]))
        let shown = bytes[position..<end].map { byte in
            let digits = String(byte, radix: 16)
            return digits.utf8.count < 2 ? "0x0" + digits : "0x" + digits
        }.joined(separator: " ")
        return WireError(.characterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": \(shown)")
    }

    /// Eight bytes of ASCII, none of them NUL. May say no when a NUL is among them or only looks so.
    private static func isPlain(_ word: UInt64) -> Bool {
        (word | (word &- 0x0101_0101_0101_0101)) & 0x8080_8080_8080_8080 == 0
    }

    private static func claimedLength(_ first: UInt8) -> Int {
        switch first {
        case 0xC0...0xDF: 2
        case 0xE0...0xEF: 3
        case 0xF0...0xF7: 4
        default: 1
        }
    }

    private static func validLength(in bytes: UnsafeRawBufferPointer, at position: Int) -> Int? {
        let first = bytes[position]
        let second: ClosedRange<UInt8>
        switch first {
        case 0x01...0x7F: return 1
        case 0xC2...0xDF, 0xE1...0xEC, 0xEE, 0xEF, 0xF1...0xF3: second = 0x80...0xBF
        case 0xE0: second = 0xA0...0xBF
        case 0xED: second = 0x80...0x9F
        case 0xF0: second = 0x90...0xBF
        case 0xF4: second = 0x80...0x8F
        default: return nil
        }
        let length = claimedLength(first)
        guard bytes.count - position >= length, second.contains(bytes[position + 1]),
            bytes[(position + 2)..<(position + length)].allSatisfy({ (0x80...0xBF).contains($0) })
        else { return nil }
        return length
    }
}
