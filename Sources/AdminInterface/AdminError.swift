import TransactionCore

/// Why the admin interface can't be had.
public struct AdminError: ReportedError, Hashable {
    public var message: String
    public var detail: String?
    public var hint: String?

    public init(_ message: String, detail: String? = nil, hint: String? = nil) {
        (self.message, self.detail, self.hint) = (message, detail, hint)
    }
}
