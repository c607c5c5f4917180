import EventLoops
import ShardBackend
import ShardSchema
import TestSupport
import Testing
import TransactionCore

/// A migrated shard, as the tests of its schema use it.
struct SchemaShard: Sendable {
    static let home = ShardID("shard1")!

    let shard: TestShard
    let loop: EventLoop

    /// Runs a test on a freshly migrated shard.
    static func with(_ body: (SchemaShard) async throws -> Void) async throws {
        let loop = try EventLoop(name: "schema-tests")
        defer { loop.shutdown() }
        try await TestCluster.withShards { shards in
            let shard = SchemaShard(shard: shards[0], loop: loop)
            let connection = try await shard.connect()
            _ = try await Migrator(connection).apply()
            await connection.close()
            try await body(shard)
        }
    }

    func connect(name: String = "meridian test") async throws -> ShardConnection {
        let settings = try ConnectionSettings(shard.conninfo, overrides: ["application_name": name])
        return try await ShardConnection.connect(to: settings, on: loop, deadline: .now + .seconds(10))
    }

    /// Runs `body` with a session that is closed afterwards.
    func session<Value>(_ body: (ShardConnection) async throws -> Value) async throws -> Value {
        let connection = try await connect()
        do {
            let value = try await body(connection)
            await connection.close()
            return value
        } catch {
            await connection.close()
            throw error
        }
    }
}

extension TransactionID {
    /// A transaction of the test's only shard.
    static func at(_ timestamp: Int64) -> TransactionID {
        TransactionID(
            home: SchemaShard.home, epoch: Epoch(rawValue: 1), commitTimestamp: Timestamp(rawValue: timestamp))
    }
}

extension ShardConnection {
    /// Runs SQL that returns nothing of interest.
    func sql(_ text: String) async throws {
        _ = try await runSimple(text)
    }

    /// Runs `text` as the transaction with that timestamp.
    func commit(at timestamp: Int64, _ text: String) async throws {
        _ = try await runSimple("BEGIN; \(text)")
        _ = try await run([ShardSchema.logCommit(.at(timestamp), participants: []), "COMMIT"])
    }

    /// The first column of `query` at a timestamp, as text.
    func read(_ query: String, at timestamp: Int64, schemas: [String] = ["public"]) async throws -> [String] {
        let prologue = ShardSchema.readPrologue(at: Timestamp(rawValue: timestamp), schemas: schemas)
        do {
            let results = try await run(prologue + [SQLStatement(query, resultFormat: .text), "COMMIT"])
            return try results[prologue.count].map { row in try row.isNull(0) ? "NULL" : try row.text(0) }
        } catch {
            _ = try await runSimple("ROLLBACK")
            throw error
        }
    }

    /// The first column of `query` as it is now, as text.
    func values(_ query: String) async throws -> [String] {
        try await runSimple(query)[0].map { row in try row.isNull(0) ? "NULL" : try row.text(0) }
    }
}

/// Fails the test unless `body` throws an error of PostgreSQL with that state; returns it.
@discardableResult
func expectRefusal(
    _ state: SQLState, sourceLocation: SourceLocation = #_sourceLocation, _ body: () async throws -> Void
) async -> ShardError? {
    let error = await #expect(throws: ShardError.self, sourceLocation: sourceLocation) { try await body() }
    #expect(error?.sqlState == state, "\(error.map(String.init(describing:)) ?? "")", sourceLocation: sourceLocation)
    return error
}
