import Consensus
import EventLoops
import Logging
import Metadata
import PeerTransport
import Synchronization
import TestSupport
import Testing
import TransactionCore

@testable import ReplicatedMetadata

@Suite(.serialized) struct RemoteMetadataTests {
    /// A cluster of three nodes, and a process that is none and asks the given one first.
    private func withRemote(
        preferring preferred: UInt16 = 1, _ body: (MetadataCluster, RemoteMetadata) async throws -> Void
    ) async throws {
        let cluster = try MetadataCluster()
        let loop = try EventLoop(name: "remote")
        defer { loop.shutdown() }
        var logger = Logger(label: "remote")
        logger.logLevel = .critical
        try await cluster.startAll()
        let remote = try await RemoteMetadata.connect(
            cluster: "test", tls: nil, nodes: cluster.addresses, preferring: NodeID(rawValue: preferred), loop: loop,
            logger: logger)
        do {
            try await body(cluster, remote)
        } catch {
            await remote.close()
            await cluster.stopAll()
            throw error
        }
        await remote.close()
        await cluster.stopAll()
    }

    private func put(_ key: String, _ value: UInt8, _ session: NodeSession) async throws {
        let answer = try await session.transaction(
            MetadataTransaction(then: [.put(makeKey(key), [value])]), deadline: soon)
        #expect(answer.held)
    }

    @Test("what a process that is no node has set every node reads, and its sessions end with it")
    func sessions() async throws {
        try await withRemote { cluster, remote in
            let session = try await NodeSession.open(
                on: remote, duration: .seconds(5), clock: cluster.clock, deadline: soon)
            let held = try await session.acquire(Contender.lock("x")!, value: [1])
            for value in 1...20 as ClosedRange<UInt8> {
                try await put("/x", value, session)
                let reader = cluster.nodes[cluster.founders.nodes[Int(value) % 3]]!
                let answer = try await reader.read(.get(makeKey("/x")), deadline: soon)
                #expect(answer.entries.map(\.value) == [[value]])
            }
            let other = try await cluster.nodes[cluster.founders.nodes[1]]!.session()
            let next = Task { try await other.acquire(Contender.lock("x")!, value: [2]) }
            let all = MetadataQuery.first(Contender.lock("x")!, limit: 9)
            while try await remote.read(all, deadline: soon).entries.count < 2 {}
            try await session.close(deadline: soon)
            #expect(try await next.value.token > held.token)
        }
    }

    @Test("a watch of such a process misses nothing and repeats nothing when the node that it asks goes")
    func watches() async throws {
        try await withRemote { cluster, remote in
            let first = cluster.founders.nodes[0]
            let session = try await cluster.nodes[cluster.founders.nodes[1]]!.session()
            var watch = remote.watch(.prefix(makePrefix("/w/")), after: .zero)
            var seen: [UInt8] = []
            for value in 1...60 as ClosedRange<UInt8> {
                try await put("/w/\(value % 3)", value, session)
                while value == 20, seen.count < 10 {
                    seen += try await watch.next().compactMap { $0.entry?.value.first }
                }
                if value == 30 { await cluster.stop(first) }
            }
            while seen.count < 60 { seen += try await watch.next().compactMap { $0.entry?.value.first } }
            #expect(seen == Array(1...60))
        }
    }

    @Test("who waits for changes that nobody makes is told how far it may go on, and is woken when it gives up")
    func quiet() async throws {
        try await withRemote { cluster, remote in
            let session = try await cluster.nodes[cluster.founders.nodes[0]]!.session()
            try await put("/x", 1, session)
            let selection = MetadataSelection.key(makeKey("/other"))
            let found = try await remote.changes(of: selection, after: .zero, within: .milliseconds(50))
            #expect(found.changes.isEmpty)
            #expect(found.through > .zero)
            let waiting = Task { try await remote.changes(of: selection, after: found.through, within: .seconds(60)) }
            waiting.cancel()
            await #expect(throws: CancellationError.self) { try await waiting.value }
        }
    }

