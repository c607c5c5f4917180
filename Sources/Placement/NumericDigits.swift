/// A `numeric` as PostgreSQL stores it: digits of base 10,000 and the weight of the first one.
struct NumericDigits {
    /// Without zeros at either end.
    var digits: [UInt16]
    /// The power of 10,000 that the first digit counts.
    var weight: Int
    var isSpecial = false

    /// `hash_numeric_extended(value, 0)`: zero hashes to seed - 1 and infinities and NaN to the seed; neither sign nor
    /// scale counts.
    var hash: Int64 {
        if isSpecial { return 0 }
        guard !digits.isEmpty else { return -1 }
        // The weight is mixed in as a sign-extended Datum.
        let bytes = digits.flatMap { [UInt8(truncatingIfNeeded: $0), UInt8(truncatingIfNeeded: $0 >> 8)] }
        return ShardKeyHash.hash(bytes) ^ Int64(weight)
    }

    private init(trimming digits: [UInt16], weight: Int, isSpecial: Bool = false) {
        self.isSpecial = isSpecial
        let first = digits.firstIndex { $0 != 0 } ?? digits.count
        let last = digits.lastIndex { $0 != 0 } ?? -1
        self.digits = first <= last ? Array(digits[first...last]) : []
        self.weight = weight - first
    }

    /// Reads digits with an optional sign, point and exponent; nil for anything else.
    init?(text: [UInt8]) {
        var rest = text[...]
        if rest.first == UInt8(ascii: "-") || rest.first == UInt8(ascii: "+") { rest = rest.dropFirst() }
        var decimals: [UInt8] = []
        var scale: Int?
        while let byte = rest.first {
            if (0x30...0x39).contains(byte) {
                decimals.append(byte - 0x30)
                scale = scale.map { $0 + 1 }
            } else if byte == UInt8(ascii: "."), scale == nil {
                scale = 0
            } else {
                break
            }
            rest = rest.dropFirst()
        }
        guard !decimals.isEmpty else { return nil }
        var exponent = 0
        if let mark = rest.first, mark | 0x20 == UInt8(ascii: "e") {
            guard rest.count <= 6, let value = Int(String(decoding: rest.dropFirst(), as: UTF8.self)) else {
                return nil
            }
            (exponent, rest) = (value, [])
        }
        guard rest.isEmpty, decimals.count < 1000, abs(exponent) < 1000 else { return nil }
        self.init(decimals: decimals, point: decimals.count - (scale ?? 0) + exponent)
    }

    /// `point` decimal digits stand before the point.
    private init(decimals: [UInt8], point: Int) {
        // Groups of four are counted from the point, so zeros fill up the first and the last group.
        let before = (4 - ((point % 4) + 4) % 4) % 4
        var padded = [UInt8](repeating: 0, count: before) + decimals
        padded += [UInt8](repeating: 0, count: (4 - padded.count % 4) % 4)
        let digits = stride(from: 0, to: padded.count, by: 4).map { start in
            padded[start..<(start + 4)].reduce(UInt16(0)) { $0 * 10 + UInt16($1) }
        }
        self.init(trimming: digits, weight: (point + before) / 4 - 1)
    }

    /// Reads what `numeric_send` writes.
    init?(binary bytes: [UInt8]) {
        guard bytes.count >= 8, bytes.count % 2 == 0 else { return nil }
        let words = stride(from: 0, to: bytes.count, by: 2).map { UInt16(bytes[$0]) << 8 | UInt16(bytes[$0 + 1]) }
        guard words.count == 4 + Int(words[0]) else { return nil }
        switch words[2] {
        case 0x0000, 0x4000: self.init(trimming: Array(words[4...]), weight: Int(Int16(bitPattern: words[1])))
        case 0xC000, 0xD000, 0xF000: self.init(trimming: [], weight: 0, isSpecial: true)
        default: return nil
        }
    }
}
