/// An actor that runs on an ``EventLoop``.
///
/// ``onLoop(_:)`` is what `assumeIsolated` is, by asking the loop: where a statement passes through some twenty actors
/// of one loop without any task, Swift's runtime would need a tenth of a microsecond each time to find out the same.
public protocol LoopActor: Actor {
    /// The loop that is its executor.
    nonisolated var loop: EventLoop { get }
}

extension LoopActor {
    /// Runs `body` now, isolated to the actor; the caller must be on its loop.
    @inlinable
    public nonisolated func onLoop<Value: Sendable>(_ body: (isolated Self) throws -> Value) rethrows -> Value {
        loop.checkIsolated()
        // The isolation is a promise to the compiler, and no part of how the function is called.
        return try withoutActuallyEscaping(body) { body in
            try unsafeBitCast(body, to: ((Self) throws -> Value).self)(self)
        }
    }
}
