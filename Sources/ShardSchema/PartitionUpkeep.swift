import ShardBackend
import TransactionCore

/// Enforces the retention of one shard: forgets what is older, and empties the tables that held it.
///
/// Run a round every half minute or so, from as many processes as you like. A round that is late costs space and never
/// a write; a table that is in use is left to a later round. Its own sessions aside, it never waits over 100 ms for a
/// lock, nor has others wait longer.
public struct PartitionUpkeep: Sendable {
    private let connection: ShardConnection

    /// Upkeep over `connection`, outside any transaction.
    public init(_ connection: ShardConnection) {
        self.connection = connection
    }

    /// Runs one round.
    ///
    /// Tables are emptied by the floor that an earlier round set, so that readers which passed an older one are gone.
    ///
    /// - Parameters:
    ///   - now: the present by the cluster's clock; its earliest bound.
    ///   - unresolved: the oldest commit timestamp of a transaction that is prepared on any shard; its decision is kept
    ///     (R4). Nil when there is none.
    public func run(now: Timestamp, unresolved: Timestamp? = nil) async throws(ShardError) {
        // The procedure commits after each table, so it is a pipeline of its own.
        let keep = (unresolved ?? now).rawValue
        _ = try await connection.run(SQLStatement("CALL meridian.truncate_expired($1)", [.int64(keep)]))
        _ = try await connection.run(SQLStatement("SELECT meridian.expire($1)", [.int64(now.rawValue)]))
    }
}
