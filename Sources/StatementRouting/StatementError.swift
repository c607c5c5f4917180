public import TransactionCore

/// Why a text can't be parsed or a statement can't be planned, in PostgreSQL's terms.
public struct StatementError: Error, Hashable, Sendable {
    /// The stable code.
    public var sqlState: SQLState
    /// What is wrong, lower case without a full stop.
    public var message: String
    /// The facts.
    public var detail: String?
    /// What to do instead.
    public var hint: String?
    /// Where, as PostgreSQL counts: characters of the whole text, from 1.
    public var position: Int?

    /// Makes an error.
    public init(
        _ sqlState: SQLState, _ message: String, detail: String? = nil, hint: String? = nil, position: Int? = nil
    ) {
        (self.sqlState, self.message, self.detail, self.hint) = (sqlState, message, detail, hint)
        self.position = position
    }

    static func unsupported(_ message: String, hint: String, detail: String? = nil) -> StatementError {
        StatementError(.featureNotSupported, message, detail: detail, hint: hint)
    }

    /// The same as an error of the transaction that the statement was sent in.
    public var transactionError: TransactionError {
        TransactionError(sqlState, message, detail: detail, hint: hint)
    }
}
