/// Why a gateway did not start, or did not take a new certificate. An error of the process, not of a client.
public struct GatewayError: Error, Hashable, Sendable {
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

extension GatewayError: CustomStringConvertible {
    /// psql's layout without the severity.
    public var description: String {
        var lines = [message]
        if let detail { lines.append("DETAIL:  \(detail)") }
        if let hint { lines.append("HINT:  \(hint)") }
        return lines.joined(separator: "\n")
    }
}
