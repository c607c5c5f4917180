import DequeModule
import NIOCore

/// What waits for a client, and how far the client is ahead of its session: the state behind ``ClientOutput``.
///
/// Bytes go to the channel only while that takes them without piling them up, so that all that waits is counted here.
/// Each input says what to do outside the lock.
struct OutputQueue {
    /// Who sends what is queued.
    private enum Turn {
        /// Nobody: the next write has the event loop come.
        case none
        /// The event loop is on its way, or at it.
        case scheduled
        /// The channel has enough; the event loop comes when it takes more.
        case stalled
        /// Nobody any more: the event loop closes.
        case over
    }

    /// What the event loop does next.
    enum Next {
        case send(ByteBuffer)
        /// All is sent: close.
        case close
        /// The channel takes nothing more now.
        case wait(isClosing: Bool)
        case nothing
    }

    /// Somebody who waits for room.
    struct Waiter {
        let id: Int
        let continuation: CheckedContinuation<Bool, Never>
    }

    private let lowWaterBytes: Int
    private let unprocessedBytesMax: Int
    private var turn = Turn.none
    private var buffers = Deque<ByteBuffer>()
    private(set) var queuedBytes = 0
    private var unprocessedBytes = 0
    private var isReadingPaused = false
    /// Nothing more is taken, what is queued is sent.
    private(set) var isClosing = false
    private var waiters: [Waiter] = []
    private var nextWaiter = 0

    init(lowWaterBytes: Int, unprocessedBytesMax: Int) {
        self.lowWaterBytes = lowWaterBytes
        self.unprocessedBytesMax = unprocessedBytesMax
    }

    // MARK: Sending

    /// The session wrote. True: have the event loop come.
    mutating func write(_ bytes: ByteBuffer) -> Bool {
        guard !isClosing, bytes.readableBytes > 0 else { return false }
        buffers.append(bytes)
        queuedBytes += bytes.readableBytes
        return takeTurn()
    }

    /// Nothing is taken after this; `last` is sent behind all else. True, but for the second time: have the event loop
    /// come, whatever its turn, since it closes in a while even if nothing can be sent.
    mutating func close(last: ByteBuffer? = nil) -> Bool {
        guard !isClosing else { return false }
        if let last {
            buffers.append(last)
            queuedBytes += last.readableBytes
        }
        isClosing = true
        if turn == .none { turn = .scheduled }
        return true
    }

    private mutating func takeTurn() -> Bool {
        guard turn == .none else { return false }
        turn = .scheduled
        return true
    }

    /// The event loop is here, and the channel takes more or doesn't. With ``Next/wait(isClosing:)`` it comes
    /// back when the channel takes more, with ``Next/nothing`` when it is called.
    mutating func next(channelTakesMore: Bool) -> Next {
        guard turn != .over else { return .nothing }
        guard let first = buffers.first else {
            turn = isClosing ? .over : .none
            return isClosing ? .close : .nothing
        }
        guard channelTakesMore else {
            turn = .stalled
            return .wait(isClosing: isClosing)
        }
        turn = .scheduled
        buffers.removeFirst()
        queuedBytes -= first.readableBytes
        return .send(first)
    }

    /// The connection is gone.
    mutating func discard() {
        turn = .over
        isClosing = true
        buffers = []
        queuedBytes = 0
    }

    // MARK: Waiting for room

    /// Whether more may be written now; nil when that has to be waited for.
    var answer: Bool? {
        if isClosing { return false }
        return queuedBytes < lowWaterBytes ? true : nil
    }

    mutating func makeWaiterID() -> Int {
        nextWaiter += 1
        return nextWaiter
    }

    mutating func add(_ waiter: Waiter) {
        waiters.append(waiter)
    }

    /// The one that waits under this number, who does no longer.
    mutating func removeWaiter(_ id: Int) -> Waiter? {
        waiters.firstIndex { $0.id == id }.map { waiters.remove(at: $0) }
    }

    /// Those who need not wait any longer, and what to tell them.
    mutating func takeAnswered() -> (waiters: [Waiter], answer: Bool)? {
        guard !waiters.isEmpty, let answer else { return nil }
        defer { waiters = [] }
        return (waiters, answer)
    }

    // MARK: Receiving

    /// That many bytes go to the session. True: stop reading.
    mutating func received(_ bytes: Int) -> Bool {
        unprocessedBytes += bytes
        if unprocessedBytes > unprocessedBytesMax { isReadingPaused = true }
        return isReadingPaused
    }

    /// The session is done with that many bytes. True: read on.
    mutating func processed(_ bytes: Int) -> Bool {
        precondition(
            bytes >= 0 && bytes <= unprocessedBytes, "\(bytes) bytes processed of \(unprocessedBytes) received")
        unprocessedBytes -= bytes
        // Some way below the bound, or a client at the bound would have a turn of the event loop for every frame.
        guard isReadingPaused, unprocessedBytes <= unprocessedBytesMax / 2 else { return false }
        isReadingPaused = false
        return true
    }
}
