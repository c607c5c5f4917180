import NIOCore

/// One side of a connection that is handed on: what is read here is written there, no faster than it takes it.
final class RelayHandler: ChannelDuplexHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    /// The other side; each keeps the other one until one of them ends.
    private var other: RelayHandler?
    private var context: ChannelHandlerContext?
    private var isReadHeld = false

    static func join(_ one: RelayHandler, _ other: RelayHandler) {
        (one.other, other.other) = (other, one)
        one.readOn()
        other.readOn()
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        end()
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

    func channelInactive(context: ChannelHandlerContext) { end() }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    private func readOn() {
        guard isReadHeld else { return }
        isReadHeld = false
        context?.read()
    }

    /// The other side ends, too, after everything that was written to it.
    private func end() {
        guard let other else { return }
        self.other = nil
        other.other = nil
        guard let context = other.context else { return }
        context.writeAndFlush(other.wrapOutboundOut(ByteBuffer())).whenComplete { [channel = context.channel] _ in
            channel.close(promise: nil)
        }
    }
}
