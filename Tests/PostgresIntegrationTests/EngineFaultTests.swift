import EventLoops
import Foundation
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

/// What operators do wrong and what breaks underneath: a clear error, and nothing lost.
@Suite(.serialized) struct EngineFaultTests {
    /// What an error must have to be of use.
    private func expectHelpful(
        _ error: EngineStartError, naming shard: String, sourceLocation: SourceLocation = #_sourceLocation
    ) {
        #expect(error.message.contains(shard), "\(error)", sourceLocation: sourceLocation)
        #expect(error.hint != nil, "\(error)", sourceLocation: sourceLocation)
    }

    private func transferFails(
        _ bank: Bank, to target: Int64 = 1, sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> TransactionError {
        try await #require(throws: TransactionError.self, sourceLocation: sourceLocation) {
            try await bank.transfer(1, from: 0, to: target)
        }
    }

    @Test("an engine does not start while a shard is down, says which, and starts when it is back")
    func shardDown() async throws {
        try await EngineShards.withPrivate { shards in
            await shards.shards[1].server.kill()
            let error = try await shards.refusedStart()
            expectHelpful(error, naming: "shard2")
            #expect(error.sqlState == .connectionFailure)
            try await shards.shards[1].server.start()
            try await shards.engine { _ = try await $0.makeBank() }
        }
    }

    @Test("an engine does not start over a paused shard, and says which within its time")
    func shardPaused() async throws {
        try await EngineShards.withPrivate { shards in
            shards.shards[1].server.pause()
            let began = ContinuousClock.now
            let error = try await shards.refusedStart { $0.takeoverTimeout = .seconds(1) }
            #expect(ContinuousClock.now - began < .seconds(8))
            expectHelpful(error, naming: "shard2")
            shards.shards[1].server.resume()
        }
    }

    @Test("a shard that is another than configured is refused before anything is written on it")
    func wrongShard() async throws {
        try await EngineShards.withShared { shards in
            let error = try await shards.refusedStart { configuration in
                configuration.shards.swapAt(0, 1)
                (configuration.shards[0].id, configuration.shards[1].id) = (shards.ids[0], shards.ids[1])
            }
            #expect(error.sqlState == .objectNotInPrerequisiteState)
            expectHelpful(error, naming: "shard1")
            #expect(error.detail?.contains("shard2") == true)
            #expect(try await shards.plain("SELECT count(*) FROM meridian.node_epoch") == ["0", "0"])
        }
    }

    @Test("a database that was not migrated is refused with what to run")
    func notMigrated() async throws {
        try await TestCluster.withShards(1) { shards in
            let loop = try EventLoop(name: "engine-tests")
            defer { loop.shutdown() }
            let error = try await EngineShards(shards: shards, loop: loop).refusedStart()
            expectHelpful(error, naming: "shard1")
            #expect(error.hint?.contains("meridian migrate") == true)
        }
    }

    @Test(
        "a server that can't prepare transactions refuses cross-shard commits with its own error and serves others"
    )
    func noPreparedTransactions() async throws {
        try await EngineShards.withPrivate(settings: ["max_prepared_transactions": "0"]) { shards in
            try await shards.engine { engine in
                // The bank itself is made on several shards at once.
                let error = try await #require(throws: TransactionError.self) { try await engine.makeBank() }
                #expect(error.sqlState == .objectNotInPrerequisiteState && error.outcome == .aborted)
                #expect(error.message.contains("prepared transactions are disabled"))
                #expect(error.hint?.contains("max_prepared_transactions") == true && error.shard == shards.ids[1])
                #expect(try await shards.plain("SELECT to_regnamespace('bank') IS NULL") == ["t", "t"])
                _ = try await engine.transaction { try await $0.execute("CREATE TABLE t (a int)", on: shards.ids[1]) }
            }
        }
    }

    @Test("a shard that takes no more connections is shared as far as it goes; where none is had, the error says so")
    func connectionLimit() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                let limited = shards.shards[1]
                try await limited.psql("ALTER DATABASE \(limited.database) CONNECTION LIMIT 3")
                var load = BankLoad(seed: 3)
                load.clients = 12
                load.duration = .milliseconds(500)
                load.readFraction = 0
                let run = BankRun(load, on: bank, history: nil)
                try await run.run()
                let tally = await run.tally
                #expect(Set(tally.failures.keys).isSubset(of: [.tooManyConnections]), "\(tally.failures)")
                #expect(tally.transfers > 0)

