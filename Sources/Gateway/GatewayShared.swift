import ClientAuthentication
import Logging
import Metrics
import PostgresWire
import Synchronization
import TransactionCore

/// What all connections of a gateway share.
final class GatewayShared: Sendable {
    let configuration: GatewayConfiguration
    let provider: any ClientSessionProvider
    let logger: Logger
    let clients: ConnectedClients
    /// What new connections get.
    let tls: Mutex<TLSMaterial?>
    let hostRules: Mutex<HostRules>
    /// Connections that were refused, whatever the reason: before their session, or for breaking the protocol.
    let refused = Counter(label: "meridian_gateway_connections_refused")

    init(
        configuration: GatewayConfiguration, tls: TLSMaterial?, provider: any ClientSessionProvider, logger: Logger
    ) {
        self.configuration = configuration
        self.provider = provider
        self.logger = logger
        self.tls = Mutex(tls)
        hostRules = Mutex(configuration.hostRules)
        clients = ConnectedClients(clientsMax: configuration.clientsMax)
    }
}

extension GatewayShared {
    /// Reads the certificate.
    convenience init(
        _ configuration: GatewayConfiguration, provider: any ClientSessionProvider, logger: Logger
    ) throws(GatewayError) {
        let tls = try configuration.tls.map { paths throws(GatewayError) in try TLSMaterial(paths) }
        self.init(configuration: configuration, tls: tls, provider: provider, logger: logger)
    }
}

/// What clients are told that are sent away.
extension ErrorFields {
    /// On PostgreSQL it means that nothing was committed, and so it does here.
    static let shutdown = ErrorFields(.fatal, .adminShutdown, "terminating connection due to administrator command")

    static let outcomeUnknown = ErrorFields(
        TransactionError(
            .transactionResolutionUnknown, "the outcome of the transaction is not known",
            detail: "the connection is terminated while the transaction commits",
            hint: "look whether it was committed before running it again"), severity: .fatal)
}
