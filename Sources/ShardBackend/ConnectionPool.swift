import EventLoops
import Logging
import Metrics

/// The connections to one shard, shared by many tasks.
///
/// A bound on their number, a line for those who wait, and what to do when the shard is down are the rules of
/// ``ConnectionPoolState``; this carries them out. Connections are opened when they are needed and kept. The pool runs
/// on the loop of its connections.
public actor ConnectionPool: LoopActor {
    /// Takes a connection, or what there was instead, on the loop.
    public typealias Recipient = @Sendable (Result<ShardConnection, ShardError>) -> Void

    /// Opens a session by a deadline, with these handlers.
    public typealias Connect =
        @Sendable (
            ConnectionSettings, ContinuousClock.Instant, ShardConnection.Handlers
        ) async throws(ShardError) -> ShardConnection

    /// A place in the line.
    public struct PendingLease: Sendable {
        fileprivate let pool: ConnectionPool
        fileprivate let waiter: ConnectionPoolState.WaiterID

        /// Gives the place up, if it is still there; the recipient is told. May be called from any thread.
        public func cancel() {
            if pool.loop.isCurrent {
                pool.giveUp(waiter, .cancelled)
            } else {
                pool.loop.execute { pool.giveUp(waiter, .cancelled) }
            }
        }
    }

    public nonisolated let loop: EventLoop
    private let settings: ConnectionSettings
    private let label: String
    private let logger: Logger
    private let connect: Connect?
    private let onConnect: (@Sendable (ShardConnection) async throws(ShardError) -> Void)?

    private var state: ConnectionPoolState
    private var connections: [ConnectionPoolState.ConnectionID: ShardConnection] = [:]
    private var waiters: [ConnectionPoolState.WaiterID: (recipient: Recipient, timer: ScheduledTimer)] = [:]
    private var lastWaiter: UInt64 = 0
    private let meters: Meters

    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    /// Makes a pool without any connection.
    ///
    /// - Parameters:
    ///   - bound: how many connections there are at most.
    ///   - label: names the pool in logs and metrics.
    ///   - connect: opens a session on the loop; by default wherever the settings lead.
    ///   - onConnect: sets a new session up; when it throws, the connection counts as not opened.
    public init(
        settings: ConnectionSettings, bound: Int, on loop: EventLoop, label: String, logger: Logger,
        connect: Connect? = nil,
        onConnect: (@Sendable (ShardConnection) async throws(ShardError) -> Void)? = nil
    ) {
        self.settings = settings
        self.loop = loop
        self.label = label
        self.logger = logger
        self.connect = connect
        self.onConnect = onConnect
        state = ConnectionPoolState(bound: bound)
        meters = Meters(pool: label)
    }

    public var statistics: PoolStatistics { state.statistics }

    // MARK: Leases

    /// Takes a connection, which is the caller's until ``giveBack(_:)``, to be called exactly once.
    ///
    /// - Throws: ``ShardError/Kind/poolWaitTimedOut`` at the deadline, ``ShardError/Kind/cancelled``,
    ///   ``ShardError/Kind/closed``; what connecting failed with, at once, while the shard is down.
    public func lease(deadline: ContinuousClock.Instant) async throws(ShardError) -> ShardConnection {
        if let connection = leaseIdle() { return connection }
        let place = makePlace()
        let outcome = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                wait(at: place, deadline) { continuation.resume(returning: $0) }
                if Task.isCancelled { carryOut(state.giveUp(place.waiter, .cancelled)) }
            }
        } onCancel: {
            place.cancel()
        }
        return try outcome.get()
    }

    /// The same for who is on the loop and would be called rather than wait: at once when a connection is idle.
    ///
    /// - Returns: the place in the line; nil when the recipient has been called.
    public func lease(deadline: ContinuousClock.Instant, to recipient: @escaping Recipient) -> PendingLease? {
        if let connection = leaseIdle() {
            recipient(.success(connection))
            return nil
        }
        let place = makePlace()
        wait(at: place, deadline, recipient)
        return waiters[place.waiter] == nil ? nil : place
    }

    private func makePlace() -> PendingLease {
        lastWaiter += 1
        return PendingLease(pool: self, waiter: ConnectionPoolState.WaiterID(number: lastWaiter))
    }

    private func wait(at place: PendingLease, _ deadline: ContinuousClock.Instant, _ recipient: @escaping Recipient) {
        let timer = loop.schedule(at: deadline) { [self] in giveUp(place.waiter, .poolWaitTimedOut) }
        waiters[place.waiter] = (recipient, timer)
        carryOut(state.wait(place.waiter))
    }

    /// Takes a connection if one is idle.
    package func leaseIdle() -> ShardConnection? {
        while let id = state.leaseIdle(), let connection = connections[id] {
            meters.record(state.statistics)
            // The news that it ended may still be on its way.
            if connection.statusOnLoop != .unknown { return connection }
            carryOut(state.giveBack(id, isReusable: false))
        }
        return nil
    }

    /// Ends a lease. The connection is used again, unless it is closed, busy or still in a transaction: a session of
    /// which nobody knows what it has done is closed.
    public func giveBack(_ connection: ShardConnection) {
        let (number, status) = connection.onLoop { connection in
            connection.setNoticeHandler(nil)
            return (connection.numberInPool, connection.transactionStatus)
        }
        guard let id = number, connections[id] === connection else {
            preconditionFailure("a connection was given back to pool \(label), which does not have it")
        }
        if status != .idle, status != .unknown {
            logger.debug(
                "closing a connection given back in use", metadata: ["pool": "\(label)", "status": "\(status)"])
        }
        carryOut(state.giveBack(id, isReusable: status == .idle))
    }

    /// Runs `body` with a connection that is given back in the end.
    public func withConnection<Value: Sendable>(
        deadline: ContinuousClock.Instant, _ body: @Sendable (ShardConnection) async throws -> Value
    ) async throws -> Value {
        let connection = try await lease(deadline: deadline)
        defer { giveBack(connection) }
        return try await body(connection)
    }

    /// Closes the connections that are idle, and those leased when they are given back. Waiting and later leases fail.
    public func close() {
        carryOut(state.close())
    }

    fileprivate nonisolated func giveUp(_ waiter: ConnectionPoolState.WaiterID, _ kind: ShardError.Kind) {
        onLoop { $0.carryOut($0.state.giveUp(waiter, kind)) }
    }

    // MARK: Actions

    private func carryOut(_ actions: [ConnectionPoolState.Action]) {
        meters.record(state.statistics)
        for action in actions {
            switch action {
            case .lease(let id, let waiter):
                if let connection = connections[id] { resume(waiter, .success(connection)) }
            case .fail(let waiter, let error): resume(waiter, .failure(error))
            case .open(let id): Task { await open(id) }
            case .close(let id): remove(id)
            case .retry(let interval):
                loop.schedule(at: .now + interval) { [weak self] in
                    self?.onLoop { $0.carryOut($0.state.retryDue()) }
                }
            }
        }
    }

    private func resume(_ id: ConnectionPoolState.WaiterID, _ outcome: Result<ShardConnection, ShardError>) {
        guard let waiter = waiters.removeValue(forKey: id) else { return }
        waiter.timer.cancel()
        // Not in the giver's own time: it may be a task that was cancelled, and a whole line that takes its turn and
        // gives back at once would be as many calls deep.
        loop.execute { waiter.recipient(outcome) }
    }

    private func open(_ id: ConnectionPoolState.ConnectionID) async {
        do throws(ShardError) {
            let deadline = ContinuousClock.now + settings.connectTimeout
            // The connection may be closed in the middle of the pool's own work, so the pool hears of it afterwards.
            let handlers = ShardConnection.Handlers(closed: { [weak self, loop] error in
                loop.execute { [weak self] in self?.onLoop { $0.ended(id, error) } }
            })
            let connection = try await connect(by: deadline, handlers)
            let timer = loop.schedule(at: deadline) { connection.onLoop { $0.close() } }
            defer { timer.cancel() }
            do throws(ShardError) {
                try await onConnect?(connection)
            } catch {
                await connection.close()
                throw error
            }
            guard connection.statusOnLoop != .unknown else {
                throw ShardError(.notConnected(nil), "the connection was lost while it was set up")
            }
            connections[id] = connection
            connection.onLoop { $0.numberInPool = id }
            meters.opened.increment()
            carryOut(state.opened(id))
        } catch {
            meters.failed.increment()
            logger.warning("could not connect to a shard", metadata: ["pool": "\(label)", "error": "\(error)"])
            carryOut(state.notOpened(id, error))
        }
    }

    private func connect(
        by deadline: ContinuousClock.Instant, _ handlers: ShardConnection.Handlers
    ) async throws(ShardError) -> ShardConnection {
        if let connect { return try await connect(settings, deadline, handlers) }
        return try await ShardConnection.connect(to: settings, on: loop, deadline: deadline, handlers: handlers)
    }

    private func ended(_ id: ConnectionPoolState.ConnectionID, _ error: ShardError) {
        if error.kind != .closed {
            logger.info("lost a connection to a shard", metadata: ["pool": "\(label)", "error": "\(error)"])
        }
        carryOut(state.ended(id))
    }

    private func remove(_ id: ConnectionPoolState.ConnectionID) {
        guard let connection = connections.removeValue(forKey: id) else { return }
        connection.onLoop { $0.close() }
    }
}

/// What a pool shows in metrics.
private struct Meters {
    let opened: Counter
    let failed: Counter
    private let inUse: Gauge
    private let idle: Gauge
    private let waiting: Gauge

    init(pool: String) {
        let dimensions = [("pool", pool)]
        opened = Counter(label: "meridian_pool_connections_opened", dimensions: dimensions)
        failed = Counter(label: "meridian_pool_connection_failures", dimensions: dimensions)
        inUse = Gauge(label: "meridian_pool_connections_in_use", dimensions: dimensions)
        idle = Gauge(label: "meridian_pool_connections_idle", dimensions: dimensions)
        waiting = Gauge(label: "meridian_pool_waiting", dimensions: dimensions)
    }

    func record(_ statistics: PoolStatistics) {
        inUse.record(statistics.inUse)
        idle.record(statistics.idle)
        waiting.record(statistics.waiting)
    }
}
