/// The checksum of iSCSI (RFC 3720 §12.1): Castagnoli's polynomial, which finds every burst of errors up to 32 bits.
enum CRC32C {
    /// For each of eight bytes that are taken in at once, what it changes ("slicing by 8", Kounavis and Berry 2005).
    private static let table: [UInt32] = {
        var table = [UInt32](repeating: 0, count: 8 * 256)
        for byte in 0..<256 {
            var value = UInt32(byte)
            for _ in 0..<8 { value = value & 1 == 0 ? value >> 1 : value >> 1 ^ 0x82F6_3B78 }
            table[byte] = value
        }
        for index in 256..<table.count {
            let before = table[index - 256]
            table[index] = before >> 8 ^ table[Int(before & 0xFF)]
        }
        return table
    }()

    /// The checksum of what has the checksum `crc`, followed by `bytes`.
    static func checksum(_ bytes: some Sequence<UInt8>, after crc: UInt32 = 0) -> UInt32 {
        let whole = bytes.withContiguousStorageIfAvailable { extend(crc, with: UnsafeRawBufferPointer($0)) }
        return whole ?? Array(bytes).withUnsafeBytes { extend(crc, with: $0) }
    }

    private static func extend(_ crc: UInt32, with bytes: UnsafeRawBufferPointer) -> UInt32 {
        table.withUnsafeBufferPointer { table in
            var value = ~crc
            var offset = 0
            while offset + 8 <= bytes.count {
                let eight = UInt64(littleEndian: bytes.loadUnaligned(fromByteOffset: offset, as: UInt64.self))
                var mixed = eight ^ UInt64(value)
                value = 0
                for row in stride(from: 7 * 256, through: 0, by: -256) {
                    value ^= table[row + Int(mixed & 0xFF)]
                    mixed >>= 8
                }
                offset += 8
            }
            while offset < bytes.count {
                value = value >> 8 ^ table[Int((value ^ UInt32(bytes[offset])) & 0xFF)]
                offset += 1
            }
            return ~value
        }
    }
}
