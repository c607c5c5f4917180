import BoundedTime
import DequeModule
import EventLoops
import Logging
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Runs transactions over PostgreSQL shards in one global order: the shell around ``TwoPhaseCommit``.
///
/// An engine coordinates a cluster alone, or with peers that it knows of (``Coordination``): a lock on every shard
/// keeps others out, and its epoch fences its predecessors (R6). All of its state lives on one event loop, on which its
/// connections live too, so the in-flight set, the choice of timestamps and the protocol's steps need no locks and no
/// thread hops.
public actor TransactionEngine: LoopActor {
    public nonisolated let loop: EventLoop
    public nonisolated let configuration: EngineConfiguration
    /// The shards, sorted by name.
    public nonisolated let shards: [ShardID]
    /// This engine's epoch.
    public nonisolated let epoch: Epoch
    /// This life of this node.
    public nonisolated var incarnation: Incarnation { Incarnation(configuration.node, epoch) }
    nonisolated let clock: any IntervalClock
    nonisolated let logger: Logger
    nonisolated let pools: [ShardID: ShardPools]
    nonisolated let recovery: OrphanRecovery
    nonisolated let primaries: [ShardID: ShardPrimary]

    var tracker: SafeTimeTracker
    /// What other coordinators have promised, and this one them.
    var peers: ClosedTimestamps
    var peerWork = PeerWork()
    /// Commits that are not settled on every shard yet.
    var live: [TransactionID: CommitRun] = [:]
    /// What of other nodes, and of this one's earlier lives, is over: fenced on every shard, or about to be.
    var fencedEpochs: FencedEpochs
    var statistics = EngineStatistics()
    /// The newest timestamp that each shard has answered to have committed.
    var newestCommits: [ShardID: Timestamp] = [:]
    /// By shard; see ``ObjectNumbers``.
    var numbers: [ShardID: ObjectNumbers] = [:]
    var waits = WaitList()
    var readWaiters: [SafeTimeTracker.WaiterID: WaitList.ID] = [:]
    private var admission: Admission
    private var admissionQueue = Deque<WaitList.ID>()
    private var newestNumber = Timestamp.zero
    /// How many ``PinnedSession``s there are.
    public internal(set) var pinnedCount = 0
    var listeners: [ShardConnection] = []
    private var owners: [SessionID: any LockOwner] = [:]
    private var isStopping = false
    private var isExpiring = false
    /// The engine has let go of the shards: whatever is not settled is its successor's.
    public private(set) var isStopped = false
    /// Another coordinator has taken over; this one can do nothing more.
    public internal(set) var isFenced = false
    private var upkeep: [Task<Void, Never>] = []

    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    init(takeover: Takeover, clock: any IntervalClock, loop: EventLoop, logger: Logger) {
        self.loop = loop
        self.clock = clock
        self.logger = logger
        configuration = takeover.configuration
        shards = takeover.configuration.shards.map(\.id).sorted()
        epoch = takeover.epoch
        recovery = takeover.recovery
        pools = takeover.pools
        primaries = takeover.primaries
        fencedEpochs = takeover.fencedEpochs
        tracker = SafeTimeTracker(node: takeover.configuration.node, newest: takeover.newest)
        peers = ClosedTimestamps(Incarnation(takeover.configuration.node, takeover.epoch), peers: [], &tracker)
        admission = Admission(
            openMax: takeover.configuration.writersMax, busyMax: takeover.configuration.busyRequestsMax)
        statistics.recovered = takeover.settled
    }

    /// What the engine has done so far.
    public func currentStatistics() -> EngineStatistics { statistics }

    // MARK: Transactions

    /// Opens a read-write transaction, waiting while ``EngineConfiguration/writersMax`` are open or
    /// ``EngineConfiguration/busyRequestsMax`` requests keep the shards busy.
    ///
    /// End it by ``ReadWriteTransaction/commit()`` or ``ReadWriteTransaction/rollback()``, whatever happens.
    ///
    /// - Parameters:
    ///   - preparation: what each session of the transaction is told before BEGIN.
    ///   - pinned: what it uses on that shard, for one transaction at a time.
    public func begin(
        preparing preparation: SessionPreparation? = nil, in pinned: PinnedSession? = nil
    ) async throws(TransactionError) -> ReadWriteTransaction {
        try await admit()
        prepareToActivate()
        return ReadWriteTransaction(engine: self, number: nextNumber(), preparation: preparation, pinned: pinned)
    }

    /// A number for a ``LockOwner`` that begins: other nodes' are others, and the youngest of all has the largest, as
    /// far as clocks agree.
    func nextNumber() -> UInt64 {
        let now = (try? clock.now().latest) ?? .zero
        newestNumber = max(now, newestNumber.successor).roundedUp(for: configuration.node)
        return UInt64(newestNumber.rawValue)
    }

    // MARK: Sessions and their owners

    /// A server process works for `owner` from here on, until its session is given back.
    func sessionOpened(_ process: Int32, on shard: ShardID, by owner: any LockOwner) {
        owners[SessionID(shard, process)] = owner
    }

    /// - Parameter number: the owner's, who may have been followed by another in a session that is pinned.
    func sessionClosed(_ process: Int32, on shard: ShardID, by number: UInt64) {
        let id = SessionID(shard, process)
        if owners[id]?.number == number { owners[id] = nil }
    }

    /// Whom a server process works for.
    func owner(of process: Int32, on shard: ShardID) -> (any LockOwner)? {
        owners[SessionID(shard, process)]
    }

    func owner(_ number: UInt64) -> (any LockOwner)? {
        owners.values.first { $0.number == number }
    }

    /// Lets some time pass; whether a request has been under way for longer than a shard works at one.
    func hasLongRequests() -> Bool {
        admission.tick()
        return admission.hasLongRequests
    }

    /// Runs `body` in a transaction and commits it; rolls back when `body` throws.
    ///
    /// - Returns: what `body` returned, and the commit timestamp.
    public nonisolated func transaction<Result: Sendable>(
        _ body: (ReadWriteTransaction) async throws -> Result
    ) async throws -> (Result, Timestamp) {
        let transaction = try await begin()
        do {
            let result = try await body(transaction)
            return (result, try await transaction.commit())
        } catch {
            await transaction.rollback()
            throw error
        }
    }

    private func admit() async throws(TransactionError) {
        guard !isFenced else { throw Self.fenced }
        guard !isStopping else { throw Self.stopping }
        if admission.hasRoom, admissionQueue.isEmpty {
            admission.opened()
            return
        }
        let place = waits.begin()
        admissionQueue.append(place)
        switch await wait(place, for: configuration.admissionTimeout) {
        case .granted: return
        case .cancelled: throw Self.cancelled
        case .expired:
            throw TransactionError(
                .tooManyConnections, "no transaction could be begun within \(configuration.admissionTimeout)",
                detail: "\(admission.open) transactions are open",
                hint: "try again later, or raise the bound of the connection pools")
        }
    }

    /// Lets the first in line begin, if there is room.
    private func admitNext() {
        while admission.hasRoom, let next = admissionQueue.popFirst() {
            // One at a time: it counts as busy only when it asks for something.
            if waits.end(next, .granted) { return admission.opened() }
        }
    }

    /// A transaction holds no connection any more.
    func transactionClosed() {
        admission.closed()
        admitNext()
    }

    /// A shard is asked to do something for a transaction; to be ended by ``requestEnded(_:)``.
    func requestBegan() -> Admission.Request { admission.requestBegan() }

    func requestEnded(_ request: Admission.Request) {
        admission.requestEnded(request)
        admitNext()
    }

    // MARK: Waiting

    /// Waits until the wait that has begun is ended, at most `duration`.
    func wait(_ id: WaitList.ID, for duration: Duration) async -> WaitList.End {
        let deadline = ContinuousClock.now + duration
        return await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                waits.add(id, continuation, until: deadline)
                expireWaits()
                if Task.isCancelled { waits.end(id, .cancelled) }
            }
        } onCancel: {
            Task { await self.endWait(id, .cancelled) }
        }
    }

    private func endWait(_ id: WaitList.ID, _ end: WaitList.End) {
        waits.end(id, end)
    }

    /// Looks for expired waits, and for room, now and then as long as there are waits: cheaper than a timer for each.
    private func expireWaits() {
        guard !isExpiring else { return }
        isExpiring = true
        Task {
            while !waits.isEmpty {
                try? await loop.sleep(until: .now + .milliseconds(20))
                waits.expire(at: .now)
                admission.tick()
                admitNext()
            }
            isExpiring = false
        }
    }

    // MARK: Life

    /// No transaction is open, and none is being committed.
    var isIdle: Bool { admission.open == 0 && live.isEmpty }

    /// New transactions are refused from here on.
    func stopAdmitting() {
        isStopping = true
    }

    /// Keeps `task` until the engine stops, and cancels it then.
    func keep(_ task: Task<Void, Never>) {
        upkeep.append(task)
    }

    /// Stops: refuses new transactions, lets the open commits settle for at most `grace`, and lets go of the shards.
    ///
    /// What is not settled by then stays prepared, and the next coordinator's start settles it.
    public func shutdown(grace: Duration = .seconds(5)) async {
        isStopping = true
        let deadline = ContinuousClock.now + grace
        while !isIdle, .now < deadline {
            try? await loop.sleep(until: .now + .milliseconds(5))
        }
        isStopped = true
        peerWork.catalog?.stopped()
        for task in upkeep { task.cancel() }
        for task in peerWork.fencing.values { task.cancel() }
        peerWork.probe?.cancel()
        for listener in listeners { await listener.close() }
        for pools in pools.values { await pools.close() }
    }

    static let stopping = TransactionError(.adminShutdown, "the engine is stopping", hint: "connect to another node")
    static let fenced = TransactionError(
        .objectNotInPrerequisiteState, "this node is fenced: another coordinator has taken over",
        hint: "connect to another node")
    static let cancelled = TransactionError(.queryCanceled, "the caller gave up")
}
