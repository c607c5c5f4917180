import BoundedTime
import EventLoops
import ShardBackend
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

/// Commit timestamps and the clock: R1 and R2.
@Suite(.serialized) struct EngineTimeTests {
    @Test(
        "nothing that a transaction wrote is visible on any shard before its timestamp has passed",
        arguments: [Int64(1), 2])
    func commitWait(target: Int64) async throws {
        let clock = AdjustableClock(uncertainty: .milliseconds(300))
        let query = SQLStatement("SELECT sum(balance)::bigint FROM bank.account WHERE id = $1", [.int64(target)])
        let shard = Int(target % 2)
        try await EngineShards.withShared { shards in
            try await shards.engine(clock: clock) { engine in
                let bank = try await engine.makeBank()
                try await shards.session(on: 0) { home in
                    try await shards.session(on: shard) { other in
                        let before = try clock.now()
                        let transfer = Task { try await bank.transfer(10, from: 0, to: target) }
                        // Plain reads, whose answers are here before the interval has passed in which the client asked.
                        var reads = 0
                        while true {
                            let source = try await home.run(
                                SQLStatement("SELECT balance FROM bank.account WHERE id = 0"))[0].int64(0)
                            let balance = try await other.run(query)[0].int64(0)
                            guard try clock.now().earliest < before.latest else { break }
                            #expect(source == 100 && balance == 100, "visible after \(reads) reads")
                            reads += 1
                            try await engine.loop.sleep(until: .now + .milliseconds(5))
                        }
                        #expect(reads > 10)
                        guard case .committed(let timestamp?) = try await transfer.value else { return }
                        #expect(timestamp >= before.latest)
                        #expect(try clock.now().isAfter(timestamp))
                    }
                }
            }
        }
    }

    @Test("the timestamp is chosen after the locks are held, so that one who waited for them has the later one")
    func chosenAfterLocks() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                _ = try await engine.makeBank()
                let update: SQLStatement = "UPDATE bank.account SET balance = balance + 1 WHERE id = 0"
                let holder = try await engine.begin()
                _ = try await holder.execute(update, on: shards.ids[0])
                let waiter = Task { try await engine.transaction { try await $0.execute(update, on: shards.ids[0]) }.1 }
                try await engine.loop.sleep(until: .now + .milliseconds(100))
                let now = try EngineShards.hostClock.now().latest
                let first = try await holder.commit()
                #expect(first >= now)
                #expect(try await waiter.value > first)
            }
        }
    }

    @Test(
        "a clock that was set back refuses commits and reads with 58M01, nothing is committed, and work goes on after")
    func steppedBack() async throws {
        let clock = AdjustableClock()
        try await EngineShards.withShared { shards in
            try await shards.engine(clock: clock) { engine in
                let bank = try await engine.makeBank()
                let transaction = try await engine.begin()
                let update: SQLStatement = "UPDATE bank.account SET balance = balance + 1 WHERE id = 0"
                _ = try await transaction.execute(update, on: shards.ids[0])
                clock.refuse(.steppedBack(by: .seconds(3)))
                let error = try await #require(throws: TransactionError.self) { try await transaction.commit() }
                #expect(error.sqlState == .clockNotTrusted && error.outcome == .aborted && error.hint != nil)
                for target: Int64 in [1, 2] {
                    let error = try await #require(throws: TransactionError.self) {
                        try await bank.transfer(10, from: 0, to: target)
                    }
                    #expect(error.sqlState == .clockNotTrusted && error.outcome == .aborted)
                }
                let read = try await #require(throws: TransactionError.self) { try await engine.snapshot() }
                #expect(read.sqlState == .clockNotTrusted)
                #expect(try await shards.plainSums() == [300, 300])
                clock.refuse(nil)
                #expect(try await bank.sum(at: try await engine.snapshot()) == bank.total)
                _ = try await bank.transfer(10, from: 0, to: 1)
                #expect(try await bank.sum(at: try await engine.snapshot()) == bank.total)
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums() == [290, 310])
            }
        }
    }

    @Test("a clock that fails during commit-wait aborts the transaction on every shard, prepared ones too")
    func failsDuringCommitWait() async throws {
        let clock = AdjustableClock(uncertainty: .milliseconds(100))
        let fault = CommitFault()
        try await EngineShards.withShared { shards in
            try await shards.engine(clock: clock) {
                $0.faultHook = fault.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                fault.arm(at: .duringCommitWait) { _ in clock.refuse(.steppedBack(by: .seconds(1))) }
                let error = try await #require(throws: TransactionError.self) {
                    try await bank.transfer(10, from: 0, to: 1)
                }
                #expect(error.sqlState == .clockNotTrusted && error.outcome == .aborted)
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums() == [300, 300])
                clock.refuse(nil)
                #expect(try await engine.outcome(of: try #require(fault.struck)) == .aborted)
                _ = try await bank.transfer(10, from: 0, to: 1)
                try await shards.waitUntilSettled()
            }
        }
    }

    @Test("an engine whose clock is behind the newest timestamp on a shard does not start, and says which shard")
    func behindShard() async throws {
        try await EngineShards.withShared { shards in
            let ahead = AdjustableClock(shift: .seconds(5))
            try await shards.engine(clock: ahead) { _ = try await $0.makeBank() }
            let error = try await shards.refusedStart()
            #expect(error.sqlState == .clockNotTrusted)
            #expect(error.message.contains("shard1") && error.detail != nil && error.hint != nil)
            try await shards.engine(clock: ahead) { engine in
                let bank = try await Bank.open(on: engine)
                #expect(bank.total == 600)
            }
        }
    }

    @Test("timestamps go on rising over a restart of the engine, also with a clock that shows less than before")
    func risingOverRestarts() async throws {
        try await EngineShards.withShared(1) { shards in
            let update: SQLStatement = "UPDATE bank.account SET balance = balance + 1 WHERE id = 0"
            let first = try await shards.engine(clock: AdjustableClock(uncertainty: .milliseconds(50))) { engine in
                _ = try await engine.makeBank()
                return try await engine.transaction { try await $0.execute(update, on: shards.ids[0]) }.1
            }
            let behind = AdjustableClock(uncertainty: .milliseconds(120), shift: .milliseconds(-100))
            let second = try await shards.engine(clock: behind) { engine in
                try await engine.transaction { try await $0.execute(update, on: shards.ids[0]) }.1
            }
            #expect(first < second)
        }
    }
}
