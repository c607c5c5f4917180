import DequeModule
import EventLoops
import NIOCore
import TransactionCore

/// Is told, on the loop, what comes over connections.
protocol PeerConnectionOwner: AnyObject {
    var configuration: PeerConfiguration { get }
    /// Both sides agree to talk.
    func opened(_ connection: PeerConnection, to peer: NodeID)
    func received(_ frame: PeerFrame, from peer: NodeID, over connection: PeerConnection)
    /// There will be nothing more, for the reason given.
    ///
    /// - Parameter peer: nil where both sides never agreed to talk.
    func ended(_ connection: PeerConnection, to peer: NodeID?, reason: String)
}

/// One connection to another node: the handler at the end of its channel. On the loop only.
final class PeerConnection {
    /// Which side it is.
    enum Side: Hashable {
        /// It connected to that node.
        case client(of: NodeID)
        case server
    }

    /// Where it stands; each case says what may follow.
    private enum Phase {
        /// Next: `open`, `closed`.
        case greeting
        /// Next: `closed`.
        case open(peer: NodeID, version: UInt16)
        case closed
    }

    let side: Side
    let channel: any Channel
    private let loop: EventLoops.EventLoop
    private weak var owner: (any PeerConnectionOwner)?
    private let configuration: PeerConfiguration
    private var context: ChannelHandlerContext?
    private var phase = Phase.greeting
    /// Why it ends, where that is known before it has.
    private var reason: String?
    private var timer: ScheduledTimer?

    private var received = ByteBuffer()
    private var silentIntervals = 0

    /// Frames that the channel does not take at the moment.
    private var queue = Deque<ByteBuffer>()
    private var queueBytes = 0
    private var isDraining = false
    /// What was written in this turn of the loop is flushed at its end.
    private var isFlushDue = false

    init(_ side: Side, _ channel: any Channel, loop: EventLoops.EventLoop, owner: any PeerConnectionOwner) {
        self.side = side
        self.channel = channel
        self.loop = loop
        self.owner = owner
        configuration = owner.configuration
    }

    /// The node at the other end, once both agree to talk.
    var peer: NodeID? {
        if case .open(let peer, _) = phase { peer } else { nil }
    }

    /// The version that is spoken.
    var version: UInt16? {
        if case .open(_, let version) = phase { version } else { nil }
    }

    var address: String { channel.remoteAddress.map { "\($0)" } ?? "unknown" }

    /// Ends it.
    func close(_ reason: String) {
        if self.reason == nil { self.reason = reason }
        channel.close(promise: nil)
    }

    private func onLoop(_ body: @escaping (PeerConnection) -> Void) -> @Sendable () -> Void {
        let bound = NIOLoopBound((connection: self, body: body), eventLoop: channel.eventLoop)
        return { bound.value.body(bound.value.connection) }
    }
}

// MARK: The channel's events

