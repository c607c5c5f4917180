import Consensus
import Metadata
import PeerTransport
import ReplicatedMetadata
import TestSupport
import Testing
import TransactionCore

@Suite(.serialized) struct MetadataNodeTests {
    private func withCluster(_ count: Int = 3, _ body: (MetadataCluster) async throws -> Void) async throws {
        let cluster = try MetadataCluster(founders: count)
        do {
            try await cluster.startAll()
            try await body(cluster)
        } catch {
            await cluster.stopAll()
            throw error
        }
        await cluster.stopAll()
    }

    @Test("what one node has set another one reads at once")
    func linearizable() async throws {
        try await withCluster { cluster in
            let nodes = cluster.founders.nodes.map { cluster.nodes[$0]! }
            let session = try await nodes[0].session()
            for value in 1...50 as ClosedRange<UInt8> {
                _ = try await session.transaction(
                    MetadataTransaction(then: [.put(makeKey("/x"), [value])]), deadline: soon)
                let reader = nodes[Int(value) % nodes.count]
                let answer = try await reader.read(.get(makeKey("/x")), deadline: soon)
                #expect(answer.entries.map(\.value) == [[value]])
            }
        }
    }

    @Test("of many who compare and set the same key each change is made once, through leaders that stop")
    func compareAndSet() async throws {
        try await withCluster { cluster in
            let (writers, increments) = (3, 20)
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<writers {
                    let node = cluster.nodes[cluster.founders.nodes[number]]!
                    group.addTask { try await increment(makeKey("/counter"), by: increments, on: node) }
                }
                for _ in 0..<3 {
                    try await Task.sleep(for: .milliseconds(100))
                    let leader = try await cluster.leader()
                    await cluster.nodes[leader]!.handOver()
                }
                try await group.waitForAll()
            }
            let answer = try await cluster.nodes[cluster.founders.nodes[0]]!.read(
                .get(makeKey("/counter")), deadline: soon)
            #expect(answer.entries.map(\.value) == [[UInt8(writers * increments)]])
        }
    }

    @Test("a leader that goes is followed, and nothing that was answered is missing")
    func failover() async throws {
        try await withCluster { cluster in
            let leader = try await cluster.leader()
            let others = cluster.founders.nodes.filter { $0 != leader }
            let session = try await cluster.nodes[others[0]]!.session()
            let put = { (value: UInt8) in
                _ = try await session.transaction(
                    MetadataTransaction(then: [.put(makeKey("/k\(value)"), [value])]), deadline: soon)
            }
            try await put(1)
            await cluster.stop(leader)
            try await put(2)
            let answer = try await cluster.nodes[others[1]]!.read(
                .first(makePrefix("/"), after: nil, limit: 10), deadline: soon)
            #expect(answer.entries.map(\.value) == [[1], [2]])

            try await cluster.start(leader)
            let again = try await cluster.nodes[leader]!.read(.get(makeKey("/k2")), deadline: soon)
            #expect(again.entries.map(\.value) == [[2]])
        }
    }

    @Test("when all nodes have ended and begun again, nothing that was answered is missing")
    func restart() async throws {
        let cluster = try MetadataCluster()
        cluster.snapshotEntriesMax = 20
        try await cluster.startAll()
        let session = try await cluster.nodes[cluster.founders.nodes[0]]!.session()
        for value in 1...50 as ClosedRange<UInt8> {
            _ = try await session.transaction(
                MetadataTransaction(then: [.put(makeKey("/k\(value)"), [value])]), deadline: soon)
        }
        await cluster.stopAll()
        try await cluster.startAll()
        for node in cluster.nodes.values {
            let answer = try await node.read(.first(makePrefix("/"), after: nil, limit: 100), deadline: soon)
            #expect(answer.entries.map { Int($0.value[0]) }.sorted() == Array(1...50))
        }
        await cluster.stopAll()
    }

    @Test("without a quorum nothing is answered, and afterwards it is")
    func noQuorum() async throws {
        try await withCluster { cluster in
            let node = cluster.nodes[cluster.founders.nodes[0]]!
            let session = try await node.session()
            await cluster.stop(cluster.founders.nodes[1])
            await cluster.stop(cluster.founders.nodes[2])
            let put = MetadataTransaction(then: [.put(makeKey("/x"), [1])])
            await #expect(throws: MetadataError.self) {
                try await session.transaction(put, deadline: .now + .milliseconds(800))
            }
            await #expect(throws: MetadataError.self) {
                try await node.read(.get(makeKey("/x")), deadline: .now + .milliseconds(800))
            }
            try await cluster.start(cluster.founders.nodes[1])
            let answer = try await node.session().transaction(put, deadline: soon)
            #expect(answer.held)
        }
    }

    @Test("a node that was away for long gets a snapshot, and one that joins becomes a voter")
    func snapshotsAndJoining() async throws {
        let cluster = try MetadataCluster()
        cluster.snapshotEntriesMax = 20
        try await cluster.startAll()
        let away = try await cluster.leader()
        await cluster.stop(away)
        let node = cluster.nodes[cluster.founders.nodes.first { $0 != away }!]!
        let session = try await node.session()
        for value in 1...60 as ClosedRange<UInt8> {
            _ = try await session.transaction(
                MetadataTransaction(then: [.put(makeKey("/x"), [value])]), deadline: soon)
        }
        try await cluster.start(away)
        let answer = try await cluster.nodes[away]!.read(.get(makeKey("/x")), deadline: soon)
        #expect(answer.entries.map(\.value) == [[60]])

        let joiner = NodeID(rawValue: 9)!
        try cluster.giveAddress(to: joiner)
        let record = NodeRecord(
            joiner, .joining, clientAddress: "-", peerAddress: cluster.addresses[joiner]!.description)
        _ = try await session.transaction(
            MetadataTransaction(then: [.put(record.key!, record.value)]), deadline: soon)
        try await cluster.start(joiner)
        try await node.change(.addLearner(joiner), deadline: soon)
        try await node.change(.promote(joiner), deadline: soon)
        try await node.change(.remove(away), deadline: soon)
        let read = try await cluster.nodes[joiner]!.read(.get(makeKey("/x")), deadline: soon)
        #expect(read.entries.map(\.value) == [[60]])
        #expect(await cluster.nodes[joiner]!.status.membership.voters.contains(joiner))
        await cluster.stopAll()
    }

    @Test("a watch is told every change, in order, on another node than the one that makes them")
    func watches() async throws {
        try await withCluster { cluster in
            let nodes = cluster.founders.nodes.map { cluster.nodes[$0]! }
            let start = try await nodes[1].read(.get(makeKey("/w/1")), deadline: soon).revision
            var watch = nodes[1].watch(.prefix(makePrefix("/w/")), after: start)
            let session = try await nodes[0].session()
            for value in 1...100 as ClosedRange<UInt8> {
                _ = try await session.transaction(
                    MetadataTransaction(then: [.put(makeKey("/w/\(value % 3)"), [value])]), deadline: soon)
            }
            var seen: [UInt8] = []
            while seen.count < 100 { seen += try await watch.next().map { $0.entry?.value[0] ?? 0 } }
            #expect(seen == Array(1...100))
        }
    }

    @Test("a change that is applied while somebody begins to wait for it wakes him")
    func watchesBegunMeanwhile() async throws {
        try await withCluster(1) { cluster in
            let node = try #require(cluster.nodes[cluster.founders.nodes[0]])
            let start = try await node.read(.get(makeKey("/w")), deadline: soon).revision
            // Without a preference for the node's loop these tasks are queued on it between any two steps of theirs.
            let watching = (0..<16).map { _ in
                Task {
                    var (position, count) = (start, 0)
                    while count < 500 {
                        let deadline = ContinuousClock.now + .seconds(20)
                        let seen = try await node.changes(
                            of: .key(makeKey("/w")), after: position, within: .seconds(20))
                        #expect(.now < deadline, "nothing but the deadline woke who waited after \(position)")
                        position = seen.through
                        count += seen.changes.count
                    }
                }
            }
            let session = try await node.session()
            try await withThrowingTaskGroup { group in
                for _ in 0..<10 {
                    group.addTask {
                        for _ in 0..<50 {
                            _ = try await session.transaction(
                                MetadataTransaction(then: [.put(makeKey("/w"), [0])]), deadline: soon)
                        }
                    }
                }
                try await group.waitForAll()
            }
            for task in watching { try await task.value }
        }
    }

    @Test("a session that is not renewed ends, and its keys with it")
    func expiry() async throws {
        try await withCluster { cluster in
            let leader = try await cluster.leader()
            let others = cluster.founders.nodes.filter { $0 != leader }
            let session = try await NodeSession.open(
                on: cluster.nodes[others[0]]!, duration: .milliseconds(600), clock: cluster.clock, deadline: soon)
            _ = try await session.transaction(
                MetadataTransaction(then: [.put(makeKey("/here"), [1], ephemeral: true)]), deadline: soon)
            let reader = cluster.nodes[others[1]]!
            let found = try await reader.read(.get(makeKey("/here")), deadline: soon)
            #expect(found.entries.count == 1)
            var watch = reader.watch(.key(makeKey("/here")), after: found.revision)
            await cluster.stop(others[0])
            let changes = try await watch.next()
            #expect(changes.map { $0.entry == nil } == [true])
        }
    }
}

/// Adds 1 to a key's only byte, so many times, whatever others do meanwhile.
private func increment(_ key: MetadataKey, by count: Int, on node: MetadataNode) async throws {
    let session = try await node.session()
    var done = 0
    while done < count {
        let entry = try await node.read(.get(key), deadline: soon).entries.first
        let compare = entry.map { MetadataCompare.modified(key, $0.modified) } ?? .absent(key)
        let answer = try await session.transaction(
            MetadataTransaction(compares: [compare], then: [.put(key, [(entry?.value[0] ?? 0) + 1])]), deadline: soon)
        if answer.held { done += 1 }
    }
}
