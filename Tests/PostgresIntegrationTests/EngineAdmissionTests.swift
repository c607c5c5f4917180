import EventLoops
import ShardBackend
import Testing
import TransactionCore

@testable import BankWorkload
@testable import TransactionEngine

@Suite(.serialized) struct EngineAdmissionTests {
    @Test("more transactions than may be open at once wait their turn, and all commit")
    func queue() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.writersMax = 2
                $0.readersMax = 1
            } _: { engine in
                let bank = try await engine.makeBank(accounts: 40)
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for client in 0..<20 {
                        group.addTask {
                            for _ in 0..<3 {
                                _ = try await bank.transfer(1, from: Int64(client), to: Int64(39 - client))
                            }
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(await engine.currentStatistics().crossShardCommits >= 60)
                let sessions = """
                    SELECT count(*) FROM pg_stat_activity
                    WHERE application_name LIKE 'meridian node%' AND datname = current_database()
                    """
                #expect(try await shards.plain(sessions).allSatisfy { (Int($0) ?? 9) <= 3 })
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums().reduce(0, +) == bank.total)
            }
        }
    }

    @Test("a transaction that is not admitted in time is told so with 53300, and a later one is admitted")
    func deadline() async throws {
        try await EngineShards.withShared(1) { shards in
            try await shards.engine {
                $0.writersMax = 1
                $0.admissionTimeout = .milliseconds(150)
            } _: { engine in
                let open = try await engine.begin()
                let error = try await #require(throws: TransactionError.self) { try await engine.begin() }
                #expect(error.sqlState == .tooManyConnections && error.outcome == .aborted)
                #expect(error.detail?.contains("1 transactions are open") == true && error.hint != nil)
                await open.rollback()
                for _ in 0..<3 { _ = try await engine.begin().commit() }
            }
        }
    }

    @Test("a wait that is ended while its task is on its way to wait is over at once")
    func endedMeanwhile() async {
        var waits = WaitList()
        let (early, late) = (waits.begin(), waits.begin())
        let (isEnded, isEndedAgain) = (waits.end(early, .granted), waits.end(early, .expired))
        #expect(isEnded && !isEndedAgain)
        let end = await withUnsafeContinuation { continuation in
            waits.add(early, continuation, until: .now)
            waits.expire(at: .now)
        }
        #expect(end == .granted)
        let expired = await withUnsafeContinuation { continuation in
            waits.add(late, continuation, until: .now)
            waits.expire(at: .now)
        }
        #expect(expired == .expired && waits.isEmpty)
    }

    @Test("a client that gives up waiting leaves its place to the next")
    func cancelled() async throws {
        try await EngineShards.withShared(1) { shards in
            try await shards.engine {
                $0.writersMax = 1
            } _: { engine in
                let open = try await engine.begin()
                let impatient = Task { try await engine.begin() }
                let patient = Task { try await engine.transaction { _ in } }
                try await engine.loop.sleep(until: .now + .milliseconds(50))
                impatient.cancel()
                let error = await #expect(throws: TransactionError.self) { try await impatient.value }
                #expect(error?.sqlState == .queryCanceled)
                await open.rollback()
                _ = try await patient.value
                _ = try await engine.begin().commit()
            }
        }
    }

    @Test("a transaction that waits for a row lock does not count as busy: others begin and commit meanwhile")
    func lockWaitIsNotBusy() async throws {
        try await EngineShards.withShared(1) { shards in
            try await shards.engine {
                $0.busyRequestsMax = 1
                $0.admissionTimeout = .seconds(5)
            } _: { engine in
                let bank = try await engine.makeBank()
                func change(_ account: Int64) -> SQLStatement {
                    SQLStatement("UPDATE bank.account SET balance = balance + 1 WHERE id = $1", [.int64(account)])
                }
                let holder = try await engine.begin()
                _ = try await holder.execute(change(0), on: shards.ids[0])
                let blocked = Task {
                    try await engine.transaction { try await $0.execute(change(0), on: shards.ids[0]) }
                }
                // Begun while the other waits for its lock, and done before it gets it.
                for account in 1..<bank.accounts {
                    _ = try await engine.transaction { try await $0.execute(change(account), on: shards.ids[0]) }
                }
                _ = try await holder.commit()
                _ = try await blocked.value
            }
        }
    }

    @Test("an engine that stops refuses new transactions with 57P01, finishes open ones, and answers every client")
    func stopping() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                let transaction = try await engine.begin()
                let update: SQLStatement = "UPDATE bank.account SET balance = balance + 1 WHERE id = 0"
                _ = try await transaction.execute(update, on: shards.ids[0])
                let stop = Task { await engine.shutdown() }
                try await engine.loop.sleep(until: .now + .milliseconds(50))
                let error = try await #require(throws: TransactionError.self) {
                    try await bank.transfer(1, from: 0, to: 1)
                }
                #expect(error.sqlState == .adminShutdown && error.hint != nil)
                _ = try await transaction.commit()
                await stop.value
                #expect(try await shards.plainSums() == [301, 300])
            }
        }
    }

    @Test("a shard that answers nobody holds up only what needs it")
    func pausedShard() async throws {
        try await EngineShards.withPrivate(3) { shards in
            try await shards.engine {
                $0.statementTimeout = .milliseconds(700)
            } _: { engine in
                let bank = try await engine.makeBank(accounts: 9)
                try await shards.waitUntilSettled()
                let server = shards.shards[2].server
                server.pause()
                defer { server.resume() }
                let stuck = Task { try await bank.transfer(1, from: 0, to: 2) }
                let stuckRead = Task { try await bank.sum(at: try await engine.snapshot()) }
                let began = ContinuousClock.now
                for _ in 0..<10 {
                    _ = try await bank.transfer(1, from: 3, to: 1)
                    _ = try await bank.transfer(1, from: 4, to: 6)
                    let snapshot = try await engine.snapshot()
                    _ = try await snapshot.read(
                        "SELECT sum(balance)::bigint FROM account", in: "bank", on: Array(shards.ids[..<2]))
                }
                #expect(ContinuousClock.now - began < .seconds(3))
                let error = await #expect(throws: TransactionError.self) { try await stuck.value }
                #expect(error?.shard == shards.ids[2] && error?.outcome == .aborted)
                await #expect(throws: TransactionError.self) { try await stuckRead.value }
                server.resume()
                try await waitUntil("the bank is whole again") {
                    (try? await bank.sum(at: try await engine.snapshot())) == bank.total
                }
                try await shards.waitUntilSettled()
            }
        }
    }

    @Test(
        "a home shard that hangs in COMMIT leaves the client waiting no longer than it must, told it is unknown"
    )
    func pausedHome() async throws {
        let fault = CommitFault()
        try await EngineShards.withPrivate { shards in
            try await shards.engine {
                $0.statementTimeout = .milliseconds(500)
                $0.faultHook = fault.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                let server = shards.shards[0].server
                fault.arm(at: .afterPrepareBeforeDecision) { _ in server.pause() }
                let began = ContinuousClock.now
                let error = try await #require(throws: TransactionError.self) {
                    try await bank.transfer(10, from: 0, to: 1)
                }
                #expect(ContinuousClock.now - began < .seconds(6))
                let id = try #require(fault.struck)
                #expect(error.outcome == .indeterminate(id) && error.sqlState == .transactionResolutionUnknown)
                server.resume()
                try await shards.waitUntilSettled()
                let outcome = try await engine.outcome(of: id)
                #expect(try await shards.plainSums() == (outcome == .aborted ? [300, 300] : [290, 310]))
            }
        }
    }
}
