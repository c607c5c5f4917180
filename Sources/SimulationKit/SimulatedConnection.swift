import TransactionCore

/// How long messages take and how often connections break.
struct NetworkConditions: Hashable {
    var latencyNanoseconds: ClosedRange<Nanoseconds> = 50 * microsecond...500 * microsecond
    /// How often a connection breaks around a request: before it arrives, while it is carried out, before or after the
    /// answer.
    var breakProbability = 0.0
    /// By how much messages already sent may still be late when their connection is given up.
    var lateNanoseconds: ClosedRange<Nanoseconds> = 0...30 * millisecond
    var timeoutNanoseconds: Nanoseconds = 250 * millisecond
}

/// The network between nodes and shards.
final class SimulatedNetwork {
    let scheduler: Scheduler
    var conditions: NetworkConditions
    /// Until when nothing gets through to these shards.
    private var partitions: [ShardID: Timestamp] = [:]
    /// Likewise between a node and a shard.
    private var cuts: [Cut: Timestamp] = [:]

    private struct Cut: Hashable {
        let node: NodeID
        let shard: ShardID
    }

    init(scheduler: Scheduler, conditions: NetworkConditions) {
        self.scheduler = scheduler
        self.conditions = conditions
    }

    func partition(_ shard: ShardID, for duration: Nanoseconds) {
        partitions[shard] = scheduler.now.advanced(byNanoseconds: duration)
    }

    func cut(_ node: NodeID, from shard: ShardID, for duration: Nanoseconds) {
        cuts[Cut(node: node, shard: shard)] = scheduler.now.advanced(byNanoseconds: duration)
    }

    func heal() {
        partitions = [:]
        cuts = [:]
    }

    /// When a message to or from `shard` that is sent now arrives, at the earliest.
    func arrival(at shard: ShardID, _ node: NodeID) -> Timestamp {
        max(scheduler.now, partitions[shard] ?? .zero, cuts[Cut(node: node, shard: shard)] ?? .zero)
            .advanced(byNanoseconds: scheduler.random.delay(in: conditions.latencyNanoseconds))
    }
}

/// A connection from a node to a shard: messages arrive in the order sent, if they do.
final class SimulatedConnection {
    let shard: SimulatedShard
    private unowned let node: SimulatedNode
    private let network: SimulatedNetwork
    private var session: SimulatedSession?
    private var outstanding: [(number: Int, then: (PipelineResult) -> Void)] = []
    private var requestCount = 0
    private var lastArrival = Timestamp.zero
    private var lastAnswer = Timestamp.zero
    /// Nothing more is heard on it.
    private(set) var isBroken = false
    /// Nothing sent arrives any more.
    private var isSilent = false

    init(to shard: SimulatedShard, from node: SimulatedNode, over network: SimulatedNetwork) {
        self.shard = shard
        self.node = node
        self.network = network
    }

    /// Sends a pipeline of statements. `then` is called once: with their answers, with an error, or when the connection
    /// broke first.
    func run(_ statements: [Statement], then: @escaping (PipelineResult) -> Void) {
        let scheduler = network.scheduler
        requestCount += 1
        let number = requestCount
        outstanding.append((number, then))
        guard !isBroken else { return fail(after: 0) }

        lastArrival = max(lastArrival.successor, network.arrival(at: shard.id, node.id))
        deliver { [self] in
            guard let session = session ?? connect() else { return breakOff() }
            session.received(statements) { [self] result in answer(result, to: number) }
        }
        scheduler.after(network.conditions.timeoutNanoseconds) { [self] in
            if outstanding.contains(where: { $0.number == number }) { breakOff() }
        }
        if scheduler.random.chance(network.conditions.breakProbability) {
            scheduler.after(scheduler.random.number(in: 0...4 * millisecond)) { [self] in breakOff() }
        }
    }

    /// Gives the connection up. What was sent may be lost, or arrive all the same and late; the session then ends.
    func breakOff() {
        guard !isBroken else { return }
        isBroken = true
        let scheduler = network.scheduler
        isSilent = scheduler.random.chance(0.5)
        let late = scheduler.random.delay(in: network.conditions.lateNanoseconds)
        lastArrival = max(lastArrival, network.arrival(at: shard.id, node.id)).advanced(byNanoseconds: late)
        deliver { [self] in session?.disconnected() }
        fail(after: 0)
    }

    /// Nothing more will be asked: the session ends, and rolls back what is open.
    func close() {
        guard !isBroken else { return }
        isBroken = true
        lastArrival = max(lastArrival, network.arrival(at: shard.id, node.id))
        deliver { [self] in session?.disconnected() }
    }

    /// Lets go of everybody who waits.
    func tearDown() {
        outstanding = []
        session = nil
    }

    private func connect() -> SimulatedSession? {
        session = shard.connect { [weak self] in
            guard let self else { return }
            let delay = network.arrival(at: shard.id, node.id).nanoseconds(since: network.scheduler.now)
            network.scheduler.after(delay) { [self] in breakOff() }
        }
        return session
    }

    /// Lets `body` happen at the shard when what was sent last arrives; a broken connection makes it late or void.
    private func deliver(_ body: @escaping () -> Void) {
        let scheduler = network.scheduler
        let arrival = lastArrival
        let wasBroken = isBroken
        scheduler.after(arrival.nanoseconds(since: scheduler.now)) { [self] in
            guard isBroken, !wasBroken else { return body() }
            guard !isSilent else { return }
            scheduler.after(lastArrival.nanoseconds(since: scheduler.now) - 1, body)
        }
    }

    private func answer(_ result: PipelineResult, to number: Int) {
        let scheduler = network.scheduler
        lastAnswer = max(lastAnswer.successor, network.arrival(at: shard.id, node.id))
        scheduler.after(lastAnswer.nanoseconds(since: scheduler.now)) { [self] in
            guard !isBroken, let index = outstanding.firstIndex(where: { $0.number == number }) else { return }
            let then = outstanding.remove(at: index).then
            node.deliver { then(result) }
        }
    }

    private func fail(after delay: Nanoseconds) {
        network.scheduler.after(delay) { [self] in
            let failed = outstanding
            outstanding = []
            let error = TransactionError(
                .connectionFailure, "the connection to shard \(shard.id) was lost", shard: shard.id)
            for (_, then) in failed { node.deliver { then(.failure(.lost(error))) } }
        }
    }
}
