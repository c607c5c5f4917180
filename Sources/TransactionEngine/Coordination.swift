import EventLoops
import TransactionCore
import TwoPhaseCommit

/// A node's part among several that coordinate the same shards at once, from the moment at which it is present.
///
/// It answers the other nodes while the engine still starts, so that none waits for that, and is the engine's ear
/// afterwards. What other nodes do is to be told in the order in which it happens. Confined to the engine's loop; what
/// is public may be called from any thread.
public final class Coordination: @unchecked Sendable {
    /// This node, in an epoch that is larger than every one that any node had before (R6).
    public let incarnation: Incarnation
    /// The other nodes that were present when this one had made itself known with that epoch.
    public let peers: [Incarnation]
    /// The newest incarnations of all nodes at that moment, of those that are gone and of those that are yet to come,
    /// too. One that has stood still since it got its epoch may be unknown to the shards, and is to be fenced there.
    let newest: [Incarnation]
    /// Whether that incarnation is present by now, read linearizably. It is asked of those that ``peers`` lacks before
    /// they are fenced: one that starts at the same time may have come after these were read.
    let isPresent: @Sendable (Incarnation) async throws -> Bool
    /// Sends bytes that the recipient is to be handed by ``received(_:from:)``; they may be lost, when the connection
    /// is. Called on the loop.
    private let send: @Sendable (_ message: [UInt8], _ recipient: Incarnation) -> Void
    private let loop: EventLoop

    private enum Stage {
        /// What the others were told, for the engine to know; those that have gone meanwhile, for it to fence.
        case starting(ClosedTimestamps, SafeTimeTracker, gone: [Incarnation])
        case serving(Weak)
    }

    private struct Weak {
        weak var engine: TransactionEngine?
    }

    private var stage: Stage

    /// - Parameter loop: the engine's.
    public init(
        _ incarnation: Incarnation, peers: [Incarnation], newest: [Incarnation], loop: EventLoop,
        isPresent: @escaping @Sendable (Incarnation) async throws -> Bool,
        send: @escaping @Sendable ([UInt8], Incarnation) -> Void
    ) {
        (self.incarnation, self.peers, self.newest, self.loop) = (incarnation, peers, newest, loop)
        (self.isPresent, self.send) = (isPresent, send)
        var tracker = SafeTimeTracker(node: incarnation.node, newest: .zero)
        let closed = ClosedTimestamps(incarnation, peers: peers, &tracker)
        stage = .starting(closed, tracker, gone: [])
    }

    // MARK: The node's calls

    /// A node is present that is not among ``peers``.
    public func appeared(_ peer: Incarnation) {
        onLoop { coordination in
            switch coordination.stage {
            case .starting(var closed, var tracker, let gone):
                closed.appeared(peer, &tracker)
                coordination.stage = .starting(closed, tracker, gone: gone)
            case .serving(let weak): weak.engine?.onLoop { $0.peerAppeared(peer) }
            }
        }
    }

    /// The session of that incarnation is over: the engine fences it on every shard, and goes on without it.
    public func vanished(_ peer: Incarnation) {
        onLoop { coordination in
            switch coordination.stage {
            case .starting(let closed, let tracker, let gone):
                coordination.stage = .starting(closed, tracker, gone: gone + [peer])
            case .serving(let weak): weak.engine?.onLoop { $0.peerVanished(peer) }
            }
        }
    }

    /// A message came that `sender` had sent to this incarnation.
    public func received(_ message: [UInt8], from sender: Incarnation) {
        onLoop { coordination in
            switch coordination.stage {
            case .starting: coordination.receivedEarly(message, from: sender)
            case .serving(let weak): weak.engine?.onLoop { $0.received(message, from: sender) }
            }
        }
    }

    private func onLoop(_ body: @escaping @Sendable (Coordination) -> Void) {
        loop.execute { body(self) }
    }

    // MARK: Stages

    /// What the engine does not serve yet needs no answer, but to those who would wait for it.
    private func receivedEarly(_ bytes: [UInt8], from sender: Incarnation) {
        guard case .starting(var closed, var tracker, let gone) = stage, closed.knows(sender),
            let message = try? PeerMessage(encoded: bytes)
        else { return }
        switch message {
        case .timestamps(let message):
            for case .send(let answer, let peer) in closed.received(message, from: sender, &tracker) {
                send(.timestamps(answer), to: peer)
            }
            stage = .starting(closed, tracker, gone: gone)
        case .catalog(let message):
            if let answer = message.answerOfWhoPlansNothing { send(.catalog(answer), to: sender) }
        case .findOwners, .owners, .deadlock: break
        }
    }

    /// The engine takes over what was told so far, and hears everything from here on.
    func serves(_ engine: TransactionEngine) -> (ClosedTimestamps, SafeTimeTracker, gone: [Incarnation]) {
        guard case .starting(let closed, let tracker, let gone) = stage else {
            preconditionFailure("\(incarnation) has an engine already")
        }
        stage = .serving(Weak(engine: engine))
        return (closed, tracker, gone)
    }

    func send(_ message: PeerMessage, to peer: Incarnation) { send(message.encoded, peer) }
}
