import Glibc
import NIOCore
import Synchronization

/// A connected stream socket as a NIO channel on an ``EventLoop``.
///
/// It reads by itself whenever the handlers of its pipeline let `read` through, and hears of the other side's end also
/// while they don't: what had arrived before is then read, and the channel closed. Half-closed it never is.
final class SocketChannel: Channel, @unchecked Sendable {
    private enum State {
        /// Next: `active`, `closed`.
        case new
        /// Next: `closed`.
        case active
        case closed
    }

    /// The channel takes more as long as fewer bytes wait than the one bound, and again below the other.
    private static let (highWaterBytes, lowWaterBytes) = (64 << 10, 32 << 10)

    let allocator = ByteBufferAllocator()
    let closeFuture: EventLoopFuture<Void>
    var eventLoop: any NIOCore.EventLoop { channelLoop }
    let localAddress: SocketAddress?
    let remoteAddress: SocketAddress?
    let parent: (any Channel)? = nil
    var pipeline: ChannelPipeline { madePipeline! }
    var isWritable: Bool { takesMore.load(ordering: .relaxed) }
    var isActive: Bool { isAlive.load(ordering: .relaxed) }
    var _channelCore: any ChannelCore { self }

    private let channelLoop: ChannelLoop
    private var loop: EventLoop { channelLoop.loop }
    private let socket: Int32
    private let closePromise: EventLoopPromise<Void>
    private let takesMore = Atomic(true)
    private let isAlive = Atomic(false)
    /// Knows the channel, which therefore comes first.
    private var madePipeline: ChannelPipeline?

    // On the loop only.
    private var state = State.new
    private var pending = PendingWrites()
    /// The socket takes nothing more until it says so.
    private var isBlocked = false
    /// Nothing can be written any more.
    private var isBroken = false
    /// The pipeline wants the next bytes.
    private var isReadWanted = false
    private var watched: Readiness = []

    /// Makes the channel of a socket that doesn't block and is the channel's from here on.
    init(_ socket: Int32, on channelLoop: ChannelLoop, local: SocketAddress?, remote: SocketAddress?) {
        self.socket = socket
        self.channelLoop = channelLoop
        (localAddress, remoteAddress) = (local, remote)
        closePromise = channelLoop.makePromise(of: Void.self)
        closeFuture = closePromise.futureResult
        madePipeline = ChannelPipeline(channel: self)
    }

    /// Has the channel take part in the loop, its handlers being there. On the loop.
    func start() {
        registerAlreadyConfigured0(promise: nil)
    }

    // MARK: Options

    /// Has none: who wants a socket's options sets them before the channel is made.
    func setOption<Option: ChannelOption>(_ option: Option, value: Option.Value) -> EventLoopFuture<Void> {
        eventLoop.makeFailedFuture(ChannelError.operationUnsupported)
    }

    func getOption<Option: ChannelOption>(_ option: Option) -> EventLoopFuture<Option.Value> {
        eventLoop.makeFailedFuture(ChannelError.operationUnsupported)
    }
}

// MARK: The socket

extension SocketChannel: ReadinessHandler {
    func becameReady(_ readiness: Readiness) {
        // First what was said: an answer that can't be sent any more would end the channel.
        if readiness.contains(.hungUp) {
            // Although nobody may have asked. What is left is read when the loop comes round.
            read(atMost: 4)
        } else if readiness.contains(.readable), isReadWanted {
            read(atMost: 1)
        }
        if readiness.contains(.writable), state == .active { writePending() }
        watch()
    }

    func watchFailed(_ error: Int32) {
        failed(IOError(errnoCode: error, reason: "epoll_ctl"))
    }

    private enum Received {
        case bytes
        case nothing
        /// There will be nothing any more; nil: as the other side wished.
        case end(IOError?)
    }

    private func read(atMost count: Int) {
        var last = Received.nothing
        var hasRead = false
        for _ in 0..<count {
            last = receive()
            guard case .bytes = last else { break }
            hasRead = true
        }
        // Before the end too: handlers such as those of TLS keep what they read until then.
        if hasRead, state == .active { pipeline.syncOperations.fireChannelReadComplete() }
        if case .end(let error) = last {
            if let error { return failed(error) }
            if state == .active { close0(error: ChannelError.eof, mode: .all, promise: nil) }
        } else if hasRead, state == .active, !isReadWanted {
            pipeline.syncOperations.read()
        }
    }

