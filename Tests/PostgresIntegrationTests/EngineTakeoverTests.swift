import EventLoops
import Foundation
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@testable import BankWorkload

/// One coordinator at a time, and recovery by another: R4 and R6.
@Suite(.serialized) struct EngineTakeoverTests {
    private static let endLockSessions = """
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE 'meridian coordinator, node 1' AND datname = current_database()
        """

    private func failure(of transfer: Task<TransferEnd, any Error>) async throws -> TransactionError {
        do {
            let end = try await transfer.value
            throw TransactionError(.internalError, "a transfer that had to fail ended as \(end)")
        } catch let error as TransactionError {
            return error
        }
    }

    /// Starts node 2 while node 1's lock sessions are ended again and again, as by an operator.
    private func takeOver(_ shards: EngineShards) async throws -> TransactionEngine {
        var configuration = shards.configuration(node: 2)
        configuration.takeoverTimeout = .seconds(10)
        let starting = configuration
        let start = Task {
            try await TransactionEngine.start(
                starting, clock: EngineShards.hostClock, loop: shards.loop, logger: EngineShards.silence)
        }
        let operator_ = Task {
            while !Task.isCancelled {
                for shard in shards.shards { try await shard.psql(Self.endLockSessions) }
            }
        }
        defer { operator_.cancel() }
        return try await start.value
    }

    @Test("a second coordinator is refused, and told who the first is")
    func second() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                let error = try await shards.refusedStart {
                    $0.node = NodeID(rawValue: 2)!
                    $0.takeoverTimeout = .milliseconds(200)
                }
                #expect(error.sqlState == .objectNotInPrerequisiteState)
                #expect(error.message.contains("shard1"))
                #expect(error.detail?.contains("meridian coordinator, node 1") == true && error.hint != nil)
                _ = try await bank.transfer(10, from: 0, to: 1)
            }
            try await shards.engine {
                $0.node = NodeID(rawValue: 2)!
            } _: { engine in
                let bank = try await Bank.open(on: engine)
                #expect(bank.total == 600)
            }
        }
    }

    @Test("a start that is refused holds nothing: no lock and no session")
    func refusedHoldsNothing() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine(clock: AdjustableClock(shift: .seconds(5))) { _ = try await $0.makeBank() }
            _ = try await shards.refusedStart()
            let sessions = """
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND application_name LIKE 'meridian%'
                """
            try await waitUntil("no session is left") { try await shards.plain(sessions) == ["0", "0"] }
        }
    }

    @Test("a coordinator that was taken over finishes nothing, and its successor's commits are safe from its recovery")
    func fenced() async throws {
        let (first, second) = (CommitGate(at: .afterPrepareBeforeDecision), CommitGate(at: .afterPrepareBeforeDecision))
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = first.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                first.arm()
                let transfer = Task { try await bank.transfer(10, from: 0, to: 1) }
                let id = try await first.arrival()
                let successor = try await takeOver(shards)
                // What the first had prepared is settled before the successor serves anyone.
                try await shards.waitUntilSettled(within: .zero)
                first.open()
                let error = try await failure(of: transfer)
                #expect(error.outcome == .aborted)
                #expect(try await successor.outcome(of: id) == .aborted)
                #expect(try await shards.plainSums() == [300, 300])
                let fenced = try await failure(of: Task { try await bank.transfer(10, from: 0, to: 1) })
                #expect(fenced.sqlState == .objectNotInPrerequisiteState && fenced.message.contains("fenced"))

                // The first one's sweeps go on; they must leave what the successor prepares alone.
                await successor.shutdown()
                try await shards.engine {
                    $0.node = NodeID(rawValue: 2)!
                    $0.takeoverTimeout = .seconds(10)
                    $0.faultHook = second.hook
                } _: { successor in
                    let bank = try await Bank.open(on: successor)
                    second.arm()
                    let transfer = Task { try await bank.transfer(10, from: 0, to: 1) }
                    _ = try await second.arrival()
                    try await successor.loop.sleep(until: .now + .milliseconds(500))
                    second.open()
                    _ = try await transfer.value
                    try await shards.waitUntilSettled()
                    #expect(try await shards.plainSums() == [290, 310])
                }
            }
        }
    }

    @Test("a transaction that recovery decided first is aborted on every shard, and the client may try again")
    func tombstone() async throws {
        let gate = CommitGate(at: .afterPrepareBeforeDecision)
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = gate.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                gate.arm()
                let transfer = Task { try await bank.transfer(10, from: 0, to: 1) }
                let timestamp = try await gate.arrival().commitTimestamp
                try await shards.shards[0].psql(
                    """
                    INSERT INTO meridian.commit_log (ts, slot)
                    VALUES (\(timestamp), meridian.slot(\(timestamp)::bigint / 1000000000))
                    """)
                gate.open()
                let error = try await failure(of: transfer)
                #expect(error.isRetryable, "\(error)")
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums() == [300, 300])
            }
        }
    }

    /// Leaves a transaction prepared on shard 2 that takes all of an account's money, as if its coordinator had died;
    /// returns its gid.
    private func prepare(home: String, account: Int, on shards: EngineShards) async throws -> String {
        let timestamp = try EngineShards.hostClock.now().earliest.roundedUp(for: NodeID(rawValue: 1)!)
        let gid = "\(TransactionID(home: ShardID(home)!, epoch: Epoch(rawValue: 1), commitTimestamp: timestamp))"
        try await shards.session(on: 1) { connection in
            _ = try await connection.runSimple(
                "BEGIN; UPDATE bank.account SET balance = 0 WHERE id = \(account); PREPARE TRANSACTION '\(gid)'")
        }
        return gid
    }

    @Test("to ask for the outcome of a transaction that nobody decided aborts it for good, by a tombstone at home")
    func outcomeOfUndecided() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                _ = try await engine.makeBank()
                let timestamp = try EngineShards.hostClock.now().earliest.roundedUp(for: NodeID(rawValue: 1)!)
                let id = TransactionID(home: shards.ids[0], epoch: Epoch(rawValue: 1), commitTimestamp: timestamp)
                for _ in 0..<2 { #expect(try await engine.outcome(of: id) == .aborted) }
                let tombstone = "SELECT xid IS NULL FROM meridian.commit_log WHERE ts = \(timestamp)"
                #expect(try await shards.plain(tombstone) == ["t", ""])
            }
        }
    }

    @Test("a prepared transaction that recovery can't settle is named, and keeps no other from being settled")
    func unsettleable() async throws {
        let prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"
        try await EngineShards.withShared { shards in
            let stuck = try await shards.engine { engine in
                _ = try await engine.makeBank()
                let stuck = try await prepare(home: "elsewhere", account: 1, on: shards)
                let orphan = try await prepare(home: "shard1", account: 3, on: shards)
                try await waitUntil("the orphan is settled") { try await shards.shards[1].psql(prepared) == stuck }
                let timestamp = try #require(TransactionID(orphan)).commitTimestamp
                let tombstone = "SELECT xid IS NULL FROM meridian.commit_log WHERE ts = \(timestamp)"
                #expect(try await shards.plain(tombstone) == ["t", ""], "rolled back without a tombstone at home")
                return stuck
            }
            let error = try await shards.refusedStart()
            #expect(error.message.contains("shard2") && error.message.contains("elsewhere"))
            try await shards.shards[1].psql("ROLLBACK PREPARED '\(stuck)'")
            #expect(try await shards.plainSums() == [300, 300])
        }
    }
}
