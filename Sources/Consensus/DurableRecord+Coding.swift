import TransactionCore

/// The form of records on disk.
extension DurableRecord: VersionedByteCodable {
    static let version: UInt8 = 1

    /// Version, kind, and what the kind has, in the order in which it is declared.
    public var encoded: [UInt8] { versionedBytes }

    /// Throws where `bytes` are not, all of them, what ``encoded`` gives.
    public init(encoded bytes: [UInt8]) throws(MalformedBytes) {
        try self.init(versionedBytes: bytes)
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .promised(let ballot):
            writer.byte(1)
            ballot.write(to: &writer)
        case .accepted(let entry):
            writer.byte(2)
            entry.write(to: &writer)
        case .chosenUpTo(let slot):
            writer.byte(3)
            slot.write(to: &writer)
        case .learned(let slot, let entry):
            writer.byte(4)
            slot.write(to: &writer)
            entry.write(to: &writer)
        case .snapshot(let snapshot):
            writer.byte(5)
            snapshot.write(to: &writer)
        }
    }

    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .promised(try Ballot(from: &reader))
        case 2: self = .accepted(try AcceptedEntry(from: &reader))
        case 3: self = .chosenUpTo(try Slot(from: &reader))
        case 4: self = .learned(try Slot(from: &reader), try Entry(from: &reader))
        case 5: self = .snapshot(try Snapshot(from: &reader))
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
    }
}
