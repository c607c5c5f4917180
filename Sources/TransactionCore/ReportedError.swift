/// An error of the process, for people: what happened, the facts, and the next step.
public protocol ReportedError: Error, CustomStringConvertible {
    /// What happened: lower case, no full stop.
    var message: String { get }
    /// The facts.
    var detail: String? { get }
    /// The next step.
    var hint: String? { get }
    /// The first line: ``message``, unless there is more to it.
    var headline: String { get }
}

extension ReportedError {
    public var headline: String { message }

    /// psql's layout without the severity: the first line, then DETAIL and HINT on lines of their own.
    public var description: String {
        var lines = [headline]
        if let detail { lines.append("DETAIL:  \(detail)") }
        if let hint { lines.append("HINT:  \(hint)") }
        return lines.joined(separator: "\n")
    }
}
