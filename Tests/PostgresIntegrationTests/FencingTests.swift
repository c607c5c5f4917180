import BankWorkload
import EventLoops
import ShardBackend
import ShardSchema
import TestSupport
import Testing
import TransactionCore
import TwoPhaseCommit

@testable import TransactionEngine

/// Incarnations of nodes that are over, and what other nodes do with what they left: R3, R4 and R6.
@Suite(.serialized) struct FencingTests {
    private static let prepared = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"

    /// The server processes that work for it now, by shard.
    private func processes(of incarnation: Incarnation, on shards: EngineShards) async throws -> [Set<Substring>] {
        try await shards.plain(
            """
            SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                AND application_name ~ 'node \(incarnation.node) epoch \(incarnation.epoch)$'
            """
        ).map { Set($0.split(separator: "\n")) }
    }

    /// Fails the test when one of them is left.
    private func checkEnded(_ processes: [Set<Substring>], on shards: EngineShards) async throws {
        for (shard, pids) in zip(shards.shards, processes) {
            #expect(!pids.isEmpty)
            let left = "SELECT count(*) FROM pg_stat_activity WHERE pid IN (\(pids.joined(separator: ", ")))"
            #expect(try await shard.psql(left) == "0")
        }
    }

    // MARK: A node that is gone

    @Test(
        "a node gone at any moment of a commit is fenced: its commit is whole, it finishes nothing, others go on",
        arguments: FaultPoint.allCases)
    func struck(point: FaultPoint) async throws {
        let (gone, live) = (CommitGate(at: point), CommitGate(at: .afterPrepareBeforeDecision))
        try await EngineShards.withShared { shards in
            try await shards.engines(3) { node, configuration in
                configuration.sweepInterval = .milliseconds(50)
                if node.rawValue == 1 { configuration.faultHook = gone.hook }
                if node.rawValue == 2 { configuration.faultHook = live.hook }
            } _: { peers, engines in
                let bank = try await engines[0].makeBank()
                let (other, third) = (try await Bank.open(on: engines[1]), try await Bank.open(on: engines[2]))
                try await shards.waitUntilSettled()
                live.arm()
                let living = Task { try await other.transfer(1, from: 2, to: 3) }
                let livingID = try await live.arrival()
                gone.arm()
                let dying = Task { await Result { try await bank.transfer(10, from: 0, to: 1) } }
                let id = try await gone.arrival()
                let processes = try await processes(of: engines[0].incarnation, on: shards)
                try await vanish(engines[0], peers, engines[1...])

                // What it had begun is over; what the others have under way is not.
                try await checkEnded(processes, on: shards)
                #expect(try await shards.plain(Self.prepared) == ["", "\(livingID)"])
                let outcome = try await engines[2].outcome(of: id)
                let moved: Int64 = outcome == .aborted ? 0 : 10
                #expect(try await shards.plainSums() == [300 - moved, 300 + moved])

                // It wakes up.
                gone.open()
                switch await dying.value {
                case .success: #expect(outcome != .aborted)
                case .failure(let error):
                    let told = (error as? TransactionError)?.outcome
                    #expect(told == .indeterminate(id) || told == .aborted && outcome == .aborted, "\(error)")
                }
                try await waitUntil("it has noticed") { await engines[0].isFenced }
                await #expect(throws: TransactionError.self) { try await bank.transfer(10, from: 0, to: 1) }
                #expect(try await shards.plain(Self.prepared) == ["", "\(livingID)"])
                #expect(try await shards.plainSums() == [300 - moved, 300 + moved])

                live.open()
                _ = try committed(try await living.value)
                try await shards.waitUntilSettled()
                #expect(try await shards.plainSums() == [299 - moved, 301 + moved])
                #expect(try await third.sum(.strong) == 600)
            }
        }
    }

