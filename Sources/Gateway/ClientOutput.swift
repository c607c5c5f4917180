import NIOCore
import Synchronization

/// A session's way back to its client; may be used from any thread.
///
/// Calls from several threads are sent in the order in which they came. A call costs at most one hop to the event
/// loop, calls that come before it gets there share it, and calls on it have none.
public final class ClientOutput: Sendable {
    private let eventLoop: any EventLoop
    private let queue: Mutex<OutputQueue>
    private let backlogHighWaterBytes: Int
    /// Nil once the connection is gone, which also ends the cycle with it.
    private let connection: NIOLoopBoundBox<ClientConnection?>

    /// Makes the output of a connection on its event loop; ``attach(_:)`` follows.
    init(eventLoop: any EventLoop, configuration: GatewayConfiguration) {
        self.eventLoop = eventLoop
        backlogHighWaterBytes = configuration.backlogHighWaterBytes
        queue = Mutex(
            OutputQueue(
                lowWaterBytes: configuration.backlogLowWaterBytes,
                unprocessedBytesMax: configuration.unprocessedBytesMax))
        connection = NIOLoopBoundBox(nil, eventLoop: eventLoop)
    }

    func attach(_ connection: ClientConnection) {
        self.connection.value = connection
    }

    // MARK: What a session does

    /// Sends bytes: one or more whole messages. After ``close()``, and when the client is gone, they are dropped.
    public func write(_ bytes: ByteBuffer) {
        if queue.withLock({ $0.write(bytes) }) { summon() }
    }

    /// How many bytes wait for the client, besides those that the channel holds (up to 64 kB and one write's).
    public var queuedBytes: Int { queue.withLock { $0.queuedBytes } }

    /// So much waits that the session should stop producing until ``drained(isolation:)``.
    public var isBacklogged: Bool { queuedBytes >= backlogHighWaterBytes }

    /// Waits until little is left to be sent; true when it is, false when nothing will be sent any more: the client is
    /// gone, or the output closed. A task that is cancelled gets false at once.
    ///
    /// Ended by the client, which reads on or goes; there is no bound but the task's own.
    public func drained(isolation: isolated (any Actor)? = #isolation) async -> Bool {
        let (answer, id) = queue.withLock { ($0.answer, $0.makeWaiterID()) }
        if let answer { return answer }
        return await withTaskCancellationHandler {
            await withCheckedContinuation(isolation: isolation) { continuation in
                let answer = queue.withLock { queue -> Bool? in
                    if Task.isCancelled { return false }
                    if let answer = queue.answer { return answer }
                    queue.add(OutputQueue.Waiter(id: id, continuation: continuation))
                    return nil
                }
                if let answer { continuation.resume(returning: answer) }
            }
        } onCancel: {
            queue.withLock { $0.removeWaiter(id) }?.continuation.resume(returning: false)
        }
    }

    /// The session is done with frames of that many bytes (``PostgresWire/FrontendFrame/byteCount``). Reading pauses
    /// while more than ``GatewayConfiguration/unprocessedBytesMax`` were received and not processed.
    public func processed(bytes: Int) {
        guard queue.withLock({ $0.processed(bytes) }) else { return }
        if eventLoop.inEventLoop {
            connection.value?.resumeReading()
        } else {
            eventLoop.execute { self.connection.value?.resumeReading() }
        }
    }

    /// Sends what is queued and closes the connection, within ``GatewayConfiguration/closeTimeout``; what is written
    /// afterwards is dropped. The session is then told that it is ``Departure/lost``.
    public func close() {
        if queue.withLock({ $0.close() }) { summon() }
        answerWaiters()
    }

    /// Has the event loop send what is queued.
    private func summon() {
        if eventLoop.inEventLoop {
            connection.value?.outputIsWaiting()
        } else {
            eventLoop.execute { self.connection.value?.outputIsWaiting() }
        }
    }

    // MARK: What the connection does, on the event loop

    /// What to send next, if the channel takes more.
    func next(channelTakesMore: Bool) -> OutputQueue.Next {
        let (next, answered) = queue.withLock { ($0.next(channelTakesMore: channelTakesMore), $0.takeAnswered()) }
        resume(answered)
        return next
    }

    /// That many bytes go to the session; true: reading pauses.
    func received(_ bytes: Int) -> Bool { queue.withLock { $0.received(bytes) } }

    /// Takes nothing any more but `last`, which the connection then sends behind all that is queued.
    func close(last: ByteBuffer) {
        _ = queue.withLock { $0.close(last: last) }
        answerWaiters()
    }

    /// The connection is gone.
    func connectionLost() {
        queue.withLock { $0.discard() }
        answerWaiters()
        connection.value = nil
    }

    private func answerWaiters() {
        resume(queue.withLock { $0.takeAnswered() })
    }

    private func resume(_ answered: (waiters: [OutputQueue.Waiter], answer: Bool)?) {
        guard let (waiters, answer) = answered else { return }
        for waiter in waiters { waiter.continuation.resume(returning: answer) }
    }
}
