public import TransactionCore

/// What somebody asks of a node's metadata who holds no state of his own.
public enum MetadataRequest: Hashable, Sendable {
    /// Answered by ``MetadataReply/found(_:)``.
    case read(MetadataQuery)
    /// Answered by ``MetadataReply/answer(_:)``.
    case submit(MetadataCommand)
    /// Waits until there are some. Answered by ``MetadataReply/changes(_:)`` or ``MetadataReply/compacted(_:)``.
    case changes(of: MetadataSelection, after: Revision)
}

/// What a node says to a ``MetadataRequest``.
public enum MetadataReply: Hashable, Sendable {
    case found(QueryAnswer)
    case answer(MetadataAnswer)
    case changes(MetadataChanges)
    /// Some of the changes are not kept any more.
    case compacted(CompactedError)
}

/// A part of the changes of some keys.
public struct MetadataChanges: Hashable, Sendable {
    /// In the order in which they were made.
    public var changes: [MetadataChange]
    /// There are no others up to here: those that come next are after it.
    public var through: Revision

    public init(_ changes: [MetadataChange], through: Revision) {
        (self.changes, self.through) = (changes, through)
    }
}

// MARK: Forms in bytes

extension MetadataRequest {
    /// The form in bytes, for nodes.
    public var encoded: [UInt8] { versioned(self) }

    /// Reads what ``encoded`` made.
    public init(decoding bytes: [UInt8]) throws(MalformedBytes) { self = try fromVersioned(bytes) }
}

extension MetadataReply {
    /// The form in bytes, for who asked.
    public var encoded: [UInt8] { versioned(self) }

    /// Reads what ``encoded`` made.
    public init(decoding bytes: [UInt8]) throws(MalformedBytes) { self = try fromVersioned(bytes) }
}

extension MetadataRequest: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .read(try reader.value())
        case 2: self = .submit(try reader.value())
        case 3: self = .changes(of: .key(try reader.value()), after: try reader.value())
        case 4: self = .changes(of: .prefix(try reader.value()), after: try reader.value())
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .read(let query): writer.write(1, query)
        case .submit(let command): writer.write(2, command)
        case .changes(.key(let key), let revision): writer.write(3, key, revision)
        case .changes(.prefix(let prefix), let revision): writer.write(4, prefix, revision)
        }
    }
}

extension MetadataReply: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .found(try reader.value())
        case 2: self = .answer(try reader.value())
        case 3: self = .changes(MetadataChanges(try reader.list(max: .max), through: try reader.value()))
        case 4: self = .compacted(CompactedError(completeAfter: try reader.value()))
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .found(let answer): writer.write(1, answer)
        case .answer(let answer): writer.write(2, answer)
        case .changes(let found):
            writer.byte(3)
            writer.write(found.changes)
            writer.write(found.through)
        case .compacted(let error): writer.write(4, error.completeAfter)
        }
    }
}
