import BankWorkload
import EventLoops
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TwoPhaseCommit

@testable import TransactionEngine

/// Several engines that coordinate the same shards at once.
@Suite struct EnginePeersTests {
    @Test("what one node has acknowledged is seen by a strong read on another, and nothing less (R8, R9)")
    func acknowledged() async throws {
        let gate = CommitGate(at: .afterAnswerBeforeApply)
        try await EngineShards.withShared { shards in
            try await shards.engines(2, { if $0.rawValue == 1 { $1.faultHook = gate.hook } }) { _, engines in
                let bank = try await engines[0].makeBank()
                let other = try await Bank.open(on: engines[1])
                #expect(try await other.sum(.strong) == 600)
                gate.arm()
                let timestamp = try committed(try await bank.transfer(10, from: 0, to: 1))
                _ = try await gate.arrival()
                // Acknowledged, and not applied on its second shard: the read has to wait.
                let read = Task { try await (engines[1].snapshot().timestamp, other.sum(.strong)) }
                try await waitUntil("the read waits") { await engines[1].currentStatistics().readsThatWaited > 0 }
                gate.open()
                let (seen, sum) = try await read.value
                #expect(seen >= timestamp)
                #expect(sum == 600)
            }
        }
    }

    @Test("transfers on all nodes at once lose nothing, whoever sums and whenever (R3, R8, R9)")
    func bank() async throws {
        try await EngineShards.withShared(3) { shards in
            try await shards.engines(3) { _, engines in
                _ = try await engines[0].makeBank(accounts: 12)
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for (place, engine) in engines.enumerated() {
                        let bank = try await Bank.open(on: engine)
                        for client in 0..<4 {
                            group.addTask {
                                for step in 0..<25 {
                                    let from = Int64((place * 5 + client * 3 + step) % 12)
                                    _ = try? await bank.transfer(1, from: from, to: (from + 5) % 12)
                                }
                            }
                        }
                        group.addTask {
                            for _ in 0..<40 {
                                let sum = try await bank.sum(.strong)
                                #expect(sum == 1200)
                            }
                        }
                    }
                    try await group.waitForAll()
                }
                for engine in engines { #expect(try await Bank.open(on: engine).sum(.strong) == 1200) }
            }
        }
    }

