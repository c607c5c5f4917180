extension ShardKeyType {
    /// The hash of a value in PostgreSQL's text or binary format.
    ///
    /// Nil when `bytes` is no such value, or one that only the server can read: a date such as `tomorrow`, or a
    /// timestamp that depends on the session's time zone or DateStyle. The caller then treats the key as unknown.
    public func hash(_ bytes: some Collection<UInt8>, _ format: ValueFormat) -> Int64? {
        switch format {
        case .text: hash(text: Array(bytes))
        case .binary: hash(binary: Array(bytes))
        }
    }

    private func hash(text bytes: [UInt8]) -> Int64? {
        switch self {
        case .smallint: integer(bytes, in: Int64(Int16.min)...Int64(Int16.max)).map { ShardKeyHash.hash($0) }
        case .integer: integer(bytes, in: Int64(Int32.min)...Int64(Int32.max)).map { ShardKeyHash.hash($0) }
        case .bigint: integer(bytes, in: .min...(.max)).map { ShardKeyHash.hash($0) }
        case .oid: integer(bytes, in: 0...Int64(UInt32.max)).map { ShardKeyHash.hash(UInt32($0)) }
        case .text, .varchar: ShardKeyHash.hash(bytes)
        case .bpchar: ShardKeyHash.hash(bytes[..<Self.lengthWithoutBlanks(bytes)])
        // Longer names are cut off by PostgreSQL.
        case .name: bytes.count < 64 ? ShardKeyHash.hash(bytes) : nil
        case .char: Self.singleByte(bytes).map { ShardKeyHash.hash(UInt32(bitPattern: Int32(Int8(bitPattern: $0)))) }
        case .boolean: Self.boolean(bytes).map { ShardKeyHash.hash($0 ? UInt32(1) : 0) }
        case .uuid: Self.uuid(bytes).map { ShardKeyHash.hash($0) }
        case .date: CalendarText.days(bytes).map { ShardKeyHash.hash(UInt32(bitPattern: $0)) }
        case .timestamp: CalendarText.microseconds(bytes, withZone: false).map { ShardKeyHash.hash($0) }
        case .timestamptz: CalendarText.microseconds(bytes, withZone: true).map { ShardKeyHash.hash($0) }
        case .numeric: NumericDigits(text: bytes)?.hash
        }
    }

    private func hash(binary bytes: [UInt8]) -> Int64? {
        switch self {
        case .smallint, .integer, .bigint:
            // Any of the three widths: a parameter may be narrower than the column it is compared with.
            return Self.bigEndian(bytes, widths: [2, 4, 8]).map { ShardKeyHash.hash($0) }
        case .oid: return Self.bigEndian(bytes, widths: [4]).map { ShardKeyHash.hash(UInt32(truncatingIfNeeded: $0)) }
        case .date: return Self.bigEndian(bytes, widths: [4]).map { ShardKeyHash.hash(UInt32(truncatingIfNeeded: $0)) }
        case .timestamp, .timestamptz: return Self.bigEndian(bytes, widths: [8]).map { ShardKeyHash.hash($0) }
        case .text, .varchar, .bpchar, .name: return hash(text: bytes)
        case .uuid: return bytes.count == 16 ? ShardKeyHash.hash(bytes) : nil
        case .boolean: return bytes.count == 1 ? ShardKeyHash.hash(UInt32(bytes[0] == 0 ? 0 : 1)) : nil
        case .char:
            return bytes.count == 1 ? ShardKeyHash.hash(UInt32(bitPattern: Int32(Int8(bitPattern: bytes[0])))) : nil
        case .numeric: return NumericDigits(binary: bytes)?.hash
        }
    }

    private func integer(_ bytes: [UInt8], in range: ClosedRange<Int64>) -> Int64? {
        let trimmed = Self.trimmed(bytes)
        guard !trimmed.isEmpty, let value = Int64(String(decoding: trimmed, as: UTF8.self)), range.contains(value)
        else { return nil }
        return value
    }

    private static func trimmed(_ bytes: [UInt8]) -> ArraySlice<UInt8> {
        func isBlank(_ byte: UInt8) -> Bool { byte == 32 || (9...13).contains(byte) }
        var slice = bytes[...]
        while let first = slice.first, isBlank(first) { slice.removeFirst() }
        while let last = slice.last, isBlank(last) { slice.removeLast() }
        return slice
    }

    private static func lengthWithoutBlanks(_ bytes: [UInt8]) -> Int {
        bytes.lastIndex { $0 != 32 }.map { $0 + 1 } ?? 0
    }

    private static func bigEndian(_ bytes: [UInt8], widths: [Int]) -> Int64? {
        guard widths.contains(bytes.count) else { return nil }
        let value = bytes.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        let shift = UInt64(64 - 8 * bytes.count)
        return Int64(bitPattern: value << shift) >> Int64(shift)
    }

    /// The empty string is the zero byte; `\ooo` is a byte in octal.
    private static func singleByte(_ bytes: [UInt8]) -> UInt8? {
        if bytes.isEmpty { return 0 }
        if bytes.count == 1 { return bytes[0] }
        guard bytes.count == 4, bytes[0] == UInt8(ascii: "\\"), (0x30...0x33).contains(bytes[1]) else { return nil }
        return UInt8(String(decoding: bytes[1...], as: UTF8.self), radix: 8)
    }

    /// Any unambiguous beginning of true, false, yes, no, on, off; 1 and 0.
    private static func boolean(_ bytes: [UInt8]) -> Bool? {
        let word = String(decoding: trimmed(bytes), as: UTF8.self).lowercased()
        if ["t", "tr", "tru", "true", "y", "ye", "yes", "on", "1"].contains(word) { return true }
        return ["f", "fa", "fal", "fals", "false", "n", "no", "of", "off", "0"].contains(word) ? false : nil
    }

    private static func uuid(_ bytes: [UInt8]) -> [UInt8]? {
        var digits = bytes[...]
        if digits.first == UInt8(ascii: "{"), digits.last == UInt8(ascii: "}") {
            digits = digits.dropFirst().dropLast()
        }
        let value = hexadecimal(digits.filter { $0 != UInt8(ascii: "-") }[...])
        // Other places for the hyphens are the server's to judge.
        let hyphens = digits.enumerated().filter { $0.element == UInt8(ascii: "-") }.map(\.offset)
        return value?.count == 16 && (hyphens.isEmpty || hyphens == [8, 13, 18, 23]) ? value : nil
    }

    private static func hexadecimal(_ digits: ArraySlice<UInt8>) -> [UInt8]? {
        guard digits.count % 2 == 0 else { return nil }
        var value: [UInt8] = []
        for start in stride(from: digits.startIndex, to: digits.endIndex, by: 2) {
            guard let high = nibble(digits[start]), let low = nibble(digits[start + 1]) else { return nil }
            value.append(high << 4 | low)
        }
        return value
    }

    private static func nibble(_ digit: UInt8) -> UInt8? {
        switch digit {
        case 0x30...0x39: digit - 0x30
        case 0x61...0x66: digit - 0x61 + 10
        case 0x41...0x46: digit - 0x41 + 10
        default: nil
        }
    }
}
