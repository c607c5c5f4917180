import TransactionCore

extension MetadataCommand {
    /// The longest command, in bytes: a value of the largest size, and others beside it.
    public static let bytesMax = 2 << 20

    /// The form in bytes, for the log.
    ///
    /// - Throws: ``MalformedBytes`` that reading it would throw: something is longer than it may be.
    public func encoded() throws(MalformedBytes) -> [UInt8] {
        let bytes = versioned(self)
        _ = try MetadataCommand(decoding: bytes)
        return bytes
    }

    /// Reads what ``encoded()`` made.
    ///
    /// A node that can't read a command that was chosen stops: others may have done what it says.
    public init(decoding bytes: [UInt8]) throws(MalformedBytes) {
        guard bytes.count <= Self.bytesMax else { throw ByteReader(bytes).malformed(.outOfRange) }
        self = try fromVersioned(bytes)
    }
}

extension MetadataAnswer {
    /// The form in bytes, for other nodes.
    public var encoded: [UInt8] { versioned(self) }

    /// Reads what ``encoded`` made.
    public init(decoding bytes: [UInt8]) throws(MalformedBytes) { self = try fromVersioned(bytes) }
}

/// The largest epoch that another may be asked to exceed, far below ``numberMax``.
private let epochMax = 1 << 60

/// Of commands, answers and snapshots.
let codingVersion: UInt8 = 1

/// A whole message: the version of its form, and what it says.
func versioned(_ value: some ByteCoded) -> [UInt8] {
    var writer = ByteWriter()
    writer.byte(codingVersion)
    writer.write(value)
    return writer.bytes
}

/// Reads what ``versioned(_:)`` made.
func fromVersioned<Value: ByteCoded>(_ bytes: [UInt8]) throws(MalformedBytes) -> Value {
    var reader = ByteReader(bytes)
    try reader.checkVersion()
    let value: Value = try reader.value()
    try reader.end()
    return value
}

extension ByteReader {
    mutating func checkVersion() throws(MalformedBytes) {
        let version = try byte()
        guard version == codingVersion else { throw malformed(.unknownVersion(version)) }
    }
}

extension MetadataCommand: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .openSession(node: try reader.value(), expiry: try reader.value())
        case 2: self = .renewSession(try reader.value(), expiry: try reader.value())
        case 3: self = .closeSession(try reader.value())
        case 4: self = .expireSession(try reader.value(), expiry: try reader.value())
        case 5:
            self = .raiseEpoch(try reader.value(), above: Epoch(rawValue: Int64(try reader.integer(max: epochMax))))
        case 6: self = .transaction(try reader.value(), try reader.value())
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .openSession(let node, let expiry): writer.write(1, node, expiry)
        case .renewSession(let id, let expiry): writer.write(2, id, expiry)
        case .closeSession(let id): writer.write(3, id)
        case .expireSession(let id, let expiry): writer.write(4, id, expiry)
        case .raiseEpoch(let node, let above): writer.write(5, node, above)
        case .transaction(let number, let transaction): writer.write(6, number, transaction)
        }
    }
}

extension CommandNumber: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(session: try reader.value(), number: try reader.number(), answeredBelow: try reader.number())
    }

    func write(to writer: inout ByteWriter) {
        writer.write(session)
        writer.number(number)
        writer.number(answeredBelow)
    }
}

extension MetadataTransaction: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            compares: try reader.list(max: Self.partsMax), then: try reader.list(max: Self.partsMax),
            otherwise: try reader.list(max: Self.partsMax))
    }

    func write(to writer: inout ByteWriter) {
        writer.write(compares)
        writer.write(then)
        writer.write(otherwise)
    }
}

