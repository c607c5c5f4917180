import BankWorkload
import EventLoops
import Foundation
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TwoPhaseCommit

@testable import TransactionEngine

/// Standbys that are promoted under several engines, or under one that is fenced: R4, R6 and decision 0017.
@Suite(.serialized) struct FencingFailoverTests {
    private static let prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database()"

    @Test("each node takes a promoted standby over for itself, and leaves alone what others have in flight there")
    func inFlight() async throws {
        let gate = CommitGate(at: .afterPrepareBeforeDecision)
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 2) { standbys in
                try await shards.engines(3) { node, configuration in
                    configuration.follow(standbys)
                    configuration.sweepInterval = .milliseconds(50)
                    if node.rawValue == 3 { configuration.faultHook = gate.hook }
                } _: { _, engines in
                    _ = try await engines[0].makeBank()
                    var banks: [Bank] = []
                    for engine in engines { banks.append(try await Bank.open(on: engine)) }
                    let (first, second, third) = (banks[0], banks[1], banks[2])
                    gate.arm()
                    let transfer = Task { try await third.transfer(10, from: 0, to: 1) }
                    let id = try await gate.arrival()
                    #expect(id.home == shards.ids[0])
                    // It is prepared on the other one.
                    await shards.shards[1].server.kill()
                    try await standbys[1].server.promote()
                    for bank in [first, second] {
                        try await waitUntil("it commits there") {
                            (try? await bank.transfer(1, from: 4, to: 5)) != nil
                        }
                    }
                    let shares = """
                        SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock'
                        """
                    try await waitUntil("all share the lock") { try await standbys[1].psql(shares) == "3" }
                    #expect(try await standbys[1].psql(Self.prepared) == "\(id)")
                    gate.open()
                    _ = try committed(try await transfer.value)
                    #expect(try await first.sum(.strong) == 600)
                    try await waitUntil("it is applied") { try await standbys[1].psql(Self.prepared) == "" }
                    for engine in engines { #expect(await !engine.isFenced) }
                }
            }
        }
    }

    @Test("what a promoted standby has not heard of, an end of a node's epochs, it is told before it serves anyone")
    func unheardOf() async throws {
        let gate = CommitGate(at: .afterPrepareBeforeDecision)
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 2, isSynchronous: false) { standbys in
                try await shards.engines(2) { node, configuration in
                    configuration.follow(standbys)
                    // The takeover is to do it.
                    configuration.sweepInterval = .seconds(3600)
                    if node.rawValue == 1 { configuration.faultHook = gate.hook }
                } _: { peers, engines in
                    let bank = try await engines[0].makeBank()
                    let other = try await Bank.open(on: engines[1])
                    let gone = engines[0].incarnation
                    gate.arm()
                    let dying = Task { try? await bank.transfer(10, from: 0, to: 1) }
                    #expect(try await gate.arrival().home == shards.ids[0])
                    let place = try await shards.shards[1].psql("SELECT pg_current_wal_lsn()")
                    try await waitUntil("the standby has what is prepared") {
                        try await standbys[1].psql("SELECT pg_last_wal_replay_lsn() >= '\(place)'") == "t"
                    }
                    await standbys[1].server.stop()
                    peers.vanish(gone)
                    try await waitUntil("it is fenced") { await !engines[1].peerIncarnations.contains(gone) }
                    await shards.shards[1].server.kill()
                    try await standbys[1].server.start()
                    let known = "SELECT fenced FROM meridian.node_epoch WHERE node = 1"
                    #expect(try await standbys[1].psql(known) == "0", "it has heard, so nothing is tried here")
                    try await standbys[1].server.promote()
                    try await waitUntil("work goes on") { (try? await other.transfer(1, from: 4, to: 5)) != nil }
                    #expect(try await standbys[1].psql(Self.prepared) == "")
                    #expect(try await standbys[1].psql(known) == "\(gone.epoch)")
                    #expect(try await other.sum(.strong) == 600)
                    gate.open()
                    _ = await dying.value
                    #expect(try await other.sum(.strong) == 600)
                }
            }
        }
    }

    @Test("a node leaves a former primary that still answers it when another one has taken the standby over")
    func hearsay() async throws {
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1, isSynchronous: false) { standbys in
                try await shards.engines(1) { peers, engines in
                    let bank = try await engines[0].makeBank()
                    try await shards.waitUntilSettled()
                    let former = shards.shards[0]
                    let place = try await former.psql("SELECT pg_current_wal_lsn()")
                    try await waitUntil("the standby has all") {
                        try await standbys[0].psql("SELECT pg_last_wal_replay_lsn() >= '\(place)'") == "t"
                    }
                    try await standbys[0].server.promote()
                    #expect(try await bank.sum(.strong) == 600)
                    let second = try await shards.engine(NodeID(rawValue: 2)!, among: peers, on: shards.loop) {
                        $1.follow(standbys)
                    }
                    let other = try await Bank.open(on: second)
                    try await waitUntil("it commits there") { (try? await other.transfer(1, from: 0, to: 2)) != nil }
                    try await waitUntil("the first one has left") { (try? await bank.sum(.strong)) == nil }
                    // It has not heard of the standby, and can't go on with this shard.
                    for _ in 0..<20 {
                        #expect((try? await bank.sum(.strong)) == nil)
                        try await Task.sleep(for: .milliseconds(20))
                    }
                    #expect(try await other.sum(.strong) == 600)
                    await second.shutdown()
                    peers.vanish(second.incarnation)
                }
            }
        }
    }

    @Test("an engine that takes a standby over and learns by another shard that it is fenced lets go of all locks")
    func witness() async throws {
        try await EngineShards.withPrivate { shards in
            try await withStandbys(of: shards, count: 1) { standbys in
                try await shards.engine {
                    $0.follow(standbys)
                } _: { engine in
                    let bank = try await engine.makeBank()
                    try await shards.waitUntilSettled()
                    try await shards.shards[1].psql("SELECT meridian.fence(1, \(engine.epoch))")
                    await shards.shards[0].server.kill()
                    try await standbys[0].server.promote()
                    try await waitUntil("it knows") { await engine.isFenced }
                    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
                    for shard in [standbys[0], shards.shards[1]] {
                        try await waitUntil("it holds no lock") { try await shard.psql(locks) == "0" }
                    }
                    await #expect(throws: TransactionError.self) { try await bank.transfer(1, from: 0, to: 2) }
                    #expect(try await standbys[0].psql("SELECT sum(balance) FROM bank.account") == "300")
                }
            }
        }
    }

    @Test("a shard whose only server comes back as a standby is waited for; its refusal is not taken for a fence")
    func inRecovery() async throws {
        try await EngineShards.withPrivate { shards in
            try await shards.engine { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                let server = shards.shards[0].server
                await server.stop()
                let signal = "\(server.dataDirectory)/standby.signal"
                try #require(FileManager.default.createFile(atPath: signal, contents: nil))
                try await server.start()
                #expect(try await shards.shards[0].psql("SELECT pg_is_in_recovery()") == "t")
                let primary = ShardPrimary(shards.ids[0], on: shards.loop, logger: EngineShards.silence)
                let settings = try ConnectionSettings(shards.shards[0].conninfo)
                let error = await #expect(throws: ShardError.self) {
                    try await primary.connect(to: settings, isForClients: false, deadline: .now + .seconds(10))
                }
                #expect(error?.kind == .notConnected(nil), "\(String(describing: error))")
                for _ in 0..<10 {
                    #expect((try? await bank.transfer(1, from: 0, to: 2)) == nil)
                    try await Task.sleep(for: .milliseconds(50))
                }
                #expect(await !engine.isFenced)
                try await server.promote()
                try await waitUntil("work goes on") { (try? await bank.transfer(1, from: 0, to: 1)) != nil }
            }
        }
    }
}
