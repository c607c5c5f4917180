import TransactionCore

extension MetadataEntry: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        self.init(
            key: try reader.value(), value: try reader.metadataValue(), created: try reader.value(),
            modified: try reader.value(), version: UInt64(try reader.number(max: numberMax)),
            owner: try reader.optional())
        guard created <= modified, version > 0, owner.map({ $0.openedAt < modified }) ?? true else {
            throw .invalid("entry \(key)")
        }
    }

    func write(to writer: inout ByteWriter) {
        writer.write(key)
        writer.write(value)
        writer.write(created)
        writer.write(modified)
        writer.write(version)
        writer.write(owner)
    }
}

extension MetadataChange: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        let revision = try reader.value(Revision.self)
        let previous = try reader.optional(Revision.self)
        let entry = try reader.optional(MetadataEntry.self)
        guard entry.map({ $0.modified == revision }) ?? true else { throw .invalid("change at \(revision)") }
        let key: MetadataKey
        if let entry { key = entry.key } else { key = try reader.value() }
        self.init(key: key, previous: previous, entry: entry, revision: revision)
    }

    func write(to writer: inout ByteWriter) {
        writer.write(revision)
        writer.write(previous)
        writer.write(entry)
        if entry == nil { writer.write(key) }
    }
}

extension MetadataKey: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        let text = try reader.text(max: Self.bytesMax)
        guard let key = MetadataKey(text) else { throw .invalid("key \(text)") }
        self = key
    }

    func write(to writer: inout ByteWriter) { writer.write(rawValue) }
}

extension MetadataPrefix: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        let text = try reader.text(max: Self.bytesMax)
        guard let prefix = MetadataPrefix(text) else { throw .invalid("prefix \(text)") }
        self = prefix
    }

    func write(to writer: inout ByteWriter) { writer.write(rawValue) }
}

extension Revision: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        self.init(rawValue: Int64(try reader.number(max: numberMax)))
    }

    func write(to writer: inout ByteWriter) { writer.write(UInt64(bitPattern: rawValue)) }
}

extension SessionID: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) { self.init(openedAt: try reader.value()) }

    func write(to writer: inout ByteWriter) { writer.write(openedAt) }
}

extension NodeID: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        self.init(rawValue: UInt16(try reader.number(max: Int(NodeID.maximum))))!
    }

    func write(to writer: inout ByteWriter) { writer.write(UInt64(rawValue)) }
}

extension Epoch: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        self.init(rawValue: Int64(try reader.number(max: numberMax)))
    }

    func write(to writer: inout ByteWriter) { writer.write(UInt64(bitPattern: rawValue)) }
}

extension Timestamp: ByteCoded {
    init(from reader: inout ByteReader) throws(ByteCodingError) {
        self.init(rawValue: Int64(bitPattern: try reader.number()))
    }

    func write(to writer: inout ByteWriter) { writer.write(UInt64(bitPattern: rawValue)) }
}

/// The largest number that is counted up: more than will ever be reached, with room for more.
let numberMax = 1 << 62

extension ByteReader {
    mutating func metadataValue() throws(ByteCodingError) -> [UInt8] { try bytes(max: MetadataEntry.valueBytesMax) }
}

extension ByteWriter {
    /// Which case it is, and what belongs to it.
    mutating func write(_ tag: UInt8, _ first: some ByteCoded) {
        write(byte: tag)
        write(first)
    }

    mutating func write(_ tag: UInt8, _ first: some ByteCoded, _ second: some ByteCoded) {
        write(tag, first)
        write(second)
    }
}