                try await limited.psql("ALTER DATABASE \(limited.database) CONNECTION LIMIT 0")
                try await limited.psql(
                    """
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE application_name LIKE 'meridian node%' AND datname = current_database()
                    """)
                try await waitUntil("a transfer is told of the limit") {
                    let error = try await transferFails(bank)
                    #expect(error.outcome == .aborted && error.shard == shards.ids[1])
                    return error.sqlState == .tooManyConnections
                }
                _ = try await bank.transfer(1, from: 0, to: 2)
                try await limited.psql("ALTER DATABASE \(limited.database) CONNECTION LIMIT -1")
                try await waitUntil("transfers go on") { (try? await bank.transfer(1, from: 0, to: 1)) != nil }
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums().reduce(0, +) == bank.total)
            }
        }
    }

    @Test("a stranger's prepared transaction is left alone and reported", arguments: ["theirs", "meridian:not:ours"])
    func stranger(gid: String) async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                try await shards.session(on: 1) { connection in
                    _ = try await connection.runSimple(
                        "BEGIN; UPDATE bank.account SET balance = balance WHERE id = 5; PREPARE TRANSACTION '\(gid)'")
                }
                _ = try await bank.transfer(1, from: 0, to: 1)
            }
            try await shards.engine { engine in
                try await engine.loop.sleep(until: .now + .milliseconds(300))
                let findings = try await BankCheck(try await Bank.open(on: engine)).run(
                    history: [], total: 600, samples: 1, seed: 1)
                #expect(findings.strangers == ["\(gid) on shard2"] && findings.prepared.isEmpty)
                #expect(findings.isConsistent)
            }
            let left = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
            #expect(try await shards.shards[1].psql(left) == gid)
            try await shards.shards[1].psql("ROLLBACK PREPARED '\(gid)'")
        }
    }

    @Test("a table that was dropped behind our back is an error that names it, and what lies on other shards is whole")
    func droppedTable() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                try await shards.shards[1].psql("DROP TABLE bank.account CASCADE")
                let error = try await transferFails(bank)
                #expect(error.sqlState == .undefinedTable && error.outcome == .aborted && error.shard == shards.ids[1])
                #expect(error.message.contains("bank.account"))
                let reading = try await #require(throws: TransactionError.self) { try await Bank.open(on: engine) }
                #expect(reading.sqlState == .undefinedTable)
                #expect(reading.hint?.contains("meridian bank init") == true)
                _ = try await bank.transfer(1, from: 0, to: 2)
                #expect(try await shards.shards[0].psql("SELECT sum(balance) FROM bank.account") == "300")
            }
        }
    }

    @Test("accounts that were deleted behind our back are an error, not a transfer into nothing")
    func deletedAccount() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                try await shards.shards[1].psql("DELETE FROM bank.account WHERE id = 1")
                #expect(try await transferFails(bank).message.contains("account 1 "))
                #expect(try await shards.plainSums() == [300, 200])
            }
        }
    }

    @Test("a shard that dies for good ends no run late, and its clients are told why")
    func deadShardEndsRun() async throws {
        try await EngineShards.withPrivate { shards in
            try await shards.engine {
                $0.statementTimeout = .seconds(2)
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                await shards.shards[1].server.kill()
                var load = BankLoad(seed: 5)
                load.clients = 4
                load.duration = .milliseconds(500)
                let run = BankRun(load, on: bank, history: nil)
                let began = ContinuousClock.now
                try await run.run()
                #expect(ContinuousClock.now - began < .seconds(10))
                let tally = await run.tally
                #expect(tally.failures[.connectionFailure, default: 0] > 0, "\(tally.failures)")
                try await shards.shards[1].server.start()
                try await waitUntil("the bank is whole again") {
                    (try? await bank.sum(at: try await engine.snapshot())) == bank.total
                }
            }
        }
    }
}
