import Dispatch
import NIOCore

/// An ``EventLoop`` as NIO sees one: what its channels, promises and handlers run on.
///
/// It has no life of its own: shutting it down is refused, and the channels on it are to be closed before the loop's
/// ``EventLoop/shutdown()``.
final class ChannelLoop: NIOCore.EventLoop {
    let loop: EventLoop
    /// Where sockets are read into, one at a time; what came is copied out.
    nonisolated(unsafe) let receiveSpace = UnsafeMutableRawBufferPointer.allocate(byteCount: 64 << 10, alignment: 16)

    init(_ loop: EventLoop) {
        self.loop = loop
    }

    deinit {
        receiveSpace.deallocate()
    }

    var inEventLoop: Bool { loop.isCurrent }

    func execute(_ task: @escaping @Sendable () -> Void) { loop.execute(task) }

    func submit<T>(_ task: @escaping @Sendable () throws -> T) -> EventLoopFuture<T> {
        let promise = makePromise(of: T.self)
        loop.execute { promise.assumeIsolated().completeWith(Result(catching: task)) }
        return promise.futureResult
    }

    func scheduleTask<T>(
        deadline: NIODeadline, _ task: @escaping @Sendable () throws -> T
    ) -> Scheduled<T> {
        scheduleTask(in: deadline - .now(), task)
    }

    func scheduleTask<T>(in delay: TimeAmount, _ task: @escaping @Sendable () throws -> T) -> Scheduled<T> {
        let promise = makePromise(of: T.self)
        let timer = loop.schedule(at: .now + .nanoseconds(delay.nanoseconds)) {
            promise.assumeIsolated().completeWith(Result(catching: task))
        }
        return Scheduled(promise: promise) { timer.cancel() }
    }

    func shutdownGracefully(queue: DispatchQueue, _ callback: @escaping @Sendable ((any Error)?) -> Void) {
        queue.async { callback(EventLoopError.unsupportedOperation) }
    }
}
