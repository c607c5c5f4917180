import EventLoops
import Logging
import NIOCore
import PostgresWire
import TransactionCore

/// What a connection at a ``ClientDoor`` meets first: it finds out whom the client comes from, waits for somebody who
/// serves it, and makes room for that.
///
/// A node that hands a client on says in a line before the client's bytes where the client is (the PROXY protocol,
/// version 1, as HAProxy defines it), so that rules about hosts hold. No client's first bytes look like that: they
/// would be the length of a message of more than a gigabyte.
final class DoorHandler: ChannelDuplexHandler, RemovableChannelHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private enum Phase: Equatable {
        /// The first bytes of what may be a node are awaited.
        case greeting
        case waiting
        case connecting
        case handedOn(SocketAddress)
        case over
    }

    private let directory: ClientDoor.Directory
    private let connector: SocketConnector
    private let loop: EventLoops.EventLoop
    private let logger: Logger
    private let deadline = ContinuousClock.now + ClientDoor.patience
    private var phase = Phase.greeting
    private var context: ChannelHandlerContext?
    private var received = ByteBuffer()
    private var isReadHeld = false
    /// Where the client is.
    private var client: SocketAddress?
    /// Another node handed it on: it is served here, or not at all.
    private var isHandedOn = false
    var whenServedHere: () -> Void = {}

    init(_ directory: ClientDoor.Directory, connector: SocketConnector, loop: EventLoops.EventLoop, logger: Logger) {
        (self.directory, self.connector, self.loop, self.logger) = (directory, connector, loop, logger)
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) { self.context = nil }

    func channelActive(context: ChannelHandlerContext) {
        guard let remote = context.remoteAddress else { return context.close(promise: nil) }
        client = remote
        guard directory.isNode(remote) else { return greeted() }
        // Who may be a node and says nothing must not stay for ever: nobody has asked it for a password yet.
        loop.schedule(at: deadline) { [self] in
            if phase == .greeting { self.context?.close(promise: nil) }
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        phase = .over
        context.fireChannelInactive()
    }

    func read(context: ChannelHandlerContext) {
        switch phase {
        case .greeting, .handedOn: context.read()
        case .waiting, .connecting, .over: isReadHeld = true
        }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        if case .handedOn = phase { return context.fireChannelRead(data) }
        var bytes = unwrapInboundIn(data)
        received.writeBuffer(&bytes)
        guard phase == .greeting else { return }
        do {
            while let client, directory.isNode(client), let header = try ProxyHeader.next(from: &received) {
                guard let source = header.source else { return }
                (self.client, isHandedOn) = (source, true)
            }
            greeted()
        } catch {
            logger.warning("a node's line about a client is malformed")
            context.close(promise: nil)
        }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    /// Was handed on to a node that is gone.
    func endIfStray() {
        guard case .handedOn(let address) = phase else { return }
        if directory.isPresent(address) { return }
        context?.close(promise: nil)
    }

    // MARK: Steps

    private func greeted() {
        phase = .waiting
        proceed()
    }

    private func proceed() {
        guard phase == .waiting, let context else { return }
        switch directory.destination() {
        case .here(let gateway): serve(gateway, context)
        case .node(let address) where !isHandedOn: connect(to: address)
        case .node, .nobody: tryLater("no node is known that could")
        }
    }

    private func tryLater(_ reason: String) {
        guard phase != .over else { return }
        phase = .waiting
        guard .now < deadline else { return refuse(reason) }
        loop.schedule(at: .now + ClientDoor.interval) { [self] in proceed() }
    }

    private func refuse(_ reason: String) {
        logger.warning("a client was not served", metadata: ["reason": "\(reason)"])
        phase = .over
        var writer = BackendWriter(capacity: 256)
        writer.errorResponse(
            ErrorFields(
                .fatal, .cannotConnectNow, "no node serves clients at the moment", detail: reason,
                hint: "try again in a moment"))
        guard let context else { return }
        context.writeAndFlush(wrapOutboundOut(writer.take())).whenComplete { [channel = context.channel] _ in
            channel.close(promise: nil)
        }
    }

    private func serve(_ gateway: Gateway, _ context: ChannelHandlerContext) {
        do {
            try gateway.serve(context.channel, from: client)
        } catch {
            return context.close(promise: nil)
        }
        whenServedHere()
        context.fireChannelActive()
        makeRoom(context)
    }

    private func connect(to address: SocketAddress) {
        phase = .connecting
        connector.connect(to: address, within: .seconds(1)) { [self] channel in
            let there = RelayHandler()
            try channel.pipeline.syncOperations.addHandler(there)
            // It takes nothing before it is active, which it is when this turn is over.
            loop.execute { self.handOn(to: address, over: channel, there) }
        } failed: { [self] error in
            tryLater("\(address): \(error)")
        }
    }

    private func handOn(to address: SocketAddress, over channel: any Channel, _ there: RelayHandler) {
        let here = RelayHandler()
        guard phase == .connecting, channel.isActive, let context, let client,
            (try? context.pipeline.syncOperations.addHandler(here, position: .after(self))) != nil
        else {
            channel.close(promise: nil)
            return tryLater("\(address): the connection was lost")
        }
        phase = .handedOn(address)
        channel.writeAndFlush(ProxyHeader(source: client, destination: context.localAddress).encoded, promise: nil)
        RelayHandler.join(here, there)
        if received.readableBytes > 0 {
            context.fireChannelRead(wrapInboundOut(received))
            context.fireChannelReadComplete()
            received.clear()
        }
        if isReadHeld { context.channel.read() }
        endIfStray()
    }

    /// Hands over to what was put behind, with what has come so far.
    private func makeRoom(_ context: ChannelHandlerContext) {
        phase = .over
        if received.readableBytes > 0 {
            context.fireChannelRead(wrapInboundOut(received))
            context.fireChannelReadComplete()
        }
        let channel = context.channel
        context.pipeline.syncOperations.removeHandler(self, promise: nil)
        if isReadHeld { channel.read() }
    }
}
