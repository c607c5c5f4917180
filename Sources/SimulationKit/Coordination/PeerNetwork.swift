import TransactionCore
import TwoPhaseCommit

/// How messages between nodes fare.
struct PeerConditions: Hashable {
    var latencyNanoseconds: ClosedRange<Nanoseconds> = 50 * microsecond...2 * millisecond
    var lossProbability = 0.0
    var duplicateProbability = 0.0
    /// How often a message takes very much longer than those that follow it.
    var lateProbability = 0.0
    var lateNanoseconds: ClosedRange<Nanoseconds> = 0...60 * millisecond
}

/// The network between nodes: messages may be lost, doubled and overtaken.
final class PeerNetwork {
    private struct Way: Hashable {
        let from: NodeID
        let to: NodeID
    }

    private unowned let cluster: SimulatedCluster
    private var conditions: PeerConditions
    /// Until when nothing gets through this way.
    private var cuts: [Way: Timestamp] = [:]

    init(cluster: SimulatedCluster, conditions: PeerConditions) {
        (self.cluster, self.conditions) = (cluster, conditions)
    }

    func cut(from: NodeID, to: NodeID, for duration: Nanoseconds) {
        cuts[Way(from: from, to: to)] = cluster.scheduler.now.advanced(byNanoseconds: duration)
    }

    func heal() {
        cuts = [:]
        conditions = PeerConditions()
    }

    func send(_ message: ClosedTimestamps.Message, from sender: Incarnation, to recipient: Incarnation) {
        let scheduler = cluster.scheduler
        cluster.counts.peerMessages += 1
        guard cuts[Way(from: sender.node, to: recipient.node)] ?? .zero <= scheduler.now,
            !scheduler.random.chance(conditions.lossProbability)
        else { return }
        for _ in 0...(scheduler.random.chance(conditions.duplicateProbability) ? 1 : 0) {
            let late =
                scheduler.random.chance(conditions.lateProbability)
                ? scheduler.random.number(in: conditions.lateNanoseconds) : 0
            scheduler.after(scheduler.random.delay(in: conditions.latencyNanoseconds) + late) { [self] in
                guard let node = cluster.node(recipient) else { return }
                node.deliver { node.received(message, from: sender) }
            }
        }
    }
}
