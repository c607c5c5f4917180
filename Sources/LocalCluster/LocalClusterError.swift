import TransactionCore

/// Why a local server or cluster could not be made, started or opened; no shard of anyone else is touched.
public struct LocalClusterError: ReportedError, Hashable, Sendable {
    /// What happened: lower case, no full stop.
    public var message: String
    /// The facts, often the last lines of a server's log.
    public var detail: String?
    /// The next step.
    public var hint: String?

    /// Makes an error.
    public init(_ message: String, detail: String? = nil, hint: String? = nil) {
        self.message = message
        self.detail = detail
        self.hint = hint
    }
}