    /// Reads once.
    private func receive() -> Received {
        guard state == .active else { return .nothing }
        let space = channelLoop.receiveSpace
        let count = recv(socket, space.baseAddress, space.count, 0)
        guard count >= 0 else {
            let code = errno
            if code == EAGAIN || code == EWOULDBLOCK || code == EINTR { return .nothing }
            return .end(IOError(errnoCode: code, reason: "recv"))
        }
        guard count > 0 else { return .end(nil) }
        // Of its own size, since the session may keep it for long.
        var bytes = allocator.buffer(capacity: count)
        bytes.writeBytes(UnsafeRawBufferPointer(rebasing: space[..<count]))
        isReadWanted = false
        pipeline.syncOperations.fireChannelRead(NIOAny(bytes))
        return .bytes
    }

    private func writePending() {
        let (outcome, kept) = pending.write(to: socket)
        isBlocked = outcome == .wouldBlock
        for promise in kept { promise.succeed() }
        guard case .failed(let code) = outcome else { return noteWritability() }
        let error = IOError(errnoCode: code, reason: "send")
        // Of a connection that is broken the loop hears as well; what the other side said before is read then.
        guard code == EPIPE || code == ECONNRESET else { return failed(error) }
        isBroken = true
        for promise in pending.removeAll() { promise.fail(error) }
    }

    private func noteWritability() {
        let before = takesMore.load(ordering: .relaxed)
        let after = pending.bytes < (before ? Self.highWaterBytes : Self.lowWaterBytes)
        guard before != after, state == .active else { return }
        takesMore.store(after, ordering: .relaxed)
        pipeline.syncOperations.fireChannelWritabilityChanged()
    }

    private func failed(_ error: any Error) {
        guard state == .active else { return }
        pipeline.syncOperations.fireErrorCaught(error)
        close0(error: error, mode: .all, promise: nil)
    }

    /// Tells the loop what to look for, if that is something else than before.
    private func watch() {
        guard state == .active else { return }
        var wanted: Readiness = [.hungUp]
        if isReadWanted { wanted.insert(.readable) }
        if isBlocked { wanted.insert(.writable) }
        guard wanted != watched else { return }
        watched = wanted
        loop.watch(socket, for: wanted, handler: self)
    }
}

// MARK: What the pipeline asks for

extension SocketChannel: ChannelCore {
    func localAddress0() throws -> SocketAddress { try known(localAddress) }

    func remoteAddress0() throws -> SocketAddress { try known(remoteAddress) }

    private func known(_ address: SocketAddress?) throws -> SocketAddress {
        guard let address else { throw ChannelError.unknownLocalAddress }
        return address
    }

    func register0(promise: EventLoopPromise<Void>?) {
        promise?.succeed()
        pipeline.syncOperations.fireChannelRegistered()
    }

    func registerAlreadyConfigured0(promise: EventLoopPromise<Void>?) {
        guard state == .new else { return promise?.fail(ChannelError.inappropriateOperationForState) ?? () }
        state = .active
        isAlive.store(true, ordering: .relaxed)
        register0(promise: promise)
        if state == .active { pipeline.syncOperations.fireChannelActive() }
        if state == .active { pipeline.syncOperations.read() }
        watch()
    }

    func bind0(to address: SocketAddress, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }

    func connect0(to address: SocketAddress, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }

    func write0(_ data: NIOAny, promise: EventLoopPromise<Void>?) {
        guard state == .active, !isBroken else { return promise?.fail(ChannelError.ioOnClosedChannel) ?? () }
        pending.append(unwrapData(data, as: ByteBuffer.self), promise)
        noteWritability()
    }

    func flush0() {
        guard state == .active else { return }
        pending.markFlushed()
        guard !isBlocked else { return }
        writePending()
        watch()
    }

    func read0() {
        guard state == .active, !isReadWanted else { return }
        isReadWanted = true
        watch()
    }

    func close0(error: any Error, mode: CloseMode, promise: EventLoopPromise<Void>?) {
        guard mode == .all else { return promise?.fail(ChannelError.operationUnsupported) ?? () }
        guard state != .closed else { return promise?.fail(ChannelError.alreadyClosed) ?? () }
        let wasActive = state == .active
        state = .closed
        isAlive.store(false, ordering: .relaxed)
        takesMore.store(false, ordering: .relaxed)
        loop.unwatch(socket)
        Glibc.close(socket)
        for promise in pending.removeAll() { promise.fail(error) }
        promise?.succeed()
        if wasActive {
            pipeline.syncOperations.fireChannelInactive()
            pipeline.syncOperations.fireChannelUnregistered()
        }
        // Handlers that are just being called stay until they return.
        loop.execute { [self] in
            removeHandlers(pipeline: pipeline)
            closePromise.succeed()
        }
    }

    func triggerUserOutboundEvent0(_ event: Any, promise: EventLoopPromise<Void>?) {
        promise?.fail(ChannelError.operationUnsupported)
    }

    /// What no handler took is dropped.
    func channelRead0(_ data: NIOAny) {}

    func errorCaught0(error: any Error) {}
}
