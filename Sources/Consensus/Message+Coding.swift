import TransactionCore

/// The form of messages on the wire.
extension Message: VersionedByteCodable {
    static let version: UInt8 = 1

    /// Version, kind, and what the kind has, in the order in which it is declared.
    public var encoded: [UInt8] { versionedBytes }

    /// Throws where `bytes` are not, all of them, what ``encoded`` gives. Nothing that comes out makes a ``Replica``
    /// count beyond the range of its numbers.
    public init(encoded bytes: [UInt8]) throws(MalformedBytes) {
        try self.init(versionedBytes: bytes)
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .prepare(let ballot, let from, let isCanvass):
            writer.byte(1)
            ballot.write(to: &writer)
            from.write(to: &writer)
            isCanvass.write(to: &writer)
        case .willing(let ballot):
            writer.byte(2)
            ballot.write(to: &writer)
        case .promise(let ballot, let accepted):
            writer.byte(3)
            ballot.write(to: &writer)
            writer.values(accepted)
        case .accept(let accept):
            writer.byte(4)
            accept.write(to: &writer)
        case .accepted(let accepted):
            writer.byte(5)
            accepted.write(to: &writer)
        case .refused(let ballot, let promised):
            writer.byte(6)
            ballot.write(to: &writer)
            promised.write(to: &writer)
        case .chosenUpTo(let ballot, let slot):
            writer.byte(7)
            ballot.write(to: &writer)
            slot.write(to: &writer)
        case .catchUp(let from):
            writer.byte(8)
            from.write(to: &writer)
        case .chosen(let first, let entries):
            writer.byte(9)
            first.write(to: &writer)
            writer.values(entries)
        case .snapshot(let snapshot):
            writer.byte(10)
            snapshot.write(to: &writer)
        case .release(let ballot, let successor):
            writer.byte(11)
            ballot.write(to: &writer)
            writer.values(successor.map { [$0] } ?? [])
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1:
            self = .prepare(
                try Ballot(from: &reader), from: try Slot(from: &reader), isCanvass: try Bool(from: &reader))
        case 2: self = .willing(try Ballot(from: &reader))
        case 3: self = .promise(try Ballot(from: &reader), accepted: try reader.values())
        case 4: self = .accept(try Accept(from: &reader))
        case 5: self = .accepted(try Accepted(from: &reader))
        case 6: self = .refused(ballot: try Ballot(from: &reader), promised: try Ballot(from: &reader))
        case 7: self = .chosenUpTo(try Ballot(from: &reader), upTo: try Slot(from: &reader))
        case 8: self = .catchUp(from: try Slot(from: &reader))
        case 9: self = .chosen(first: try Slot(from: &reader), entries: try reader.values())
        case 10: self = .snapshot(try Snapshot(from: &reader))
        case 11:
            let ballot = try Ballot(from: &reader)
            let successors: [NodeID] = try reader.values()
            guard successors.count <= 1 else { throw reader.malformed(.outOfRange) }
            self = .release(ballot, successor: successors.first)
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
    }
}

extension Message.Accept: ByteCodable {
    func write(to writer: inout ByteWriter) {
        ballot.write(to: &writer)
        first.write(to: &writer)
        writer.values(entries)
        chosenUpTo.write(to: &writer)
        round.write(to: &writer)
        leaseExpiry.write(to: &writer)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            ballot: try Ballot(from: &reader), first: try Slot(from: &reader), entries: try reader.values(),
            chosenUpTo: try Slot(from: &reader), round: try UInt64(from: &reader),
            leaseExpiry: try Timestamp(from: &reader))
    }
}

extension Message.Accepted: ByteCodable {
    func write(to writer: inout ByteWriter) {
        ballot.write(to: &writer)
        first.write(to: &writer)
        UInt64(count).write(to: &writer)
        chosenUpTo.write(to: &writer)
        round.write(to: &writer)
        leaseExpiry.write(to: &writer)
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            ballot: try Ballot(from: &reader), first: try Slot(from: &reader),
            count: Int(try reader.number(max: UInt64(UInt32.max))), chosenUpTo: try Slot(from: &reader),
            round: try UInt64(from: &reader), leaseExpiry: try Timestamp(from: &reader))
    }
}
