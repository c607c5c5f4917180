import Consensus
import TransactionCore

/// What goes wrong with replicas and their network, and is mended in the end.
final class ConsensusFaults: RandomFaults {
    private unowned let cluster: ConsensusCluster
    private let plan: ConsensusRunPlan

    init(cluster: ConsensusCluster, plan: ConsensusRunPlan) {
        self.cluster = cluster
        self.plan = plan
        super.init(scheduler: cluster.scheduler)
    }

    func start() {
        repeating(plan.crash) { [self] in crash() }
        repeating(plan.pause) { [self] in
            cluster.counts.pauses += 1
            victim().pause(for: random.delay(in: 10 * millisecond...400 * millisecond))
        }
        repeating(plan.partition) { [self] in partition() }
        repeating(plan.usurpation) { [self] in tempt() }
        repeating(plan.clockStep) { [self] in stepClock() }
        repeating(plan.change) { [self] in changeMembership() }
        repeating(plan.handOver) { [self] in
            cluster.counts.handOvers += 1
            cluster.leader?.handOver()
        }
    }

    func stop() {
        isOver = true
        cluster.heal()
    }

    /// The leader as often as everybody else together.
    private func victim() -> SimulatedReplica {
        if random.chance(0.5), let leader = cluster.leader { return leader }
        return random.element(of: cluster.nodes)
    }

    private func crash() {
        // Now and then all of them, as when the power fails.
        let victims = random.chance(0.1) ? cluster.nodes : [victim()]
        for node in victims {
            cluster.counts.crashes += 1
            node.crash()
            let delay = random.element(of: [5, 300]) * millisecond
            cluster.scheduler.after(random.delay(in: 0...delay)) { node.start() }
        }
    }

    private func partition() {
        cluster.counts.partitions += 1
        let length = random.delay(in: 5 * millisecond...500 * millisecond)
        let apart = victim()
        let isOneWay = random.chance(0.3)
        if random.chance(0.4) {
            let other = random.element(of: cluster.nodes)
            if other !== apart { cut(apart, other, isOneWay: isOneWay, for: length) }
            return
        }
        for other in cluster.nodes where other !== apart && random.chance(0.8) {
            cut(apart, other, isOneWay: isOneWay, for: length)
        }
    }

    /// Tempts an acceptor that was just started to help another node while the leader's lease lasts: one node has not
    /// heard of the leader for longer than a lease, and the acceptor does not any more.
    private func tempt() {
        guard let leader = cluster.leader else { return }
        let others = cluster.nodes.filter { $0 !== leader && $0.isUp }
        guard others.count >= 2 else { return }
        let candidate = random.element(of: others)
        let lease = ConsensusCluster.lease
        cut(leader, candidate, isOneWay: false, for: 4 * lease)
        cluster.scheduler.after(lease + random.number(in: 0...lease)) { [self] in
            guard !isOver else { return }
            for acceptor in others where acceptor !== candidate {
                cut(leader, acceptor, isOneWay: false, for: 2 * lease)
                acceptor.crash()
                cluster.scheduler.after(millisecond) { acceptor.start() }
            }
        }
    }

    private func cut(
        _ one: SimulatedReplica, _ other: SimulatedReplica, isOneWay: Bool, for nanoseconds: Nanoseconds
    ) {
        cluster.cut(one.id, other.id, for: nanoseconds)
        if !isOneWay { cluster.cut(other.id, one.id, for: nanoseconds) }
    }

    private func stepClock() {
        let step = cluster.clocksAreHonest ? 50 * millisecond : 300 * millisecond
        victim().clock.step(by: random.number(in: -step...step))
    }

    private func changeMembership() {
        guard let leader = cluster.leader, let membership = leader.replica?.membership else { return }
        let node = random.element(of: cluster.nodes).id
        if membership.learners.contains(node) {
            _ = leader.changeMembership(random.chance(0.8) ? .promote(node) : .remove(node))
        } else if membership.voters.contains(node) {
            if membership.voters.count > 2 || random.chance(0.3) { _ = leader.changeMembership(.remove(node)) }
        } else {
            _ = leader.changeMembership(.addLearner(node))
        }
    }
}

/// What happened in a run, in figures.
public struct ConsensusRunCounts: Hashable, Sendable {
    public var runs = 0
    public var operations = 0
    public var leaseReads = 0
    public var messages = 0
    public var messagesLost = 0
    public var crashes = 0
    public var pauses = 0
    public var partitions = 0
    public var membershipChanges = 0
    public var snapshotsInstalled = 0
    public var handOvers = 0

    public init() {}

    /// Every figure with its name.
    public var figures: [(name: String, figure: Int)] { Self.names.map { ($0.name, self[keyPath: $0.path]) } }

    /// Adds the figures of another run.
    public static func += (sum: inout ConsensusRunCounts, other: ConsensusRunCounts) {
        for (_, path) in names { sum[keyPath: path] += other[keyPath: path] }
    }

    private static var names: [(name: String, path: WritableKeyPath<ConsensusRunCounts, Int>)] {
        [
            ("operations", \.operations), ("runs", \.runs), ("reads by lease", \.leaseReads),
            ("messages", \.messages), ("messages lost", \.messagesLost), ("crashes", \.crashes),
            ("pauses", \.pauses), ("partitions", \.partitions), ("membership changes", \.membershipChanges),
            ("snapshots installed", \.snapshotsInstalled), ("leaderships handed over", \.handOvers),
        ]
    }
}
