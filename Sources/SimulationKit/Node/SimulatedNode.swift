import BoundedTime
import TransactionCore
import TwoPhaseCommit

/// A coordinating process: the twin of the real engine. It runs the real ``Coordinator``, ``Recovery``,
/// ``SafeTimeTracker`` and bounded clock, and carries their actions out against simulated shards.
final class SimulatedNode {
    enum Phase {
        case starting
        case serving
        case stopped
    }

    let number: Int
    let id: NodeID
    unowned let cluster: SimulatedCluster
    let clock: SimulatedClock
    var phase = Phase.starting
    var epoch = Epoch(rawValue: 0)
    var tracker: SafeTimeTracker
    var closed: ClosedTimestamps
    /// The transactions that this process coordinates.
    var live: Set<TransactionID> = []
    /// Reads that wait for their safe time.
    var waitingReads: [SafeTimeTracker.WaiterID: () -> Void] = [:]
    /// The connections that hold the shards' coordinator locks.
    var lockConnections: [SimulatedConnection] = []
    /// What waits for the leave to choose timestamps.
    var waitingCommits: [() -> Void] = []
    /// Reads that wait for the end of a round, with its number.
    var waitingRounds: [(round: UInt64, then: (Timestamp) -> Void)] = []
    /// It has made itself known to others and knows of them.
    var hasJoined = false
    /// By node: epochs up to this one are over on every shard.
    var fencedEpochs: [NodeID: Epoch] = [:]
    /// The last activity that a peer has spoken of; for ``PlantedBug/roundIgnoringPeer``.
    var activities: [Incarnation: UInt64] = [:]
    private var connections: [SimulatedConnection] = []
    private var isPaused = false
    private var deferred: [() -> Void] = []

    init(number: Int, id: NodeID, clock: SimulatedClock, cluster: SimulatedCluster) {
        self.number = number
        self.id = id
        self.clock = clock
        self.cluster = cluster
        tracker = SafeTimeTracker(node: id, newest: .zero)
        closed = ClosedTimestamps(Incarnation(id, epoch), peers: [], &tracker)
    }

    var incarnation: Incarnation { Incarnation(id, epoch) }
    var scheduler: Scheduler { cluster.scheduler }
    var bug: PlantedBug? { cluster.bug }

    func note(_ what: String, number: Int? = nil, timestamp: Timestamp? = nil) {
        scheduler.note(.node(self.number), what, number: number, timestamp: timestamp)
    }

    // MARK: Life

    /// Something has arrived for this process; a paused one looks at it later, a dead one never.
    func deliver(_ body: @escaping () -> Void) {
        guard phase != .stopped else { return }
        guard !isPaused else { return deferred.append(body) }
        body()
    }

    /// Lets this process do something later.
    func after(_ delay: Nanoseconds, _ body: @escaping () -> Void) {
        scheduler.after(delay) { [self] in deliver(body) }
    }

    /// The process is gone, with all it remembered.
    func stop(_ reason: String) {
        guard phase != .stopped else { return }
        phase = .stopped
        note(reason)
        for connection in connections { connection.breakOff() }
        forget()
        cluster.onNodeStopped(self)
    }

    /// The process does nothing for a while and does not notice.
    func pause(for duration: Nanoseconds) {
        guard phase != .stopped, !isPaused else { return }
        isPaused = true
        note("paused")
        scheduler.after(duration) { [self] in
            isPaused = false
            guard phase != .stopped else { return }
            note("resumed")
            let bodies = deferred
            deferred = []
            for body in bodies { deliver(body) }
        }
    }

    /// Lets go of what is still under way when the run ends.
    func tearDown() {
        phase = .stopped
        for connection in connections { connection.tearDown() }
        forget()
    }

    private func forget() {
        connections = []
        lockConnections = []
        waitingReads = [:]
        waitingCommits = []
        waitingRounds = []
        deferred = []
    }

    // MARK: Shards

    func connect(to shard: ShardID) -> SimulatedConnection {
        let connection = SimulatedConnection(to: cluster.shard(shard), from: self, over: cluster.network)
        connections.removeAll { $0.isBroken }
        connections.append(connection)
        return connection
    }

    /// Runs `statements` in a session of their own, which no epoch ends: those of recovery and upkeep, which are right
    /// whoever asks (R4).
    func run(_ statements: [Statement], on shard: ShardID, then: @escaping (PipelineResult) -> Void) {
        let connection = connect(to: shard)
        connection.run(statements) { result in
            connection.close()
            then(result)
        }
    }

    /// Runs `statements` in a session that belongs to this node's epoch.
    func runFenced(_ statements: [Statement], on shard: ShardID, then: @escaping (PipelineResult) -> Void) {
        run([.openSession(incarnation)] + statements, on: shard) { [self] result in
            noticeFencing(result)
            then(result)
        }
    }

    /// Runs one statement until a shard answers it without error.
    func runUntilDone(_ statement: Statement, on shard: ShardID, then: @escaping (Answer) -> Void) {
        run([statement], on: shard) { [self] result in
            if case .success(let answers) = result, let answer = answers.first { return then(answer) }
            after(retryDelay) { [self] in runUntilDone(statement, on: shard, then: then) }
        }
    }

    var retryDelay: Nanoseconds { scheduler.random.number(in: 2 * millisecond...10 * millisecond) }

    /// A shard that was told of a newer epoch proves that another process has taken over.
    func noticeFencing(_ result: PipelineResult) {
        if case .failure(let failure) = result, failure.isFencing { stop("fenced off") }
    }

    // MARK: Time

    /// Calls `then` once `timestamp` has certainly passed, or with the clock's refusal.
    func waitOut(_ timestamp: Timestamp, then: @escaping (Result<PassedTimestamp, ClockError>) -> Void) {
        do {
            switch CommitWait(until: timestamp).progress(at: try clock.now()) {
            case .passed(let passed): then(.success(passed))
            case .waiting(let duration):
                let delay = duration.nanoseconds + scheduler.random.number(in: 0...50 * microsecond)
                after(delay) { [self] in waitOut(timestamp, then: then) }
            }
        } catch {
            cluster.counts.clockRefusals += 1
            note("clock refused")
            then(.failure(error))
        }
    }
}
