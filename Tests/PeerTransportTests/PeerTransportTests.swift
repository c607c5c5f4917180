import NIOCore
import Synchronization
import TestSupport
import Testing
import TransactionCore

@testable import PeerTransport

/// Nodes that talk to each other over real sockets.
@Suite struct PeerTransportTests {
    @Test("every message arrives, once and in its order, from each node at each other")
    func order() async throws {
        let all = try nodes.map { try TestNode($0) }
        try await withNodes(all[0], all[1], all[2]) {
            for node in all {
                await node.onLoop { transport in
                    for other in nodes where other != node.node {
                        for number in 0..<2_000 {
                            let payload = [UInt8](repeating: UInt8(number & 0xFF), count: number)
                            #expect(transport.send(payload, kind: UInt8(number >> 8), to: other))
                        }
                    }
                }
            }
            #expect(await eventually { all.allSatisfy { $0.received.count == 4_000 } })
            for node in all {
                for other in nodes where other != node.node {
                    let numbers = node.received.filter { $0.sender == other }.map {
                        Int($0.kind) << 8 | Int($0.payload.last ?? 0)
                    }
                    #expect(numbers == Array(0..<2_000))
                    #expect(node.received.filter { $0.sender == other }.map(\.payload.count) == numbers)
                }
                #expect(await node.onLoop { $0.droppedCount } == 0)
            }
        }
    }

    @Test("a node that dies and comes back is connected to again, and messages to it meanwhile are dropped and counted")
    func reconnection() async throws {
        let first = try TestNode(nodes[0])
        let second = try TestNode(nodes[1])
        let port = second.port
        try await withNodes(first, second) {
            await second.close()
            #expect(await eventually { !first.isConnected(to: nodes[1]) })
            #expect(await first.send([1], to: nodes[1]) == false)
            #expect(await first.onLoop { $0.droppedCount } == 1)
            #expect(await first.onLoop { $0.isConnected(to: nodes[1]) } == false)
            let again = try TestNode(nodes[1], port: port)
            #expect(await eventually { first.isConnected(to: nodes[1]) })
            #expect(await first.send([2], to: nodes[1]))
            #expect(await eventually { again.received == [Received(sender: nodes[0], kind: 1, payload: [2])] })
            #expect(first.changes(of: nodes[1]) == [true, false, true])
            await again.close()
        }
    }

    @Test("requests are answered; those that are not end by their deadline, or with their connection")
    func requests() async throws {
        let (first, second) = (try TestNode(nodes[0]), try TestNode(nodes[1]))
        try await withNodes(first, second) {
            async let one = first.request([1, 2], kind: 3, of: nodes[1])
            async let two = second.request([4], kind: 5, of: nodes[0])
            #expect(await one == .success([1, 2, 3]))
            #expect(await two == .success([4, 5]))
            #expect(await first.request([1], kind: 0, of: nodes[1], within: .milliseconds(20)) == .failure(.timedOut))
            #expect(await first.request([1], of: nodes[2]) == .failure(.notConnected))
            async let lost = first.request([1], kind: 0, of: nodes[1])
            #expect(await eventually { second.unansweredCount == 2 })
            await second.close()
            #expect(await lost == .failure(.connectionLost))
        }
    }

    @Test("a peer that does not read has so much wait for it and no more; when it reads, all that was taken arrives")
    func boundedQueue() async throws {
        let slow = try ScriptedNode { if case .hello = $0 { [.welcome(version: 1)] } else { [] } }
        let node = try TestNode(nodes[0]) { configuration in
            configuration.queueBytesMax = 1 << 20
            // Nothing answers the pings here.
            configuration.silentIntervalsMax = .max
        }
        await node.connect(to: nodes[1], at: slow.address)
        #expect(await eventually { node.isConnected(to: nodes[1]) })
        slow.reads(false)
        // More than the kernel holds for two sockets, and the queue.
        let refused = Mutex<Result<[UInt8], PeerRequestError>?>(nil)
        let taken = await node.onLoop { transport in
            let taken = (0..<30_000).filter { number in
                let payload = [UInt8(number >> 8), UInt8(number & 0xFF)] + [UInt8](repeating: 0, count: 998)
                return transport.send(payload, kind: 1, to: nodes[1])
            }
            let request = [UInt8](repeating: 0, count: 1_000)
            transport.request(request, kind: 1, of: nodes[1], within: .seconds(60)) { answer in
                refused.withLock { $0 = answer }
            }
            return taken
        }
        #expect(taken.count >= 1_000 && taken.count < 30_000)
        // The first ones, without a gap: what has no room is the newest.
        #expect(taken == Array(0..<taken.count))
        #expect(await node.onLoop { $0.droppedCount } == 30_000 - taken.count)
        #expect(refused.withLock { $0 } == .failure(.notSent))
        slow.reads(true)
        let numbers = { @Sendable in
            slow.frames.compactMap { frame -> Int? in
                if case .message(1, let payload) = frame { Int(payload[0]) << 8 | Int(payload[1]) } else { nil }
            }
        }
        #expect(await eventually { numbers().count == taken.count })
        #expect(numbers() == taken)
        #expect(await node.send([0, 1], to: nodes[1]))
        #expect(await eventually { numbers().count == taken.count + 1 })
        #expect(node.changes(of: nodes[1]) == [true])
        await node.close()
        await slow.close()
    }

