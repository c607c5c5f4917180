import Glibc
import Logging
import Metrics
import NIOCore
import Synchronization

/// What all connections of a gateway share.
final class GatewayShared: Sendable {
    let configuration: GatewayConfiguration
    let provider: any ClientSessionProvider
    let logger: Logger
    let clients: ConnectedClients
    /// What new connections get.
    let tls: Mutex<TLSMaterial?>
    /// Connections that were refused, whatever the reason: before their session, or for breaking the protocol.
    let refused = Counter(label: "meridian_gateway_connections_refused")

    init(
        configuration: GatewayConfiguration, tls: TLSMaterial?, provider: any ClientSessionProvider, logger: Logger
    ) {
        self.configuration = configuration
        self.provider = provider
        self.logger = logger
        self.tls = Mutex(tls)
        clients = ConnectedClients(clientsMax: configuration.clientsMax)
    }
}

/// When the kernel finds out about a client whose host is gone without a word, so that its transaction ends: after
/// about two minutes. PostgreSQL leaves that to the kernel's own default, which is two hours.
enum KeepAlive {
    static let idle = option(TCP_KEEPIDLE)
    static let idleSeconds: SocketOptionValue = 60
    static let interval = option(TCP_KEEPINTVL)
    static let intervalSeconds: SocketOptionValue = 10
    static let count = option(TCP_KEEPCNT)
    static let probes: SocketOptionValue = 6

    private static func option(_ name: CInt) -> ChannelOptions.Types.SocketOption {
        ChannelOptions.Types.SocketOption(level: .tcp, name: NIOBSDSocket.Option(rawValue: name))
    }
}
