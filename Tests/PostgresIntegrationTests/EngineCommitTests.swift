import ShardBackend
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

@Suite(.serialized) struct EngineCommitTests {
    /// A table of one row on each shard, whose value is 0.
    private static let makeItem: [SQLStatement] = [
        "CREATE TABLE item (id int PRIMARY KEY, value bigint NOT NULL CHECK (value >= 0))",
        "SELECT meridian.version_table('item')",
        "INSERT INTO item VALUES (1, 0)",
    ]
    private static let increment: SQLStatement = "UPDATE item SET value = value + 1 WHERE id = 1"

    private func withItems(
        _ count: Int = 2, _ body: (EngineShards, TransactionEngine) async throws -> Void
    ) async throws {
        try await EngineShards.withShared(count) { shards in
            try await shards.engine { engine in
                _ = try await engine.transaction { transaction in
                    for shard in shards.ids { _ = try await transaction.execute(Self.makeItem, on: shard) }
                }
                // Waits until every shard has applied it (R8): plain statements find no table before.
                #expect(try await values(engine) == Array(repeating: 0, count: count))
                try await body(shards, engine)
            }
        }
    }

    private func values(_ engine: TransactionEngine) async throws -> [Int64] {
        let results = try await engine.snapshot().read("SELECT value FROM item WHERE id = 1", on: engine.shards)
        return try results.map { try #require($0.first).int64(0) }
    }

    @Test("a commit is on every shard it wrote, once, at one timestamp, and a strong read that follows sees it")
    func commits() async throws {
        try await withItems { shards, engine in
            let before = await engine.currentStatistics()
            let (_, one) = try await engine.transaction { try await $0.execute(Self.increment, on: shards.ids[1]) }
            #expect(try await values(engine) == [0, 1])
            let (_, both) = try await engine.transaction { transaction in
                for shard in shards.ids { _ = try await transaction.execute(Self.increment, on: shard) }
            }
            #expect(try await values(engine) == [1, 2])
            #expect(one < both)
            try await shards.waitUntilSettled()
            #expect(
                try await shards.plain(
                    "SELECT ts, participants FROM meridian.commit_log WHERE ts >= \(one) ORDER BY ts")
                    == ["\(both)|shard1,shard2", "\(one)|shard2\n\(both)|shard1,shard2"])
            let statistics = await engine.currentStatistics()
            #expect(statistics.oneShardCommits - before.oneShardCommits == 1)
            #expect(statistics.crossShardCommits - before.crossShardCommits == 1)
        }
    }

    @Test("commit timestamps rise from one transaction to the next, whatever shards they are on")
    func timestampsRise() async throws {
        try await withItems { shards, engine in
            var timestamps: [Timestamp] = []
            for round in 0..<12 {
                let (_, timestamp) = try await engine.transaction { transaction in
                    _ = try await transaction.execute(Self.increment, on: shards.ids[round % 2])
                    if round % 3 == 0 {
                        _ = try await transaction.execute(Self.increment, on: shards.ids[(round + 1) % 2])
                    }
                }
                timestamps.append(timestamp)
            }
            #expect(zip(timestamps, timestamps.dropFirst()).allSatisfy { $0 < $1 })
        }
    }

    @Test("a shard that was only read keeps its locks until the decision, and gets no row in its commit log")
    func readOnlyParticipant() async throws {
        try await withItems { shards, engine in
            let transaction = try await engine.begin()
            _ = try await transaction.lockingRead("SELECT value FROM item WHERE id = 1 FOR SHARE", on: shards.ids[0])
            _ = try await transaction.execute(Self.increment, on: shards.ids[1])
            let other = Task {
                try await engine.transaction { try await $0.execute(Self.increment, on: shards.ids[0]) }.1
            }
            try await Task.sleep(for: .milliseconds(100))
            #expect(try await shards.plain("SELECT value FROM item") == ["0", "0"])
            let timestamp = try await transaction.commit()
            #expect(try await other.value > timestamp)
            let logged = try await shards.plain("SELECT count(*) FROM meridian.commit_log WHERE ts = \(timestamp)")
            #expect(logged == ["0", "1"])
        }
    }

    @Test(
        "a shard that was only read and lost its session before the decision aborts the transaction with 40001 or 08006"
    )
    func readLocksLost() async throws {
        try await withItems { shards, engine in
            let transaction = try await engine.begin()
            let read: SQLStatement = "SELECT pg_backend_pid() FROM item WHERE id = 1 FOR SHARE"
            let session = try await transaction.lockingRead(read, on: shards.ids[0])[0].int64(0)
            _ = try await transaction.execute(Self.increment, on: shards.ids[1])
            try await shards.shards[0].psql("SELECT pg_terminate_backend(\(session))")
            let error = try await #require(throws: TransactionError.self) { try await transaction.commit() }
            #expect(error.outcome == .aborted)
            #expect(try await values(engine) == [0, 0])
        }
    }