    @Test("what is not kept any more is told as such")
    func compacted() async throws {
        try await withRemote { cluster, remote in
            let session = try await cluster.nodes[cluster.founders.nodes[0]]!.session()
            let puts = (0..<MetadataTransaction.partsMax).map { MetadataOperation.put(makeKey("/x/\($0)"), [1]) }
            for _ in stride(from: 0, through: MetadataHistory.changesMax, by: puts.count) {
                _ = try await session.transaction(MetadataTransaction(then: puts), deadline: soon)
            }
            await #expect(throws: CompactedError.self) {
                try await remote.changes(of: .key(makeKey("/x/1")), after: .zero, within: .seconds(5))
            }
        }
    }

    @Test("the lead goes to the voter that it is to go to")
    func lead() async throws {
        try await withRemote { cluster, remote in
            for node in cluster.founders.nodes + cluster.founders.nodes {
                try await remote.lead(node, deadline: soon)
                let status = try #require(await remote.status(of: node, within: .seconds(5)))
                #expect(status.leader == node)
                #expect(status.membership.voters == cluster.founders)
            }
            await #expect(throws: MetadataError.self) { try await remote.lead(NodeID(rawValue: 9)!, deadline: soon) }
        }
    }

    @Test("a node that was removed learns of it, whether it led, followed or was not there")
    func removal() async throws {
        for role in ["leader", "follower", "absent"] {
            try await withRemote(preferring: 2) { cluster, remote in
                let removed = cluster.founders.nodes[0]
                try await remote.lead(cluster.founders.nodes[role == "leader" ? 0 : 1], deadline: soon)
                if role == "absent" { await cluster.stop(removed) }
                try await remote.remove(removed, clock: cluster.clock, deadline: soon)
                if role == "absent" { try await cluster.start(removed) }
                let node = cluster.nodes[removed]!
                while await !node.isRemoved { try await Task.sleep(for: .milliseconds(10)) }
                let record = NodeRecord(removed, .joining, clientAddress: "-", peerAddress: "127.0.0.1:1")
                await #expect(throws: MetadataError.self) {
                    try await remote.add(record, clock: cluster.clock, deadline: soon)
                }
                #expect(await cluster.nodes[cluster.founders.nodes[1]]!.isRemoved == false)
            }
        }
    }

    @Test("bytes that are no request are refused, and the node goes on")
    func hostile() async throws {
        try await withRemote { cluster, remote in
            let node = cluster.founders.nodes[0]
            let loop = try EventLoop(name: "hostile")
            defer { loop.shutdown() }
            let transport = try PeerTransport.start(
                PeerConfiguration(cluster: "test", node: .client), listeningOn: nil, loop: loop,
                logger: Logger(label: "hostile") { _ in SwiftLogNoOpLogHandler() },
                events: PeerEvents(received: { _, _, _ in }))
            loop.execute { [address = cluster.addresses[node]!] in transport.setPeer(node, at: address) }
            let valid = ClientRequest.metadata(.changes(of: .key(makeKey("/x")), after: .zero)).encoded(within: .zero)
            var payloads = valid.indices.map { Array(valid[..<$0]) } + [valid + [0]]
            for seed in 0..<200 {
                payloads.append((0..<(seed % 40)).map { UInt8(truncatingIfNeeded: $0 * seed ^ seed) })
            }
            for payload in payloads {
                let answer = await ask(node, payload, transport, loop)
                guard case .failed(let error) = try ClientAnswer(encoded: answer) else {
                    Issue.record("\(payload) was answered by \(answer)")
                    continue
                }
                #expect(error.kind == .refused)
            }
            // A process that is no node takes no part in consensus, whatever it says.
            loop.execute { [payloads] in
                for kind in UInt8(0)...10 { for payload in payloads { transport.send(payload, kind: kind, to: node) } }
            }
            let session = try await NodeSession.open(
                on: remote, duration: .seconds(5), clock: cluster.clock, deadline: soon)
            try await put("/x", 1, session)
            await transport.close()
        }
    }

    private func ask(
        _ node: NodeID, _ payload: [UInt8], _ transport: PeerTransport, _ loop: EventLoop
    ) async -> [UInt8] {
        while true {
            let answer = await withUnsafeContinuation { continuation in
                loop.execute {
                    transport.request(payload, kind: PeerKind.client.rawValue, of: node, within: .seconds(20)) {
                        continuation.resume(returning: try? $0.get())
                    }
                }
            }
            if let answer { return answer }
        }
    }

    @Test("requests and answers are read as they were written")
    func coding() throws {
        let node = NodeID(rawValue: 7)!
        for request in [
            .metadata(.read(.get(makeKey("/x")))), .metadata(.submit(.closeSession(SessionID(openedAt: .zero)))),
            .metadata(.changes(of: .prefix(makePrefix("/x/")), after: Revision(rawValue: 9))), .status,
            .change(.promote(node)), .lead(node),
        ] as [ClientRequest] {
            let decoded = try ClientRequest.decode(request.encoded(within: .milliseconds(70)))
            #expect(decoded.request == request && decoded.within == .milliseconds(70))
        }
        let entry = MetadataEntry(
            key: makeKey("/x"), value: [1, 2], created: Revision(rawValue: 1), modified: Revision(rawValue: 3),
            version: 2)
        let status = MetadataStatus(
            node: node, membership: Membership(voters: [node], learners: [NodeID(rawValue: 8)!]), leader: node,
            connected: [node], chosenUpTo: Slot(rawValue: 70), promised: Ballot(round: 300, node: node),
            holdsLease: true)
        for answer in [
            .metadata(.found(QueryAnswer(revision: Revision(rawValue: 5), entries: [entry], isComplete: true))),
            .metadata(
                .changes(
                    MetadataChanges(
                        [MetadataChange(key: entry.key, previous: nil, entry: entry, revision: entry.modified)],
                        through: Revision(rawValue: 6)))),
            .metadata(.compacted(CompactedError(completeAfter: Revision(rawValue: 6)))), .status(status), .done,
            .failed(MetadataError(.noLeader, "no", hint: "wait")),
        ] as [ClientAnswer] {
            #expect(try ClientAnswer(encoded: answer.encoded) == answer)
            for count in answer.encoded.indices {
                #expect(throws: (any Error).self) { try ClientAnswer(encoded: Array(answer.encoded[..<count])) }
            }
        }
    }
}
