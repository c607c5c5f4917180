/// Why storage was not opened, or can't be used any more.
public struct StorageError: Error, Hashable, Sendable {
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

extension StorageError: CustomStringConvertible {
    /// psql's layout without the severity.
    public var description: String {
        var lines = [message]
        if let detail { lines.append("DETAIL:  \(detail)") }
        if let hint { lines.append("HINT:  \(hint)") }
        return lines.joined(separator: "\n")
    }
}
