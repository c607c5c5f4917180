import Metadata
import ReplicatedMetadata
import Synchronization
import TestSupport
import Testing
import TransactionCore

@Suite(.serialized) struct NodePresenceTests {
    private func withNodes(_ body: (MetadataCluster, [MetadataNode]) async throws -> Void) async throws {
        let cluster = try MetadataCluster()
        do {
            try await cluster.startAll()
            try await body(cluster, cluster.founders.nodes.map { cluster.nodes[$0]! })
        } catch {
            await cluster.stopAll()
            throw error
        }
        await cluster.stopAll()
    }

    private func begin(
        on node: MetadataNode, above epoch: Int64 = 0
    ) async throws -> (session: NodeSession, presence: NodePresence) {
        let session = try await node.session()
        let presence = try await NodePresence.begin(
            under: session, above: Epoch(rawValue: epoch), deadline: soon)
        return (session, presence)
    }

    /// Waits for so many events; there may be more.
    private func events(_ count: Int, of presence: NodePresence) async throws -> [PresentNodes.Event] {
        var events: [PresentNodes.Event] = []
        while events.count < count {
            let next = try await presence.next()
            guard !next.isEmpty else { break }
            events += next
        }
        return events
    }

    @Test("of nodes that begin at once, of any two exactly one finds the other, and the other hears of that one")
    func begin() async throws {
        try await withNodes { _, nodes in
            let lives = try await withThrowingTaskGroup(of: NodePresence.self) { group in
                for node in nodes { group.addTask { try await begin(on: node).presence } }
                return try await group.reduce(into: [NodePresence]()) { $0.append($1) }
            }
            let byEpoch = lives.sorted { $0.incarnation.epoch < $1.incarnation.epoch }
            #expect(Set(byEpoch.map(\.incarnation.epoch)).count == 3)
            for one in lives {
                for other in lives where other.incarnation < one.incarnation {
                    let finds = [
                        one.others.contains(other.incarnation), other.others.contains(one.incarnation),
                    ]
                    #expect(finds.count { $0 } == 1, "\(one.others) of \(one.incarnation), \(other.others)")
                }
            }
            for one in lives {
                let later = lives.map(\.incarnation).filter { $0 != one.incarnation && !one.others.contains($0) }
                #expect(Set(try await events(later.count, of: one)) == Set(later.map { .appeared($0) }))
            }
        }
    }

    @Test("epochs are larger than all before, also than those that shards know of from elsewhere")
    func epochs() async throws {
        try await withNodes { _, nodes in
            let first = try await begin(on: nodes[0]).presence.incarnation.epoch
            let second = try await begin(on: nodes[1], above: 70).presence.incarnation.epoch
            let third = try await begin(on: nodes[0], above: 3).presence.incarnation.epoch
            #expect(first < second && second.rawValue > 70 && third > second)
        }
    }

