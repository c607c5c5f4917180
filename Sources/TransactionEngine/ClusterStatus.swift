import ShardBackend
import TransactionCore

/// What a shard is and does, as one who looks from outside sees it.
public struct ShardStatus: Encodable, Sendable {
    public var shard: String
    /// It answered.
    public var isReachable: Bool
    /// Why it did not.
    public var failure: String?
    public var serverVersion: String?
    /// Seconds since the Unix epoch.
    public var startedAt: Double?
    public var isInRecovery: Bool?
    public var bytes: Int64?
    /// Transactions that stand prepared there.
    public var prepared: Int?
    /// The oldest timestamp that can be read there.
    public var readableFrom: Int64?
    /// The newest commit timestamp in its commit log.
    public var newestCommit: Int64?
    /// Buckets of sharded tables that it owns.
    public var buckets: Int?
}

/// A transaction that stands prepared on a shard.
public struct InDoubtTransaction: Encodable, Sendable {
    public var gid: String
    public var shard: String
    /// The shard whose commit log decides.
    public var home: String
    public var node: Int
    public var epoch: Int64
    public var commitTimestamp: Int64
    /// Seconds since the Unix epoch.
    public var preparedAt: Double
    /// This node is about to settle it itself: it coordinates it.
    public var isCoordinatedHere: Bool
}

extension TransactionEngine {
    private static let statusQuery = SQLStatement(
        """
        SELECT current_setting('server_version'), date_part('epoch', pg_postmaster_start_time())::float8, \
        pg_is_in_recovery(), pg_database_size(current_database()), \
        (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database() AND gid LIKE 'meridian:%'), \
        (SELECT readable_from FROM meridian.retention), meridian.newest_timestamp()
        """)

    private static let inDoubtQuery = SQLStatement(
        """
        SELECT gid, date_part('epoch', prepared)::float8 FROM pg_prepared_xacts \
        WHERE database = current_database() AND gid LIKE 'meridian:%' ORDER BY gid
        """)

    /// The state of every shard; a shard that does not answer is said to be unreachable.
    public nonisolated func shardStatus() async -> [ShardStatus] {
        var rows: [ShardStatus] = []
        for shard in shards {
            var row = ShardStatus(shard: shard.rawValue, isReachable: false)
            do {
                let result = try await inspect(Self.statusQuery, on: shard)[0]
                row.serverVersion = try result.text(0)
                row.startedAt = try result.double(1)
                row.isInRecovery = try result.bool(2)
                row.bytes = try result.int64(3)
                row.prepared = Int(try result.int64(4))
                row.readableFrom = try result.int64(5)
                row.newestCommit = try result.isNull(6) ? nil : try result.int64(6)
                row.isReachable = true
            } catch {
                row.failure = (error as? TransactionError)?.message ?? "\(error)"
            }
            rows.append(row)
        }
        return rows
    }

    /// What stands prepared on the shards: two-phase commits between their votes and the decision's arrival, and what a
    /// coordinator that died has left.
    public func inDoubt() async throws(TransactionError) -> [InDoubtTransaction] {
        var rows: [InDoubtTransaction] = []
        for shard in shards {
            for row in try await inspect(Self.inDoubtQuery, on: shard) {
                do throws(ShardError) {
                    let gid = try row.text(0)
                    guard let id = TransactionID(gid) else { continue }
                    rows.append(
                        InDoubtTransaction(
                            gid: gid, shard: shard.rawValue, home: id.home.rawValue, node: Int(id.node.rawValue),
                            epoch: id.epoch.rawValue, commitTimestamp: id.commitTimestamp.rawValue,
                            preparedAt: try row.double(1), isCoordinatedHere: live[id] != nil))
                } catch {
                    throw TransactionError(error, shard: shard)
                }
            }
        }
        return rows
    }
}
