import BoundedTime
import EventLoops
import ShardBackend
import ShardSchema
import Testing
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

@testable import BankWorkload

/// Reads at a timestamp: R8, R9 and R10.
@Suite(.serialized) struct EngineReadTests {
    private static let balance: SQLStatement = "SELECT balance FROM account WHERE id IN (0, 1)"

    /// The balances of accounts 0 and 1, on shards 1 and 2.
    private func balances(_ engine: TransactionEngine, _ bound: ReadBound = .strong) async throws -> [Int64] {
        let snapshot = try await engine.snapshot(bound)
        let results = try await snapshot.read(Self.balance, in: "bank", on: engine.shards)
        return try results.map { try #require($0.first).int64(0) }
    }

    @Test("a read at a timestamp sees what was committed up to it, and nothing later, in every read mode")
    func readModes() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                let first = try committed(try await bank.transfer(10, from: 0, to: 1))
                let second = try committed(try await bank.transfer(20, from: 0, to: 1))
                #expect(try await balances(engine) == [70, 130])
                #expect(try await balances(engine, .at(first)) == [90, 110])
                #expect(try await balances(engine, .at(first.advanced(byNanoseconds: -1))) == [100, 100])
                #expect(try await balances(engine, .at(second.advanced(byNanoseconds: -1))) == [90, 110])
                #expect(try await balances(engine, .at(second)) == [70, 130])
                #expect(try await balances(engine, .exactStaleness(.zero)) == [70, 130])
                #expect(try await balances(engine, .maxStaleness(.seconds(10))) == [70, 130])
                #expect(try await balances(engine, .minTimestamp(second)) == [70, 130])
                #expect(try await engine.snapshot(.minTimestamp(second)).timestamp >= second)
                #expect(try await engine.snapshot(.strong).timestamp >= second)
            }
        }
    }

    @Test("an exact staleness counts from now")
    func exactStaleness() async throws {
        try await EngineShards.withShared(1) { shards in
            try await shards.engine { engine in
                let before = try EngineShards.hostClock.now().earliest
                let timestamp = try await engine.snapshot(.exactStaleness(.milliseconds(50))).timestamp
                let after = try EngineShards.hostClock.now().earliest
                #expect(timestamp >= before.advanced(byNanoseconds: -50_000_000))
                #expect(timestamp <= after.advanced(byNanoseconds: -50_000_000))
            }
        }
    }

    @Test("a read in the future waits until its timestamp has passed, and sees what is committed until then")
    func future() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                let now = try EngineShards.hostClock.now().latest
                let target = now.advanced(byNanoseconds: 400_000_000)
                let read = Task { try await balances(engine, .at(target)) }
                #expect(try committed(try await bank.transfer(10, from: 0, to: 1)) < target)
                #expect(try await read.value == [90, 110])
                #expect(try EngineShards.hostClock.now().isAfter(target))
            }
        }
    }

    @Test("a read too far in the future is refused at once, with what now is")
    func farFuture() async throws {
        try await EngineShards.withShared(1) { shards in
            try await shards.engine { engine in
                let target = try EngineShards.hostClock.now().latest.advanced(byNanoseconds: 3_600_000_000_000)
                let error = try await #require(throws: TransactionError.self) {
                    try await engine.snapshot(.at(target))
                }
                #expect(error.sqlState == .invalidParameterValue)
                #expect(error.detail?.contains("now") == true && error.hint != nil)
            }
        }
    }

    @Test("a read older than retention is refused with 72000 and says what is the oldest")
    func tooOld() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                let first = try committed(try await bank.transfer(10, from: 0, to: 1))
                let second = try committed(try await bank.transfer(10, from: 0, to: 1))
                for shard in shards.shards {
                    try await shard.psql("SELECT meridian.raise_readable_from(\(second))")
                }
                let error = try await #require(throws: TransactionError.self) { try await balances(engine, .at(first)) }
                #expect(error.sqlState == .snapshotTooOld)
                #expect(error.detail?.contains("\(second)") == true && error.hint != nil)
                #expect(try await balances(engine, .at(second)) == [80, 120])
            }
        }
    }

    @Test(
        "a strong read after an acknowledgement waits for a shard that has not applied yet; a plain one would be wrong")
    func waitsForApply() async throws {
        let gate = CommitGate(at: .afterAnswerBeforeApply)
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = gate.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                gate.arm()
                let timestamp = try committed(try await bank.transfer(10, from: 0, to: 1))
                _ = try await gate.arrival()
                // What breaking R8 or R10 would show: money that was taken and not given, after the acknowledgement.
                #expect(try await shards.plainSums().reduce(0, +) == bank.total - 10)

                let sum = Task { try await bank.sum(at: try await engine.snapshot()) }
                let row = Task { try await balances(engine) }
                let past = timestamp.advanced(byNanoseconds: -1)
                #expect(try await balances(engine, .at(past)) == [100, 100])
                #expect(try await balances(engine, .maxStaleness(.seconds(10))) == [100, 100])
                try await engine.loop.sleep(until: .now + .milliseconds(200))
                #expect(try await shards.plainSums().reduce(0, +) == bank.total - 10)
                #expect(await engine.currentStatistics().readsThatWaited >= 2)
                gate.open()
                #expect(try await sum.value == bank.total)
                #expect(try await row.value == [90, 110])
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums().reduce(0, +) == bank.total)
            }
        }
    }

    @Test("one row alone is read in the order of timestamps too, while an earlier commit is on its way")
    func singleRow() async throws {
        let gate = CommitGate(at: .afterPrepareBeforeDecision)
        let query: SQLStatement = "SELECT balance FROM account WHERE id = 1"
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = gate.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                gate.arm()
                // R10's counter-example: T1 is prepared and undecided; T2 gets a later timestamp and is acknowledged.
                let first = Task { try committed(try await bank.transfer(10, from: 0, to: 1)) }
                let id = try await gate.arrival()
                #expect(try committed(try await bank.transfer(5, from: 2, to: 4)) > id.commitTimestamp)
                // T1's row to a plain reader: the old value, before T1 and after T2.
                #expect(try await shards.shards[1].psql("SELECT balance FROM bank.account WHERE id = 1") == "100")
                let row = Task {
                    try await engine.snapshot().read(query, in: "bank", on: shards.ids[1])[0].int64(0)
                }
                try await waitUntil("the read waits") { await engine.currentStatistics().readsThatWaited > 0 }
                gate.open()
                #expect(try await row.value == 110)
                #expect(try await first.value == id.commitTimestamp)
            }
        }
    }

    @Test("a read that waits longer than it may says for which commit, and harms nothing")
    func waitsTooLong() async throws {
        let gate = CommitGate(at: .afterAnswerBeforeApply)
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = gate.hook
                $0.safeTimeTimeout = .milliseconds(200)
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                gate.arm()
                let timestamp = try committed(try await bank.transfer(10, from: 0, to: 1))
                let error = try await #require(throws: TransactionError.self) { try await balances(engine) }
                #expect(error.sqlState == .lockNotAvailable)
                #expect(error.shard == shards.ids[1])
                #expect(error.detail?.contains("\(timestamp)") == true && error.hint != nil)
                gate.open()
                #expect(try await balances(engine) == [90, 110])
            }
        }
    }

    @Test("a plain read that a commit overtook is done again at its timestamp; one that nothing overtook is not (R10)")
    func overtakenPlainRead() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                // What the session is told comes after the shard was found quiet, and before the read's own snapshot.
                let slowly = ClientStatement(
                    SQLStatement("SELECT balance FROM account WHERE id = 0"), searchPath: ["bank"],
                    preparation: { _ in ["SELECT pg_sleep(0.4)", "SELECT set_config('search_path', 'bank', false)"] })
                try await shards.waitUntilSettled()
                let before = try await engine.snapshot()
                let balance = try await before.run(slowly, on: shards.ids[0])[0].int64(0)
                #expect(await engine.currentStatistics().readsOfThePast == 0)

                async let overtaken = before.run(slowly, on: shards.ids[0])
                try await engine.loop.sleep(until: .now + .milliseconds(100))
                _ = try await bank.transfer(10, from: 0, to: 1)
                #expect(try await overtaken[0].int64(0) == balance)
                #expect(await engine.currentStatistics().readsOfThePast == 1)
                let after = try await engine.snapshot().run(slowly, on: shards.ids[0])
                #expect(try after[0].int64(0) == balance - 10)
            }
        }
    }
}
