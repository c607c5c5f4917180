import ShardBackend
import TransactionCore

/// Why an engine did not start; nothing was committed and nothing is held. An error of the process, not of a
/// transaction.
public struct EngineStartError: ReportedError, Hashable, Sendable {
    public var sqlState: SQLState
    /// What happened: lower case, no full stop.
    public var message: String
    /// The facts.
    public var detail: String?
    /// The next step.
    public var hint: String?
    /// The newest epoch of this node that the shards know, when the one it came with is no newer: it may start again in
    /// one above.
    public var newestEpoch: Epoch?

    public init(_ sqlState: SQLState, _ message: String, detail: String? = nil, hint: String? = nil) {
        self.sqlState = sqlState
        self.message = message
        self.detail = detail
        self.hint = hint
    }

    /// `shard` did not do what the start needs of it.
    init(_ error: ShardError, shard: ShardID) {
        let fields = error.serverFields
        self.init(
            error.sqlState, "shard \(shard): \(error.message)", detail: fields?.detail,
            hint: fields?.hint ?? Self.hint(for: error.sqlState))
    }

    /// A timestamp can't be chosen.
    init(_ error: TransactionError) {
        self.init(error.sqlState, error.message, detail: error.detail, hint: error.hint)
    }

    private static func hint(for state: SQLState) -> String {
        switch state {
        case .undefinedTable, .undefinedFunction, .undefinedSchema:
            "run `meridian migrate`, which makes what Meridian keeps on a shard"
        default:
            "every shard must be reachable when a coordinator starts; `meridian check-config` says what is wrong"
        }
    }

    public var headline: String { "\(sqlState): \(message)" }
}
