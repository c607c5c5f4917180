/// Continuations of tasks that wait for the engine, each with a deadline. Confined to the engine.
struct WaitList {
    /// Names one waiting task.
    struct ID: Hashable {
        fileprivate let rawValue: UInt64
    }

    /// How a wait ended.
    enum End: Sendable {
        case granted
        case expired
        case cancelled
    }

    private enum Wait {
        /// The task is on its way to wait.
        case begun
        case waiting(UnsafeContinuation<End, Never>, until: ContinuousClock.Instant)
        /// Ended before the task had come to wait.
        case ended(End)
    }

    private var waits: [ID: Wait] = [:]
    private var lastID: UInt64 = 0

    var isEmpty: Bool { waits.isEmpty }

    /// A name for a wait that begins now: it can be ended before its task has come to ``add(_:_:until:)``, as a task
    /// that doesn't prefer the engine's loop is queued anew on its way there.
    mutating func begin() -> ID {
        lastID += 1
        let id = ID(rawValue: lastID)
        waits[id] = .begun
        return id
    }

    /// The task named `id` waits from here on.
    mutating func add(
        _ id: ID, _ continuation: UnsafeContinuation<End, Never>, until deadline: ContinuousClock.Instant
    ) {
        if case .ended(let end) = waits[id] {
            waits[id] = nil
            continuation.resume(returning: end)
        } else {
            waits[id] = .waiting(continuation, until: deadline)
        }
    }

    /// Ends the wait; false when it has ended before.
    @discardableResult
    mutating func end(_ id: ID, _ end: End) -> Bool {
        switch waits[id] {
        case .begun: waits[id] = .ended(end)
        case .waiting(let continuation, _):
            waits[id] = nil
            continuation.resume(returning: end)
        case .ended, nil: return false
        }
        return true
    }

    /// Ends every wait whose deadline has come.
    mutating func expire(at now: ContinuousClock.Instant) {
        for case (let id, .waiting(_, let deadline)) in waits where deadline <= now { end(id, .expired) }
    }
}
