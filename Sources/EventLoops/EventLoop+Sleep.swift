import Synchronization

extension EventLoop {
    /// Suspends the task until `deadline`, and wakes it within some tens of microseconds on an idle machine.
    ///
    /// - Throws: `CancellationError`, at once, when the task is cancelled.
    public func sleep(until deadline: ContinuousClock.Instant) async throws {
        let timer = schedule(at: deadline)
        await withTaskCancellationHandler {
            await timer.wait()
        } onCancel: {
            timer.cancel()
        }
        try Task.checkCancellation()
    }

    /// Suspends the task for `duration`; see ``sleep(until:)``.
    public func sleep(for duration: Duration) async throws {
        try await sleep(until: .now + duration)
    }

    /// Runs `body` on the loop's thread at `deadline`, unless the returned timer is cancelled before.
    @discardableResult
    public func schedule(
        at deadline: ContinuousClock.Instant, _ body: @escaping @Sendable () -> Void = {}
    ) -> ScheduledTimer {
        let timer = ScheduledTimer(loop: self, body)
        timer.start(at: deadline)
        return timer
    }
}

/// One body to run on a loop at a time; it may be cancelled from any thread.
public final class ScheduledTimer: Sendable {
    private enum State {
        case pending(waiter: UnsafeContinuation<Void, Never>?)
        case over
    }

    private let loop: EventLoop
    private let body: @Sendable () -> Void
    private let state = Mutex(State.pending(waiter: nil))
    private let id = Mutex<TimerQueue.ID?>(nil)

    fileprivate init(loop: EventLoop, _ body: @escaping @Sendable () -> Void) {
        self.loop = loop
        self.body = body
    }

    /// Makes sure that the body won't run, if it has not begun to.
    public func cancel() {
        guard end() else { return }
        if loop.isCurrent {
            forget()
        } else {
            loop.execute { self.forget() }
        }
    }

    fileprivate func start(at deadline: ContinuousClock.Instant) {
        guard loop.isCurrent else {
            return loop.execute { self.start(at: deadline) }
        }
        guard state.withLock({ if case .pending = $0 { true } else { false } }) else { return }
        let id = loop.addTimer(at: deadline) {
            if self.end() { self.body() }
        }
        self.id.withLock { $0 = id }
    }

    /// Returns when the timer has run or was cancelled.
    fileprivate func wait() async {
        await withUnsafeContinuation { continuation in
            let isOver = state.withLock { state in
                guard case .pending = state else { return true }
                state = .pending(waiter: continuation)
                return false
            }
            if isOver { continuation.resume() }
        }
    }

    /// Returns false when it had ended before.
    private func end() -> Bool {
        let previous = state.withLock { state in
            defer { state = .over }
            return state
        }
        guard case .pending(let waiter) = previous else { return false }
        waiter?.resume()
        return true
    }

    private func forget() {
        if let id = id.withLock({ $0 }) { loop.removeTimer(id) }
    }
}
