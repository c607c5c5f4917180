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
    /// - Parameter schema: the schema of the tables, which `statement` names without it: the state at a timestamp is
    ///   read through views that stand in the place of that schema.
    /// - Throws: ``TransactionError``; SQLSTATE 72000 when the shards no longer keep the timestamp.
    public func read(
        _ statement: SQLStatement, in schema: String = "public", on shard: ShardID
    ) async throws(TransactionError) -> SQLResult {
        try await engine.read(statement, in: schema, at: timestamp, on: shard)
    }

    /// Runs a client's statement on one shard (R8, R10).
    ///
    /// - Throws: ``TransactionError``; SQLSTATE 72000 when the shards no longer keep the timestamp.
    public func run(_ statement: ClientStatement, on shard: ShardID) async throws(TransactionError) -> SQLResult {
        try await engine.read(statement, at: timestamp, on: shard)
    }

    /// Runs a client's statement on several shards at once (R8, R10), to hand its rows on as they arrive. The streams
    /// stand in the order of `shards`.
    ///
    /// - Throws: ``TransactionError``, also while rows are taken; SQLSTATE 72000 when the shards no longer keep the
    ///   timestamp.
    public func streams(
        of statement: ClientStatement, on shards: [ShardID]
    ) async throws(TransactionError) -> [ShardStream<SQLRowStream>] {
        try await engine.streams(of: statement, at: timestamp, on: shards)
    }

    /// Runs a client's COPY TO STDOUT on several shards at once, likewise.
    ///
    /// - Parameters:
    ///   - query: what is copied, as a query without parameters.
    ///   - text: makes the COPY of the query's text, and the shard's place in `shards`.
    public func copiesOut(
        of query: ClientStatement, on shards: [ShardID],
        text: @escaping @Sendable (_ query: String, _ place: Int) -> String
    ) async throws(TransactionError) -> [ShardStream<CopyOutStream>] {
        try await engine.copiesOut(of: query, at: timestamp, on: shards, text)
    }

    /// Reads on several shards at once. The results stand in the order of `shards`.
    public func read(
        _ statement: SQLStatement, in schema: String = "public", on shards: [ShardID]
    ) async throws(TransactionError) -> [SQLResult] {
        let (engine, timestamp) = (engine, timestamp)
        return try await engine.onEach(shards) { shard throws(TransactionError) in
            try await engine.read(statement, in: schema, at: timestamp, on: shard)
        }
    }
}

extension TransactionEngine {
    /// Runs `read` for all `shards` at once; the results stand in their order. Cancelling the task cancels each.
    public nonisolated func onEach<Value: Sendable>(
        _ shards: [ShardID], _ read: @escaping @Sendable (ShardID) async throws(TransactionError) -> Value
    ) async throws(TransactionError) -> [Value] {
        let reads = shards.map { shard in
            Task(executorPreference: loop) { () -> Result<Value, TransactionError> in
                do throws(TransactionError) { return .success(try await read(shard)) } catch { return .failure(error) }
            }
        }
        let outcomes = await withTaskCancellationHandler {
            var outcomes: [Result<Value, TransactionError>] = []
            for read in reads { outcomes.append(await read.value) }
            return outcomes
        } onCancel: {
            for read in reads { read.cancel() }
        }
        var results: [Value] = []
        for outcome in outcomes { results.append(try outcome.get()) }
        return results
    }
}
