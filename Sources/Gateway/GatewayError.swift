import TransactionCore

/// Why a gateway did not start, or did not take a new certificate. An error of the process, not of a client.
public struct GatewayError: ReportedError, Hashable, Sendable {
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
