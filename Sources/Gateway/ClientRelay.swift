import EventLoops
import Logging
import NIOCore
import PostgresWire
import TransactionCore

/// The door of a node that does not coordinate: clients' connections are handed on, byte by byte, to the one that does.
///
/// TLS and login happen there. A client that comes while nobody coordinates waits for a while.
public final class ClientRelay: Sendable {
    /// Where clients are to be served; nil while it is not known. Called on the loop.
    public typealias Target = @Sendable () -> SocketAddress?

    private let listener: ListeningSocket
    /// The port that it listens on.
    public var port: Int { listener.port }

    /// How long a client waits for a node that serves it, and how often that is looked for.
    static let patience = Duration.seconds(10)
    static let interval = Duration.milliseconds(50)

    private init(listener: ListeningSocket) {
        self.listener = listener
    }

    /// Begins to listen. Throws a ``GatewayError`` when the address can't be had. Looks up a name, so it may block.
    public static func start(
        host: String, port: Int, on loop: EventLoops.EventLoop, logger: Logger, target: @escaping Target
    ) throws(GatewayError) -> ClientRelay {
        let connector = SocketConnector(loop: loop)
        do {
            let address = try SocketAddress.makeAddressResolvingHost(host, port: port)
            let listener = try ListeningSocket(on: address, loop: loop) { channel in
                let relayed = RelayedConnection(channel, connector: connector, loop: loop, logger: logger, target)
                try channel.pipeline.syncOperations.addHandler(relayed.clientSide)
                relayed.connect()
            }
            return ClientRelay(listener: listener)
        } catch {
            throw GatewayError(
                "could not listen on \(host), port \(port)", detail: "\(error)",
                hint: "is another server using that port, and is the address one of this machine's?")
        }
    }

    /// Stops listening. Connections that were handed on go on.
    public func close() async { await listener.close() }
}

/// A client and the node that serves it. On the loop only.
private final class RelayedConnection: @unchecked Sendable {
    let clientSide = RelayHandler()
    private let nodeSide = RelayHandler()
    private let client: any Channel
    private let connector: SocketConnector
    private let loop: EventLoops.EventLoop
    private let logger: Logger
    private let target: ClientRelay.Target
    private let deadline = ContinuousClock.now + ClientRelay.patience

    init(
        _ client: any Channel, connector: SocketConnector, loop: EventLoops.EventLoop, logger: Logger,
        _ target: @escaping ClientRelay.Target
    ) {
        self.client = client
        self.connector = connector
        self.loop = loop
        self.logger = logger
        self.target = target
    }

    /// Connects to the node that serves, and tries again while there is none.
    func connect() {
        guard client.isActive || !clientSide.isOver else { return }
        guard let address = target() else { return tryLater("no node coordinates") }
        connector.connect(to: address, within: .seconds(1)) { [self] channel in
            guard !clientSide.isOver else { return channel.close(promise: nil) }
            try channel.pipeline.syncOperations.addHandler(nodeSide)
            RelayHandler.join(clientSide, nodeSide)
        } failed: { [self] error in
            tryLater("\(address): \(error)")
        }
    }

    private func tryLater(_ reason: String) {
        guard .now < deadline else {
            logger.warning("a client can't be handed on", metadata: ["reason": "\(reason)"])
            return refuse(reason)
        }
        loop.schedule(at: .now + ClientRelay.interval) { [self] in connect() }
    }

    private func refuse(_ reason: String) {
        var writer = BackendWriter(capacity: 256)
        writer.errorResponse(
            ErrorFields(
                .fatal, .cannotConnectNow, "no node serves clients at the moment", detail: reason,
                hint: "try again in a moment"))
        clientSide.end(with: writer.take())
    }
}

/// One side of a relayed connection: what is read here is written there, no faster than it takes it.
private final class RelayHandler: ChannelDuplexHandler {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private weak var other: RelayHandler?
    private var context: ChannelHandlerContext?
    private var isReadHeld = false
    private(set) var isOver = false

    static func join(_ one: RelayHandler, _ other: RelayHandler) {
        (one.other, other.other) = (other, one)
        one.readOn()
        other.readOn()
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        isOver = true
        other?.end()
    }

    func read(context: ChannelHandlerContext) {
        guard let there = other?.context, there.channel.isWritable else { return isReadHeld = true }
        context.read()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        other?.context?.write(wrapOutboundOut(unwrapInboundIn(data)), promise: nil)
    }

    func channelReadComplete(context: ChannelHandlerContext) { other?.context?.flush() }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { other?.readOn() }
    }

    func channelInactive(context: ChannelHandlerContext) {
        isOver = true
        other?.end()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func readOn() {
        guard isReadHeld else { return }
        isReadHeld = false
        context?.read()
    }

    /// Ends this side, after everything that was written.
    func end(with message: ByteBuffer = ByteBuffer()) {
        guard let context, !isOver else { return }
        isOver = true
        context.writeAndFlush(wrapOutboundOut(message)).whenComplete { [channel = context.channel] _ in
            channel.close(promise: nil)
        }
    }
}
