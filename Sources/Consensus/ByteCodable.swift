import TransactionCore

/// What has a form in bytes; its kinds keep their numbers for ever.
protocol ByteCodable {
    func write(to writer: inout ByteWriter)
    init(from reader: inout ByteReader) throws(MalformedBytes)
}

/// A whole message or record: the version of its form comes first.
protocol VersionedByteCodable: ByteCodable {
    /// Which form is written; forms from 1 up to it are read.
    static var version: UInt8 { get }
}

extension VersionedByteCodable {
    var versionedBytes: [UInt8] {
        var writer = ByteWriter()
        writer.byte(Self.version)
        write(to: &writer)
        return writer.bytes
    }

    init(versionedBytes bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        let version = try reader.byte()
        guard 1...Self.version ~= version else { throw reader.malformed(.unknownVersion(version)) }
        try self.init(from: &reader)
        try reader.end()
    }
}

extension ByteWriter {
    mutating func values(_ values: some Collection<some ByteCodable>) {
        number(UInt64(values.count))
        for value in values { value.write(to: &self) }
    }
}

extension ByteReader {
    mutating func values<Value: ByteCodable>() throws(MalformedBytes) -> [Value] {
        var values: [Value] = []
        for _ in 0..<(try count()) { values.append(try Value(from: &self)) }
        return values
    }
}

/// Half of what 64 bits hold: nobody counts so far, and the sum of two such numbers is one still.
private let numberMax: UInt64 = 1 << 62

extension UInt64: ByteCodable {
    func write(to writer: inout ByteWriter) { writer.number(self) }

    /// What is counted up by one and one.
    init(from reader: inout ByteReader) throws(MalformedBytes) { self = try reader.number(max: numberMax) }
}

extension Bool: ByteCodable {
    func write(to writer: inout ByteWriter) { writer.byte(self ? 1 : 0) }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        let byte = try reader.byte()
        guard byte <= 1 else { throw reader.malformed(.outOfRange) }
        self = byte == 1
    }
}

extension NodeID: ByteCodable {
    func write(to writer: inout ByteWriter) { writer.number(UInt64(rawValue)) }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self = NodeID(rawValue: UInt16(try reader.number(max: UInt64(NodeID.maximum))))!
    }
}

extension Timestamp: ByteCodable {
    func write(to writer: inout ByteWriter) { writer.fixed(rawValue) }

    init(from reader: inout ByteReader) throws(MalformedBytes) { self.init(rawValue: try reader.fixed()) }
}

extension Ballot: ByteCodable {
    func write(to writer: inout ByteWriter) {
        round.write(to: &writer)
        node.write(to: &writer)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(round: try UInt64(from: &reader), node: try NodeID(from: &reader))
    }
}

extension Slot: ByteCodable {
    func write(to writer: inout ByteWriter) { UInt64(rawValue).write(to: &writer) }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(rawValue: Int64(try UInt64(from: &reader)))
    }
}

extension NodeSet: ByteCodable {
    func write(to writer: inout ByteWriter) { writer.values(nodes) }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        let nodes: [NodeID] = try reader.values()
        guard zip(nodes, nodes.dropFirst()).allSatisfy(<) else { throw reader.malformed(.outOfRange) }
        self.init(nodes)
    }
}

extension Membership: ByteCodable {
    func write(to writer: inout ByteWriter) {
        voters.write(to: &writer)
        learners.write(to: &writer)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        let (voters, learners) = (try NodeSet(from: &reader), try NodeSet(from: &reader))
        self.init(voters: voters, learners: learners)
        guard self.learners == learners else { throw reader.malformed(.outOfRange) }
    }
}

extension Entry: ByteCodable {
    func write(to writer: inout ByteWriter) {
        switch self {
        case .noOperation:
            writer.byte(0)
        case .command(let command):
            writer.byte(1)
            writer.block(command)
        case .membership(let membership):
            writer.byte(2)
            membership.write(to: &writer)
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 0: self = .noOperation
        case 1: self = .command(try reader.block())
        case 2: self = .membership(try Membership(from: &reader))
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
    }
}

extension AcceptedEntry: ByteCodable {
    func write(to writer: inout ByteWriter) {
        slot.write(to: &writer)
        ballot.write(to: &writer)
        entry.write(to: &writer)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            slot: try Slot(from: &reader), ballot: try Ballot(from: &reader), entry: try Entry(from: &reader))
    }
}

extension Snapshot: ByteCodable {
    func write(to writer: inout ByteWriter) {
        slot.write(to: &writer)
        membership.write(to: &writer)
        writer.block(state)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            slot: try Slot(from: &reader), membership: try Membership(from: &reader), state: try reader.block())
    }
}