extension MetadataCompare: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .exists(try reader.value())
        case 2: self = .absent(try reader.value())
        case 3: self = .modified(try reader.value(), try reader.value())
        case 4: self = .version(try reader.value(), try reader.number())
        case 5: self = .value(try reader.value(), try reader.metadataValue())
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .exists(let key): writer.write(1, key)
        case .absent(let key): writer.write(2, key)
        case .modified(let key, let revision): writer.write(3, key, revision)
        case .version(let key, let version):
            writer.write(4, key)
            writer.number(version)
        case .value(let key, let value):
            writer.write(5, key)
            writer.block(value)
        }
    }
}

extension MetadataOperation: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1:
            self = .put(try reader.value(), try reader.metadataValue(), ephemeral: try reader.flag())
        case 2:
            self = .create(try reader.value(), try reader.metadataValue(), ephemeral: try reader.flag())
        case 3: self = .delete(.key(try reader.value()))
        case 4: self = .delete(.prefix(try reader.value()))
        case 5: self = .read(try reader.value())
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .put(let key, let value, let isEphemeral):
            writer.write(1, key)
            writer.block(value)
            writer.write(isEphemeral)
        case .create(let prefix, let value, let isEphemeral):
            writer.write(2, prefix)
            writer.block(value)
            writer.write(isEphemeral)
        case .delete(.key(let key)): writer.write(3, key)
        case .delete(.prefix(let prefix)): writer.write(4, prefix)
        case .read(let query): writer.write(5, query)
        }
    }
}

extension MetadataQuery: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .get(try reader.value())
        case 2:
            self = .first(
                try reader.value(), after: try reader.optional(), limit: try reader.integer(max: .max))
        case 3: self = .last(try reader.value(), through: try reader.value(), limit: try reader.integer(max: .max))
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .get(let key): writer.write(1, key)
        case .first(let prefix, let after, let limit):
            writer.write(2, prefix)
            writer.write(after)
            writer.number(UInt64(bitPattern: Int64(limit)))
        case .last(let prefix, let through, let limit):
            writer.write(3, prefix, through)
            writer.number(UInt64(bitPattern: Int64(limit)))
        }
    }
}

extension MetadataAnswer: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .session(try reader.value(), expiry: try reader.value())
        case 2: self = .ended
        case 3: self = .epoch(try reader.value())
        case 4: self = .transaction(try reader.value())
        case 5:
            let reason = try reader.byte()
            guard let refusal = MetadataRefusal(rawValue: reason) else { throw reader.malformed(.unknownKind(reason)) }
            self = .refused(refusal)
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .session(let id, let expiry): writer.write(1, id, expiry)
        case .ended: writer.byte(2)
        case .epoch(let epoch): writer.write(3, epoch)
        case .transaction(let answer): writer.write(4, answer)
        case .refused(let refusal):
            writer.byte(5)
            writer.byte(refusal.rawValue)
        }
    }
}

extension TransactionAnswer: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            revision: try reader.value(), held: try reader.flag(),
            results: try reader.list(max: MetadataTransaction.partsMax))
    }

    func write(to writer: inout ByteWriter) {
        writer.write(revision)
        writer.write(held)
        writer.write(results)
    }
}

extension OperationResult: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .put(replaced: try reader.optional())
        case 2: self = .created(try reader.value(), after: try reader.optional())
        case 3: self = .deleted(try reader.integer(max: .max))
        case 4: self = .read(try reader.value())
        case let tag: throw reader.malformed(.unknownKind(tag))
        }
    }

    func write(to writer: inout ByteWriter) {
        switch self {
        case .put(let replaced):
            writer.byte(1)
            writer.write(replaced)
        case .created(let key, let before):
            writer.write(2, key)
            writer.write(before)
        case .deleted(let count):
            writer.byte(3)
            writer.number(UInt64(count))
        case .read(let answer): writer.write(4, answer)
        }
    }
}

extension QueryAnswer: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        self.init(
            revision: try reader.value(), entries: try reader.list(max: .max), isComplete: try reader.flag())
    }

    func write(to writer: inout ByteWriter) {
        writer.write(revision)
        writer.write(entries)
        writer.write(isComplete)
    }
}
