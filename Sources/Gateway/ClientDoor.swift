import EventLoops
import Logging
import NIOCore
import Synchronization

/// The port to which a node's clients come, for as long as the node runs: whoever serves them changes, the port stays.
///
/// Clients are served here or, while that can't be, handed on, byte by byte, to a node that serves; TLS and login
/// happen there. A client that comes while nobody serves waits for a while.
public final class ClientDoor: Sendable {
    /// Who serves clients.
    public enum Destination: Sendable {
        /// Nobody that is known of.
        case nobody
        case here(Gateway)
        /// The node whose door is there.
        case node(SocketAddress)
    }

    /// What a door asks; called on the loop.
    public struct Directory: Sendable {
        /// Who serves clients now.
        public var destination: @Sendable () -> Destination
        /// Whether the node whose door is there is there still, so that clients which were handed on to it may stay.
        public var isPresent: @Sendable (SocketAddress) -> Bool
        /// Whether a connection from that address may be a node's, and is believed when it says whom it comes from.
        public var isNode: @Sendable (SocketAddress) -> Bool

        public init(
            destination: @escaping @Sendable () -> Destination,
            isPresent: @escaping @Sendable (SocketAddress) -> Bool, isNode: @escaping @Sendable (SocketAddress) -> Bool
        ) {
            (self.destination, self.isPresent) = (destination, isPresent)
            self.isNode = isNode
        }
    }

    private let listener: ListeningSocket
    private let guests: DoorGuests
    private let loop: EventLoops.EventLoop
    /// The port that it listens on.
    public var port: Int { listener.port }
    var eventLoop: any NIOCore.EventLoop { listener.eventLoop }

    /// How long a client waits for somebody who serves it, and how often that is looked for.
    static let patience = Duration.seconds(10)
    static let interval = Duration.milliseconds(50)

    private init(listener: ListeningSocket, guests: DoorGuests, loop: EventLoops.EventLoop) {
        (self.listener, self.guests, self.loop) = (listener, guests, loop)
    }

    /// Begins to listen. Throws a ``GatewayError`` when the address can't be had. Looks up a name, so it may block.
    ///
    /// - Parameter clientsMax: how many connections wait or are handed on at a time.
    public static func open(
        host: String, port: Int, clientsMax: Int, on loop: EventLoops.EventLoop, logger: Logger, _ directory: Directory
    ) throws(GatewayError) -> ClientDoor {
        let connector = SocketConnector(loop: loop)
        let guests = DoorGuests(countMax: clientsMax)
        do {
            let address = try SocketAddress.makeAddressResolvingHost(host, port: port)
            let listener = try ListeningSocket(on: address, loop: loop) { channel in
                let handler = DoorHandler(directory, connector: connector, loop: loop, logger: logger)
                try guests.add(channel, handler)
                try channel.pipeline.syncOperations.addHandler(handler)
            }
            return ClientDoor(listener: listener, guests: guests, loop: loop)
        } catch {
            throw GatewayError(
                "could not listen on \(host), port \(port)", detail: "\(error)",
                hint: "is another server using that port, and is the address one of this machine's?")
        }
    }

    /// A node is gone: connections that were handed on to it end, because it may stand still and never answer again.
    /// From any thread.
    public func endStrays() {
        loop.execute { [guests] in guests.endStrays() }
    }

    /// Stops listening, ends the connections that wait or were handed on, and returns when they have ended. Those that
    /// are served here are the gateway's.
    public func close() async {
        await listener.close()
        await withUnsafeContinuation { continuation in
            loop.execute { [guests] in guests.endAll { continuation.resume() } }
        }
    }
}

/// The connections that wait at a door or were handed on; on the loop only.
private final class DoorGuests: @unchecked Sendable {
    private struct TooManyConnections: Error {}

    private let countMax: Int
    private var members: [ObjectIdentifier: (channel: any Channel, handler: DoorHandler)] = [:]
    private var whenEmpty: (() -> Void)?

    init(countMax: Int) {
        self.countMax = countMax
    }

    func add(_ channel: any Channel, _ handler: DoorHandler) throws {
        guard whenEmpty == nil, members.count < countMax else { throw TooManyConnections() }
        let id = ObjectIdentifier(channel)
        members[id] = (channel, handler)
        let bound = NIOLoopBound(self, eventLoop: channel.eventLoop)
        handler.whenServedHere = { bound.value.remove(id) }
        channel.closeFuture.whenComplete { _ in bound.value.remove(id) }
    }

    private func remove(_ id: ObjectIdentifier) {
        members[id] = nil
        if members.isEmpty { whenEmpty?() }
    }

    func endStrays() {
        for member in members.values { member.handler.endIfStray() }
    }

    func endAll(_ body: @escaping () -> Void) {
        whenEmpty = body
        guard !members.isEmpty else { return body() }
        for member in members.values { member.channel.close(promise: nil) }
    }
}
