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

    private var waits: [ID: (continuation: UnsafeContinuation<End, Never>, deadline: ContinuousClock.Instant)] = [:]
    private var lastID: UInt64 = 0

    var isEmpty: Bool { waits.isEmpty }

    /// A name for a wait that is about to begin.
    mutating func makeID() -> ID {
        lastID += 1
        return ID(rawValue: lastID)
    }

    /// The task named `id` waits from here on.
    mutating func add(
        _ id: ID, _ continuation: UnsafeContinuation<End, Never>, until deadline: ContinuousClock.Instant
    ) {
        waits[id] = (continuation, deadline)
    }

    /// Ends the wait; false when it has ended before.
    @discardableResult
    mutating func end(_ id: ID, _ end: End) -> Bool {
        guard let wait = waits.removeValue(forKey: id) else { return false }
        wait.continuation.resume(returning: end)
        return true
    }

    /// Ends every wait whose deadline has come.
    mutating func expire(at now: ContinuousClock.Instant) {
        for (id, wait) in waits where wait.deadline <= now { end(id, .expired) }
    }
}
