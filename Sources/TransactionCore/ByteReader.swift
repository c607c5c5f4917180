/// Bytes that are no value of the kind that was asked for.
public struct MalformedBytes: Error, Hashable, Sendable, CustomStringConvertible {
    public enum Reason: Hashable, Sendable {
        /// They end in the middle.
        case truncated
        /// There are more of them than the value takes.
        case trailing
        /// A number is larger than it may be, or out of its order.
        case outOfRange
        /// No kind has this number.
        case unknownKind(UInt8)
        /// A newer version than this one wrote them, or none.
        case unknownVersion(UInt8)
    }

    public var reason: Reason
    /// How many bytes were read when it showed.
    public var offset: Int

    public init(reason: Reason, offset: Int) {
        (self.reason, self.offset) = (reason, offset)
    }

    public var description: String {
        switch reason {
        case .truncated: "bytes end too early, at byte \(offset)"
        case .trailing: "more bytes than expected, at byte \(offset)"
        case .outOfRange: "number out of range before byte \(offset)"
        case .unknownKind(let kind): "unknown kind \(kind) before byte \(offset)"
        case .unknownVersion(let version): "unknown version \(version)"
        }
    }
}

/// Takes values out of bytes that a ``ByteWriter`` has written, or that anybody else may have made up: whatever they
/// are, nothing is read behind their end, and nothing is made larger than they warrant.
public struct ByteReader: Sendable {
    private let bytes: [UInt8]
    private(set) var offset = 0

    public init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    public func malformed(_ reason: MalformedBytes.Reason) -> MalformedBytes {
        MalformedBytes(reason: reason, offset: offset)
    }

    private var leftCount: Int { bytes.count - offset }

    public mutating func byte() throws(MalformedBytes) -> UInt8 {
        guard leftCount > 0 else { throw malformed(.truncated) }
        offset += 1
        return bytes[offset - 1]
    }

    /// See ``ByteWriter/number(_:)``; at most `max`.
    public mutating func number(max: UInt64 = .max) throws(MalformedBytes) -> UInt64 {
        var value: UInt64 = 0
        for shift in stride(from: UInt64(0), to: 64, by: 7) {
            let byte = try byte()
            // The tenth byte has one bit that counts.
            guard shift < 63 || byte <= 1 else { break }
            value |= UInt64(byte & 0x7F) << shift
            guard byte & 0x80 == 0 else { continue }
            // No number has two forms: what is read and written again is the same bytes.
            guard value <= max, byte != 0 || shift == 0 else { break }
            return value
        }
        throw malformed(.outOfRange)
    }

    /// See ``ByteWriter/fixed(_:)``.
    public mutating func fixed() throws(MalformedBytes) -> Int64 {
        guard leftCount >= 8 else { throw malformed(.truncated) }
        var value: UInt64 = 0
        for index in 0..<8 { value |= UInt64(bytes[offset + index]) << UInt64(8 * index) }
        offset += 8
        return Int64(bitPattern: value)
    }

    /// How many elements follow, each of which takes a byte at least.
    public mutating func count() throws(MalformedBytes) -> Int {
        let count = try number()
        guard count <= UInt64(leftCount) else { throw malformed(.truncated) }
        return Int(count)
    }

    /// See ``ByteWriter/block(_:)``.
    public mutating func block() throws(MalformedBytes) -> [UInt8] {
        let count = try count()
        offset += count
        return Array(bytes[offset - count..<offset])
    }

    /// Makes sure that nothing is left.
    public func end() throws(MalformedBytes) {
        guard leftCount == 0 else { throw malformed(.trailing) }
    }
}
