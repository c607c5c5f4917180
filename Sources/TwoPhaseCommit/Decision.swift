import TransactionCore

/// What the home shard's commit log says of a transaction (R3).
public enum Decision: Hashable, Sendable {
    case commit
    case abort
}

/// Every participant but the home shard has voted yes, commit-wait is over and read locks are still held: COMMIT may go
/// to the home shard.
///
/// Only ``Coordinator`` makes one, so code that takes one can't run before its time (R2).
public struct PreparedTransaction: Hashable, Sendable {
    public let id: TransactionID
}

/// The decision stands in the home shard's commit log: it may be applied and told.
///
/// Only ``Coordinator`` and ``Recovery`` make one, so nothing is applied on a guess (R3, R4).
public struct DecidedTransaction: Hashable, Sendable {
    public let id: TransactionID
    public let decision: Decision
}

/// A participant's answer to PREPARE TRANSACTION.
public enum Vote: Hashable, Sendable {
    /// Yes: it will commit or roll back as the decision says, also after a crash.
    case prepared
    /// No: the shard refused, so its part is rolled back.
    case refused(TransactionError)
    /// The answer was lost: the participant may be prepared, now or in a moment.
    case lost(TransactionError)
}

/// What is known of the locks on a shard that was only read, once commit-wait is over.
public enum Confirmation: Hashable, Sendable {
    /// The transaction is open there, so they are held.
    case held
    /// They may be gone: the session answered with an error, or not at all.
    case lost(TransactionError)
}

/// The home shard's answer to COMMIT.
public enum HomeAnswer: Hashable, Sendable {
    case committed
    /// The shard answered that it did not commit.
    case refused(TransactionError)
    /// The answer was lost: it may have committed (R5).
    case lost(TransactionError)
}
