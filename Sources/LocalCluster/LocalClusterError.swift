/// Why a local server or cluster could not be made, started or opened; no shard of anyone else is touched.
public struct LocalClusterError: Error, Hashable, Sendable {
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

extension LocalClusterError: CustomStringConvertible {
    /// psql's layout without the severity: the message, then DETAIL and HINT on lines of their own.
    public var description: String {
        var lines = [message]
        if let detail { lines.append("DETAIL:  \(detail)") }
        if let hint { lines.append("HINT:  \(hint)") }
        return lines.joined(separator: "\n")
    }
}
