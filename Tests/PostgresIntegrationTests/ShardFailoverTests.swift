import BankWorkload
import Foundation
import LocalCluster
import Logging
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

/// Shards whose primary is lost and whose standby is promoted, under an engine that goes on: R4, R5, R6, R8 and
/// decision 0017.
@Suite(.serialized) struct ShardFailoverTests {
    // MARK: What is acknowledged stays, and goes on

    @Test(
        "a primary killed with a commit under way is followed by its standby, with what was prepared and decided",
        arguments: [
            FaultPoint.afterPrepareBeforeDecision, .duringDecision, .afterDecisionBeforeApply, .afterAnswerBeforeApply,
        ])
    func struck(point: FaultPoint) async throws {
        let fault = CommitFault()
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards) { standbys in
                try await shards.engine {
                    $0.follow(standbys)
                    $0.faultHook = fault.hook
                } _: { engine in
                    let bank = try await engine.makeBank()
                    var sums = [Int64(300), 300]
                    for victim in [1, 0] {
                        let primary = shards.shards[victim].server
                        fault.arm(at: point) { _ in await primary.kill() }
                        let told = await Result { try await bank.transfer(1, from: 0, to: 1) }
                        let id = try #require(fault.struck)
                        try await waitUntil("the primary is dead") { !primary.isRunning }
                        try await standbys[victim].server.promote()
                        if try await isCommitted(id, told, engine) { sums = [sums[0] - 1, sums[1] + 1] }
                        #expect(try await strongSum(bank) == bank.total)
                        try await waitUntil("a transfer succeeds") {
                            (try? await bank.transfer(1, from: 0, to: 1)) != nil
                        }
                        sums = [sums[0] - 1, sums[1] + 1]
                    }
                    try await settle(standbys)
                    let plain = "SELECT sum(balance) FROM bank.account"
                    #expect(try await standbys[0].psql(plain) == "\(sums[0])")
                    #expect(try await standbys[1].psql(plain) == "\(sums[1])")
                    #expect(try await BankCheck(bank).run(history: [], total: 600, samples: 5, seed: 1).isConsistent)
                }
            }
        }
    }

    @Test(
        "transfers go on within seconds when a primary dies or is stopped, and all that was acknowledged is there",
        arguments: ["killed", "stopped", "hanging"])
    func bank(end: String) async throws {
        let directory = try TemporaryDirectory()
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1) { standbys in
                try await shards.engine {
                    $0.follow(standbys)
                } _: { engine in
                    let bank = try await engine.makeBank(accounts: 100)
                    let history = try HistoryFile(appendingTo: "\(directory.path)/history")
                    var load = BankLoad(seed: 17)
                    load.duration = .seconds(end == "hanging" ? 20 : 8)
                    let run = BankRun(load, on: bank, history: history)
                    async let running: Void = run.run()
                    try await Task.sleep(for: .seconds(2))
                    let primary = shards.shards[0].server
                    switch end {
                    case "killed": await primary.kill()
                    case "stopped": await primary.stop(.fast)
                    default: primary.pause()
                    }
                    let before = await run.tally.transfers
                    try await standbys[0].server.promote()
                    try await running
                    let tally = await run.tally
                    print("\(end): longest gap \(tally.longestGap), \(tally.transfers) transfers, \(tally.failures)")
                    #expect(tally.transfers > before && tally.wrongSums == 0)
                    #expect(tally.longestGap < .seconds(30), "it hung")
                    try await settle(standbys)
                    let findings = try await BankCheck(bank).run(
                        history: try HistoryFile.read("\(directory.path)/history"), total: bank.total, samples: 20,
                        seed: 1)
                    #expect(findings.isConsistent && findings.transfersChecked > 0, "\(findings)")
                    // What hung must have nothing left to say.
                    await primary.kill()
                }
            }
        }
    }

    @Test("a decision that the synchronous standby does not have is not believed, though the primary shows it")
    func unreplicatedDecision() async throws {
        let fault = CommitFault()
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1) { standbys in
                try await shards.engine {
                    $0.follow(standbys)
                    $0.faultHook = fault.hook
                } _: { engine in
                    let bank = try await engine.makeBank()
                    try await settle(shards.shards)
                    let home = shards.shards[0]
                    fault.arm(at: .afterPrepareBeforeDecision) { _ in await standbys[0].server.stop() }
                    let transfer = Task { await Result { try await bank.transfer(10, from: 0, to: 1) } }
                    try await waitUntil("COMMIT waits for the standby, and its session is ended") {
                        try await home.psql(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") != ""
                    }
                    try await waitUntil("the decision can be seen") {
                        try await home.psql("SELECT balance FROM bank.account WHERE id = 0") == "90"
                    }
                    guard case .failure(let error) = await transfer.value else {
                        Issue.record("committed, the client was told")
                        return
                    }
                    let id = try #require(fault.struck)
                    #expect((error as? TransactionError)?.outcome == .indeterminate(id), "\(error)")
                    await home.server.kill()
                    try await standbys[0].server.start()
                    try await standbys[0].server.promote()
                    let isCommitted = try await isCommitted(id, .failure(error), engine)
                    #expect(!isCommitted)
                    #expect(try await strongSum(bank) == bank.total)
                    try await settle([standbys[0], shards.shards[1]])
                    #expect(try await shards.shards[1].psql("SELECT sum(balance) FROM bank.account") == "300")
                }
            }
        }
    }

    @Test("what an asynchronous standby lacks is said, before the promotion and after it")
    func asynchronous() async throws {
        let log = RecordingLog()
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1, isSynchronous: false) { standbys in
                try await shards.engine(logger: log.logger) {
                    $0.follow(standbys)
                } _: { engine in
                    #expect(log.text.contains("no standby of shard shard1 is synchronous"))
                    let bank = try await engine.makeBank()
                    try await settle(shards.shards)
                    try await waitUntil("the standby has the bank") {
                        (try? await standbys[0].psql("SELECT sum(balance) FROM bank.account")) == "300"
                    }
                    await standbys[0].server.stop()
                    _ = try await bank.transfer(10, from: 0, to: 2)
                    await shards.shards[0].server.kill()
                    try await standbys[0].server.start()
                    try await standbys[0].server.promote()
                    try await waitUntil("it is said") { log.text.contains("critical shard shard1 has lost what") }
                    try await waitUntil("work goes on") { (try? await bank.transfer(1, from: 0, to: 1)) != nil }
                }
            }
        }
    }

    // MARK: Two servers that take themselves for the primary

    @Test("a former primary that comes back is left alone, by the engine that followed and by those that start later")
    func formerPrimary() async throws {
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1) { standbys in
                let former = shards.shards[0]
                let plain = "SELECT sum(balance) FROM bank.account"
                try await shards.engine {
                    $0.follow(standbys)
                } _: { engine in
                    let bank = try await engine.makeBank()
                    try await settle(shards.shards)
                    await former.server.kill()
                    try await standbys[0].server.promote()
                    try await waitUntil("a transfer succeeds") {
                        (try? await bank.transfer(1, from: 0, to: 1)) != nil
                    }
                    // It waits for no standby any more, as if somebody had put it right.
                    try former.server.setSynchronousStandby(nil)
                    try await former.server.start()
                    // While the primary is away, the former one is the only server that accepts writes.
                    for _ in 0..<2 {
                        await standbys[0].server.stop(.immediate)
                        for _ in 0..<20 {
                            #expect((try? await bank.transfer(1, from: 0, to: 2)) == nil)
                            try await Task.sleep(for: .milliseconds(50))
                        }
                        try await standbys[0].server.start()
                        try await waitUntil("a transfer succeeds") {
                            (try? await bank.transfer(1, from: 0, to: 1)) != nil
                        }
                        #expect(try await strongSum(bank) == bank.total)
                    }
                    #expect(try await former.psql(plain) == "300")
                    try await settle(standbys)
                }
                let sum = try await standbys[0].psql(plain)
                // By its conninfo alone it is the shard; only the other shard knows better.
                let error = try await shards.refusedStart()
                #expect(error.message == "the server reached as shard shard1 is a former primary", "\(error)")
                #expect(error.detail?.contains("shard2 knows") == true && error.hint != nil)
                try await shards.engine {
                    $0.follow(standbys)
                } _: { engine in
                    _ = try await Bank.open(on: engine)
                    #expect(try await standbys[0].psql(plain) == sum)
                }
            }
        }
    }

    // MARK: One coordinator

    @Test("the coordinator's lock is taken on the promoted standby before a client is served there")
    func lock() async throws {
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1) { standbys in
                try await shards.engine {
                    $0.follow(standbys)
                } _: { engine in
                    let bank = try await engine.makeBank()
                    // Somebody else has it before: nothing may be done there until he lets go.
                    async let held = standbys[0].psql("SELECT pg_advisory_lock(1296388681, 1), pg_sleep(4)")
                    try await waitUntil("it is held") {
                        try await standbys[0].psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") != "0"
                    }
                    await shards.shards[0].server.kill()
                    try await standbys[0].server.promote()
                    let sessions = """
                        SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid)
                        WHERE locktype = 'advisory' AND granted AND application_name LIKE 'meridian coordinator%'
                        """
                    try await waitUntil("a transfer succeeds") {
                        (try? await bank.transfer(1, from: 0, to: 2)) != nil
                    }
                    #expect(try await standbys[0].psql(sessions) == "1", "committed without the lock")
                    _ = try await held
                }
            }
        }
    }

    @Test("a coordinator that slept through its successor does nothing on a standby that has not heard of that one")
    func sleeper() async throws {
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1, isSynchronous: false) { standbys in
                var configuration = shards.configuration()
                configuration.follow(standbys)
                let sleeper = try RunningCommand(
                    ["serve", "--listen", "127.0.0.1:0"]
                        + configuration.shards.flatMap { ["--shard", "\($0.id) \($0.conninfo)"] },
                    environment: ["MERIDIAN_CONFIG": ""])
                try await sleeper.waits(for: "ready: ")
                let url = String(try #require(sleeper.output.firstMatch(of: #/ready: (\S+)/#)).output.1)
                let client = try await ShardConnection.connect(to: ConnectionSettings(url), on: shards.loop)
                _ = try await client.run("CREATE TABLE single (a int PRIMARY KEY) WITH (meridian.table = 'single')")
                _ = try await client.run("INSERT INTO single VALUES (1)")
                try await waitUntil("the standby has the row") {
                    (try? await standbys[0].psql("SELECT count(*) FROM single")) == "1"
                }
                sleeper.signal(SIGSTOP)
                await standbys[0].server.stop()
                for shard in shards.shards {
                    try await shard.psql(
                        """
                        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                        WHERE application_name LIKE 'meridian coordinator%'
                        """)
                }
                try await shards.engine {
                    $0.follow(standbys)
                    $0.node = NodeID(rawValue: 2)!
                } _: { _ in
                }
                await shards.shards[0].server.kill()
                try await standbys[0].server.start()
                try await standbys[0].server.promote()
                // The other shard, which knows, is not heard meanwhile.
                shards.shards[1].server.pause()
                sleeper.signal(SIGCONT)
                let deadline = ContinuousClock.now + .seconds(4)
                while ContinuousClock.now < deadline {
                    _ = try? await client.run("INSERT INTO single VALUES (2)", deadline: deadline)
                    try await Task.sleep(for: .milliseconds(5))
                }
                shards.shards[1].server.resume()
                #expect(try await standbys[0].psql("SELECT count(*) FROM single") == "1")
                await client.close()
            }
        }
    }
}

