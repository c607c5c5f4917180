import TransactionCore

/// How often what goes wrong; each a mean time between two of its kind, nil for never.
struct FaultRates: Hashable {
    var nodeCrash: Nanoseconds?
    /// A node is paused as by a long swap, and another one takes over meanwhile.
    var nodePause: Nanoseconds?
    var shardCrash: Nanoseconds?
    var partition: Nanoseconds?
    /// Somebody ends a session on a shard.
    var sessionEnd: Nanoseconds?
    var slowness: Nanoseconds?
    var clockStep: Nanoseconds?
}

/// What goes wrong with nodes and shards, and is mended in the end.
final class FaultInjector: RandomFaults {
    private unowned let cluster: SimulatedCluster
    private let rates: FaultRates

    init(cluster: SimulatedCluster, rates: FaultRates) {
        self.cluster = cluster
        self.rates = rates
        super.init(scheduler: cluster.scheduler)
    }

    func start() {
        cluster.onEpochChosen = { [weak self] node in
            guard let self, !isOver, rates.nodePause != nil, random.chance(0.3) else { return }
            pause(node)
        }
        repeating(rates.nodeCrash) { [self] in crashNode() }
        repeating(rates.nodePause) { [self] in pauseNode() }
        repeating(rates.shardCrash) { [self] in crashShard() }
        repeating(rates.partition) { [self] in partitionShard() }
        repeating(rates.sessionEnd) { [self] in endSession() }
        repeating(rates.slowness) { [self] in slowShard() }
        repeating(rates.clockStep) { [self] in stepClock() }
    }

    /// Mends everything: shards are up, connections hold, and somebody serves.
    func stop() {
        isOver = true
        cluster.network.heal()
        cluster.network.conditions.breakProbability = 0
        for shard in cluster.shards {
            shard.conditions.refusalProbability = 0
            shard.conditions.slowness = 1
            shard.restart()
        }
        if cluster.nodes.allSatisfy({ $0.phase == .stopped }) { cluster.startNode() }
    }

    private func crashNode() {
        guard let node = cluster.servingNode else { return }
        cluster.counts.nodeCrashes += 1
        node.stop("crashed")
        cluster.scheduler.after(random.delay(in: 0...30 * millisecond)) { [self] in
            if !cluster.nodes.contains(where: { $0.phase == .starting }) { cluster.startNode() }
        }
    }

    private func pauseNode() {
        if let node = cluster.servingNode { pause(node) }
    }

    /// The process stands still, its locks are lost, and another one takes over.
    private func pause(_ node: SimulatedNode) {
        cluster.counts.nodeCrashes += 1
        node.pause(for: random.delay(in: 10 * millisecond...150 * millisecond))
        for connection in node.lockConnections { connection.breakOff() }
        cluster.startNode()
    }

    private func crashShard() {
        let shard = random.element(of: cluster.shards)
        guard shard.isUp else { return }
        cluster.counts.shardCrashes += 1
        shard.crash()
        cluster.scheduler.after(random.delay(in: 2 * millisecond...80 * millisecond)) { shard.restart() }
    }

    private func partitionShard() {
        cluster.counts.partitions += 1
        cluster.network.partition(
            random.element(of: cluster.shards).id, for: random.delay(in: 5 * millisecond...300 * millisecond))
    }

    private func endSession() {
        let sessions = random.element(of: cluster.shards).sessions
        if !sessions.isEmpty { random.element(of: sessions).terminate() }
    }

    private func slowShard() {
        let shard = random.element(of: cluster.shards)
        shard.conditions.slowness = 10
        cluster.scheduler.after(random.delay(in: 10 * millisecond...100 * millisecond)) {
            shard.conditions.slowness = 1
        }
    }

    /// Somebody sets the clock, by more or less than what the node takes for its uncertainty.
    private func stepClock() {
        cluster.servingNode?.clock.step(by: random.number(in: -5 * millisecond...5 * millisecond))
    }
}
