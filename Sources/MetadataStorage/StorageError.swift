import TransactionCore

/// Why storage was not opened, or can't be used any more.
public struct StorageError: ReportedError, Hashable, Sendable {
    /// What happened: lower case, no full stop.
    public var message: String
    /// The facts.
    public var detail: String?
    /// The next step.
    public var hint: String?

    public init(_ message: String, detail: String? = nil, hint: String? = nil) {
        self.message = message
        self.detail = detail
        self.hint = hint
    }
}