    @Test("a node that has committed nothing for a while is not asked any more, and asks before it commits again")
    func silence() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { peers, engines in
                let bank = try await engines[0].makeBank()
                let other = try await Bank.open(on: engines[1])
                _ = try committed(try await other.transfer(1, from: 0, to: 1))
                try await waitUntil("all are silent") {
                    for engine in engines where await !engine.peers.isSole { return false }
                    return true
                }
                let before = peers.messageCount
                for _ in 0..<20 { #expect(try await other.sum(.strong) == 600) }
                #expect(peers.messageCount == before)
                // A node that nobody hears can't tell that it is to commit.
                peers.cut(engines[0].configuration.node)
                async let transfer = bank.transfer(7, from: 0, to: 1)
                try await Task.sleep(for: .milliseconds(300))
                #expect(try await other.sum(.strong) == 600)
                #expect(await !engines[0].peers.isActive)
                peers.cut(engines[0].configuration.node, false)
                let timestamp = try committed(try await transfer)
                #expect(try await engines[1].snapshot().timestamp >= timestamp)
            }
        }
    }

    @Test("a node that is gone holds reads up until it is fenced, and no longer; its prepared transactions are settled")
    func vanished() async throws {
        let gate = CommitGate(at: .afterDecisionBeforeApply)
        try await EngineShards.withShared { shards in
            try await shards.engines(2, { if $0.rawValue == 1 { $1.faultHook = gate.hook } }) { peers, engines in
                let bank = try await engines[0].makeBank()
                let other = try await Bank.open(on: engines[1])
                #expect(try await other.sum(.strong) == 600)
                gate.arm()
                let transfer = Task { try await bank.transfer(10, from: 0, to: 1) }
                let id = try await gate.arrival()
                // From here on as if it was dead.
                peers.cut(id.commitTimestamp.node)
                let read = Task { try await engines[1].snapshot() }
                try await Task.sleep(for: .milliseconds(300))
                let missing = await engines[1].holdingUp(for: .milliseconds(100)).map(\.node)
                #expect(missing == [id.commitTimestamp.node])
                peers.vanish(engines[0].incarnation)
                #expect(try await read.value.timestamp >= id.commitTimestamp)
                #expect(try await other.sum(.strong) == 600)
                #expect(try await shards.plainSums().reduce(0, +) == 600)
                gate.open()
                _ = try? await transfer.value
                await #expect(throws: TransactionError.self) { _ = try await bank.transfer(10, from: 0, to: 1) }
            }
        }
    }

    @Test("a snapshot stays what it is while a peer commits: a row by its key, sums, rows as they arrive (R8, R10)")
    func snapshotWhilePeerCommits() async throws {
        try await ServedShards.with(2, nodes: 2) { served in
            let (writer, reader) = (try await served.connect(to: 0), try await served.connect(to: 1))
            try await writer.text("CREATE TABLE item (id bigint PRIMARY KEY, price bigint)")
            try await writer.text("INSERT INTO item SELECT n, 1 FROM generate_series(1, 9) AS n")
            let reads = [
                "SELECT price FROM item WHERE id = 3", "SELECT sum(price) FROM item",
                "DECLARE c CURSOR FOR SELECT price FROM item WHERE id = 4; FETCH ALL FROM c; CLOSE c",
            ]
            for round in 1...4 {
                // It commits, so that it is active for a while.
                try await writer.text("UPDATE item SET price = \(round)")
                #expect(await !served.engines[1].peers.isSole)
                let before = ["\(round)", "\(9 * round)", "\(round)"]
                try await reader.text("BEGIN READ ONLY")
                #expect(try await reader.text(reads[0]) == before[0])
                try await writer.text("UPDATE item SET price = price + 100")
                for (read, expected) in zip(reads, before) { #expect(try await reader.text(read) == expected) }
                try await reader.text("COMMIT")
            }
            #expect(try await reader.text(reads[1]) == "936")
            for client in [writer, reader] { await client.close() }
        }
    }

    @Test("who locks rows at a node that was idle sees what another had committed that is gone (R9)")
    func rowLocksAfterFencing() async throws {
        try await ServedShards.with(2, nodes: 2) { served in
            let (first, second) = (try await served.connect(to: 0), try await served.connect(to: 1))
            try await first.text("CREATE TABLE item (id bigint PRIMARY KEY, price bigint)")
            try await waitUntil("all are silent") {
                for engine in served.engines where await !engine.peers.isSole { return false }
                return true
            }
            try await second.text("INSERT INTO item SELECT n, n FROM generate_series(1, 9) AS n")
            await second.close()
            await served.engines[1].shutdown()
            served.peers?.vanish(served.engines[1].incarnation)
            try await waitUntil("it is fenced") { await served.engines[0].peerIncarnations.isEmpty }
            #expect(
                try await first.text("SELECT count(*) FROM (SELECT id FROM item WHERE price > 2 FOR UPDATE) AS l")
                    == "7")
            #expect(try await first.text("SELECT id FROM item WHERE price > 7 ORDER BY id FOR UPDATE") == "8\n9")
            await first.close()
        }
    }

    @Test("a node that is only just present, and does not answer, holds nobody up")
    func newcomers() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(1) { peers, engines in
                let bank = try await engines[0].makeBank()
                let newcomer = NodeID(rawValue: 9)!
                peers.cut(newcomer)
                let loop = try EventLoop(name: "newcomer")
                defer { loop.shutdown() }
                for _ in 0..<3 {
                    let coordination = peers.join(newcomer, on: loop)
                    try await waitUntil("it is known") {
                        await engines[0].peerIncarnations.contains(coordination.incarnation)
                    }
                    _ = try committed(try await bank.transfer(1, from: 0, to: 1))
                    #expect(try await bank.sum(.strong) == 600)
                    #expect(await engines[0].holdingUp(for: .zero) == [])
                    peers.vanish(coordination.incarnation)
                }
                try await waitUntil("all are fenced") { await engines[0].peerIncarnations.isEmpty }
            }
        }
    }

    @Test("a peer that answers each question holds nobody up, however many are asked")
    func askedAllTheTime() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { _, engines in
                let bank = try await engines[0].makeBank()
                let other = try await Bank.open(on: engines[1])
                let end = ContinuousClock.now + .seconds(3)
                try await withThrowingTaskGroup(of: Void.self) { group in
                    for _ in 0..<16 {
                        group.addTask { while .now < end { _ = try await engines[1].snapshot() } }
                    }
                    group.addTask {
                        while .now < end {
                            _ = try? await bank.transfer(1, from: 0, to: 1)
                            // A second is far more than any answer takes.
                            #expect(await engines[1].holdingUp(for: .seconds(1)) == [])
                        }
                    }
                    try await group.waitForAll()
                }
                #expect(try await other.sum(.strong) == 600)
            }
        }
    }

    @Test("a peer whose commit does not end although the shards answer holds others up, until it ends")
    func hanging() async throws {
        let gate = CommitGate(at: .afterAnswerBeforeApply)
        try await EngineShards.withShared { shards in
            try await shards.engines(2, { if $0.rawValue == 1 { $1.faultHook = gate.hook } }) { _, engines in
                let bank = try await engines[0].makeBank()
                gate.arm()
                _ = try committed(try await bank.transfer(10, from: 0, to: 1))
                _ = try await gate.arrival()
                try await waitUntil("it holds the other up") {
                    await engines[1].holdingUp(for: .zero) == [engines[0].incarnation]
                }
                #expect(await engines[0].holdingUp(for: .zero) == [])
                gate.open()
                try await waitUntil("it does no more") { await engines[1].holdingUp(for: .zero) == [] }
            }
        }
    }

    @Test("a deadlock between transactions of two nodes is found, and the younger one ended")
    func deadlock() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engines(2) { _, engines in
                _ = try await engines[0].makeBank()
                let (first, second) = (try await engines[0].begin(), try await engines[1].begin())
                func lock(_ account: Int, _ shard: Int, _ transaction: ReadWriteTransaction) async throws {
                    let statement = SQLStatement("UPDATE bank.account SET balance = balance WHERE id = \(account)")
                    _ = try await transaction.execute(statement, on: shards.ids[shard])
                }
                try await lock(0, 0, first)
                try await lock(1, 1, second)
                async let waiting: Void = lock(1, 1, first)
                await #expect {
                    try await lock(0, 0, second)
                } throws: { ($0 as? TransactionError)?.sqlState == .deadlockDetected }
                await second.rollback()
                try await waiting
                _ = try await first.commit()
            }
        }
    }
}

