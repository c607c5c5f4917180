import TransactionCore

/// One run: the real coordinator, recovery, safe time and clock code over simulated clocks, network and shards, with
/// everything that goes wrong drawn from a seed, and its history judged at the end.
public struct Simulation: Sendable {
    /// How the clocks of a run behave.
    public enum Clocks: Hashable, Sendable {
        /// Wrong by no more than their sources say.
        case honest
        /// The nodes, in the order of their start, have these; honest ones follow.
        case faulty([ClockFault])
    }

    public let seed: UInt64
    public let bug: PlantedBug?
    public let clocks: Clocks

    /// Describes the run of `seed`.
    public init(seed: UInt64, bug: PlantedBug? = nil, clocks: Clocks = .honest) {
        self.seed = seed
        self.bug = bug
        self.clocks = clocks
    }

    /// What came of a run.
    public struct Report: Sendable {
        public let seed: UInt64
        public let bug: PlantedBug?
        public let violations: [Violation]
        public let counts: RunCounts
        public let trace: Trace
    }

    /// Runs it; the same description gives the same report, in every process.
    public func run() -> Report {
        let scheduler = Scheduler(seed: seed)
        var plan = RunPlan(clocks: clocks, random: &scheduler.random)
        // Of its own chance: a run of one node is what it was without.
        var more = SeededGenerator(seed: ~seed)
        if clocks == .honest, more.chance(0.6) { plan.coordinateTogether(random: &more) }
        let rows = plan.workload.initialRows
        let shards = plan.shards.map { id in
            SimulatedShard(
                id: id, rows: rows.filter { $0.key.shard == id }, conditions: plan.conditions.shard,
                scheduler: scheduler)
        }
        let cluster = SimulatedCluster(scheduler: scheduler, shards: shards, conditions: plan.conditions, bug: bug)
        let recorder = HistoryRecorder()
        let clients = (0..<plan.clientCount).map { number in
            SimulatedClient(
                number: number, cluster: cluster, recorder: recorder, workload: plan.workload,
                thinkNanoseconds: plan.thinkNanoseconds)
        }
        cluster.onNodeStopped = { node in for client in clients { client.nodeStopped(node) } }
        defer { cluster.tearDown() }

        let faults = FaultInjector(cluster: cluster, rates: plan.faults)
        cluster.start()
        for client in clients { client.proceed() }
        faults.start()
        scheduler.run(until: scheduler.now.advanced(byNanoseconds: plan.durationNanoseconds))
        for client in clients { client.isClosing = true }
        faults.stop()
        scheduler.run(until: scheduler.now.advanced(byNanoseconds: Self.settlingNanosecondsMax)) {
            clients.allSatisfy(\.isIdle) && cluster.isSettled
        }

        cluster.readEverything(plan.workload.accounts + plan.workload.registers, recorder: recorder)
        // What was on its way may have been prepared since.
        scheduler.run(until: scheduler.now.advanced(byNanoseconds: Self.settlingNanosecondsMax)) { cluster.isSettled }

        let history = cluster.history(recorder: recorder, initial: rows)
        cluster.counts.checks = 1
        return Report(
            seed: seed, bug: bug, violations: history.violations(), counts: cluster.counts,
            trace: Trace(events: scheduler.trace))
    }

    /// Once everything is mended, the longest chain of timeouts and retries is over long before.
    static let settlingNanosecondsMax = 5 * second
}

/// What a seed stands for.
private struct RunPlan {
    let shards: [ShardID]
    let workload: Workload
    var clientCount: Int
    var thinkNanoseconds: ClosedRange<Nanoseconds>
    let durationNanoseconds: Nanoseconds
    var conditions = Conditions()
    var faults = FaultRates()

    init(clocks: Simulation.Clocks, random: inout SeededGenerator) {
        shards = ["a", "b", "c", "d"].prefix(2 + random.index(below: 3)).map { ShardID($0)! }
        workload = Workload(
            shards: shards, accountsPerShard: 1 + random.index(below: 3), registersPerShard: 1 + random.index(below: 2),
            readFraction: 0.2 + 0.1 * Double(random.index(below: 5)))
        clientCount = 1 + random.index(below: 10)
        thinkNanoseconds = 0...random.number(in: 1...8) * millisecond
        durationNanoseconds = random.number(in: 300...700) * millisecond

        conditions.clockErrorNanoseconds = random.number(in: 0...4) * millisecond
        conditions.clockMarginNanoseconds = random.number(in: 0...2) * millisecond
        if case .faulty(let faults) = clocks { conditions.clockFaults = faults }
        conditions.commitTimeoutNanoseconds = random.element(of: [5, 30, 150]) * millisecond
        conditions.network.breakProbability = random.element(of: [0, 0.005, 0.02])
        conditions.shard.flushNanoseconds = (millisecond / 2)...random.element(of: [2, 2, 20]) * millisecond
        conditions.shard.stallProbability = random.element(of: [0, 0.03])
        conditions.shard.refusalProbability = random.element(of: [0, 0, 0.01])
        conditions.network.lateNanoseconds = 0...random.number(in: 1...60) * millisecond

        let mean = { (milliseconds: [Int64?], random: inout SeededGenerator) in
            random.element(of: milliseconds).map { $0 * millisecond }
        }
        faults.nodeCrash = mean([nil, 80, 200], &random)
        faults.nodePause = mean([nil, nil, 150], &random)
        faults.shardCrash = mean([nil, 100, 300], &random)
        faults.partition = mean([nil, 200], &random)
        faults.sessionEnd = mean([nil, 10], &random)
        faults.slowness = mean([nil, 100], &random)
        faults.clockStep = clocks == .honest ? mean([nil, 100], &random) : nil
        if random.chance(0.25) { takeOverConstantly() }
    }
}

