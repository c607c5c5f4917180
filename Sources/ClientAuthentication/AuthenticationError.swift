import TransactionCore

/// Why a client may not in, in PostgreSQL's words. It is always FATAL: it is sent, and the connection is closed.
///
/// The client learns no more than PostgreSQL would tell it: a wrong password and an unknown user look alike.
public struct AuthenticationError: Error, Hashable, Sendable {
    public var sqlState: SQLState
    public var message: String
    public var detail: String?
    public var hint: String?
    /// For the log only, never for the client.
    public var logDetail: String?

    public init(
        _ sqlState: SQLState, _ message: String, detail: String? = nil, hint: String? = nil, logDetail: String? = nil
    ) {
        self.sqlState = sqlState
        self.message = message
        self.detail = detail
        self.hint = hint
        self.logDetail = logDetail
    }
}

extension AuthenticationError {
    /// The password is wrong, or the user unknown.
    public static func passwordFailed(user: String, logDetail: String? = nil) -> AuthenticationError {
        AuthenticationError(
            .invalidPassword, "password authentication failed for user \"\(user)\"", logDetail: logDetail)
    }

    static func malformed(_ detail: String) -> AuthenticationError {
        AuthenticationError(.protocolViolation, "malformed SCRAM message", detail: detail)
    }
}

extension AuthenticationError: CustomStringConvertible {
    /// Without what is for the log only.
    public var description: String {
        [
            "\(sqlState): \(message)", detail.map { "DETAIL:  \($0)" }, hint.map { "HINT:  \($0)" },
        ].compactMap(\.self).joined(separator: "\n")
    }
}
