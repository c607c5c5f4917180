import DequeModule

/// What a pool of connections does: inputs are what happened, results are what to do about it.
///
/// Each connection is idle, leased or being opened; together they never exceed the bound. Who finds no idle connection
/// waits in line. The shard counts as down from the moment a connection could not be opened while no other was open,
/// and until one is opened again: meanwhile every lease fails at once, and one attempt after another is made, at
/// growing intervals, whether or not anybody asks.
struct ConnectionPoolState {
    struct ConnectionID: Hashable, Sendable {
        let number: UInt64
    }

    struct WaiterID: Hashable, Sendable {
        let number: UInt64
    }

    enum Action: Equatable {
        /// Hand the connection to the waiter.
        case lease(ConnectionID, to: WaiterID)
        /// Tell the waiter that it gets none.
        case fail(WaiterID, ShardError)
        /// Open a connection, and say how it went.
        case open(ConnectionID)
        case close(ConnectionID)
        /// Call ``retryDue()`` then.
        case retry(after: Duration)
    }

    /// The first interval between two attempts to connect, and the longest, to which it doubles.
    static let retryIntervals = (first: Duration.milliseconds(50), longest: Duration.seconds(2))

    /// Attempts to connect fail; until one succeeds, only retries are made.
    private struct Failure {
        var error: ShardError
        var interval: Duration
        /// Nothing was left open: the shard is down.
        var isDown = false
    }

    private let bound: Int
    private var idle: [ConnectionID] = []
    private var leased: Set<ConnectionID> = []
    /// Leased, and ended meanwhile.
    private var broken: Set<ConnectionID> = []
    private var opening: Set<ConnectionID> = []
    private var waiters = Deque<WaiterID>()
    /// Nil when the last attempt to connect succeeded.
    private var failure: Failure?
    private var isRetryScheduled = false
    private var isClosed = false
    private var lastNumber: UInt64 = 0

    private(set) var statistics = PoolStatistics()

    /// - Parameter bound: how many connections there are at most.
    init(bound: Int) {
        precondition(bound > 0, "a pool of \(bound) connections")
        self.bound = bound
    }

    // MARK: Inputs

    /// Someone asks for a connection: takes the one used last, if any is idle.
    mutating func leaseIdle() -> ConnectionID? {
        guard let id = idle.popLast() else { return nil }
        leased.insert(id)
        count()
        return id
    }

    /// Someone asks for a connection, and none is idle.
    mutating func wait(_ waiter: WaiterID) -> [Action] {
        if let id = leaseIdle() { return [.lease(id, to: waiter)] }
        if isClosed { return [.fail(waiter, ShardError(.closed, "the pool was closed"))] }
        if let error = downError { return [.fail(waiter, error)] }
        waiters.append(waiter)
        return openForWaiters()
    }

    /// A waiter gave up, because of its deadline or because its task was cancelled.
    mutating func giveUp(_ waiter: WaiterID, _ kind: ShardError.Kind) -> [Action] {
        guard let position = waiters.firstIndex(of: waiter) else { return [] }
        waiters.remove(at: position)
        count()
        guard kind == .poolWaitTimedOut else {
            return [.fail(waiter, ShardError(kind, "waiting for a connection to the shard was cancelled"))]
        }
        let reason = failure.map { ": \($0.error.message)" } ?? ", \(leased.count) of \(bound) are in use"
        return [.fail(waiter, ShardError(kind, "no connection to the shard became free in time\(reason)"))]
    }

    /// A connection is ready for use.
    mutating func opened(_ id: ConnectionID) -> [Action] {
        precondition(opening.remove(id) != nil, "connection \(id.number) was not being opened")
        statistics.opened += 1
        failure = nil
        leased.insert(id)
        return giveBack(id, isReusable: true)
    }

