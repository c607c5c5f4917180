import TransactionCore

/// Has a form in bytes.
protocol ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes)
    func write(to writer: inout ByteWriter)
}

/// Lists, what may be missing, and what has a bound of its own.
extension ByteWriter {
    mutating func write(_ value: some ByteCoded) { value.write(to: &self) }

    mutating func write(_ flag: Bool) { byte(flag ? 1 : 0) }

    mutating func write(_ value: (some ByteCoded)?) {
        write(value != nil)
        if let value { write(value) }
    }

    mutating func write(_ list: [some ByteCoded]) {
        number(UInt64(list.count))
        for value in list { write(value) }
    }

    /// Which case it is, and what belongs to it.
    mutating func write(_ tag: UInt8, _ first: some ByteCoded) {
        byte(tag)
        write(first)
    }

    mutating func write(_ tag: UInt8, _ first: some ByteCoded, _ second: some ByteCoded) {
        write(tag, first)
        write(second)
    }
}

extension ByteReader {
    /// A number of `0 ... max`.
    mutating func integer(max: Int) throws(MalformedBytes) -> Int { Int(try number(max: UInt64(max))) }

    mutating func block(max: Int) throws(MalformedBytes) -> [UInt8] {
        let bytes = try block()
        guard bytes.count <= max else { throw malformed(.outOfRange) }
        return bytes
    }

    mutating func text(max: Int) throws(MalformedBytes) -> String {
        guard let text = String(validating: try block(max: max), as: UTF8.self) else { throw malformed(.outOfRange) }
        return text
    }

    mutating func flag() throws(MalformedBytes) -> Bool {
        let byte = try byte()
        guard byte <= 1 else { throw malformed(.outOfRange) }
        return byte == 1
    }

    mutating func value<Value: ByteCoded>(_ type: Value.Type = Value.self) throws(MalformedBytes) -> Value {
        try Value(from: &self)
    }

    mutating func optional<Value: ByteCoded>(_ type: Value.Type = Value.self) throws(MalformedBytes) -> Value? {
        try flag() ? value() : nil
    }

    /// Makes room only as values are read: a count alone costs nothing.
    mutating func list<Value: ByteCoded>(
        of type: Value.Type = Value.self, max: Int
    ) throws(MalformedBytes) -> [Value] {
        var list: [Value] = []
        for _ in 0..<(try integer(max: max)) { list.append(try value()) }
        return list
    }
}
