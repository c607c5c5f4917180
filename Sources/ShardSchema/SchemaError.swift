import ShardBackend
import TransactionCore

/// Why the schema of a shard could not be brought up to date; the shard is as it was before the failed migration.
public struct SchemaError: ReportedError, Hashable, Sendable {
    public var sqlState: SQLState
    /// What happened: lower case, no full stop.
    public var message: String
    /// The facts.
    public var detail: String?
    /// The next step.
    public var hint: String?

    init(_ message: String, detail: String, hint: String) {
        sqlState = .objectNotInPrerequisiteState
        self.message = message
        self.detail = detail
        self.hint = hint
    }

    /// The shard refused, or could not be reached.
    init(_ error: ShardError, doing work: String? = nil) {
        let fields = error.serverFields
        sqlState = error.sqlState
        message = work.map { "\($0): \(error.message)" } ?? error.message
        detail = fields?.detail
        hint = fields?.hint
    }

    public var headline: String { "\(sqlState): \(message)" }
}
