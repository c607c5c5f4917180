import ClientAuthentication
import Foundation
import Gateway
import Logging
import SQLSessions
import ServiceLifecycle
import SystemClock
import TransactionEngine
import UnixSignals

/// A node: an engine, and doors for its clients.
struct NodeService: Service {
    private let configuration: ClusterConfiguration
    private let doors: [GatewayConfiguration]
    private let users: [String: PasswordVerifier]
    private let reloads: Bool

    /// How long clients have to finish when the node stops.
    static let grace = Duration.seconds(5)

    /// Reads what the gateway's settings name. Throws ``ConfigurationError``.
    ///
    /// - Parameters:
    ///   - ports: one for each door; 0 is a free one.
    ///   - reloads: SIGHUP has the gateway's files read again.
    init(_ configuration: ClusterConfiguration, ports: [Int], reloads: Bool = false) throws {
        (self.configuration, self.reloads) = (configuration, reloads)
        users = try configuration.gateway.loadUsers()
        let door = try configuration.gateway.load()
        doors = ports.map { port in
            var door = door
            door.port = port
            return door
        }
    }

    func run() async throws {
        Self.raiseDescriptorLimit()
        if let replication = configuration.replication {
            return try await ReplicatedNodeService(
                configuration: configuration, replication: replication, door: doors[0], reloads: reloads
            ).run()
        }
        var engine = configuration.engine
        engine.faultHook = try FaultInjection.hook(from: ProcessInfo.processInfo.environment)
        let clock = SystemBoundedClock(source: configuration.clock)
        try await TransactionEngine.withEngine(engine, clock: clock) { engine in
            let node = try await SessionNode(engine, database: configuration.gateway.database, users: users)
            var gateways: [Gateway] = []
            do {
                for door in doors {
                    let logger = Logger(label: "meridian.gateway")
                    gateways.append(try Gateway.start(door, provider: node, on: engine.loop, logger: logger))
                }
                for gateway in gateways { print("ready: \(configuration.gateway.url(port: gateway.port))") }
                await serve(gateways, node)
            } catch {
                await Self.close(gateways)
                throw error
            }
            await Self.close(gateways)
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
    private func serve(_ gateways: [Gateway], _ node: SessionNode) async {
        await withTaskGroup(of: Void.self) { group in
            if reloads {
                let signals = await UnixSignalsSequence(trapping: .sighup)
                group.addTask { for await _ in signals { configuration.gateway.reload(gateways, node) } }
            }
            try? await gracefulShutdown()
            group.cancelAll()
        }
    }

    private static func close(_ gateways: [Gateway]) async {
        await withDiscardingTaskGroup { group in
            for gateway in gateways { group.addTask { await gateway.shutdown(grace: grace) } }
        }
    }
}

extension GatewaySettings {
    /// Reads rules, users and certificate again, for clients that come from now on. What can't be used leaves the old.
    func reload(_ gateways: [Gateway], _ node: SessionNode) {
        let logger = Logger(label: "meridian.gateway")
        do {
            let (rules, users) = (try load().hostRules, try loadUsers())
            for gateway in gateways { gateway.replaceRules(rules) }
            node.replaceUsers(users)
            logger.info("rules and users reloaded")
        } catch {
            logger.error("the old rules and users stay in use: \(error)")
        }
        for gateway in gateways where gateway.hasTLS {
            do {
                try gateway.reloadTLS()
            } catch {
                logger.error("the old certificate stays in use: \(error)")
            }
        }
    }
}
