/// What became of a transaction.
public enum TransactionOutcome: Hashable, Sendable {
    /// It committed at that timestamp.
    case committed(Timestamp)
    /// Nothing of it was committed, and nothing ever will be.
    case aborted
    /// Not known yet; recovery settles it, and its gid asks for it.
    case indeterminate(TransactionID)
}

/// Why one transaction or read did not succeed, in PostgreSQL's terms. Errors of the process are other types.
///
/// `message` is lower case without a full stop; `detail` gives facts, `hint` the next step.
public struct TransactionError: Error, Hashable, Sendable {
    /// The stable code for callers. ``SQLState/serializationFailure`` promises that a retry is safe.
    public var sqlState: SQLState
    /// What happened.
    public var message: String
    /// The facts.
    public var detail: String?
    /// What to do next.
    public var hint: String?
    /// The shard it happened on, where it was one.
    public var shard: ShardID?
    /// What became of the transaction.
    public var outcome: TransactionOutcome
    /// What else a shard's PostgreSQL said of the error (position, constraint, table …), by the letters of the wire
    /// protocol ("Error and Notice Message Fields"); its severity, SQLSTATE, message, detail and hint stand above.
    public var reportFields: [UInt8: String] = [:]

    /// Makes an error; by default of a transaction of which nothing was committed.
    public init(
        _ sqlState: SQLState, _ message: String, detail: String? = nil, hint: String? = nil, shard: ShardID? = nil,
        outcome: TransactionOutcome = .aborted
    ) {
        self.sqlState = sqlState
        self.message = message
        self.detail = detail
        self.hint = hint
        self.shard = shard
        self.outcome = outcome
    }

    /// Nothing was committed, and the same transaction may succeed when it is run again.
    public var isRetryable: Bool {
        outcome == .aborted && (sqlState == .serializationFailure || sqlState == .deadlockDetected)
    }
}

extension TransactionError: CustomStringConvertible {
    /// The layout of psql's verbose errors: `CODE: message`, then DETAIL, HINT and the shard on lines of their own.
    public var description: String {
        var lines = ["\(sqlState): \(message)"]
        if let detail { lines.append("DETAIL:  \(detail)") }
        if let hint { lines.append("HINT:  \(hint)") }
        if let shard { lines.append("SHARD:  \(shard)") }
        return lines.joined(separator: "\n")
    }
}
