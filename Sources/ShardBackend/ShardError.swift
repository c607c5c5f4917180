import TransactionCore

/// Why a shard did not do what was asked of it.
public struct ShardError: Error, Hashable, Sendable {
    /// What went wrong; it decides what a caller may do next.
    public enum Kind: Hashable, Sendable {
        /// The server refused a statement. What the pipeline's earlier statements did is as PostgreSQL left it.
        case server(PostgresErrorFields)
        /// No connection could be made; nothing was asked of the server. The SQLSTATE is the server's when it sent one.
        case notConnected(SQLState?)
        /// The connection was lost; see ``ShardError/isOutcomeUnknown``.
        case connectionLost
        /// The deadline passed, and the server was told to stop.
        case timedOut
        /// The task was cancelled, or ``ShardConnection/cancel()`` called, and the server was told to stop.
        case cancelled
        /// The connection or the pool had been closed before; nothing was sent.
        case closed
        /// No connection of the pool became free before the deadline; nothing was sent.
        case poolWaitTimedOut
        /// A value of a result is not what it was read as.
        case decoding
        /// The caller asked for what can't be done, like COPY by a statement that is none; nothing was changed.
        case invalidUse
    }

    public var kind: Kind
    /// Lower case, without a full stop.
    public var message: String
    /// Which of the statements given to ``ShardConnection/run(_:deadline:)`` failed, from 0; nil when none can be
    /// named.
    public var statementIndex: Int?
    /// Statements were sent whose answer never came: the server may or may not have executed them, a COMMIT too.
    public var isOutcomeUnknown: Bool

    /// Makes an error; by default one with a known outcome.
    public init(_ kind: Kind, _ message: String, statementIndex: Int? = nil, isOutcomeUnknown: Bool = false) {
        self.kind = kind
        self.message = message
        self.statementIndex = statementIndex
        self.isOutcomeUnknown = isOutcomeUnknown
    }

    init(_ fields: PostgresErrorFields, statementIndex: Int? = nil) {
        self.init(.server(fields), fields.message, statementIndex: statementIndex)
    }

    /// What PostgreSQL sent, when it was the server that refused.
    public var serverFields: PostgresErrorFields? {
        if case .server(let fields) = kind { fields } else { nil }
    }

    /// The server's SQLSTATE, or the one that PostgreSQL's clients use for such a failure.
    public var sqlState: SQLState {
        switch kind {
        case .server(let fields): fields.sqlState
        case .notConnected(let state): state ?? .connectionFailure
        case .connectionLost, .closed: .connectionFailure
        case .timedOut, .cancelled: .queryCanceled
        case .poolWaitTimedOut: .tooManyConnections
        case .decoding: .internalError
        case .invalidUse: .invalidParameterValue
        }
    }
}

extension ShardError: CustomStringConvertible {
    /// psql's layout.
    public var description: String {
        var lines = [serverFields.map(\.description) ?? "ERROR:  \(sqlState): \(message)"]
        if let statementIndex { lines.append("STATEMENT:  number \(statementIndex) of the pipeline") }
        if isOutcomeUnknown { lines.append("DETAIL:  whether the server executed what it was sent is not known") }
        return lines.joined(separator: "\n")
    }
}

extension TransactionError {
    /// The error of a transaction that failed on `shard` before its commit was sent, so that nothing was committed.
    ///
    /// Losing a prepared statement is no fault of the transaction: it becomes a serialization failure, and is tried
    /// again. After the commit was sent, look at ``ShardError/isOutcomeUnknown`` before you use this.
    public init(_ error: ShardError, shard: ShardID?) {
        let fields = error.serverFields
        self.init(
            fields?.isStalePreparedStatement == true ? .serializationFailure : error.sqlState,
            error.kind == .cancelled ? "canceling statement due to user request" : error.message,
            detail: fields?.detail, hint: fields?.hint, shard: shard)
        for field in PostgresErrorFields.Field.reported { reportFields[field.rawValue] = fields?[field] }
    }
}