extension PeerConnection: ChannelInboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        // A channel that never became active has no other end.
        ended()
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        if case .client(let recipient) = side {
            send(
                .hello(
                    PeerHello(
                        versions: configuration.versions, sender: configuration.node, recipient: recipient,
                        cluster: configuration.cluster)))
        }
        timer = loop.schedule(
            at: .now + configuration.connectTimeout, onLoop { $0.close("it did not introduce itself in time") })
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        silentIntervals = 0
        if received.readableBytes == 0 { received = bytes } else { received.writeBuffer(&bytes) }
        do throws(PeerFrame.Malformed) {
            while let frame = try nextFrame() { take(frame) }
        } catch {
            close("it sent \(error.reason)")
        }
        if received.readableBytes == 0 { received = ByteBuffer() } else { received.discardReadBytes() }
    }

    private func nextFrame() throws(PeerFrame.Malformed) -> PeerFrame? {
        switch phase {
        case .greeting: try PeerFrame.next(from: &received, lengthMax: PeerFrame.greetingBytesMax)
        case .open: try PeerFrame.next(from: &received, lengthMax: configuration.frameBytesMax)
        case .closed: nil
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        guard context.channel.isWritable else { return }
        // The other side reads.
        silentIntervals = 0
        drain()
    }

    func channelInactive(context: ChannelHandlerContext) { ended() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { close("\(error)") }

    private func ended() {
        if case .closed = phase { return }
        let peer = peer
        phase = .closed
        timer?.cancel()
        queue = []
        owner?.ended(self, to: peer, reason: reason ?? "the other side closed it")
    }
}

// MARK: What is said

extension PeerConnection {
    private func take(_ frame: PeerFrame) {
        switch (phase, side, frame) {
        case (.greeting, .server, .hello(let hello)):
            let answer = hello.answer(configuration)
            send(answer)
            switch answer {
            case .welcome(let version): open(to: hello.sender, version: version)
            case .refusal(let reason): closeWhenSent("node \(hello.sender) was refused: \(reason)")
            default: break
            }
        case (.greeting, .client(let peer), .welcome(let version)):
            guard configuration.versions.contains(version) else { return close("it wants to speak version \(version)") }
            open(to: peer, version: version)
        case (.greeting, .client, .refusal(let reason)): close("it refused: \(reason)")
        case (.open, .server, .ping): send(.pong)
        case (.open, .client, .pong): break
        case (.open(let peer, _), .server, .message), (.open(let peer, _), .server, .request),
            (.open(let peer, _), .client, .answer):
            owner?.received(frame, from: peer, over: self)
        case (.closed, _, _): break
        default: close("it sent a frame out of turn")
        }
    }

    private func open(to peer: NodeID, version: UInt16) {
        phase = .open(peer: peer, version: version)
        timer?.cancel()
        tick()
        owner?.opened(self, to: peer)
    }

    /// Another interval begins.
    private func tick() {
        guard case .open = phase else { return }
        guard silentIntervals < configuration.silentIntervalsMax else { return close("nothing has come from it") }
        silentIntervals += 1
        if case .client = side { send(.ping) }
        timer = loop.schedule(at: .now + configuration.pingInterval, onLoop { $0.tick() })
    }

    private func closeWhenSent(_ reason: String) {
        self.reason = reason
        timer?.cancel()
        // The other side goes when it has read that; it need not be waited for longer than for its greeting.
        timer = loop.schedule(at: .now + configuration.connectTimeout, onLoop { $0.close(reason) })
    }

    // MARK: What is sent

    /// Sends a frame at once, before what waits: one of the small ones that keep the connection going.
    private func send(_ frame: PeerFrame) {
        guard let context, channel.isActive else { return }
        context.write(wrapOutboundOut(frame.encoded), promise: nil)
        flushSoon()
    }

    /// Sends a frame after those that wait.
    ///
    /// - Returns: whether there was room for it.
    func send(_ frame: ByteBuffer) -> Bool {
        guard let context, case .open = phase else { return false }
        if queue.isEmpty, channel.isWritable {
            context.write(wrapOutboundOut(frame), promise: nil)
            flushSoon()
            return true
        }
        let fits =
            queue.count < configuration.queueFramesMax
            && queueBytes + frame.readableBytes <= configuration.queueBytesMax
        guard fits || queue.isEmpty else { return false }
        queue.append(frame)
        queueBytes += frame.readableBytes
        return true
    }

    private func flushSoon() {
        guard !isFlushDue else { return }
        isFlushDue = true
        loop.execute(
            onLoop { connection in
                connection.isFlushDue = false
                connection.context?.flush()
            })
    }

    private func drain() {
        // Flushing comes back here when the channel takes more.
        guard let context, !isDraining else { return }
        isDraining = true
        defer { isDraining = false }
        while channel.isWritable, let frame = queue.popFirst() {
            queueBytes -= frame.readableBytes
            context.write(wrapOutboundOut(frame), promise: nil)
            if !channel.isWritable || queue.isEmpty { context.flush() }
        }
    }
}
