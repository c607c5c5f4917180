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
    /// Nothing gets through between two nodes, one way or both.
    var peerCut: Nanoseconds?
    /// Nothing gets through between a node and a shard.
    var shardCut: Nanoseconds?
    /// A node is not heard by the metadata, nor hears it.
    var metadataCut: Nanoseconds?
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
        cluster.onCommitSent = { [weak self] node, home in
            guard let self, !isOver, cluster.conditions.hasOneWriter, random.chance(0.3) else { return }
            cluster.network.cut(node.id, from: home, for: random.number(in: 10 * millisecond...80 * millisecond))
        }
        repeating(rates.nodeCrash) { [self] in crashNode() }
        repeating(rates.nodePause) { [self] in pauseNode() }
        repeating(rates.shardCrash) { [self] in crashShard() }
        repeating(rates.partition) { [self] in partitionShard() }
        repeating(rates.sessionEnd) { [self] in endSession() }
        repeating(rates.slowness) { [self] in slowShard() }
        repeating(rates.clockStep) { [self] in stepClock() }
        repeating(rates.peerCut) { [self] in cutPeers() }
        repeating(rates.shardCut) { [self] in cutShard() }
        repeating(rates.metadataCut) { [self] in cutMetadata() }
        if cluster.areSeveral { repeating(10 * millisecond) { [self] in cluster.startMissing() } }
    }

    /// Mends everything: shards are up, connections hold, and somebody serves.
    func stop() {
        isOver = true
        cluster.network.heal()
        cluster.network.conditions.breakProbability = 0
        if cluster.areSeveral {
            cluster.peerNetwork.heal()
            cluster.metadata.heal()
        }
        for shard in cluster.shards {
            shard.conditions.refusalProbability = 0
            shard.conditions.slowness = 1
            shard.restart()
        }
        keepStarted()
    }

    /// A node that stops from here on, because it was fenced perhaps, is started again.
    private func keepStarted() {
        cluster.startMissing()
        guard cluster.areSeveral else { return }
        cluster.scheduler.after(20 * millisecond) { [self] in keepStarted() }
    }

    private func serving() -> SimulatedNode? {
        let serving = cluster.servingNodes
        return serving.count > 1 ? random.element(of: serving) : serving.first
    }

    private func crashNode() {
        guard let node = serving() else { return }
        cluster.counts.nodeCrashes += 1
        node.stop("crashed")
        guard !cluster.areSeveral else { return }
        cluster.scheduler.after(random.delay(in: 0...30 * millisecond)) { [self] in
            if !cluster.nodes.contains(where: { $0.phase == .starting }) { cluster.startNode() }
        }
    }

    private func pauseNode() {
        if let node = serving() { pause(node) }
    }

    /// The process stands still. If it coordinates alone, its locks are lost and another one takes over; else its
    /// session may end, and now and then somebody starts another process of the same node.
    private func pause(_ node: SimulatedNode) {
        cluster.counts.nodeCrashes += 1
        node.pause(for: random.delay(in: 10 * millisecond...150 * millisecond))
        guard !cluster.areSeveral else {
            if random.chance(0.2) { cluster.startNode(node.id) }
            return
        }
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
        serving()?.clock.step(by: random.number(in: -5 * millisecond...5 * millisecond))
    }

    private func cutPeers() {
        let nodes = cluster.nodeIDs
        let (one, other) = (random.element(of: nodes), random.element(of: nodes))
        guard one != other else { return }
        cluster.counts.partitions += 1
        let duration = random.delay(in: 5 * millisecond...100 * millisecond)
        cluster.peerNetwork.cut(from: one, to: other, for: duration)
        if random.chance(0.5) { cluster.peerNetwork.cut(from: other, to: one, for: duration) }
    }

    private func cutShard() {
        cluster.counts.partitions += 1
        cluster.network.cut(
            cluster.conditions.hasOneWriter ? cluster.nodeIDs[0] : random.element(of: cluster.nodeIDs),
            from: random.element(of: cluster.shards).id,
            for: random.delay(in: 5 * millisecond...100 * millisecond))
    }

    private func cutMetadata() {
        cluster.counts.partitions += 1
        cluster.metadata.cut(
            random.element(of: cluster.nodeIDs), for: random.delay(in: 5 * millisecond...150 * millisecond))
    }
}