    @Test("nothing of a busy node is prepared any more, or will be, at the moment when it is fenced")
    func busy() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { _, configuration in
                // What a sweep would find later does not count.
                configuration.sweepInterval = .seconds(3600)
            } _: { peers, engines in
                _ = try await engines[1].makeBank(accounts: 100)
                let loop = try EventLoop(name: "node 1")
                defer { loop.shutdown() }
                for _ in 0..<8 {
                    let node = NodeID(rawValue: 7)!
                    let busy = try await shards.engine(node, among: peers, on: loop)
                    var load = BankLoad(seed: 23)
                    load.clients = 16
                    load.duration = .seconds(1)
                    load.readFraction = 0
                    let run = BankRun(load, on: try await Bank.open(on: busy), history: nil)
                    async let running: Void = run.run()
                    try await waitUntil("it is busy") { await busy.currentStatistics().crossShardCommits > 20 }
                    #expect(await engines[1].fence(busy.incarnation))
                    let left = try await shards.plain(Self.prepared)
                    #expect(left == ["", ""])
                    _ = try? await running
                    #expect(try await shards.plain(Self.prepared) == ["", ""])
                    peers.vanish(busy.incarnation)
                    await busy.shutdown(grace: .zero)
                }
                #expect(try await Bank.open(on: engines[0]).sum(.strong) == 10_000)
            }
        }
    }

    @Test("several nodes that settle the same transactions at once get in nobody's way")
    func atOnce() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(3) { _, configuration in
                configuration.sweepInterval = .seconds(3600)
            } _: { _, engines in
                let bank = try await engines[0].makeBank(accounts: 80)
                let gone = Incarnation(NodeID(rawValue: 9)!, Epoch(rawValue: 1))
                for account in 0..<40 { _ = try await prepare(by: gone, account: 2 * account + 1, on: shards) }
                var fenced = FencedEpochs()
                fenced.insert(gone)
                try await withThrowingTaskGroup(of: Void.self) { [fenced] group in
                    for engine in engines {
                        group.addTask {
                            // One attempt: nobody is refused because another one is at it.
                            _ = try await Fencing(recovery: engine.recovery).fence(fenced, on: shards.ids[1])
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(try await shards.plain(Self.prepared) == ["", ""])
                #expect(try await bank.sum(.strong) == 8000)
            }
        }
    }

    @Test("sweeps settle what appears of fenced epochs and of nobody's commit here, and nothing of a live peer")
    func sweeps() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(3) { _, configuration in
                configuration.sweepInterval = .milliseconds(50)
            } _: { peers, engines in
                _ = try await engines[0].makeBank()
                let gone = engines[2].incarnation
                try await vanish(engines[2], peers, engines[..<2])
                // Of the peer, which is held up meanwhile.
                let present = engines[1].incarnation
                await engines[1].shutdown()
                let theirs = try await prepare(by: present, account: 1, on: shards)
                let later = Incarnation(gone.node, Epoch(rawValue: gone.epoch.rawValue + 5))
                let newcomers = try await prepare(by: later, account: 3, on: shards)
                let orphan = try await prepare(by: gone, account: 5, on: shards)
                try await waitUntil("the orphan is settled") {
                    try await !shards.shards[1].psql(Self.prepared).contains(orphan)
                }
                let own = try await prepare(by: engines[0].incarnation, account: 5, on: shards)
                try await waitUntil("its own is settled") {
                    try await !shards.shards[1].psql(Self.prepared).contains(own)
                }
                let left = Set(try await shards.shards[1].psql(Self.prepared).split(separator: "\n").map(String.init))
                #expect(left == [theirs, newcomers])
                #expect(await engines[0].fence(present))
                #expect(try await shards.shards[1].psql(Self.prepared) == newcomers)
                try await shards.shards[1].psql("ROLLBACK PREPARED '\(newcomers)'")
            }
        }
    }

    @Test("who asks for the outcome of a live node's commit does not abort it; of one that is long over, he does")
    func outcomeOfPeers() async throws {
        let gate = CommitGate(at: .afterPrepareBeforeDecision)
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { node, configuration in
                if node.rawValue == 2 { configuration.faultHook = gate.hook }
                configuration.outcomeTimeout = node.rawValue == 1 ? .seconds(3600) : .milliseconds(300)
            } _: { _, engines in
                _ = try await engines[0].makeBank()
                let bank = try await Bank.open(on: engines[1])
                gate.arm()
                let transfer = Task { try await bank.transfer(10, from: 0, to: 1) }
                let id = try await gate.arrival()
                let error = await #expect(throws: TransactionError.self) { try await engines[0].outcome(of: id) }
                #expect(error?.outcome == .indeterminate(id))
                gate.open()
                let timestamp = try committed(try await transfer.value)
                #expect(try await engines[0].outcome(of: id) == .committed(timestamp))

                let never = try EngineShards.hostClock.now().earliest.roundedUp(for: NodeID(rawValue: 1)!)
                let undecided = TransactionID(home: shards.ids[0], epoch: engines[0].epoch, commitTimestamp: never)
                try await waitUntil("it is taken for over") {
                    (try? await engines[1].outcome(of: undecided)) == .aborted
                }
            }
        }
    }

    // MARK: Starts

    @Test("nodes that start together all serve, again and again, and settle only what was left before")
    func together() async throws {
        try await EngineShards.withShared(3) { shards in
            // One that was alone has had an epoch.
            let peers = EnginePeers(after: 1)
            let loops = try (1...3).map { try EventLoop(name: "node \($0)") }
            defer { for loop in loops { loop.shutdown() } }
            try await shards.engine { _ = try await $0.makeBank() }
            for _ in 0..<5 {
                let engines = try await withThrowingTaskGroup(of: TransactionEngine.self) { group in
                    for number in 1...3 {
                        group.addTask {
                            try await shards.engine(
                                NodeID(rawValue: UInt16(number))!, among: peers, on: loops[number - 1])
                        }
                    }
                    return try await group.reduce(into: []) { $0.append($1) }
                }
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for engine in engines {
                        group.addTask {
                            let bank = try await Bank.open(on: engine)
                            for step in 0..<5 {
                                try await waitUntil("it commits") {
                                    (try? await bank.transfer(1, from: Int64(step), to: Int64(step + 1) % 6)) != nil
                                }
                            }
                            #expect(try await bank.sum(.strong) == 600)
                            #expect(await !engine.isFenced)
                        }
                    }
                    try await group.waitForAll()
                }
                for engine in engines {
                    await engine.shutdown()
                    peers.vanish(engine.incarnation)
                }
            }
        }
    }

    @Test("a node that starts again ends its earlier life and settles what that left; others' commits go on")
    func restart() async throws {
        let (former, live) = (
            CommitGate(at: .afterPrepareBeforeDecision), CommitGate(at: .afterPrepareBeforeDecision)
        )
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { node, configuration in
                configuration.faultHook = node.rawValue == 1 ? former.hook : live.hook
            } _: { peers, engines in
                let bank = try await engines[0].makeBank()
                let other = try await Bank.open(on: engines[1])
                try await shards.waitUntilSettled()
                live.arm()
                let living = Task { try await other.transfer(1, from: 2, to: 3) }
                let livingID = try await live.arrival()
                former.arm()
                let dying = Task { await Result { try await bank.transfer(10, from: 0, to: 1) } }
                _ = try await former.arrival()
                peers.cut(engines[0].incarnation.node)
                let processes = try await processes(of: engines[0].incarnation, on: shards)
                let again = try await shards.engine(engines[0].incarnation.node, among: peers, on: shards.loop)
                #expect(again.epoch > engines[0].epoch)
                #expect(try await shards.plain(Self.prepared) == ["", "\(livingID)"])
                try await checkEnded(processes, on: shards)
                former.open()
                guard case .failure(let error as TransactionError) = await dying.value else {
                    Issue.record("a former life committed")
                    return
                }
                #expect(error.outcome == .aborted)
                try await waitUntil("it has noticed") { await engines[0].isFenced }
                peers.cut(again.incarnation.node, false)
                peers.vanish(engines[0].incarnation)
                live.open()
                _ = try committed(try await living.value)
                #expect(try await Bank.open(on: again).sum(.strong) == 600)
                await again.shutdown()
                peers.vanish(again.incarnation)
            }
        }
    }

    @Test("at a start, what is absent is fenced, and what has come since the peers were listed is not")
    func latecomers() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { peers, engines in
                _ = try await engines[0].makeBank()
                let gone = Incarnation(NodeID(rawValue: 9)!, Epoch(rawValue: 1))
                for shard in shards.shards { try await shard.psql("SELECT meridian.raise_epoch(9, 1)") }
                let orphan = try await prepare(by: gone, account: 1, on: shards)
                // Of which the shards have not heard; it may wake up at any time.
                let sleeper = peers.giveEpoch(to: NodeID(rawValue: 8)!)
                let loop = try EventLoop(name: "node 3")
                defer { loop.shutdown() }
                let third = try await shards.engine(NodeID(rawValue: 3)!, among: peers, on: loop) { _, configuration in
                    // The list was read before the other two came.
                    configuration.coordination = peers.join(configuration.node, on: loop, finding: [])
                }
                #expect(try await !shards.shards[1].psql(Self.prepared).contains(orphan))
                for engine in engines {
                    #expect(try await Bank.open(on: engine).sum(.strong) == 600)
                    #expect(await !engine.isFenced)
                }
                let fenced = "SELECT node, fenced FROM meridian.node_epoch WHERE node <> 3 ORDER BY 1"
                let expected = "1|0\n2|1\n8|\(sleeper.epoch)\n9|1"
                #expect(try await shards.plain(fenced) == Array(repeating: expected, count: 2))
                await third.shutdown()
                peers.vanish(third.incarnation)
            }
        }
    }

    // MARK: The lock

    @Test("who coordinates alone and who does not keep each other out, and are told who the other is")
    func aloneOrNot() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { _, engines in
                let error = try await shards.refusedStart { $0.takeoverTimeout = .milliseconds(200) }
                #expect(error.message == "another coordinator holds shard shard1")
                for engine in engines {
                    let holder = "meridian coordinator, \(engine.incarnation)".replacing(",", with: "")
                    #expect(error.detail?.replacing(",", with: "").contains(holder) == true, "\(error)")
                }
            }
            try await shards.engine { alone in
                let error = try await shards.refusedStart {
                    $0.node = NodeID(rawValue: 2)!
                    $0.coordination = EnginePeers(after: 99).join($0.node, on: shards.loop)
                    $0.takeoverTimeout = .milliseconds(200)
                }
                #expect(error.detail?.contains("meridian coordinator, node 1 (") == true, "\(error)")
                _ = try await alone.makeBank()
            }
        }
    }

    @Test("an earlier epoch of a node neither takes the later one's place nor its number, and is told what is new")
    func earlierEpoch() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(1, after: 6) { _, engines in
                let error = try await shards.refusedStart {
                    $0.coordination = EnginePeers().join($0.node, on: shards.loop)
                    $0.takeoverTimeout = .milliseconds(200)
                }
                #expect(error.message == "another coordinator holds shard shard1", "\(error)")
                #expect(error.detail?.contains("node 1 epoch 7") == true, "\(error)")
                _ = try await engines[0].makeBank()
            }
            for epoch in [Int64(6), 7] {
                let error = try await shards.refusedStart {
                    $0.coordination = EnginePeers(after: epoch - 1).join($0.node, on: shards.loop)
                }
                #expect(error.newestEpoch == Epoch(rawValue: 7), "\(error)")
                #expect(error.detail != nil && error.hint != nil)
            }
            try await shards.engine {
                $0.coordination = EnginePeers(after: 7).join($0.node, on: shards.loop)
            } _: { engine in
                let bank = try await Bank.open(on: engine)
                #expect(bank.total == 600)
            }
        }
    }

    // MARK: Pieces

    /// Has the engine's node be gone, and waits until all others have fenced it.
    private func vanish(
        _ engine: TransactionEngine, _ peers: EnginePeers, _ others: some Sequence<TransactionEngine>
    ) async throws {
        peers.cut(engine.incarnation.node)
        peers.vanish(engine.incarnation)
        for other in others {
            try await waitUntil("it is fenced") { await !other.peerIncarnations.contains(engine.incarnation) }
        }
    }

    /// Leaves a transaction of that incarnation prepared on shard 2, with shard 1 as its home; returns its gid.
    private func prepare(by incarnation: Incarnation, account: Int, on shards: EngineShards) async throws -> String {
        let timestamp = try EngineShards.hostClock.now().earliest.roundedUp(for: incarnation.node)
        let gid = "\(TransactionID(home: shards.ids[0], epoch: incarnation.epoch, commitTimestamp: timestamp))"
        try await shards.session(on: 1) { connection in
            _ = try await connection.runSimple(
                "BEGIN; UPDATE bank.account SET balance = 0 WHERE id = \(account); PREPARE TRANSACTION '\(gid)'")
        }
        return gid
    }
}

extension Result where Failure == any Error {
    fileprivate init(_ body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
