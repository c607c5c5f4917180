import Logging
import NIOCore
import NIOPosix
import Synchronization

/// The door through which PostgreSQL clients come in: it listens, and makes of each connection an authenticated
/// ``ClientSession``.
public final class Gateway: Sendable {
    private let shared: GatewayShared
    private let group: MultiThreadedEventLoopGroup
    private let listener: any Channel
    private let isStopping = Atomic(false)
    /// The port that it listens on.
    public let port: Int

    private init(shared: GatewayShared, group: MultiThreadedEventLoopGroup, listener: any Channel) {
        self.shared = shared
        self.group = group
        self.listener = listener
        port = listener.localAddress?.port ?? shared.configuration.port
    }

    /// Begins to listen. Throws a ``GatewayError`` when the address can't be had or the certificate not be used.
    public static func start(
        _ configuration: GatewayConfiguration, provider: any ClientSessionProvider, logger: Logger
    ) async throws -> Gateway {
        let shared = GatewayShared(
            configuration: configuration, tls: try configuration.tls.map(TLSMaterial.init), provider: provider,
            logger: logger)
        let group = MultiThreadedEventLoopGroup(numberOfThreads: configuration.eventLoops)
        do {
            let listener = try await bootstrap(shared, group)
                .bind(host: configuration.host, port: configuration.port).get()
            return Gateway(shared: shared, group: group, listener: listener)
        } catch {
            try? await group.shutdownGracefully()
            throw GatewayError(
                "could not listen on \(configuration.host), port \(configuration.port)", detail: "\(error)",
                hint: "is another server using that port, and is the address one of this machine's?")
        }
    }

    private static func bootstrap(
        _ shared: GatewayShared, _ group: MultiThreadedEventLoopGroup
    ) -> ServerBootstrap {
        ServerBootstrap(group: group)
            .serverChannelOption(.backlog, value: 1_024)
            .serverChannelOption(.socketOption(.so_reuseaddr), value: 1)
            .serverChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    // Without file descriptors left, accepting again at once would only keep a processor busy.
                    try channel.pipeline.syncOperations.addHandler(AcceptBackoffHandler())
                }
            }
            .childChannelInitializer { channel in
                channel.eventLoop.makeCompletedFuture {
                    try channel.pipeline.syncOperations.addHandler(ClientConnection(channel, of: shared))
                }
            }
            .childChannelOption(.tcpOption(.tcp_nodelay), value: 1)
            .childChannelOption(.socketOption(.so_keepalive), value: 1)
            .childChannelOption(KeepAlive.idle, value: KeepAlive.idleSeconds)
            .childChannelOption(KeepAlive.interval, value: KeepAlive.intervalSeconds)
            .childChannelOption(KeepAlive.count, value: KeepAlive.probes)
            .childChannelOption(
                .recvAllocator, value: AdaptiveRecvByteBufferAllocator(minimum: 512, initial: 1_024, maximum: 65_536))
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

    /// Stops listening, gives clients `grace` to go by themselves, sends those still there away (57P01), and ends when
    /// all are gone: after `grace` and ``GatewayConfiguration/closeTimeout`` at most, and a second for TLS.
    ///
    /// Clients that are just coming in are sent away at once (57P03). A second call does nothing.
    public func shutdown(grace: Duration) async {
        guard !isStopping.exchange(true, ordering: .relaxed) else { return }
        try? await listener.close()
        shared.clients.stop()
        await shared.clients.emptied(within: grace, on: group.next())
        shared.clients.sendAway()
        await shared.clients.emptied(
            within: shared.configuration.closeTimeout + TLSMaterial.shutdownTimeout + .seconds(1), on: group.next())
        try? await group.shutdownGracefully()
    }
}
