public import TransactionCore

/// What the log holds for the state to do.
///
/// What is done in a session is numbered and done once, however often it comes. All else may come twice: a session that
/// was opened in vain expires, a number of an epoch that nobody took is left out.
public enum MetadataCommand: Hashable, Sendable {
    /// Opens a session for a node; its name is the revision.
    case openSession(node: NodeID, expiry: Timestamp)
    /// Lets the session live until `expiry`, if that is later than before.
    case renewSession(SessionID, expiry: Timestamp)
    /// Ends the session: its owner is done.
    case closeSession(SessionID)
    /// Ends the session unless it was renewed: unless its expiry is later than `expiry`.
    case expireSession(SessionID, expiry: Timestamp)
    /// Gives a node an epoch larger than every one before and than `above`, what shards may know from elsewhere (R6).
    case raiseEpoch(NodeID, above: Epoch)
    /// Changes and reads keys, once for each `number` of the session.
    case transaction(CommandNumber, MetadataTransaction)
}

/// Which command of which session.
public struct CommandNumber: Hashable, Sendable {
    public var session: SessionID
    /// From 1, each once.
    public var number: UInt64
    /// The session has the answers to all numbers below: they need not be kept.
    public var answeredBelow: UInt64

    public init(session: SessionID, number: UInt64, answeredBelow: UInt64) {
        (self.session, self.number, self.answeredBelow) = (session, number, answeredBelow)
    }
}

/// Does one of two things, whichever the state calls for; all of it at one revision, or nothing.
public struct MetadataTransaction: Hashable, Sendable {
    /// The longest list of comparisons or operations: what etcd takes too.
    public static let partsMax = 128

    public var compares: [MetadataCompare]
    /// Done, in sequence, when all comparisons hold.
    public var then: [MetadataOperation]
    /// Done, in sequence, when one does not.
    public var otherwise: [MetadataOperation]

    public init(
        compares: [MetadataCompare] = [], then: [MetadataOperation], otherwise: [MetadataOperation] = []
    ) {
        (self.compares, self.then, self.otherwise) = (compares, then, otherwise)
    }
}

/// What is to be so.
public enum MetadataCompare: Hashable, Sendable {
    case exists(MetadataKey)
    case absent(MetadataKey)
    /// The key was put last at that revision.
    case modified(MetadataKey, Revision)
    /// The key has been put that often.
    case version(MetadataKey, UInt64)
    case value(MetadataKey, [UInt8])
}

/// What is to be done.
public enum MetadataOperation: Hashable, Sendable {
    /// Makes the key or changes its value. From now on it belongs to this session if `ephemeral`, else to none.
    case put(MetadataKey, [UInt8], ephemeral: Bool = false)
    /// Makes a key of the prefix and a number in 16 digits, larger than those of all keys made like this before.
    case create(MetadataPrefix, [UInt8], ephemeral: Bool = false)
    case delete(MetadataSelection)
    case read(MetadataQuery)
}

/// What is to be read.
public enum MetadataQuery: Hashable, Sendable {
    case get(MetadataKey)
    /// The first keys of a prefix, at most `limit`; those after `after` when it is given.
    case first(MetadataPrefix, after: MetadataKey? = nil, limit: Int)
    /// The last keys of a prefix no later than `through`, at most `limit`, last first.
    case last(MetadataPrefix, through: MetadataKey, limit: Int)
}

/// What a command came to.
public enum MetadataAnswer: Hashable, Sendable {
    /// The session is open until then.
    case session(SessionID, expiry: Timestamp)
    /// The session is over.
    case ended
    case epoch(Epoch)
    case transaction(TransactionAnswer)
    /// Nothing was done.
    case refused(MetadataRefusal)
}

/// Why nothing was done.
public enum MetadataRefusal: UInt8, Hashable, Sendable {
    /// The session is over, or never was.
    case sessionUnknown
    /// The number is so far back that its answer is not kept; it may have been done.
    case forgotten
    /// Only the state itself writes ``MetadataState/epochs``.
    case reserved
}

/// What a transaction came to.
public struct TransactionAnswer: Hashable, Sendable {
    /// When it was done.
    public var revision: Revision
    /// Whether the comparisons held.
    public var held: Bool
    /// For each operation that was done.
    public var results: [OperationResult]

    public init(revision: Revision, held: Bool, results: [OperationResult]) {
        (self.revision, self.held, self.results) = (revision, held, results)
    }
}

/// What an operation came to.
public enum OperationResult: Hashable, Sendable {
    /// The value was put; the one before was of `replaced`.
    case put(replaced: Revision?)
    /// The key that was made, and the one before it that begins with the same prefix.
    case created(MetadataKey, after: MetadataKey?)
    /// So many keys were there and are deleted.
    case deleted(Int)
    case read(QueryAnswer)
}

/// What was found.
public struct QueryAnswer: Hashable, Sendable {
    /// The entries that one transaction reads have no more bytes. Any two have room: a ``Contender`` reads two.
    public static let bytesMax = 4 * MetadataEntry.valueBytesMax

    /// The state that was read.
    public var revision: Revision
    public var entries: [MetadataEntry]
    /// Whether nothing was left out, by the limit or for want of space.
    public var isComplete: Bool

    public init(revision: Revision, entries: [MetadataEntry], isComplete: Bool) {
        (self.revision, self.entries, self.isComplete) = (revision, entries, isComplete)
    }
}
