import TransactionCore

extension MetadataEntry: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            key: try reader.value(), value: try reader.metadataValue(), created: try reader.value(),
            modified: try reader.value(), version: UInt64(try reader.integer(max: numberMax)),
            owner: try reader.optional())
        guard created <= modified, version > 0, owner.map({ $0.openedAt < modified }) ?? true else {
            throw reader.malformed(.outOfRange)
        }
    }

    func write(to writer: inout ByteWriter) {
        writer.write(key)
        writer.block(value)
        writer.write(created)
        writer.write(modified)
        writer.number(version)
        writer.write(owner)
    }
}

extension MetadataChange: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        let revision = try reader.value(Revision.self)
        let previous = try reader.optional(Revision.self)
        let entry = try reader.optional(MetadataEntry.self)
        guard entry.map({ $0.modified == revision }) ?? true else { throw reader.malformed(.outOfRange) }
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
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        let text = try reader.text(max: Self.bytesMax)
        guard let key = MetadataKey(text) else { throw reader.malformed(.outOfRange) }
        self = key
    }

    func write(to writer: inout ByteWriter) { writer.block(rawValue.utf8) }
}

extension MetadataPrefix: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        let text = try reader.text(max: Self.bytesMax)
        guard let prefix = MetadataPrefix(text) else { throw reader.malformed(.outOfRange) }
        self = prefix
    }

    func write(to writer: inout ByteWriter) { writer.block(rawValue.utf8) }
}

extension Revision: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(rawValue: Int64(try reader.integer(max: numberMax)))
    }

    func write(to writer: inout ByteWriter) { writer.number(UInt64(bitPattern: rawValue)) }
}

extension SessionID: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) { self.init(openedAt: try reader.value()) }

    func write(to writer: inout ByteWriter) { writer.write(openedAt) }
}

extension NodeID: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(rawValue: UInt16(try reader.integer(max: Int(NodeID.maximum))))!
    }

    func write(to writer: inout ByteWriter) { writer.number(UInt64(rawValue)) }
}

extension Epoch: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(rawValue: Int64(try reader.integer(max: numberMax)))
    }

    func write(to writer: inout ByteWriter) { writer.number(UInt64(bitPattern: rawValue)) }
}

extension Timestamp: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(rawValue: Int64(bitPattern: try reader.number()))
    }

    func write(to writer: inout ByteWriter) { writer.number(UInt64(bitPattern: rawValue)) }
}

/// The largest number that is counted up: more than will ever be reached, with room for more.
let numberMax = 1 << 62

extension ByteReader {
    mutating func metadataValue() throws(MalformedBytes) -> [UInt8] { try block(max: MetadataEntry.valueBytesMax) }
}