    @Test("a transaction with nothing written commits at a timestamp and leaves no trace")
    func nothingWritten() async throws {
        try await withItems { shards, engine in
            let empty = try await engine.begin().commit()
            let transaction = try await engine.begin()
            for shard in shards.ids {
                _ = try await transaction.lockingRead("SELECT value FROM item WHERE id = 1 FOR SHARE", on: shard)
            }
            let reading = try await transaction.commit()
            #expect(empty < reading)
            let query = "SELECT count(*) FROM meridian.commit_log WHERE ts >= \(empty)"
            #expect(try await shards.plain(query) == ["0", "0"])
        }
    }

    @Test("a rollback leaves nothing on any shard, and its locks are gone")
    func rollback() async throws {
        try await withItems { shards, engine in
            let transaction = try await engine.begin()
            for shard in shards.ids { _ = try await transaction.execute(Self.increment, on: shard) }
            await transaction.rollback()
            #expect(try await values(engine) == [0, 0])
            let error = try await #require(throws: TransactionError.self) { try await transaction.commit() }
            #expect(error.sqlState == .inFailedTransaction)
            _ = try await engine.transaction { transaction in
                for shard in shards.ids { _ = try await transaction.execute(Self.increment, on: shard) }
            }
            #expect(try await values(engine) == [1, 1])
        }
    }

    @Test("a statement's error aborts the whole transaction, keeps PostgreSQL's fields, and COMMIT can't save it")
    func statementError() async throws {
        try await withItems { shards, engine in
            let transaction = try await engine.begin()
            _ = try await transaction.execute(Self.increment, on: shards.ids[0])
            let failure = try await #require(throws: TransactionError.self) {
                try await transaction.execute("UPDATE item SET value = -1 WHERE id = 1", on: shards.ids[1])
            }
            #expect(failure.sqlState.rawValue == "23514")
            #expect(failure.shard == shards.ids[1])
            #expect(failure.outcome == .aborted)
            let ignored = try await #require(throws: TransactionError.self) {
                try await transaction.execute(Self.increment, on: shards.ids[0])
            }
            #expect(ignored.sqlState == .inFailedTransaction)
            let refused = try await #require(throws: TransactionError.self) { try await transaction.commit() }
            #expect(refused.sqlState == .inFailedTransaction)
            #expect(refused.outcome == .aborted)
            #expect(try await values(engine) == [0, 0])
        }
    }

    @Test(
        "a deferred constraint broken on any shard, home included, aborts the transaction on all of them",
        arguments: [0, 1])
    func deferredConstraint(broken: Int) async throws {
        try await withItems { shards, engine in
            for shard in shards.shards {
                try await shard.psql("ALTER TABLE item ADD UNIQUE (value) DEFERRABLE INITIALLY DEFERRED")
            }
            let transaction = try await engine.begin()
            for (index, shard) in shards.ids.enumerated() {
                let duplicate: SQLStatement = "INSERT INTO item VALUES (2, 0)"
                _ = try await transaction.execute(index == broken ? duplicate : Self.increment, on: shard)
            }
            let error = try await #require(throws: TransactionError.self) { try await transaction.commit() }
            #expect(error.sqlState == .uniqueViolation)
            #expect(error.outcome == .aborted)
            #expect(error.shard == shards.ids[broken])
            try await shards.waitUntilSettled()
            #expect(try await values(engine) == [0, 0])
            #expect(try await shards.plain("SELECT count(*) FROM item") == ["1", "1"])
        }
    }

    @Test("a shard the engine does not know is an error that names it, and nothing is committed")
    func unknownShard() async throws {
        try await withItems { shards, engine in
            let transaction = try await engine.begin()
            _ = try await transaction.execute(Self.increment, on: shards.ids[0])
            let error = try await #require(throws: TransactionError.self) {
                try await transaction.execute(Self.increment, on: ShardID("elsewhere")!)
            }
            #expect(error.message.contains("elsewhere"))
            await transaction.rollback()
            #expect(try await values(engine) == [0, 0])
        }
    }

    @Test("concurrent transfers conserve the total, at every snapshot taken meanwhile")
    func consistentSnapshots() async throws {
        try await EngineShards.withShared(3) { shards in
            try await shards.engine { engine in
                var load = BankLoad(seed: 7)
                load.clients = 8
                load.duration = .seconds(2)
                load.hot = 9
                load.readFraction = 0.3
                let bank = try await engine.makeBank(accounts: 30)
                let run = BankRun(load, on: bank, history: nil)
                try await run.run()
                let tally = await run.tally
                #expect(tally.wrongSums == 0)
                #expect(tally.strongSums > 0 && tally.pastSums > 0 && tally.transfers > 0)
                #expect(tally.failures.isEmpty, "\(tally.failures)")
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums().reduce(0, +) == bank.total)
            }
        }
    }
}
