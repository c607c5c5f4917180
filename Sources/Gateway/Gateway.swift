import ClientAuthentication
import EventLoops
import Logging
import NIOCore
import Synchronization

/// The door through which PostgreSQL clients come in: it listens, and makes of each connection an authenticated
/// ``ClientSession``.
public final class Gateway: Sendable {
    private let shared: GatewayShared
    /// Nil where a ``ClientDoor`` listens for it.
    private let listener: ListeningSocket?
    private let eventLoop: any NIOCore.EventLoop
    private let isStopping = Atomic(false)
    /// The port that clients come to.
    public let port: Int

    private init(shared: GatewayShared, listener: ListeningSocket) {
        self.shared = shared
        self.listener = listener
        (eventLoop, port) = (listener.eventLoop, listener.port)
    }

    /// Serves the clients that come to a door, whenever the door's directory says so. Throws a ``GatewayError`` when
    /// the certificate can't be used. Reads files, so it may block.
    public init(
        _ configuration: GatewayConfiguration, provider: any ClientSessionProvider, behind door: ClientDoor,
        logger: Logger
    ) throws(GatewayError) {
        shared = try GatewayShared(configuration, provider: provider, logger: logger)
        listener = nil
        (eventLoop, port) = (door.eventLoop, door.port)
    }

    /// Puts a client's connection into a channel that is active already. On the loop.
    func serve(_ channel: any Channel, from client: SocketAddress?) throws {
        try channel.pipeline.syncOperations.addHandler(ClientConnection(channel, of: shared, from: client))
    }

    /// Begins to listen. Throws a ``GatewayError`` when the address can't be had or the certificate not be used. Reads
    /// files and looks up a name, so it may block.
    ///
    /// - Parameter loop: serves the connections. Sessions that run on it too are called, and heard, without a hop.
    public static func start(
        _ configuration: GatewayConfiguration, provider: any ClientSessionProvider, on loop: EventLoops.EventLoop,
        logger: Logger
    ) throws(GatewayError) -> Gateway {
        let shared = try GatewayShared(configuration, provider: provider, logger: logger)
        do {
            let address = try SocketAddress.makeAddressResolvingHost(configuration.host, port: configuration.port)
            let listener = try ListeningSocket(on: address, loop: loop) { channel in
                try channel.pipeline.syncOperations.addHandler(ClientConnection(channel, of: shared))
            }
            return Gateway(shared: shared, listener: listener)
        } catch {
            throw GatewayError(
                "could not listen on \(configuration.host), port \(configuration.port)", detail: "\(error)",
                hint: "is another server using that port, and is the address one of this machine's?")
        }
    }

    /// Whether clients are offered TLS.
    public var hasTLS: Bool { shared.configuration.tls != nil }

    /// Reads certificate and key again: connections that come from now on get them, running ones keep theirs. Throws a
    /// ``GatewayError``, and goes on with the old ones, when the new can't be used. Reads files, so it may block.
    public func reloadTLS() throws(GatewayError) {
        guard let paths = shared.configuration.tls else {
            throw GatewayError("TLS is off", hint: "configure a certificate and start again")
        }
        let material = try TLSMaterial(paths)
        shared.tls.withLock { $0 = material }
        shared.logger.info("certificate reloaded", metadata: ["path": "\(paths.certificateChain)"])
    }

    /// Judges connections that come from now on by other rules; running ones stay.
    public func replaceRules(_ rules: HostRules) {
        shared.hostRules.withLock { $0 = rules }
    }

    /// Stops listening, gives clients `grace` to go by themselves, sends those still there away (57P01, or 08007 in the
    /// midst of a commit), and ends when all are gone: after `grace` and ``GatewayConfiguration/closeTimeout`` at most,
    /// and a second for TLS.
    ///
    /// Clients that are just coming in are sent away at once (57P03). A second call does nothing.
    public func shutdown(grace: Duration) async {
        guard !isStopping.exchange(true, ordering: .relaxed) else { return }
        await listener?.close()
        shared.clients.stop()
        await shared.clients.emptied(within: grace, on: eventLoop)
        shared.clients.sendAway()
        await shared.clients.emptied(
            within: shared.configuration.closeTimeout + TLSMaterial.shutdownTimeout + .seconds(1),
            on: eventLoop)
    }
}
