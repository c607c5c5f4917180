/// Collects the bytes of a value for messages and for disk.
///
/// Counts and small numbers take one byte for each seven bits, lowest first, with the high bit set in all but the last
/// (LEB128); times take eight bytes, lowest first.
public struct ByteWriter: Hashable, Sendable {
    public private(set) var bytes: [UInt8] = []

    public init() {}

    public mutating func byte(_ value: UInt8) { bytes.append(value) }

    /// A number of 1 to 10 bytes.
    public mutating func number(_ value: UInt64) {
        var rest = value
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    /// A number of 8 bytes.
    public mutating func fixed(_ value: Int64) {
        withUnsafeBytes(of: value.littleEndian) { bytes += $0 }
    }

    /// The count of `value`, then its bytes.
    public mutating func block(_ value: some Collection<UInt8>) {
        number(UInt64(value.count))
        bytes += value
    }
}
