import EventLoops
import Logging
import Placement
import ShardBackend
import TransactionCore
import TransactionEngine

/// The shards' own word on what was committed, read beside whoever coordinates them.
public struct ShardLogs: Sendable {
    public let shards: [ShardID]
    private let read: @Sendable (SQLStatement, ShardID) async throws -> SQLResult

    /// Reads through an engine of this process.
    public init(_ engine: TransactionEngine) {
        shards = engine.shards
        read = { try await engine.inspect($0, on: $1) }
    }

    /// Reads through connections of its own.
    public init(_ shards: [ShardConfiguration], on loop: EventLoop) throws {
        let pools = try shards.map { shard in
            let settings = try ConnectionSettings(shard.conninfo, overrides: ["application_name": "meridian bank"])
            let pool = ConnectionPool(
                settings: settings.ofPrimary, bound: 1, on: loop, label: "\(shard.id) logs",
                logger: Logger(label: "meridian.bank"))
            return (shard.id, pool)
        }
        let byShard = Dictionary(pools) { first, _ in first }
        self.shards = byShard.keys.sorted()
        read = { statement, shard in
            do {
                let deadline = ContinuousClock.now + .seconds(60)
                return try await byShard[shard]!.withConnection(deadline: deadline) { connection in
                    try await connection.run(statement, deadline: deadline)
                }
            } catch let error as ShardError {
                throw TransactionError(error, shard: shard)
            }
        }
    }

    func run(_ statement: SQLStatement, on shard: ShardID) async throws -> SQLResult {
        try await read(statement, shard)
    }

    /// Where the rows of sharded tables are; nil before the cluster has served clients.
    func buckets() async throws -> BucketMap? {
        let statement = SQLStatement(
            """
            SELECT version, array_to_string(shards, ','), array_to_string(owners, ',') FROM meridian.bucket_map
            """, isPrepared: false)
        guard let row = try await run(statement, on: shards[0]).first else { return nil }
        return BucketMap(
            storedShards: try row.text(1).split(separator: ",").compactMap { ShardID(String($0)) },
            owners: try row.text(2).split(separator: ",").compactMap { UInt16($0) },
            version: UInt64(try row.int64(0)))
    }
}
