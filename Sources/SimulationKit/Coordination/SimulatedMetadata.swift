import TransactionCore
import TwoPhaseCommit

/// What the metadata tells those who watch who is present.
enum PresenceChange: Hashable {
    case appeared(Incarnation)
    /// Its session is over, or a later life of the node has taken its place.
    case vanished(Incarnation)
}

/// How the metadata behaves.
struct MetadataConditions: Hashable {
    var latencyNanoseconds: ClosedRange<Nanoseconds> = 200 * microsecond...3 * millisecond
    /// A session ends when its node was not heard for so long.
    var sessionNanoseconds: Nanoseconds = 40 * millisecond
    /// How late a node may learn that its session is over.
    var noticeNanoseconds: ClosedRange<Nanoseconds> = 0...40 * millisecond
}

/// The replicated metadata as the nodes see it: one linearizable record of epochs and of who is present, which nodes
/// reach late or not at all.
final class SimulatedMetadata {
    /// A node's session, which its presence hangs on.
    final class Session {
        fileprivate var lastHeard: Timestamp
        fileprivate(set) var isOver = false

        fileprivate init(_ now: Timestamp) { lastHeard = now }
    }

    private let scheduler: Scheduler
    private let conditions: MetadataConditions
    private let onExpiry: () -> Void
    /// One count for all nodes.
    private var epoch = Epoch(rawValue: 0)
    private(set) var epochs: [NodeID: Epoch] = [:]
    private var presence: [NodeID: (epoch: Epoch, session: Session)] = [:]
    private var watchers: [(node: SimulatedNode, lastArrival: Timestamp)] = []
    /// Until when nothing gets through between the metadata and these nodes.
    private var cuts: [NodeID: Timestamp] = [:]

    init(scheduler: Scheduler, conditions: MetadataConditions, onExpiry: @escaping () -> Void) {
        (self.scheduler, self.conditions, self.onExpiry) = (scheduler, conditions, onExpiry)
    }

    var present: [Incarnation] { presence.map { Incarnation($0.key, $0.value.epoch) }.sorted() }

    func cut(_ node: NodeID, for duration: Nanoseconds) {
        cuts[node] = scheduler.now.advanced(byNanoseconds: duration)
    }

    func heal() { cuts = [:] }

    func tearDown() { watchers = [] }

    // MARK: What nodes ask

    /// Opens a session and raises the node's epoch.
    func openSession(for node: SimulatedNode, then: @escaping (Session, Epoch) -> Void) {
        ask(node) { [self] in
            epoch = Epoch(rawValue: epoch.rawValue + 1)
            epochs[node.id] = epoch
            let session = Session(scheduler.now)
            expire(session)
            return (session, epoch)
        } then: {
            then($0.0, $0.1)
        }
    }

    /// Makes the node known, unless its session is over.
    func appear(_ node: SimulatedNode, _ session: Session, then: @escaping () -> Void) {
        let incarnation = node.incarnation
        ask(node) { [self] in
            guard !session.isOver else { return }
            if let earlier = presence[node.id] {
                guard earlier.epoch < incarnation.epoch else { return }
                tell(.vanished(Incarnation(node.id, earlier.epoch)))
            }
            presence[node.id] = (incarnation.epoch, session)
            tell(.appeared(incarnation))
        } then: {
            then()
        }
    }

    /// Reads who is present and every node's newest epoch, and tells the node of all changes from there on.
    func watch(
        for node: SimulatedNode, then: @escaping (_ present: [Incarnation], _ epochs: [NodeID: Epoch]) -> Void
    ) {
        scheduler.after(delay(to: node)) { [self] in
            let (present, epochs) = (present, epochs)
            // Changes come after it.
            let arrival = scheduler.now.advanced(byNanoseconds: delay(to: node))
            watchers.append((node, arrival))
            node.after(arrival.nanoseconds(since: scheduler.now)) { then(present, epochs) }
        }
    }

    /// The node lives; it learns late when its session is over.
    func keepAlive(_ session: Session, of node: SimulatedNode) {
        scheduler.after(delay(to: node)) { [self] in
            guard !session.isOver else {
                let notice = scheduler.random.delay(in: conditions.noticeNanoseconds)
                return node.after(delay(to: node) + notice) { node.stop("its session is over") }
            }
            session.lastHeard = scheduler.now
        }
        node.after(conditions.sessionNanoseconds / 4) { [self] in keepAlive(session, of: node) }
    }

    private func ask<Answer>(
        _ node: SimulatedNode, _ body: @escaping () -> Answer, then: @escaping (Answer) -> Void
    ) {
        scheduler.after(delay(to: node)) { [self] in
            let answer = body()
            node.after(delay(to: node)) { then(answer) }
        }
    }

    private func delay(to node: SimulatedNode) -> Nanoseconds {
        max(0, (cuts[node.id] ?? .zero).nanoseconds(since: scheduler.now))
            + scheduler.random.delay(in: conditions.latencyNanoseconds)
    }

    // MARK: What happens by itself

    private func expire(_ session: Session) {
        let end = session.lastHeard.advanced(byNanoseconds: conditions.sessionNanoseconds)
        guard end <= scheduler.now else {
            return scheduler.after(end.nanoseconds(since: scheduler.now)) { [self] in expire(session) }
        }
        session.isOver = true
        guard let (node, value) = presence.first(where: { $0.value.session === session }) else { return }
        presence[node] = nil
        onExpiry()
        tell(.vanished(Incarnation(node, value.epoch)))
    }

    /// Every watcher is told of every change, in their order.
    private func tell(_ change: PresenceChange) {
        watchers.removeAll { $0.node.phase == .stopped }
        for index in watchers.indices {
            let node = watchers[index].node
            let arrival = max(
                watchers[index].lastArrival.successor, scheduler.now.advanced(byNanoseconds: delay(to: node)))
            watchers[index].lastArrival = arrival
            node.after(arrival.nanoseconds(since: scheduler.now)) { node.presenceChanged(change) }
        }
    }
}
