/// One value in the memory of a libpq result, which must outlive it.
struct SQLValue {
    /// PostgreSQL's built-in types whose binary format is read here; the raw value is the OID in `pg_type`.
    enum PostgresType: UInt32 {
        case bool = 16
        case bytea = 17
        case char = 18
        case name = 19
        case int8 = 20
        case int2 = 21
        case int4 = 23
        case text = 25
        case oid = 26
        case json = 114
        case xml = 142
        case float4 = 700
        case float8 = 701
        case unknown = 705
        case bpchar = 1042
        case varchar = 1043

        /// The binary format is the text.
        var isCharacters: Bool {
            switch self {
            case .char, .name, .text, .json, .xml, .unknown, .bpchar, .varchar: true
            case .bool, .bytea, .int8, .int2, .int4, .oid, .float4, .float8: false
            }
        }
    }

    /// Nil for any other type.
    let type: PostgresType?
    let isText: Bool
    let bytes: UnsafeRawBufferPointer

    var string: String { String(decoding: bytes, as: UTF8.self) }

    /// A binary integer.
    var integer: Int64? {
        switch type {
        case .int8: bigEndian(Int64.self)
        case .int4: bigEndian(Int32.self).map(Int64.init)
        case .int2: bigEndian(Int16.self).map(Int64.init)
        case .oid: bigEndian(UInt32.self).map(Int64.init)
        default: nil
        }
    }

    /// A binary number.
    var floatingPoint: Double? {
        switch type {
        case .float8: bigEndian(UInt64.self).map(Double.init(bitPattern:))
        case .float4: bigEndian(UInt32.self).map { Double(Float(bitPattern: $0)) }
        default: integer.map(Double.init)
        }
    }

    /// An integer in text.
    var decimal: Int64? {
        let isNegative = bytes.first == UInt8(ascii: "-")
        let digits = bytes.dropFirst(isNegative ? 1 : 0)
        guard !digits.isEmpty else { return nil }
        var number: Int64 = 0
        for byte in digits {
            guard (UInt8(ascii: "0")...UInt8(ascii: "9")).contains(byte) else { return nil }
            // Downwards, since the smallest number has no positive counterpart.
            let (product, overflowed) = number.multipliedReportingOverflow(by: 10)
            let (difference, borrowed) = product.subtractingReportingOverflow(Int64(byte - UInt8(ascii: "0")))
            guard !overflowed, !borrowed else { return nil }
            number = difference
        }
        guard !isNegative else { return number }
        return number == .min ? nil : -number
    }

    /// The bytes of `\x0a1b…`, which is how a `bytea` is written.
    var hexadecimal: [UInt8]? {
        guard bytes.count.isMultiple(of: 2), bytes.starts(with: #"\x"#.utf8) else { return nil }
        var decoded: [UInt8] = []
        decoded.reserveCapacity(bytes.count / 2 - 1)
        for index in stride(from: 2, to: bytes.count, by: 2) {
            guard let high = Self.nibble(bytes[index]), let low = Self.nibble(bytes[index + 1]) else { return nil }
            decoded.append(high << 4 | low)
        }
        return decoded
    }

    private static func nibble(_ character: UInt8) -> UInt8? {
        switch character {
        case UInt8(ascii: "0")...UInt8(ascii: "9"): character - UInt8(ascii: "0")
        case UInt8(ascii: "a")...UInt8(ascii: "f"): character - UInt8(ascii: "a") + 10
        default: nil
        }
    }

    private func bigEndian<Number: FixedWidthInteger>(_: Number.Type) -> Number? {
        guard bytes.count == MemoryLayout<Number>.size else { return nil }
        return Number(bigEndian: bytes.loadUnaligned(as: Number.self))
    }
}
