/// Why bytes are not what they should be.
public enum ByteCodingError: Error, Hashable, Sendable {
    /// They end too early.
    case truncated
    /// Something follows the end.
    case trailing
    /// They are of a version that this program does not know: it must not go on without them.
    case unknownVersion(UInt8)
    /// Some part is not what may stand there.
    case invalid(String)
}

/// Writes numbers in as few bytes as they need (LEB128), and lengths before all that has one.
struct ByteWriter {
    private(set) var bytes: [UInt8] = []

    mutating func write(byte: UInt8) {
        bytes.append(byte)
    }

    mutating func write(_ number: UInt64) {
        var rest = number
        while rest >= 0x80 {
            bytes.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        bytes.append(UInt8(rest))
    }

    mutating func write(_ value: [UInt8]) {
        write(UInt64(value.count))
        bytes += value
    }

    mutating func write(_ text: String) {
        write(UInt64(text.utf8.count))
        bytes += text.utf8
    }

    mutating func write(_ flag: Bool) { write(byte: flag ? 1 : 0) }

    mutating func write(_ value: some ByteCoded) { value.write(to: &self) }

    mutating func write(_ value: (some ByteCoded)?) {
        write(value != nil)
        if let value { write(value) }
    }

    mutating func write(_ list: [some ByteCoded]) {
        write(UInt64(list.count))
        for value in list { write(value) }
    }
}

/// Reads what ``ByteWriter`` wrote, from whoever it may come.
struct ByteReader {
    private let bytes: [UInt8]
    private var position = 0

    init(_ bytes: [UInt8]) {
        self.bytes = bytes
    }

    mutating func byte() throws(ByteCodingError) -> UInt8 {
        guard position < bytes.count else { throw .truncated }
        defer { position += 1 }
        return bytes[position]
    }

    mutating func number() throws(ByteCodingError) -> UInt64 {
        var (value, shift): (UInt64, UInt64) = (0, 0)
        while true {
            let byte = try byte()
            // Of a tenth byte only one bit has room; and every number is written in one way only.
            guard shift < 63 || byte <= 1, byte != 0 || shift == 0 else { throw .invalid("number") }
            value |= UInt64(byte & 0x7F) << shift
            if byte < 0x80 { return value }
            shift += 7
        }
    }

    /// A number of `0 ... max`.
    mutating func number(max: Int) throws(ByteCodingError) -> Int {
        let number = try number()
        guard number <= UInt64(max) else { throw .invalid("\(number), above \(max)") }
        return Int(number)
    }

    mutating func bytes(max: Int) throws(ByteCodingError) -> [UInt8] {
        let count = try number(max: max)
        guard count <= bytes.count - position else { throw .truncated }
        defer { position += count }
        return Array(bytes[position..<(position + count)])
    }

    mutating func text(max: Int) throws(ByteCodingError) -> String {
        guard let text = String(validating: try bytes(max: max), as: UTF8.self) else { throw .invalid("text") }
        return text
    }

    mutating func flag() throws(ByteCodingError) -> Bool {
        switch try byte() {
        case 0: return false
        case 1: return true
        case let other: throw .invalid("flag \(other)")
        }
    }

    mutating func value<Value: ByteCoded>(_ type: Value.Type = Value.self) throws(ByteCodingError) -> Value {
        try Value(from: &self)
    }

    mutating func optional<Value: ByteCoded>(_ type: Value.Type = Value.self) throws(ByteCodingError) -> Value? {
        try flag() ? value() : nil
    }

    /// Reads before it makes room: a length alone costs nothing.
    mutating func list<Value: ByteCoded>(
        of type: Value.Type = Value.self, max: Int
    ) throws(ByteCodingError) -> [Value] {
        var list: [Value] = []
        for _ in 0..<(try number(max: max)) { list.append(try value()) }
        return list
    }

    /// Nothing may be left.
    func end() throws(ByteCodingError) {
        guard position == bytes.count else { throw .trailing }
    }
}

/// Has a form in bytes.
protocol ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError)
    func write(to writer: inout ByteWriter)
}
