import EventLoops
import PostgresWire
import ShardBackend
import TransactionCore

/// A timer for a client that sends nothing. Confined to its session's loop.
struct IdleTimer: Sendable {
    private var timer: ScheduledTimer?

    mutating func start(on loop: EventLoop, after duration: Duration, _ body: @escaping @Sendable () -> Void) {
        stop()
        timer = loop.schedule(at: .now + duration, body)
    }

    mutating func stop() {
        timer?.cancel()
        timer = nil
    }
}

/// Timeouts of the client's session, as on PostgreSQL.
///
/// `lock_timeout` is the shards' own, each for itself: it bounds the wait for one lock. `statement_timeout` is both
/// theirs and the node's, since a statement may go to several.
extension Conversation {
    /// What the shards take to say themselves that a statement took too long.
    private static let shardsOwnTimeout = Duration.milliseconds(50)

    /// Begins to count the time of a statement; the caller cancels the timer when it is over.
    func startStatementTimer() -> ScheduledTimer? {
        isTimedOut = false
        guard let limit = variables.settings["statement_timeout"].flatMap(SessionVariables.limit) else { return nil }
        return node.engine.loop.schedule(at: .now + limit + Self.shardsOwnTimeout) { [weak self] in
            self?.onLoop { $0.statementTooLong() }
        }
    }

    private func statementTooLong() {
        isTimedOut = true
        serving?.cancel()
    }

    /// The client has been told that it may go on, and has sent nothing yet.
    func startIdleTimer() {
        // Between two messages of one implicit transaction it is not idle.
        guard block.isOpen || transaction == nil else { return }
        let name = block.isOpen ? "idle_in_transaction_session_timeout" : "idle_session_timeout"
        guard let limit = variables.limits[name].flatMap(SessionVariables.limit) else { return }
        idleTimer.start(on: node.engine.loop, after: limit) { [weak self] in
            self?.onLoop { $0.idleTooLong() }
        }
    }

    private func idleTooLong() {
        guard !isServing, !isGone else { return }
        writer.errorResponse(
            block.isOpen
                ? ErrorFields(
                    .fatal, .idleInTransactionSessionTimeout,
                    "terminating connection due to idle-in-transaction timeout")
                : ErrorFields(.fatal, .idleSessionTimeout, "terminating connection due to idle-session timeout"))
        flush()
        output.close()
    }
}