    /// A connection could not be opened, or made ready.
    mutating func notOpened(_ id: ConnectionID, _ error: ShardError) -> [Action] {
        precondition(opening.remove(id) != nil, "connection \(id.number) was not being opened")
        statistics.failed += 1
        guard !isClosed else { return [] }
        var failure = failure ?? Failure(error: error, interval: .zero)
        failure.error = error
        // Attempts made together fail together, and are retried once.
        guard !isRetryScheduled else {
            self.failure = failure
            return failWaitersIfDown()
        }
        isRetryScheduled = true
        failure.interval = max(Self.retryIntervals.first, min(failure.interval * 2, Self.retryIntervals.longest))
        self.failure = failure
        return failWaitersIfDown() + [.retry(after: failure.interval)]
    }

    /// The interval after a failed attempt is over.
    mutating func retryDue() -> [Action] {
        isRetryScheduled = false
        guard let isDown = failure?.isDown, !isClosed else { return [] }
        // While an attempt is under way, it will tell.
        guard opening.isEmpty else { return [] }
        guard isDown || !waiters.isEmpty, leased.count + idle.count < bound else {
            failure = nil
            return []
        }
        return [openOne()]
    }

    /// The server ended a connection. A leased one counts against the bound until it is given back.
    mutating func ended(_ id: ConnectionID) -> [Action] {
        if leased.contains(id) {
            broken.insert(id)
            return failWaitersIfDown()
        }
        guard let position = idle.firstIndex(of: id) else { return [] }
        idle.remove(at: position)
        statistics.lost += 1
        return [.close(id)] + failWaitersIfDown()
    }

    /// A lease is over. A connection that is closed, or left in a transaction, is not to be used again.
    mutating func giveBack(_ id: ConnectionID, isReusable: Bool) -> [Action] {
        precondition(leased.remove(id) != nil, "connection \(id.number) was given back twice")
        broken.remove(id)
        guard isReusable, !isClosed else {
            statistics.lost += 1
            return [.close(id)] + failWaitersIfDown() + openForWaiters()
        }
        guard let waiter = waiters.popFirst() else {
            idle.append(id)
            count()
            return []
        }
        leased.insert(id)
        return [.lease(id, to: waiter)] + openForWaiters()
    }

    /// Nobody gets a connection any more; those leased are closed when they are given back.
    mutating func close() -> [Action] {
        isClosed = true
        let error = ShardError(.closed, "the pool was closed")
        let actions = waiters.map { Action.fail($0, error) } + idle.map { Action.close($0) }
        waiters = []
        idle = []
        count()
        return actions
    }

    // MARK: Rules

    /// What everyone is told while the shard is down.
    private var downError: ShardError? {
        guard let failure, failure.isDown else { return nil }
        var error = failure.error
        error.message = "the shard is down: \(error.message)"
        return error
    }

    private mutating func failWaitersIfDown() -> [Action] {
        if idle.isEmpty, leased.count == broken.count, opening.isEmpty { failure?.isDown = true }
        defer { count() }
        guard let error = downError else { return [] }
        defer { waiters = [] }
        return waiters.map { .fail($0, error) }
    }

    /// One more connection for each waiter that none is being opened for. After a failure only the retry opens one.
    private mutating func openForWaiters() -> [Action] {
        defer { count() }
        guard failure == nil, !isClosed else { return [] }
        let missing = min(waiters.count - opening.count, bound - leased.count - idle.count - opening.count)
        return missing > 0 ? (0..<missing).map { _ in openOne() } : []
    }

    private mutating func openOne() -> Action {
        lastNumber += 1
        let id = ConnectionID(number: lastNumber)
        opening.insert(id)
        count()
        return .open(id)
    }

    private mutating func count() {
        statistics.inUse = leased.count
        statistics.idle = idle.count
        statistics.opening = opening.count
        statistics.waiting = waiters.count
    }
}

/// How a pool stands.
public struct PoolStatistics: Hashable, Sendable {
    /// Leased now.
    public var inUse = 0
    /// Open and free now.
    public var idle = 0
    /// Being opened now.
    public var opening = 0
    /// Requests in line now.
    public var waiting = 0
    /// Connections opened since the start.
    public var opened = 0
    /// Attempts to connect that failed since the start.
    public var failed = 0
    /// Open connections that ended since the start: by the server, or because they could not be used again.
    public var lost = 0
}
