import ShardBackend
import TransactionCore

/// The state of all shards at one timestamp: any number of reads, on any shards, that together see exactly the
/// transactions up to it. Lock-free, and nothing is held between the reads.
public struct Snapshot: Sendable {
    /// The read timestamp.
    public let timestamp: Timestamp
    private let engine: TransactionEngine

    init(timestamp: Timestamp, engine: TransactionEngine) {
        self.timestamp = timestamp
        self.engine = engine
    }

    /// Reads on one shard, waiting until the shard's safe time has reached the snapshot (R8).
    ///
    /// `statement` must not write.
    ///
    /// - Parameter schema: the schema of the tables, which `statement` names without it: the state at a timestamp is read
    ///   through views that stand in the place of that schema.
    /// - Throws: ``TransactionError``; SQLSTATE 72000 when the shards no longer keep the timestamp.
    public func read(
        _ statement: SQLStatement, in schema: String = "public", on shard: ShardID
    ) async throws(TransactionError) -> SQLResult {
        try await engine.read(statement, in: schema, at: timestamp, on: shard)
    }

    /// Reads on several shards at once. The results stand in the order of `shards`.
    public func read(
        _ statement: SQLStatement, in schema: String = "public", on shards: [ShardID]
    ) async throws(TransactionError) -> [SQLResult] {
        let (engine, timestamp) = (engine, timestamp)
        let results = await withTaskGroup(of: (Int, Result<SQLResult, TransactionError>).self) { group in
            for (index, shard) in shards.enumerated() {
                group.addTask(executorPreference: engine.loop) {
                    do throws(TransactionError) {
                        return (index, .success(try await engine.read(statement, in: schema, at: timestamp, on: shard)))
                    } catch {
                        return (index, .failure(error))
                    }
                }
            }
            return await group.reduce(into: [:]) { $0[$1.0] = $1.1 }
        }
        var ordered: [SQLResult] = []
        for index in shards.indices { ordered.append(try results[index]!.get()) }
        return ordered
    }
}