    @Test("a life is over for all when its session ends, or the next life of its node begins")
    func over() async throws {
        try await withNodes { _, nodes in
            let observer = try await begin(on: nodes[0]).presence
            let first = try await begin(on: nodes[1])
            let second = try await begin(on: nodes[1])
            #expect(!second.presence.others.contains(first.presence.incarnation))
            #expect(try await events(1, of: first.presence).first == .vanished(first.presence.incarnation))
            #expect(await first.presence.isOver)
            await #expect(throws: MetadataError.self) {
                try await first.presence.become(.serving, deadline: soon)
            }
            #expect(try await first.presence.next() == [])
            try await second.session.close(deadline: soon)
            let (former, latter) = (first.presence.incarnation, second.presence.incarnation)
            #expect(
                try await events(4, of: observer) == [
                    .appeared(former), .vanished(former), .appeared(latter), .vanished(latter),
                ])
        }
    }

    @Test("of two who accuse each other, one goes and hears of it, and the other stays")
    func accusations() async throws {
        try await withNodes { _, nodes in
            let lives = [try await begin(on: nodes[0]).presence, try await begin(on: nodes[1]).presence]
            #expect(try await events(1, of: lives[0]) == [.appeared(lives[1].incarnation)])
            async let first = lives[0].accuse(lives[1].incarnation, deadline: soon)
            async let second = lives[1].accuse(lives[0].incarnation, deadline: soon)
            let held = [try await first, try await second]
            #expect(held.count { $0 } == 1)
            let (winner, loser) = held[0] ? (lives[0], lives[1]) : (lives[1], lives[0])
            for life in lives { #expect(try await events(1, of: life) == [.vanished(loser.incarnation)]) }
            #expect(await loser.isOver)
            #expect(await !winner.isOver)
            #expect(try await !loser.accuse(winner.incarnation, deadline: soon))
            try await winner.become(.leaving, deadline: soon)
        }
    }

    @Test("who accuses a life that has ended does not end the next one of that node")
    func lateAccusation() async throws {
        try await withNodes { _, nodes in
            let accuser = try await begin(on: nodes[0]).presence
            let former = try await begin(on: nodes[1]).presence
            #expect(try await events(1, of: accuser) == [.appeared(former.incarnation)])
            let next = try await begin(on: nodes[1]).presence
            // The accuser has not heard of it: what it knows stands no more.
            #expect(try await !accuser.accuse(former.incarnation, deadline: soon))
            try await next.become(.serving, deadline: soon)
        }
    }

    @Test("one who was away for so long that changes are not kept any more still hears who is gone and who is new")
    func compacted() async throws {
        try await withNodes { _, nodes in
            let observer = try await begin(on: nodes[0]).presence
            let gone = try await begin(on: nodes[1])
            #expect(try await events(1, of: observer) == [.appeared(gone.presence.incarnation)])
            try await gone.session.close(deadline: soon)
            let next = try await begin(on: nodes[2]).presence
            let session = try await nodes[2].session()
            let value = [UInt8](repeating: 0, count: 1_000_000)
            for _ in 0..<10 {
                _ = try await session.transaction(
                    MetadataTransaction(then: [.put(makeKey("/notes/long"), value)]), deadline: soon)
            }
            // Whether what happened is still kept or not, it is told.
            #expect(
                Set(try await events(2, of: observer)) == [
                    .vanished(gone.presence.incarnation), .appeared(next.incarnation),
                ])
        }
    }

    // MARK: Messages

    private func life(_ node: MetadataNode, _ epoch: Int64) -> Incarnation {
        Incarnation(node.node, Epoch(rawValue: epoch))
    }

    @Test("messages come to the life that they are for, in order, and to no other")
    func messages() async throws {
        try await withNodes { _, nodes in
            let (here, there) = (life(nodes[0], 1), life(nodes[1], 2))
            #expect(await eventually { await nodes[0].isConnectedBothWays(to: nodes[1].node, within: .seconds(1)) })
            let received = Mutex<[(bytes: [UInt8], sender: Incarnation)]>([])
            await nodes[1].listen(as: there) { bytes, sender in received.withLock { $0.append((bytes, sender)) } }
            for number in 0..<100 as Range<UInt8> {
                nodes[0].send([number], from: here, to: life(nodes[1], number % 2 == 0 ? 2 : 3))
            }
            nodes[0].send([], from: here, to: there)
            #expect(await eventually { received.withLock { $0.last?.bytes == [] } })
            #expect(received.withLock { $0.dropLast().flatMap(\.bytes) } == Array(stride(from: 0, to: 100, by: 2)))
            #expect(received.withLock { $0.allSatisfy { $0.sender == here } })

            await nodes[1].stopListening()
            nodes[0].send([1], from: here, to: there)
            // What is sent after it has arrived, so it has, too.
            #expect(await nodes[0].isConnectedBothWays(to: nodes[1].node, within: .seconds(5)))
            #expect(received.withLock { $0.count } == 51)
        }
    }

    @Test("who ends is not connected any more, for whoever asks")
    func connected() async throws {
        try await withNodes { cluster, nodes in
            let (one, other) = (nodes[0], nodes[1].node)
            #expect(await eventually { await one.isConnectedBothWays(to: other, within: .seconds(1)) })
            await cluster.stop(other)
            #expect(await eventually { await !one.isConnectedBothWays(to: other, within: .seconds(1)) })
        }
    }
}
