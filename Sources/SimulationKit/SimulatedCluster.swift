import TransactionCore

/// What a run is made of: one set of conditions, drawn from the seed.
struct Conditions: Hashable {
    var network = NetworkConditions()
    var shard = ShardConditions()
    /// How far a node's wall clock may be off, and how much further an honest source says it may be.
    var clockErrorNanoseconds: Nanoseconds = millisecond
    var clockMarginNanoseconds: Nanoseconds = millisecond / 2
    /// What is wrong with the clocks of the nodes in the order of their start; honest ones afterwards.
    var clockFaults: [ClockFault] = []
    /// How often a node lists what stands prepared.
    var sweepNanoseconds: Nanoseconds = 40 * millisecond
    /// How long a client waits for its commit before the node gives up.
    var commitTimeoutNanoseconds: Nanoseconds = 150 * millisecond
}

/// Shards, the network, and the coordinating processes started so far.
final class SimulatedCluster {
    let scheduler: Scheduler
    let network: SimulatedNetwork
    let shards: [SimulatedShard]
    let conditions: Conditions
    let bug: PlantedBug?
    private(set) var nodes: [SimulatedNode] = []
    var counts = RunCounts()
    /// Called when a node is gone, so that its clients notice.
    var onNodeStopped: (SimulatedNode) -> Void = { _ in }
    /// Called when a node is about to raise its epoch: the moment at which it must not lose its locks unnoticed.
    var onEpochChosen: (SimulatedNode) -> Void = { _ in }

    init(scheduler: Scheduler, shards: [SimulatedShard], conditions: Conditions, bug: PlantedBug?) {
        self.scheduler = scheduler
        self.network = SimulatedNetwork(scheduler: scheduler, conditions: conditions.network)
        self.shards = shards
        self.conditions = conditions
        self.bug = bug
    }

    /// The node that clients connect to: the newest one that serves.
    var servingNode: SimulatedNode? { nodes.last { $0.phase == .serving } }

    func shard(_ id: ShardID) -> SimulatedShard {
        shards[shards.firstIndex { $0.id == id }!]
    }

    /// Starts a coordinating process, which waits for the one before it to let go of the shards.
    func startNode() {
        let number = nodes.count
        let error = conditions.clockErrorNanoseconds
        let honest = ClockFault(
            offsetNanoseconds: scheduler.random.number(in: -error...error),
            driftPartsPerMillion: scheduler.random.number(in: -150...150))
        let clock = SimulatedClock(
            scheduler: scheduler,
            fault: number < conditions.clockFaults.count ? conditions.clockFaults[number] : honest,
            margin: conditions.clockMarginNanoseconds)
        let id = NodeID(rawValue: UInt16(scheduler.random.number(in: 1...3)))!
        let node = SimulatedNode(number: number, id: id, clock: clock, cluster: self)
        nodes.append(node)
        node.start()
    }

    /// Breaks what holds the run's objects together, so that they are freed.
    func tearDown() {
        for node in nodes { node.tearDown() }
        for shard in shards { shard.crash() }
        scheduler.cancelAll()
        onNodeStopped = { _ in }
        onEpochChosen = { _ in }
    }
}
