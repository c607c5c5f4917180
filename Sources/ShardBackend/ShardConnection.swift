import CLibPQ
import DequeModule
import EventLoops
import Logging

/// One session on a shard.
///
/// Everything it does runs on its event loop. Requests of several tasks are served in the order they were made; a
/// pipeline is sent without waiting for the answers to the pipelines before it. The connection, and the session on the
/// server, live until ``close()`` or until the server ends them.
public actor ShardConnection: LoopActor {
    /// Where the session stands between transactions, as of the last answer.
    public enum TransactionStatus: Sendable {
        case idle
        /// Requests are under way.
        case active
        case inTransaction
        /// In a transaction that can only be rolled back.
        case inFailedTransaction
        /// The connection is closed.
        case unknown
    }

    /// What the server sends without being asked.
    public struct Handlers: Sendable {
        /// A WARNING, NOTICE or the like; by default it is logged at debug level.
        public var notice: @Sendable (PostgresErrorFields) -> Void
        /// A NOTIFY on a channel that the session listens to.
        public var notification: @Sendable (Notification) -> Void
        /// The connection is closed; the error says why. Called once.
        public var closed: @Sendable (ShardError) -> Void

        public init(
            notice: (@Sendable (PostgresErrorFields) -> Void)? = nil,
            notification: @escaping @Sendable (Notification) -> Void = { _ in },
            closed: @escaping @Sendable (ShardError) -> Void = { _ in }
        ) {
            self.notice = notice ?? { Logger(label: "meridian.shard").debug("\($0)") }
            self.notification = notification
            self.closed = closed
        }
    }

    /// A message from NOTIFY.
    public struct Notification: Hashable, Sendable {
        public let channel: String
        public let payload: String
        /// The process that sent it.
        public let processID: Int32
    }

    enum Phase {
        case connecting(LibPQHandle, UnsafeContinuation<Result<Void, ShardError>, Never>)
        case open(LibPQHandle)
        case closed(ShardError)
    }

    public nonisolated let loop: EventLoop
    let settings: ConnectionSettings
    nonisolated let handlers: Handlers
    /// Where notices go now.
    var noticeHandler: @Sendable (PostgresErrorFields) -> Void
    /// What the holder of the connection noted of the settings that it gave the session; 0 at first.
    ///
    /// Statements prepared under one value are not used under another, since the server reads literals such as dates
    /// when it parses a statement.
    public private(set) var appliedSettings: UInt64 = 0

    /// What the pool that has it calls it.
    var numberInPool: ConnectionPoolState.ConnectionID?

    var phase: Phase
    /// Sent and not answered, oldest first. Either pipelines, or one exchange of another kind.
    var inFlight = Deque<Exchange>()
    /// Not sent yet, oldest first.
    var waiting = Deque<Exchange>()
    var statements: StatementCache
    /// Names that the server may forget.
    var discardedNames: [String] = []
    var parameterBuffer = ParameterBuffer()

    /// What the loop watches the socket for.
    var interest: Readiness = []
    /// The owner of the session in front waits for the socket.
    var sessionWaiter: UnsafeContinuation<Void, Never>?
    /// A cancel request is under way; nothing may be sent, because it would be cancelled instead.
    var isCancelUnderWay = false
    /// How many of those in flight are to be stopped. Until there is none nothing may be sent, because it would be
    /// cancelled instead, should the server have finished them by the time that it is told.
    var interruptedCount = 0
    /// When to give up on a server that was told to stop.
    var cancelExpiry: ContinuousClock.Instant?
    var timer: (id: TimerQueue.ID, deadline: ContinuousClock.Instant)?

    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    init(settings: ConnectionSettings, loop: EventLoop, handlers: Handlers) {
        self.settings = settings
        self.loop = loop
        self.handlers = handlers
        noticeHandler = handlers.notice
        statements = StatementCache(capacity: settings.preparedStatementsMax)
        phase = .closed(ShardError(.closed, "the connection has not been opened"))
    }

    // MARK: State

    /// The libpq connection; nil unless it is open.
    var handle: LibPQHandle? {
        if case .open(let handle) = phase { handle } else { nil }
    }

    public var isOpen: Bool { handle != nil }

    public var transactionStatus: TransactionStatus {
        guard let handle else { return .unknown }
        guard inFlight.isEmpty, waiting.isEmpty else { return .active }
        return switch PQtransactionStatus(handle.pointer) {
        case PQTRANS_IDLE: .idle
        case PQTRANS_INTRANS: .inTransaction
        case PQTRANS_INERROR: .inFailedTransaction
        case PQTRANS_ACTIVE: .active
        default: .unknown
        }
    }

    /// ``transactionStatus``, for who runs on the loop already.
    nonisolated var statusOnLoop: TransactionStatus { onLoop { $0.transactionStatus } }

    /// The server process that serves the session; 0 when the connection is closed.
    public var processID: Int32 { handle.map { PQbackendPID($0.pointer) } ?? 0 }

    /// The server's version, as in 150004 for 15.4; 0 when the connection is closed.
    public var serverVersion: Int { handle.map { Int(PQserverVersion($0.pointer)) } ?? 0 }

    /// Whether the connection is encrypted.
    public var isEncrypted: Bool { handle.map { PQsslInUse($0.pointer) == 1 } ?? false }

    /// A setting that the server reports on its own, such as `server_version`, `TimeZone` or `in_hot_standby`.
    public func parameterStatus(_ name: String) -> String? {
        handle.flatMap { PQparameterStatus($0.pointer, name) }.map { String(cString: $0) }
    }

    // MARK: The holder's

    /// Notes what settings the session has, for whoever holds the connection next; see ``appliedSettings``. It is up to
    /// the holder what the value stands for, and to note it after a rollback that took settings back.
    public func setAppliedSettings(_ fingerprint: UInt64) {
        appliedSettings = fingerprint
    }

    /// Sends notices elsewhere; nil is ``Handlers/notice``, where they go again when a pool gets the connection back.
    ///
    /// The handler is called on the loop before the result is seen that the notice belongs to. It must not use the
    /// connection.
    public func setNoticeHandler(_ handler: (@Sendable (PostgresErrorFields) -> Void)?) {
        noticeHandler = handler ?? handlers.notice
    }

    // MARK: End

    /// Ends the session. Requests under way fail, as if the connection had been lost.
    public func close() {
        end(ShardError(.closed, "the connection was closed"))
    }

    /// Closes the connection, and fails what is under way and what waits.
    func end(_ reason: ShardError) {
        switch phase {
        case .closed: return
        case .connecting(let handle, let continuation):
            loop.unwatch(handle.socket)
            continuation.resume(returning: .failure(reason))
        case .open(let handle): loop.unwatch(handle.socket)
        }
        phase = .closed(reason)
        if let timer { loop.removeTimer(timer.id) }
        timer = nil
        let (lost, unsent) = (inFlight, waiting)
        inFlight = []
        waiting = []
        for exchange in lost { fail(exchange, because: reason) }
        for exchange in unsent { over(exchange, .failure(reason)) }
        resumeSessionWaiter()
        handlers.closed(reason)
    }

    /// The connection ended before `exchange` had its whole answer; an error that did arrive is an answer.
    private func fail(_ exchange: Exchange, because reason: ShardError) {
        if let failure = exchange.failure, failure.serverFields != nil {
            over(exchange, .failure(exchange.explain(failure)))
        } else {
            let kind = exchange.interruption ?? .connectionLost
            over(exchange, .failure(ShardError(kind, reason.message, isOutcomeUnknown: true)))
        }
    }

    /// The exchange has this outcome.
    func over(_ exchange: Exchange, _ outcome: Exchange.Outcome) {
        exchange.isOver = true
        if case .failure(let error) = outcome { exchange.failure = error }
        exchange.resume(with: outcome)
    }
}
