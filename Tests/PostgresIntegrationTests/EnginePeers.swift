import EventLoops
import Logging
import Synchronization
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

/// What nodes know of each other, for engines in one process: who is present, and messages between them.
final class EnginePeers: Sendable {
    private struct State {
        var newestEpoch: Int64 = 0
        var newest: [NodeID: Epoch] = [:]
        var present: [Incarnation] = []
        var coordinations: [Incarnation: Coordination] = [:]
        /// Nodes that no message comes to or from.
        var cutOff: Set<NodeID> = []
        var messageCount = 0
    }

    private let state: Mutex<State>

    /// - Parameter epoch: the newest that any node had before.
    init(after epoch: Int64 = 0) {
        state = Mutex(State(newestEpoch: epoch))
    }

    /// How many messages have arrived.
    var messageCount: Int { state.withLock { $0.messageCount } }

    /// Makes an incarnation of the node present, and tells the others.
    ///
    /// - Parameter peers: whom it has found present; all by default.
    func join(_ node: NodeID, on loop: EventLoop, finding peers: [Incarnation]? = nil) -> Coordination {
        state.withLock { state in
            state.newestEpoch += 1
            let own = Incarnation(node, Epoch(rawValue: state.newestEpoch))
            let others = state.coordinations
            let peers = peers ?? others.keys.sorted()
            state.newest[node] = own.epoch
            let newest = state.newest.map { Incarnation($0.key, $0.value) }
            let coordination = Coordination(own, peers: peers, newest: newest, loop: loop) { [self] incarnation in
                self.state.withLock { $0.coordinations[incarnation] != nil }
            } send: { [self] message, recipient in
                deliver(message, from: own, to: recipient)
            }
            state.coordinations[own] = coordination
            for (incarnation, other) in others.sorted(by: { $0.key < $1.key }) {
                other.appeared(own)
                if !coordination.peers.contains(incarnation) { coordination.appeared(incarnation) }
            }
            return coordination
        }
    }

    /// Gives a node an epoch; it stands still before it is present, or has been.
    func giveEpoch(to node: NodeID) -> Incarnation {
        state.withLock { state in
            state.newestEpoch += 1
            state.newest[node] = Epoch(rawValue: state.newestEpoch)
            return Incarnation(node, Epoch(rawValue: state.newestEpoch))
        }
    }

    /// Its session is over; the others fence it.
    func vanish(_ incarnation: Incarnation) {
        state.withLock { state in
            state.coordinations[incarnation] = nil
            for other in state.coordinations.values { other.vanished(incarnation) }
        }
    }

    /// Whether messages of the node and to it arrive.
    func cut(_ node: NodeID, _ isCut: Bool = true) {
        state.withLock { state in
            if isCut { state.cutOff.insert(node) } else { state.cutOff.remove(node) }
        }
    }

    private func deliver(_ message: [UInt8], from sender: Incarnation, to recipient: Incarnation) {
        let coordination = state.withLock { state -> Coordination? in
            guard !state.cutOff.contains(sender.node), !state.cutOff.contains(recipient.node) else { return nil }
            state.messageCount += 1
            return state.coordinations[recipient]
        }
        coordination?.received(message, from: sender)
    }
}

extension EngineShards {
    /// Runs `body` with engines of nodes 1, 2, … that coordinate the shards at once, and shuts them down.
    func engines(
        _ count: Int, after epoch: Int64 = 0,
        _ adjust: (NodeID, inout EngineConfiguration) -> Void = { _, _ in },
        _ body: (EnginePeers, [TransactionEngine]) async throws -> Void
    ) async throws {
        let peers = EnginePeers(after: epoch)
        var engines: [TransactionEngine] = []
        var loops: [EventLoop] = []
        defer { for loop in loops { loop.shutdown() } }
        let result: Result<Void, any Error>
        do {
            for number in 1...count {
                let loop = try EventLoop(name: "engine \(number)")
                loops.append(loop)
                engines.append(try await engine(NodeID(rawValue: UInt16(number))!, among: peers, on: loop, adjust))
            }
            result = .success(try await body(peers, engines))
        } catch {
            result = .failure(error)
        }
        for engine in engines {
            await engine.shutdown()
            peers.vanish(engine.incarnation)
        }
        try result.get()
    }

    /// One of them; to be shut down.
    func engine(
        _ node: NodeID, among peers: EnginePeers, on loop: EventLoop,
        _ adjust: (NodeID, inout EngineConfiguration) -> Void = { _, _ in }
    ) async throws -> TransactionEngine {
        var configuration = configuration(node: node.rawValue)
        adjust(node, &configuration)
        if configuration.coordination == nil { configuration.coordination = peers.join(node, on: loop) }
        return try await TransactionEngine.start(
            configuration, clock: Self.hostClock, loop: loop, logger: Self.silence)
    }
}
