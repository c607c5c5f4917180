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

    /// How long clients have to finish when the node stops.
    static let grace = Duration.seconds(5)

    /// Reads what the gateway's settings name. Throws ``ConfigurationError``.
    ///
    /// - Parameter ports: one for each door; 0 is a free one.
    init(_ configuration: ClusterConfiguration, ports: [Int]) throws {
        self.configuration = configuration
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
                configuration: configuration, replication: replication, door: doors[0],
                makeSessions: { [configuration, users] engine in
                    try await SessionNode(engine, database: configuration.gateway.database, users: users)
                }
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
                await Self.serve(gateways)
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

    /// Returns when the node is to stop; until then SIGHUP has certificates read again, where there are any.
    private static func serve(_ gateways: [Gateway]) async {
        await withTaskGroup(of: Void.self) { group in
            if gateways.contains(where: \.hasTLS) {
                let signals = await UnixSignalsSequence(trapping: .sighup)
                group.addTask { for await _ in signals { reload(gateways) } }
            }
            try? await gracefulShutdown()
            group.cancelAll()
        }
    }

    private static func reload(_ gateways: [Gateway]) {
        for gateway in gateways {
            do {
                try gateway.reloadTLS()
            } catch {
                Logger(label: "meridian.gateway").error("the old certificate stays in use: \(error)")
            }
        }
    }

    private static func close(_ gateways: [Gateway]) async {
        await withDiscardingTaskGroup { group in
            for gateway in gateways { group.addTask { await gateway.shutdown(grace: grace) } }
        }
    }
}
