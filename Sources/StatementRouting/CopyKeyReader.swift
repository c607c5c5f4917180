/// Reads the shard key in a row of a COPY FROM, by the rules of PostgreSQL's `CopyReadAttributesText` and
/// `CopyReadAttributesCSV`.
struct CopyKeyReader: Sendable {
    /// What a row has in the shard key's column.
    enum Field: Equatable {
        /// The row ends before the column; the server will say so.
        case missing
        case null
        /// The value's bytes are those of the row.
        case plain(Range<Int>)
        /// The value is not written in the row as it is.
        case decoded([UInt8])
    }

    private let dialect: CopyDialect
    /// The column's place among those copied, from 0.
    private let column: Int
    private let isNeverNull: Bool
    private let isNullInQuotes: Bool

    init(_ dialect: CopyDialect, column: Int, name: String) {
        self.dialect = dialect
        self.column = column
        isNeverNull = dialect.neverNull.contains(name)
        isNullInQuotes = dialect.nullInQuotes.contains(name)
    }

    /// Reads the key of the row in `range`, which excludes the end of its line.
    func key(of bytes: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) -> Field {
        switch dialect.format {
        case .text: text(bytes, range)
        case .csv: csv(bytes, range)
        case .binary: binary(bytes, range)
        }
    }

    // MARK: Text

    private func text(_ bytes: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) -> Field {
        var (index, start, number) = (range.lowerBound, range.lowerBound, 0)
        var hasEscapes = false
        while index < range.upperBound {
            let byte = bytes[index]
            if byte == dialect.delimiter {
                if number == column { break }
                (number, start, hasEscapes) = (number + 1, index + 1, false)
            } else if byte == 0x5C {
                hasEscapes = true
                index += 1
            }
            index += 1
        }
        guard number == column else { return .missing }
        let field = start..<min(index, range.upperBound)
        if bytes[field].elementsEqual(dialect.null) { return .null }
        return hasEscapes ? .decoded(Self.decoded(bytes, field)) : .plain(field)
    }

    private static func decoded(_ bytes: UnsafeBufferPointer<UInt8>, _ field: Range<Int>) -> [UInt8] {
        var value: [UInt8] = []
        var index = field.lowerBound
        func peek() -> UInt8? { index < field.upperBound ? bytes[index] : nil }
        while let byte = peek() {
            index += 1
            guard byte == 0x5C, let escaped = peek() else {
                value.append(byte)
                continue
            }
            index += 1
            switch escaped {
            case UInt8(ascii: "b"): value.append(0x08)
            case UInt8(ascii: "f"): value.append(0x0C)
            case UInt8(ascii: "n"): value.append(0x0A)
            case UInt8(ascii: "r"): value.append(0x0D)
            case UInt8(ascii: "t"): value.append(0x09)
            case UInt8(ascii: "v"): value.append(0x0B)
            case UInt8(ascii: "0")...UInt8(ascii: "7"):
                var code = Int(escaped - UInt8(ascii: "0"))
                var digits = 1
                while digits < 3, let digit = peek(), (UInt8(ascii: "0")...UInt8(ascii: "7")).contains(digit) {
                    code = code * 8 + Int(digit - UInt8(ascii: "0"))
                    (digits, index) = (digits + 1, index + 1)
                }
                value.append(UInt8(truncatingIfNeeded: code))
            case UInt8(ascii: "x"):
                var code: Int?
                var digits = 0
                while digits < 2, let digit = peek().flatMap({ hexadecimalDigit($0) }) {
                    code = (code ?? 0) * 16 + digit
                    (digits, index) = (digits + 1, index + 1)
                }
                value.append(code.map { UInt8($0) } ?? escaped)
            default: value.append(escaped)
            }
        }
        return value
    }

    private static func hexadecimalDigit(_ byte: UInt8) -> Int? {
        switch byte {
        case 0x30...0x39: Int(byte - 0x30)
        case 0x61...0x66: Int(byte - 0x61 + 10)
        case 0x41...0x46: Int(byte - 0x41 + 10)
        default: nil
        }
    }

    // MARK: CSV

    private func csv(_ bytes: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) -> Field {
        var index = range.lowerBound
        for _ in 0..<column {
            skipCSVField(bytes, &index, range.upperBound)
            guard index < range.upperBound else { return .missing }
            index += 1
        }
        let start = index
        skipCSVField(bytes, &index, range.upperBound)
        let field = start..<index
        guard bytes[field].contains(dialect.quote) else {
            return !isNeverNull && bytes[field].elementsEqual(dialect.null) ? .null : .plain(field)
        }
        let value = unquoted(bytes, field)
        return isNullInQuotes && value == dialect.null ? .null : .decoded(value)
    }

    /// Moves to the delimiter behind the field, or to the row's end.
    private func skipCSVField(_ bytes: UnsafeBufferPointer<UInt8>, _ index: inout Int, _ end: Int) {
        var isInQuotes = false
        while index < end {
            let byte = bytes[index]
            if isInQuotes {
                if byte == dialect.escape, index + 1 < end,
                    bytes[index + 1] == dialect.escape || bytes[index + 1] == dialect.quote
                {
                    index += 1
                } else if byte == dialect.quote {
                    isInQuotes = false
                }
            } else if byte == dialect.delimiter {
                return
            } else if byte == dialect.quote {
                isInQuotes = true
            }
            index += 1
        }
    }

    private func unquoted(_ bytes: UnsafeBufferPointer<UInt8>, _ field: Range<Int>) -> [UInt8] {
        var value: [UInt8] = []
        var isInQuotes = false
        var index = field.lowerBound
        while index < field.upperBound {
            let byte = bytes[index]
            index += 1
            if isInQuotes, byte == dialect.escape, index < field.upperBound,
                bytes[index] == dialect.escape || bytes[index] == dialect.quote
            {
                value.append(bytes[index])
                index += 1
            } else if byte == dialect.quote {
                isInQuotes.toggle()
            } else {
                value.append(byte)
            }
        }
        return value
    }

    // MARK: Binary

    /// The row's range begins at its number of columns.
    private func binary(_ bytes: UnsafeBufferPointer<UInt8>, _ range: Range<Int>) -> Field {
        guard Int(bytes.bigEndian(at: range.lowerBound, as: Int16.self)) > column else { return .missing }
        var index = range.lowerBound + 2
        for _ in 0..<column { index += 4 + max(0, Int(bytes.bigEndian(at: index, as: Int32.self))) }
        let length = Int(bytes.bigEndian(at: index, as: Int32.self))
        return length < 0 ? .null : .plain((index + 4)..<(index + 4 + length))
    }
}

extension UnsafeBufferPointer<UInt8> {
    /// The integer whose first byte is at `offset`, all of whose bytes are there.
    func bigEndian<Value: FixedWidthInteger>(at offset: Int, as type: Value.Type) -> Value {
        precondition(offset >= 0 && offset + MemoryLayout<Value>.size <= count, "\(offset) of \(count) bytes")
        return Value(bigEndian: UnsafeRawPointer(baseAddress!).loadUnaligned(fromByteOffset: offset, as: Value.self))
    }
}