// MARK: - What the tests share

extension EngineConfiguration {
    /// Names the standbys beside the first shards' primaries.
    mutating func follow(_ standbys: [TestShard]) {
        for (index, standby) in standbys.enumerated() {
            shards[index].conninfo +=
                " host=127.0.0.1,127.0.0.1 port=\(shards[index].conninfo.firstMatch(of: #/port=(\d+)/#)!.output.1)"
                + ",\(standby.server.port)"
        }
    }
}

/// Runs `body` with a standby of each of the first `count` shards.
func withStandbys(
    of shards: EngineShards, count: Int = 2, isSynchronous: Bool = true, _ body: ([TestShard]) async throws -> Void
) async throws {
    func with(_ standbys: [TestShard]) async throws {
        guard standbys.count < count else { return try await body(standbys) }
        try await shards.shards[standbys.count].withStandby(isSynchronous: isSynchronous) {
            try await with(standbys + [$0])
        }
    }
    try await with([])
}

/// Waits until nothing is prepared on any of `shards`.
private func settle(_ shards: [TestShard]) async throws {
    try await waitUntil("nothing is prepared") {
        for shard in shards where try await shard.psql("SELECT count(*) FROM pg_prepared_xacts") != "0" { return false }
        return true
    }
}

/// Whether the transaction committed, which must be what its client was told.
private func isCommitted(
    _ id: TransactionID, _ told: Result<TransferEnd, any Error>, _ engine: TransactionEngine
) async throws -> Bool {
    var known: TransactionOutcome?
    try await waitUntil("the outcome of \(id) is known") {
        known = try? await engine.outcome(of: id)
        return known != nil
    }
    switch told {
    case .success: #expect(known == .committed(id.commitTimestamp))
    case .failure(let error):
        let outcome = (error as? TransactionError)?.outcome
        #expect(outcome == .indeterminate(id) || outcome == .aborted && known == .aborted, "\(error): \(known!)")
    }
    return known != .aborted
}

/// The sum by a strong read; a read that fails is tried again.
private func strongSum(_ bank: Bank) async throws -> Int64 {
    var sum: Int64?
    try await waitUntil("the bank can be read") {
        sum = try? await bank.sum(.strong)
        return sum != nil
    }
    return try #require(sum)
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
