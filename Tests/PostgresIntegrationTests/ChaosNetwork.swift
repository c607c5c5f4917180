import EventLoops
import NIOCore

/// The network between nodes, and from nodes to shards, as far as a test may break it: a port in front of each place,
/// from which bytes are handed on, or held.
///
/// What is held is not lost. As with TCP over a network that is cut, it arrives when the cut is over, unless one side
/// has given the connection up by then; and neither side hears of the other one's end before that.
///
/// What nodes hand on of their clients goes from node to node directly, and is not held.
final class ChaosNetwork: @unchecked Sendable {
    enum Place: Hashable, Sendable {
        case node(Int)
        case shard(Int)
    }

    /// One direction between two places.
    struct Way: Hashable, Sendable {
        let from: Place
        let to: Place

        var back: Way { Way(from: to, to: from) }
    }

    private let loop: EventLoops.EventLoop
    private let connector: SocketConnector
    // On the loop only.
    private var listeners: [ListeningSocket] = []
    /// How many faults hold a way.
    private var holds: [Way: Int] = [:]
    private var connections: [ObjectIdentifier: Connection] = [:]

    init() throws {
        loop = try EventLoop(name: "network")
        connector = SocketConnector(loop: loop)
    }

    func shutdown() async {
        for listener in listeners { await listener.close() }
        loop.execute { [self] in for connection in connections.values { connection.close() } }
        loop.shutdown()
    }

    /// Opens a port by which `place`, which listens on `port` of this machine, is reached.
    ///
    /// - Parameter caller: who comes there; nil for nodes, which say so themselves in the greeting of each connection.
    func openPort(to place: Place, on port: Int, from caller: Place? = nil) throws -> Int {
        let target = try SocketAddress(ipAddress: "127.0.0.1", port: port)
        let listener = try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: 0), loop: loop) {
            [self] channel in
            let connection = Connection(from: caller, to: place, in: self)
            connections[ObjectIdentifier(connection)] = connection
            try channel.pipeline.syncOperations.addHandler(connection.near)
            connector.connect(to: target, within: .seconds(5)) { onward in
                try onward.pipeline.syncOperations.addHandler(connection.far)
                connection.passOn()
            } failed: { _ in
                connection.close()
            }
        }
        listeners.append(listener)
        return listener.port
    }

    /// From now on nothing passes by these ways, until they were let go as often as they were held.
    func hold(_ ways: [Way]) { change(ways, by: 1) }

    func letGo(_ ways: [Way]) { change(ways, by: -1) }

    private func change(_ ways: [Way], by count: Int) {
        loop.execute { [self] in
            for way in ways { holds[way, default: 0] += count }
            for connection in connections.values { connection.passOn() }
        }
    }

    /// Ends all connections to a place, for both sides.
    func reset(_ place: Place) {
        loop.execute { [self] in
            for connection in connections.values where connection.callee == place { connection.close() }
        }
    }

    // MARK: Connections

    fileprivate func isHeld(_ way: Way) -> Bool { holds[way, default: 0] > 0 }

    fileprivate func forget(_ connection: Connection) { connections[ObjectIdentifier(connection)] = nil }
}

/// A connection that passes through; on the loop only.
private final class Connection: @unchecked Sendable {
    private(set) var caller: ChaosNetwork.Place?
    let callee: ChaosNetwork.Place
    private let network: ChaosNetwork
    private(set) var near: ConnectionEnd!
    private(set) var far: ConnectionEnd!

    init(from caller: ChaosNetwork.Place?, to callee: ChaosNetwork.Place, in network: ChaosNetwork) {
        (self.caller, self.callee, self.network) = (caller, callee, network)
        near = ConnectionEnd(self)
        far = ConnectionEnd(self)
    }

    func other(_ end: ConnectionEnd) -> ConnectionEnd { end === near ? far : near }

    /// Whether what comes from `end` is to wait.
    func isHeld(_ end: ConnectionEnd) -> Bool {
        guard let caller else { return false }
        let way = ChaosNetwork.Way(from: caller, to: callee)
        return network.isHeld(end === near ? way : way.back)
    }

    /// A node's greeting tells who it is: after the frame's length and type, and a mark and two versions.
    func look(at bytes: ByteBuffer) {
        guard caller == nil else { return }
        let place = bytes.readerIndex + 4 + 1 + "meridian".utf8.count + 2 + 2
        caller = bytes.getInteger(at: place, as: UInt16.self).map { .node(Int($0)) }
    }

    func passOn() {
        near.passOn()
        far.passOn()
    }

    func close() {
        near.close()
        far.close()
    }

    func endLeft() { if near.context == nil, far.context == nil { network.forget(self) } }
}

/// One side of it: what is read here is written at the other one, now or later.
private final class ConnectionEnd: ChannelDuplexHandler, @unchecked Sendable {
    typealias InboundIn = ByteBuffer
    typealias InboundOut = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    private let connection: Connection
    private(set) var context: ChannelHandlerContext?
    private var waiting: [ByteBuffer] = []
    private var isReadHeld = false
    private var hasEnded = false

    init(_ connection: Connection) {
        self.connection = connection
    }

    func handlerAdded(context: ChannelHandlerContext) { self.context = context }

    func handlerRemoved(context: ChannelHandlerContext) {
        self.context = nil
        connection.endLeft()
    }

    func read(context: ChannelHandlerContext) {
        isReadHeld = true
        passOn()
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let bytes = unwrapInboundIn(data)
        connection.look(at: bytes)
        waiting.append(bytes)
    }

    func channelReadComplete(context: ChannelHandlerContext) { passOn() }

    func channelWritabilityChanged(context: ChannelHandlerContext) { connection.other(self).passOn() }

    func channelInactive(context: ChannelHandlerContext) {
        hasEnded = true
        passOn()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) { context.close(promise: nil) }

    func close() { context?.close(promise: nil) }

    func passOn() {
        guard !connection.isHeld(self), let there = connection.other(self).context else { return }
        // Writing may lead back to here.
        let ready = waiting
        waiting = []
        for bytes in ready { there.write(wrapOutboundOut(bytes), promise: nil) }
        guard !hasEnded else {
            return there.writeAndFlush(wrapOutboundOut(ByteBuffer())).whenComplete { [connection] _ in
                connection.close()
            }
        }
        there.flush()
        guard isReadHeld, there.channel.isWritable else { return }
        isReadHeld = false
        context?.read()
    }
}