extension RunPlan {
    /// Two or three nodes coordinate at once.
    mutating func coordinateTogether(random: inout SeededGenerator) {
        conditions.nodeCount = 2 + random.index(below: 2)
        conditions.peers.lossProbability = random.element(of: [0, 0.05, 0.3])
        conditions.peers.duplicateProbability = random.element(of: [0, 0.1, 0.3])
        conditions.peers.lateProbability = random.element(of: [0, 0.05, 0.2])
        conditions.metadata.sessionNanoseconds = random.number(in: 15...60) * millisecond
        conditions.metadata.latencyNanoseconds = (200 * microsecond)...random.number(in: 1...8) * millisecond
        conditions.metadata.noticeNanoseconds = 0...random.element(of: [1, 40, 150]) * millisecond
        faults.nodePause = random.element(of: [nil, 100 * millisecond, 200 * millisecond])
        faults.peerCut = random.element(of: [nil, 60 * millisecond, 150 * millisecond])
        faults.shardCut = random.element(of: [nil, 30 * millisecond, 100 * millisecond])
        faults.metadataCut = random.element(of: [nil, 100 * millisecond, 200 * millisecond])
        switch random.index(below: 3) {
        case 0: leaveInDoubt()
        case 1: vanishConstantly()
        default: break
        }
    }

    /// Nodes are declared gone all the time that live and have commits hanging in slow flushes; little else fails.
    private mutating func vanishConstantly() {
        conditions.shard.stallProbability = 0.3
        conditions.metadata.sessionNanoseconds = 15 * millisecond
        conditions.metadata.noticeNanoseconds = 20 * millisecond...150 * millisecond
        conditions.network.breakProbability = 0
        conditions.peers = PeerConditions()
        conditions.nodeCount = 2
        faults = FaultRates(nodeCrash: 60 * millisecond, nodePause: 100 * millisecond, metadataCut: 20 * millisecond)
    }

    /// One node writes and is cut off from home shards while these commit; clients ask the others, which are silent,
    /// what came of it.
    private mutating func leaveInDoubt() {
        // The fewer clients there are, the longer it takes until another commit tells as much.
        clientCount = 2 + clientCount / 5
        thinkNanoseconds = 0...2 * millisecond
        conditions.hasOneWriter = true
        conditions.shard.flushNanoseconds = 2 * millisecond...20 * millisecond
        conditions.commitTimeoutNanoseconds = 5 * millisecond
        conditions.askingNanoseconds = millisecond...10 * millisecond
        conditions.network.breakProbability = 0
        conditions.peers = PeerConditions()
        faults = FaultRates(shardCut: 20 * millisecond)
    }

    /// One process after the other takes over while commits of the one before hang in slow flushes; little else fails.
    private mutating func takeOverConstantly() {
        conditions.shard.stallProbability = 0.15
        conditions.network.breakProbability = 0
        faults = FaultRates(nodeCrash: 80 * millisecond, nodePause: 40 * millisecond)
    }
}

extension SimulatedCluster {
    /// Every node serves that is to, and nothing is under way.
    fileprivate var isSettled: Bool {
        let serving = servingNodes
        guard serving.count >= conditions.nodeCount, serving.allSatisfy(\.live.isEmpty) else { return false }
        return shards.allSatisfy { $0.storage.prepared.isEmpty }
    }

    /// Reads `keys` strongly on every node until it succeeds: once all is mended, nothing may hold a read back.
    fileprivate func readEverything(_ keys: [RowKey], recorder: HistoryRecorder) {
        guard areSeveral else { return readEverything(keys, recorder: recorder) { [self] in servingNodes.first } }
        for id in nodeIDs {
            recorder.hasFinalRead = false
            readEverything(keys, recorder: recorder) { [self] in servingNodes.last { $0.id == id } }
            guard recorder.hasFinalRead else { return }
        }
    }

    private func readEverything(_ keys: [RowKey], recorder: HistoryRecorder, on node: () -> SimulatedNode?) {
        let deadline = scheduler.now.advanced(byNanoseconds: Simulation.settlingNanosecondsMax)
        while !recorder.hasFinalRead, scheduler.now < deadline {
            let begun = scheduler.now
            let number = recorder.nextNumber()
            node()?.read(keys, bound: .strong, number: number) { [self] result in
                guard case .success(let (timestamp, values)) = result else { return }
                recorder.hasFinalRead = true
                recorder.reads.append(
                    ReadRecord(
                        number: number, client: -1, bound: .strong, begun: begun, ended: scheduler.now,
                        timestamp: timestamp,
                        observations: zip(keys, values).map { Observation(key: $0, value: $1) }))
            }
            scheduler.run(until: begun.advanced(byNanoseconds: 100 * millisecond)) { recorder.hasFinalRead }
        }
    }

    fileprivate func history(recorder: HistoryRecorder, initial: [RowKey: Value]) -> History {
        let log = shards.flatMap { shard in
            // Tombstones are no commits.
            shard.storage.commits.filter { !$0.changes.isEmpty }.compactMap { writes in
                writes.logRow.map {
                    LoggedCommit(shard: shard.id, timestamp: $0.id.commitTimestamp, changes: writes.changes)
                }
            }
        }
        let prepared = shards.flatMap { shard in
            shard.storage.prepared.keys.map(\.description).sorted().map { (shard.id, $0) }
        }
        return History(
            initial: initial, transactions: recorder.transactions, reads: recorder.reads, log: log, prepared: prepared,
            servesAgain: recorder.hasFinalRead)
    }
}
