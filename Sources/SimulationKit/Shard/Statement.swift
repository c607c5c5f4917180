import TransactionCore
import TwoPhaseCommit

/// What a session asks a shard for: the statements of a node, by their effect.
enum Statement: Hashable {
    /// First of every session of a coordinator: fails once the shard was told of a newer epoch (R6).
    case openSession(Incarnation)
    case takeCoordinatorLock
    case readEpoch
    /// Records the epoch for one node or for all, and ends the sessions of older ones.
    case raiseEpoch(Epoch, of: NodeID?, SessionsEnd)
    case begin
    case lock(RowKey, LockTable.Mode)
    case update(RowKey, Update)
    /// Any statement: it succeeds in a transaction that is open and has not failed, and shows that its locks are held.
    case confirm
    case logCommit(TransactionID)
    case prepare(TransactionID)
    case commit
    case rollback
    case commitPrepared(TransactionID)
    case rollbackPrepared(TransactionID)
    case readDecision(TransactionID)
    case insertTombstone(TransactionID)
    case listPrepared
    case readNewestTimestamp
    case takeSnapshot
    case read([RowKey], at: Timestamp)

    /// What becomes of the sessions of earlier epochs.
    enum SessionsEnd: Hashable {
        case awaited
        /// They are told to end, and may be about it still.
        case told
        case left
    }

    /// How an UPDATE computes the new amount.
    enum Update: Hashable {
        case add(Int64, writer: Int)
        case set(Int64, writer: Int)

        func applied(to old: Value) -> Value {
            switch self {
            case .add(let amount, let writer): Value(amount: old.amount + amount, writer: writer)
            case .set(let amount, let writer): Value(amount: amount, writer: writer)
            }
        }
    }

    /// A full disk refuses these.
    var writes: Bool {
        switch self {
        case .update, .logCommit, .prepare, .commitPrepared, .rollbackPrepared, .insertTombstone: true
        default: false
        }
    }
}

/// What a statement returns.
enum Answer: Hashable {
    case done
    case epoch(Epoch)
    case value(Value)
    case values([Value])
    /// The commit log's row: its decision, or nil where there is none.
    case decision(isCommit: Bool?)
    case inserted(Bool)
    case prepared([String])
    case timestamp(Timestamp)
}

/// Why a pipeline of statements failed.
enum ShardFailure: Error {
    /// The shard answered the statement of this index with an error; whatever followed in the pipeline was skipped.
    case refused(TransactionError, statement: Int)
    /// No answer came: what was asked may or may not have happened, or may still.
    case lost(TransactionError)

    var error: TransactionError {
        switch self {
        case .refused(let error, _), .lost(let error): error
        }
    }

    /// The shard has been told of a newer epoch: the first statement of every pipeline on a fresh session is refused.
    var isFencing: Bool {
        if case .refused(let error, 0) = self { error.sqlState == .objectNotInPrerequisiteState } else { false }
    }
}

typealias PipelineResult = Result<[Answer], ShardFailure>
