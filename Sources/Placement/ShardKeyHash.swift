/// PostgreSQL's extended hash functions (`src/common/hashfn.c`, Bob Jenkins' lookup3) with seed 0, on a little-endian
/// server, which is what PostgreSQL hashes alike on every machine of one kind.
public enum ShardKeyHash {
    /// `hash_bytes_extended(bytes, 0)`.
    public static func hash(_ bytes: some Collection<UInt8>) -> Int64 {
        let found = bytes.withContiguousStorageIfAvailable { hash($0) }
        return found ?? Array(bytes).withUnsafeBufferPointer { hash($0) }
    }

    /// `hash_bytes_uint32_extended(word, 0)`.
    public static func hash(_ word: UInt32) -> Int64 {
        var state = State(length: 4)
        state.a &+= word
        state.finish()
        return state.result
    }

    /// `hashint8extended(value, 0)`, which agrees with the functions of the shorter integers.
    public static func hash(_ value: Int64) -> Int64 {
        let low = UInt32(truncatingIfNeeded: value)
        let high = UInt32(truncatingIfNeeded: value >> 32)
        return hash(low ^ (value >= 0 ? high : ~high))
    }

    private static func hash(_ bytes: UnsafeBufferPointer<UInt8>) -> Int64 {
        var state = State(length: bytes.count)
        var offset = 0
        func word(_ start: Int) -> UInt32 {
            (0..<4).reduce(0) { word, index in
                let place = offset + start + index
                return place < bytes.count ? word | UInt32(bytes[place]) << UInt32(8 * index) : word
            }
        }
        while bytes.count - offset >= 12 {
            state.a &+= word(0)
            state.b &+= word(4)
            state.c &+= word(8)
            state.mix()
            offset += 12
        }
        state.a &+= word(0)
        state.b &+= word(4)
        // The lowest byte of c is left to the length.
        state.c &+= word(8) << 8
        state.finish()
        return state.result
    }

    private struct State {
        var a, b, c: UInt32

        init(length: Int) {
            a = 0x9E37_79B9 &+ UInt32(truncatingIfNeeded: length) &+ 3_923_095
            b = a
            c = a
        }

        var result: Int64 { Int64(bitPattern: UInt64(b) << 32 | UInt64(c)) }

        mutating func mix() {
            a &-= c
            a ^= Self.rotated(c, 4)
            c &+= b
            b &-= a
            b ^= Self.rotated(a, 6)
            a &+= c
            c &-= b
            c ^= Self.rotated(b, 8)
            b &+= a
            a &-= c
            a ^= Self.rotated(c, 16)
            c &+= b
            b &-= a
            b ^= Self.rotated(a, 19)
            a &+= c
            c &-= b
            c ^= Self.rotated(b, 4)
            b &+= a
        }

        mutating func finish() {
            c ^= b
            c &-= Self.rotated(b, 14)
            a ^= c
            a &-= Self.rotated(c, 11)
            b ^= a
            b &-= Self.rotated(a, 25)
            c ^= b
            c &-= Self.rotated(b, 16)
            a ^= c
            a &-= Self.rotated(c, 4)
            b ^= a
            b &-= Self.rotated(a, 14)
            c ^= b
            c &-= Self.rotated(b, 24)
        }

        private static func rotated(_ word: UInt32, _ bits: UInt32) -> UInt32 { word << bits | word >> (32 - bits) }
    }
}