    @Test("a frame longer than the queue is taken when nothing waits, one longer than frames may be never is")
    func longFrames() async throws {
        let (first, second) = (
            try TestNode(nodes[0]) { configuration in
                configuration.queueBytesMax = 1_000
                configuration.frameBytesMax = 1 << 20
            }, try TestNode(nodes[1])
        )
        try await withNodes(first, second) {
            let long = [UInt8](repeating: 7, count: 1 << 19)
            #expect(
                await first.onLoop { [$0.send(long, kind: 1, to: nodes[1]), $0.send(long, kind: 2, to: nodes[1])] } == [
                    true, true,
                ])
            #expect(await eventually { second.received.map(\.payload) == [long, long] })
            #expect(await first.send([UInt8](repeating: 7, count: 1 << 20), to: nodes[1]) == false)
            #expect(await first.request([UInt8](repeating: 7, count: 1 << 20), of: nodes[1]) == .failure(.notSent))
            #expect(first.log.text.contains("too long"))
            #expect(first.changes(of: nodes[1]) == [true])
        }
    }

    @Test("a peer that answers no ping is given up, and tried again; so is one that never says welcome")
    func silence() async throws {
        let welcomes = Mutex(true)
        let silent = try ScriptedNode { frame in
            if case .hello = frame, welcomes.withLock({ $0 }) { [.welcome(version: 1)] } else { [] }
        }
        let node = try TestNode(nodes[0]) { configuration in
            configuration.pingInterval = .milliseconds(20)
            configuration.connectTimeout = .milliseconds(100)
        }
        await node.connect(to: nodes[1], at: silent.address)
        #expect(await eventually { node.changes(of: nodes[1]).starts(with: [true, false, true]) })
        #expect(node.log.text.contains("nothing has come from it"))
        welcomes.withLock { $0 = false }
        #expect(await eventually { node.log.text.contains("did not introduce itself in time") })
        let count = silent.connectionCount
        #expect(await eventually { silent.connectionCount > count })
        await node.close()
        await silent.close()
    }

    @Test("pings keep a quiet connection, on both sides")
    func quiet() async throws {
        let pings = Mutex(0)
        let peer = try ScriptedNode { frame in
            switch frame {
            case .hello: return [.welcome(version: 1)]
            case .ping:
                pings.withLock { $0 += 1 }
                return [.pong]
            default: return []
            }
        }
        let change: (inout PeerConfiguration) -> Void = { $0.pingInterval = .milliseconds(5) }
        let (first, second) = (try TestNode(nodes[0], change), try TestNode(nodes[1], change))
        await first.connect(to: nodes[2], at: peer.address)
        try await withNodes(first, second) {
            // Many times as long as silence is borne.
            #expect(await eventually { pings.withLock { $0 } > 40 })
            for other in [nodes[1], nodes[2]] { #expect(first.changes(of: other) == [true]) }
            #expect(second.changes(of: nodes[0]) == [true])
        }
        await peer.close()
    }

    @Test("peers can be moved and removed while the node runs, and names are looked up")
    func changes() async throws {
        let (first, second, moved) = (try TestNode(nodes[0]), try TestNode(nodes[1]), try TestNode(nodes[1]))
        await first.connect(to: nodes[1], at: PeerAddress(host: "localhost", port: second.port))
        #expect(await eventually { first.isConnected(to: nodes[1]) })
        // The same once more changes nothing.
        await first.connect(to: nodes[1], at: PeerAddress(host: "localhost", port: second.port))
        await first.connect(to: nodes[1], at: moved.address)
        #expect(await eventually { first.changes(of: nodes[1]) == [true, false, true] })
        #expect(await first.send([9], to: nodes[1]))
        #expect(await eventually { moved.received.count == 1 })
        #expect(second.received.isEmpty)
        await first.onLoop { $0.removePeer(nodes[1]) }
        #expect(first.changes(of: nodes[1]) == [true, false, true, false])
        #expect(await first.send([9], to: nodes[1]) == false)
        // A name that is none is tried again and again, and is in nobody's way.
        await first.connect(to: nodes[2], at: PeerAddress(host: "no-such-host.invalid", port: 1))
        #expect(await eventually { first.log.text.contains("no connection to a node") })
        for node in [first, second, moved] { await node.close() }
    }
}