/// Nodes that serve clients over the same shards at once.
@Suite struct NodesCatalogTests {
    @Test("a change of the schema at one node is what all plan by from then on")
    func schema() async throws {
        try await ServedShards.with(3, nodes: 3) { served in
            let (first, second) = (try await served.connect(to: 0), try await served.connect(to: 1))
            let third = try await served.connect(to: 2)
            try await first.text("CREATE TABLE item (id bigint PRIMARY KEY, price bigint)")
            try await second.text("INSERT INTO item SELECT n, n FROM generate_series(1, 30) AS n")
            let prepared = "PREPARE total AS SELECT sum(price), count(*) FROM item WHERE id > $1"
            for client in [first, second, third] { try await client.text(prepared) }
            for client in [first, second, third] { #expect(try await client.text("EXECUTE total(0)") == "465,30") }
            try await third.text("ALTER TABLE item ALTER price TYPE numeric(10, 2), ADD note text DEFAULT 'none'")
            for client in [first, second, third] {
                #expect(try await client.text("EXECUTE total(0)") == "465.00,30")
                #expect(try await client.text("SELECT note FROM item WHERE id = 7") == "none")
            }
            try await second.text("SELECT meridian.shard_table('item', 'id')")
            try await first.text("DROP TABLE item")
            for client in [first, second, third] { #expect(await client.failure("SELECT * FROM item") == "42P01") }
            for client in [first, second, third] { await client.close() }
        }
    }

    @Test("who waits for another node's change of the schema goes on when that node is gone and fenced")
    func goneWhileHeld() async throws {
        try await ServedShards.with(2, nodes: 2) { served in
            let client = try await served.connect(to: 0)
            try await client.text("CREATE TABLE item (id bigint PRIMARY KEY, price bigint)")
            let (first, second) = (served.engines[0], served.engines[1])
            served.peers?.cut(second.incarnation.node)
            let hold = PeerMessage.catalog(.hold(1_000)).encoded
            first.configuration.coordination?.received(hold, from: second.incarnation)
            let waiting = Task { try await client.text("SELECT count(*) FROM item") }
            try await Task.sleep(for: .milliseconds(300))
            served.peers?.vanish(second.incarnation)
            #expect(try await waiting.value == "0")
            await client.close()
        }
    }

    @Test("who waits for another node's change of the schema is told so when its own node stops")
    func stoppedWhileHeld() async throws {
        try await ServedShards.with(2, nodes: 2) { served in
            let client = try await served.connect(to: 0)
            try await client.text("CREATE TABLE item (id bigint PRIMARY KEY, price bigint)")
            let (first, second) = (served.engines[0], served.engines[1])
            // The end of the change will not be heard.
            served.peers?.cut(second.incarnation.node)
            let hold = PeerMessage.catalog(.hold(1_000)).encoded
            first.configuration.coordination?.received(hold, from: second.incarnation)
            let waiting = Task { await client.failure("SELECT count(*) FROM item") }
            try await Task.sleep(for: .milliseconds(300))
            await first.shutdown(grace: .zero)
            let failure = await waiting.value
            // 57014: nobody has told it.
            #expect(failure != nil && failure != "57014", "\(failure ?? "")")
            await client.close()
        }
    }

    @Test("a block that undoes what it read of its own goes on while other nodes commit (R7)")
    func savepoints() async throws {
        try await ServedShards.with(2, nodes: 2) { served in
            let (first, second) = (try await served.connect(to: 0), try await served.connect(to: 1))
            try await first.text("CREATE TABLE item (id bigint PRIMARY KEY, price bigint)")
            try await first.text("INSERT INTO item SELECT n, n FROM generate_series(1, 9) AS n")
            func undone(_ meanwhile: () async throws -> Void) async throws -> String? {
                // It commits, so that it is active for a while.
                try await second.text("UPDATE item SET price = price WHERE id = 9")
                #expect(await !served.engines[0].peers.isSole)
                try await first.text("BEGIN; SAVEPOINT a; UPDATE item SET price = 0 WHERE id = 1")
                #expect(try await first.text("SELECT price FROM item WHERE id = 1") == "0")
                try await meanwhile()
                return await first.failure("ROLLBACK TO a; COMMIT")
            }
            #expect(try await undone {} == nil)
            // On both shards, row by row: several at once would wait for the block.
            let change = (2...8).map { "UPDATE item SET price = price + 1 WHERE id = \($0)" }.joined(separator: ";")
            #expect(try await undone { try await second.text(change) } == nil)
            #expect(try await first.text("SELECT price FROM item WHERE id = 1") == "1")
            for client in [first, second] { await client.close() }
        }
    }

    @Test("rows are where every node looks for them while their table is sharded anew, again and again")
    func sharding() async throws {
        try await ServedShards.with(3, nodes: 3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE item (a bigint, b bigint, c bigint DEFAULT 0, PRIMARY KEY (a, b))")
                try await client.text("INSERT INTO item SELECT n, 100 - n FROM generate_series(1, 60) AS n")
            }
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    for round in 0..<6 {
                        try await served.session(on: round) { client in
                            let key = round % 2 == 0 ? "b" : "a"
                            _ = try await retried {
                                try await client.text("SELECT meridian.shard_table('item', '\(key)')")
                            }
                        }
                    }
                }
                for node in 0..<3 {
                    group.addTask {
                        try await served.session(on: node) { client in
                            for key in 1...60 {
                                while true {
                                    let failure = await client.failure("UPDATE item SET c = c + 1 WHERE a = \(key)")
                                    if failure == nil { break }
                                    try #require(Self.isRetried(failure ?? ""), "\(failure ?? "")")
                                }
                                let found = try await retried {
                                    try await client.text("SELECT b FROM item WHERE a = \(key)")
                                }
                                #expect(found == "\(100 - key)")
                            }
                        }
                    }
                }
                try await group.waitForAll()
            }
            let total = try await served.session {
                try await $0.text("SELECT count(*), sum(a), sum(b), sum(c) FROM item")
            }
            #expect(total == "60,1830,4170,180")
        }
    }

    /// What a client does that is told to run its transaction again.
    private func retried<Value>(_ body: () async throws -> Value) async throws -> Value {
        while true {
            do {
                return try await body()
            } catch let error as ShardError where Self.isRetried(error.sqlState.rawValue) {
                continue
            }
        }
    }

    /// Also what is said of a snapshot from before rows were moved.
    private static func isRetried(_ state: String) -> Bool { state.hasPrefix("40") || state == "72000" }
}
