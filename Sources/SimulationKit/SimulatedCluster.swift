import TransactionCore
import TwoPhaseCommit

/// What a run is made of: one set of conditions, drawn from the seed.
struct Conditions: Hashable {
    var network = NetworkConditions()
    var shard = ShardConditions()
    /// How many nodes coordinate at once. One alone takes over from the one before it; several join each other.
    var nodeCount = 1
    /// Transactions go to the first node alone, reads to any.
    var hasOneWriter = false
    var peers = PeerConditions()
    var metadata = MetadataConditions()
    /// How far a node's wall clock may be off, and how much further an honest source says it may be.
    var clockErrorNanoseconds: Nanoseconds = millisecond
    var clockMarginNanoseconds: Nanoseconds = millisecond / 2
    /// What is wrong with the clocks of the nodes in the order of their start; honest ones afterwards.
    var clockFaults: [ClockFault] = []
    /// How often a node lists what stands prepared.
    var sweepNanoseconds: Nanoseconds = 40 * millisecond
    /// How long a client waits for its commit before the node gives up.
    var commitTimeoutNanoseconds: Nanoseconds = 150 * millisecond
    /// How long a client waits before it asks what became of a transaction.
    var askingNanoseconds: ClosedRange<Nanoseconds> = 5 * millisecond...40 * millisecond
}

/// Shards, the network, and the coordinating processes started so far.
final class SimulatedCluster {
    let scheduler: Scheduler
    let network: SimulatedNetwork
    let shards: [SimulatedShard]
    let conditions: Conditions
    let bug: PlantedBug?
    private(set) lazy var peerNetwork = PeerNetwork(cluster: self, conditions: conditions.peers)
    private(set) lazy var metadata = SimulatedMetadata(scheduler: scheduler, conditions: conditions.metadata) {
        [unowned self] in
        counts.sessionsExpired += 1
    }
    private(set) var nodes: [SimulatedNode] = []
    var counts = RunCounts()
    /// Called when a node is gone, so that its clients notice.
    var onNodeStopped: (SimulatedNode) -> Void = { _ in }
    /// Called when a node is about to raise its epoch: the moment at which it must not lose its locks unnoticed.
    var onEpochChosen: (SimulatedNode) -> Void = { _ in }
    /// Called when a node has sent COMMIT to the home shard: the moment from which it may not know what came of it.
    var onCommitSent: (SimulatedNode, ShardID) -> Void = { _, _ in }

    init(scheduler: Scheduler, shards: [SimulatedShard], conditions: Conditions, bug: PlantedBug?) {
        self.scheduler = scheduler
        self.network = SimulatedNetwork(scheduler: scheduler, conditions: conditions.network)
        self.shards = shards
        self.conditions = conditions
        self.bug = bug
    }

    var areSeveral: Bool { conditions.nodeCount > 1 }

    /// The nodes that clients connect to: where one coordinates at a time the newest that serves, else all that do,
    /// also those that are thought to be gone.
    var servingNodes: [SimulatedNode] {
        let serving = nodes.filter { $0.phase == .serving }
        return areSeveral ? serving : serving.suffix(1)
    }

    /// The process that lives this life.
    func node(_ incarnation: Incarnation) -> SimulatedNode? {
        nodes.last { $0.phase != .stopped && $0.incarnation == incarnation }
    }

    func shard(_ id: ShardID) -> SimulatedShard {
        shards[shards.firstIndex { $0.id == id }!]
    }

    /// The numbers of the nodes that coordinate at once.
    var nodeIDs: [NodeID] { (1...conditions.nodeCount).map { NodeID(rawValue: UInt16($0))! } }

    /// Starts all nodes, or the one that coordinates alone.
    func start() {
        guard areSeveral else { return startNode() }
        for id in nodeIDs { startNode(id) }
    }

    /// Starts a coordinating process of a node; without one it coordinates alone, and waits for the one before it to
    /// let go of the shards.
    func startNode(_ joining: NodeID? = nil) {
        let number = nodes.count
        let error = conditions.clockErrorNanoseconds
        let honest = ClockFault(
            offsetNanoseconds: scheduler.random.number(in: -error...error),
            driftPartsPerMillion: scheduler.random.number(in: -150...150))
        let clock = SimulatedClock(
            scheduler: scheduler,
            fault: number < conditions.clockFaults.count ? conditions.clockFaults[number] : honest,
            margin: conditions.clockMarginNanoseconds)
        let id = joining ?? NodeID(rawValue: UInt16(scheduler.random.number(in: 1...3)))!
        let node = SimulatedNode(number: number, id: id, clock: clock, cluster: self)
        nodes.append(node)
        joining == nil ? node.startAlone() : node.join()
    }

    /// Starts what is to run and does not.
    func startMissing() {
        guard areSeveral else {
            if nodes.allSatisfy({ $0.phase == .stopped }) { startNode() }
            return
        }
        for id in nodeIDs where !nodes.contains(where: { $0.id == id && $0.phase != .stopped }) { startNode(id) }
    }

    /// Breaks what holds the run's objects together, so that they are freed.
    func tearDown() {
        for node in nodes { node.tearDown() }
        if areSeveral { metadata.tearDown() }
        for shard in shards { shard.crash() }
        scheduler.cancelAll()
        onNodeStopped = { _ in }
        onEpochChosen = { _ in }
        onCommitSent = { _, _ in }
    }
}
