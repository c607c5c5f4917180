import ClientAuthentication
import Foundation
import Gateway
import Logging
import SQLSessions
import ServiceLifecycle
import SystemClock
import TransactionEngine
import UnixSignals

/// A node: an engine, and a gateway for its clients.
struct NodeService: Service {
    private let configuration: ClusterConfiguration
    private let door: GatewayConfiguration
    private let users: [String: PasswordVerifier]
    private let reloads: Bool

    /// How long clients have to finish when the node stops.
    static let grace = Duration.seconds(5)

    /// Reads what the gateway's settings name. Throws ``ConfigurationError``.
    ///
    /// - Parameter reloads: SIGHUP has the gateway's files read again.
    init(_ configuration: ClusterConfiguration, reloads: Bool = false) throws {
        (self.configuration, self.reloads) = (configuration, reloads)
        if let admin = configuration.admin {
            _ = try admin.loadToken()
            // Before anything counts.
            _ = AdminSettings.registry
        }
        users = try configuration.gateway.loadUsers()
        door = try configuration.gateway.load()
    }

    func run() async throws {
        Self.raiseDescriptorLimit()
        if let replication = configuration.replication {
            return try await ReplicatedNodeService(
                configuration: configuration, replication: replication, door: door, reloads: reloads
            ).run()
        }
        var engine = configuration.engine
        engine.faultHook = try FaultInjection.hook(from: ProcessInfo.processInfo.environment)
        let clock = SystemBoundedClock(source: configuration.clock)
        let status = NodeStatus()
        try await configuration.withAdminInterface(status, clock) { [engine] in
            try await TransactionEngine.withEngine(engine, clock: clock) { engine in
                let node = try await SessionNode(engine, database: configuration.gateway.database, users: users)
                let gateway = try Gateway.start(
                    door, provider: node, on: engine.loop, logger: Logger(label: "meridian.gateway"))
                status.coordinates(by: engine)
                print("ready: \(configuration.gateway.url(port: gateway.port))")
                await serve(gateway, node)
                status.coordinates(by: nil)
                await gateway.shutdown(grace: Self.grace)
            }
        }
    }

    /// Each client takes a file descriptor; the soft limit is often 1024.
    private static func raiseDescriptorLimit() {
        var limit = rlimit()
        guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
        limit.rlim_cur = limit.rlim_max
        _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
    }

    /// Returns when the node is to stop.
    private func serve(_ gateway: Gateway, _ node: SessionNode) async {
        await withTaskGroup(of: Void.self) { group in
            if reloads {
                let signals = await UnixSignalsSequence(trapping: .sighup)
                group.addTask { for await _ in signals { configuration.gateway.reload(gateway, node) } }
            }
            try? await gracefulShutdown()
            group.cancelAll()
        }
    }
}

extension GatewaySettings {
    /// Reads rules, users and certificate again, for clients that come from now on. What can't be used leaves the old.
    func reload(_ gateway: Gateway, _ node: SessionNode) {
        let logger = Logger(label: "meridian.gateway")
        do {
            let (rules, users) = (try load().hostRules, try loadUsers())
            gateway.replaceRules(rules)
            node.replaceUsers(users)
            logger.info("rules and users reloaded")
        } catch {
            logger.error("the old rules and users stay in use: \(error)")
        }
        guard gateway.hasTLS else { return }
        do {
            try gateway.reloadTLS()
        } catch {
            logger.error("the old certificate stays in use: \(error)")
        }
    }
}
