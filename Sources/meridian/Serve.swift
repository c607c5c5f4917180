import ArgumentParser
import ClientAuthentication
import Foundation
import Gateway
import Logging
import SQLSessions
import ServiceLifecycle
import SystemClock
import TransactionCore
import TransactionEngine

/// `meridian serve`: a node that PostgreSQL clients connect to.
struct Serve: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a node: PostgreSQL clients connect to it, and their transactions span the shards.",
        discussion: """
            Coordinates the cluster while it runs; one process at a time can. Prints "ready: URL" once clients can \
            connect; Ctrl-C lets open transactions finish and stops.

              meridian serve                                over a running `meridian dev`, on 127.0.0.1, a free port
              meridian serve --config /etc/meridian.yaml --listen 0.0.0.0:5432 --rules /etc/meridian.hba \\
                  --users /etc/meridian.users --tls-certificate server.pem --tls-key server.key

            --rules has lines as pg_hba.conf has them: host all all 10.0.0.0/8 scram-sha-256. Without it only this \
            machine may connect, and is trusted. --users has a line for each user: name, blank, verifier as \
            pg_authid.rolpassword has it.
            """)

    @OptionGroup var cluster: ClusterOptions

    @Option(help: ArgumentHelp("Where clients connect; port 0 is a free one.", valueName: "host:port"))
    var listen = "127.0.0.1:0"

    @Option(help: "The database's name for clients.")
    var database = "meridian"

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
        guard address != nil else { throw ValidationError("--listen is an address, a colon and a port.") }
    }

    private var address: (host: String, port: Int)? {
        guard let colon = listen.lastIndex(of: ":"), let port = Int(listen[listen.index(after: colon)...]),
            (0...65_535).contains(port), colon > listen.startIndex
        else { return nil }
        return (String(listen[..<colon]), port)
    }

    func run() async throws {
        let configuration = try cluster.load()
        let gateway = try gatewayConfiguration()
        let verifiers = try readUsers()
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(
                        service: NodeService(
                            configuration: configuration, gateway: gateway, users: verifiers, database: database),
                        successTerminationBehavior: .gracefullyShutdownGroup,
                        failureTerminationBehavior: .gracefullyShutdownGroup)
                ],
                gracefulShutdownSignals: [.sigint, .sigterm, .sighup], logger: Logger(label: "meridian")))
        try await group.run()
    }

    private func gatewayConfiguration() throws -> GatewayConfiguration {
        let text = try rules.map { try Self.read($0) } ?? "host all all 127.0.0.1/32 trust\nhost all all ::1/128 trust"
        let parsed: HostRules
        do {
            parsed = try HostRules(parsing: text)
        } catch {
            throw ConfigurationError("the rules in \(rules ?? "the defaults") are refused", detail: "\(error)")
        }
        let (host, port) = address!
        var configuration = GatewayConfiguration(
            host: host, port: port, hostRules: parsed,
            mockSecret: (0..<32).map { _ in UInt8.random(in: 0...255) })
        if let tlsCertificate, let tlsKey {
            configuration.tls = .init(certificateChain: tlsCertificate, privateKey: tlsKey)
        }
        return configuration
    }

    private func readUsers() throws -> [String: PasswordVerifier] {
        guard let users else { return [:] }
        var verifiers: [String: PasswordVerifier] = [:]
        for (index, line) in try Self.read(users).split(separator: "\n", omittingEmptySubsequences: false).enumerated()
        {
            let words = line.split(separator: " ")
            if words.isEmpty || line.hasPrefix("#") { continue }
            guard words.count == 2, let verifier = PasswordVerifier(String(words[1])) else {
                throw ConfigurationError(
                    "line \(index + 1) of \(users) is no user",
                    detail: "it is a name, a blank and a password's verifier",
                    hint: "take the verifier from pg_authid.rolpassword; it begins with SCRAM-SHA-256$")
            }
            verifiers[String(words[0])] = verifier
        }
        return verifiers
    }

    private static func read(_ path: String) throws -> String {
        do {
            return try String(contentsOfFile: path, encoding: .utf8)
        } catch {
            throw ConfigurationError("could not read \(path)", detail: error.localizedDescription)
        }
    }
}

/// An engine with a gateway in front.
private struct NodeService: Service {
    let configuration: ClusterConfiguration
    let gateway: GatewayConfiguration
    let users: [String: PasswordVerifier]
    let database: String

    func run() async throws {
        let clock = SystemBoundedClock(source: configuration.clock)
        try await TransactionEngine.withEngine(configuration.engine, clock: clock) { engine in
            let node = try await SessionNode(engine, database: database, users: users)
            let server = try await Gateway.start(gateway, provider: node, logger: Logger(label: "meridian.gateway"))
            print("ready: postgresql://meridian@\(gateway.host):\(server.port)/\(database)")
            try? await gracefulShutdown()
            await server.shutdown(grace: .seconds(5))
        }
        print("stopped")
    }
}
