import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

/// Shards that die at every named moment of a commit: R3, R4 and R5.
@Suite(.serialized) struct EngineCrashTests {
    /// The shard that is killed, by its place.
    private enum Victim: Int, CaseIterable {
        case home
        case participant
    }

    /// What the client of a transfer was told, checked against what became of it.
    private func check(
        _ told: Result<Timestamp, TransactionError>, of id: TransactionID, on engine: TransactionEngine,
        at point: FaultPoint
    ) async throws -> Bool {
        var known: TransactionOutcome?
        try await waitUntil("the outcome of \(id), struck at \(point), is known") {
            known = try? await engine.outcome(of: id)
            return known != nil
        }
        let outcome = try #require(known)
        switch told {
        case .success(let timestamp):
            #expect(outcome == .committed(timestamp), "at \(point)")
        case .failure(let error):
            switch error.outcome {
            case .aborted:
                #expect(outcome == .aborted, "at \(point)")
                #expect(error.sqlState != .transactionResolutionUnknown, "at \(point)")
            case .indeterminate(let unknown):
                #expect(unknown == id && error.sqlState == .transactionResolutionUnknown, "at \(point)")
                #expect(error.detail?.contains("\(id)") == true && error.hint != nil, "at \(point)")
            case .committed:
                Issue.record("told of a failure and a commit at \(point): \(error)")
            }
        }
        return outcome != .aborted
    }

    /// Kills a shard at `point` of a transfer from shard 1, the home shard, to shard 2, and starts it again.
    private func crash(
        _ victim: Victim, at point: FaultPoint, _ bank: Bank, _ shards: EngineShards, _ engine: TransactionEngine,
        _ fault: CommitFault
    ) async throws {
        try await shards.waitUntilSettled()
        let before = try await shards.plainSums()
        let server = shards.shards[victim.rawValue].server
        fault.arm(at: point) { _ in await server.kill() }
        let told: Result<Timestamp, TransactionError>
        do {
            guard case .committed(let timestamp?) = try await bank.transfer(1, from: 0, to: 1) else {
                Issue.record("the transfer was refused")
                return
            }
            told = .success(timestamp)
        } catch let error as TransactionError {
            told = .failure(error)
        }
        let id = try #require(fault.struck, "\(point) was not reached")
        if [.afterDecisionBeforeApply, .afterAnswerBeforeApply].contains(point) {
            #expect((try? told.get()) == id.commitTimestamp, "decided, so committed, at \(point)")
        }
        // The answer is there before the apply that is struck after it.
        try await waitUntil("\(victim) is dead") { !server.isRunning }
        try await server.start()
        let isCommitted = try await check(told, of: id, on: engine, at: point)
        try await shards.waitUntilSettled()
        let moved: Int64 = isCommitted ? 1 : 0
        #expect(try await shards.plainSums() == [before[0] - moved, before[1] + moved], "at \(point)")
        #expect(try await bank.sum(at: try await retrying { try await engine.snapshot() }) == bank.total, "at \(point)")
        // Work goes on, without a new engine.
        try await waitUntil("a transfer succeeds after \(point)") {
            (try? await bank.transfer(1, from: 1, to: 0)) != nil
        }
    }

    private func retrying<Value>(_ body: () async throws -> Value) async throws -> Value {
        for _ in 0..<20 {
            if let value = try? await body() { return value }
            try await Task.sleep(for: .milliseconds(50))
        }
        return try await body()
    }

    @Test("a shard killed at any moment of a commit leaves it whole: the client was told the truth, and all is settled")
    func shardKilled() async throws {
        let fault = CommitFault()
        try await EngineShards.withPrivate { shards in
            try await shards.engine {
                $0.faultHook = fault.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                for victim in Victim.allCases {
                    for point in FaultPoint.allCases { try await crash(victim, at: point, bank, shards, engine, fault) }
                }
            }
            try await shards.engine { engine in
                let findings = try await BankCheck(try await Bank.open(on: engine)).run(
                    history: [], total: 600, samples: 1, seed: 1)
                #expect(findings.isConsistent, "\(findings)")
            }
        }
    }

    /// Has the home shard's COMMIT flush and then wait for a standby that isn't there, so that it is durable and not
    /// answered; calls `strike` at that moment.
    private func loseAnswer(
        _ shards: EngineShards, _ fault: CommitFault,
        strike: @escaping @Sendable (TestShard, _ session: String) async throws -> Void
    ) async throws {
        let home = shards.shards[0]
        try await home.psql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'; SELECT pg_reload_conf()")
        // The checkpointer has to hear of it too.
        try await Task.sleep(for: .milliseconds(200))
        let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
        fault.arm(at: .duringDecision) { _ in
            do {
                var session = ""
                try await waitUntil("COMMIT waits for its standby") {
                    session = try await home.psql(waiting)
                    return !session.isEmpty
                }
                try await home.psql("ALTER SYSTEM RESET synchronous_standby_names")
                try await strike(home, session)
            } catch {
                Issue.record(error)
            }
        }
    }

    @Test(
        "when the answer to the home shard's COMMIT is lost, the client is told what it decided or that this is unknown"
    )
    func answerLost() async throws {
        let fault = CommitFault()
        try await EngineShards.withPrivate { shards in
            try await shards.engine {
                $0.faultHook = fault.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                try await loseAnswer(shards, fault) { home, session in
                    try await home.psql("SELECT pg_terminate_backend(\(session)), pg_reload_conf()")
                }
                guard case .committed(let timestamp?) = try await bank.transfer(10, from: 0, to: 1) else { return }
                #expect(fault.struck?.commitTimestamp == timestamp)
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums() == [290, 310])

                try await loseAnswer(shards, fault) { home, _ in await home.server.kill() }
                let error = try await #require(throws: TransactionError.self) {
                    try await bank.transfer(10, from: 0, to: 1)
                }
                let id = try #require(fault.struck)
                #expect(error.outcome == .indeterminate(id))
                try await shards.shards[0].server.start()
                #expect(try await check(.failure(error), of: id, on: engine, at: .duringDecision))
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums() == [280, 320])
            }
        }
    }
}
