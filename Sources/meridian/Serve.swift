import ArgumentParser
import Logging
import ServiceLifecycle
import UnixSignals

/// `meridian serve`: a node that PostgreSQL clients connect to.
struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a node: PostgreSQL clients connect to it, and their transactions span the shards.",
        discussion: """
            Coordinates transactions while it runs: alone, or beside the other nodes where the configuration has the \
            section "cluster". Prints "ready: URL" once clients can connect; Ctrl-C lets open transactions finish and \
            stops. SIGHUP has rules, users and the TLS certificate read again.

              meridian serve                                over a running `meridian dev --nodes 0`
              meridian serve --config /etc/meridian.yaml    as the file says; ops/meridian.example.yaml explains it
              meridian serve --listen 0.0.0.0:5432 --rules hba --users users --tls-certificate a.pem --tls-key a.key

            --rules has lines as pg_hba.conf has them: host all all 10.0.0.0/8 scram-sha-256. Without it only this \
            machine may connect, and is trusted. --users has a line for each user: name, blank, verifier as \
            pg_authid.rolpassword has it. Options go before the configuration file.
            """)

    @OptionGroup var cluster: ClusterOptions

    @Option(
        help: ArgumentHelp("Where clients connect; port 0 is a free one, 5432 the default.", valueName: "host:port"))
    var listen: String?

    @Option(help: "The database's name for clients.")
    var database: String?

    @Option(help: "Who may connect from where, and how.", completion: .file())
    var rules: String?

    @Option(help: "The users' password verifiers.", completion: .file())
    var users: String?

    @Option(help: "The certificate chain for TLS (PEM).", completion: .file())
    var tlsCertificate: String?

    @Option(help: "The certificate's private key (PEM).", completion: .file())
    var tlsKey: String?

    func validate() throws {
        guard (tlsCertificate == nil) == (tlsKey == nil) else {
            throw ValidationError("--tls-certificate and --tls-key go together.")
        }
        guard listen.map({ GatewaySettings.address($0) != nil }) ?? true else {
            throw ValidationError("--listen can't be \"\(listen!)\"; \(GatewaySettings.addressExplanation).")
        }
    }

    func run() async throws {
        var configuration = try cluster.load()
        if let address = listen.flatMap(GatewaySettings.address) {
            (configuration.gateway.host, configuration.gateway.port) = address
        }
        configuration.gateway.database = database ?? configuration.gateway.database
        configuration.gateway.rules = rules ?? configuration.gateway.rules
        configuration.gateway.users = users ?? configuration.gateway.users
        configuration.gateway.tlsCertificate = tlsCertificate ?? configuration.gateway.tlsCertificate
        configuration.gateway.tlsKey = tlsKey ?? configuration.gateway.tlsKey
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(
                        service: try NodeService(configuration, reloads: true),
                        successTerminationBehavior: .gracefullyShutdownGroup,
                        failureTerminationBehavior: .gracefullyShutdownGroup)
                ],
                gracefulShutdownSignals: [.sigint, .sigterm], logger: Logger(label: "meridian")))
        try await group.run()
        print("stopped")
    }
}
