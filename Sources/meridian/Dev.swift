import ArgumentParser
import Foundation
import LocalCluster
import Logging
import ServiceLifecycle
import ShardBackend
import SystemClock
import TransactionCore
import TransactionEngine

/// `meridian dev`: a local cluster in the foreground.
struct Dev: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a local cluster: throw-away PostgreSQL servers and the nodes over them.",
        discussion: """
            Prints a line per shard and then "ready"; Ctrl-C stops everything it started. Other commands of the same \
            user find the cluster by themselves.

              meridian dev                            three shards, gone at the end
              meridian dev --data ~/bank              kept, and opened again the next time
              meridian dev --shards 1 --uncertainty 0
            """
    )

    /// More nodes than this on one machine show nothing that fewer do not.
    private static let nodesMax = 16

    @Option(help: "How many shards; by default 3, or as many as the kept data has.")
    var shards: Int?

    @Option(help: "How many nodes.")
    var nodes = 1

    @Option(help: "The first node's port for clients, the others' follow. No node serves clients yet.")
    var port: UInt16?

    @Option(help: "The first shard's port, the others' follow; by default free ones.")
    var shardPort: UInt16?

    @Option(help: "How wrong the clock may be.")
    var uncertainty = DurationArgument(ClockSource.uncertaintyDefault)

    @Option(help: "Keep the data in this directory; by default they are gone at the end.", completion: .directory)
    var data: String?

    func validate() throws {
        guard shards.map((1...LocalCluster.shardsMax).contains) ?? true else {
            throw ValidationError("--shards is 1 to \(LocalCluster.shardsMax).")
        }
        guard (1...Self.nodesMax).contains(nodes) else {
            throw ValidationError("--nodes is 1 to \(Self.nodesMax).")
        }
        guard uncertainty.duration <= ClockSource.uncertaintyMax else {
            throw ValidationError("--uncertainty is at most \(DurationArgument(ClockSource.uncertaintyMax)).")
        }
    }

    func run() async throws {
        // A reader of our lines that goes away (`| head`) is no reason to leave the servers' data lying about.
        signal(SIGPIPE, SIG_IGN)
        let group = ServiceGroup(
            configuration: ServiceGroupConfiguration(
                services: [
                    .init(
                        service: DevService(options: self), successTerminationBehavior: .gracefullyShutdownGroup,
                        failureTerminationBehavior: .gracefullyShutdownGroup
                    )
                ],
                gracefulShutdownSignals: [.sigint, .sigterm, .sighup],
                logger: Logger(label: "meridian")
            )
        )
        try await group.run()
    }
}

/// Everything that `meridian dev` runs, from initdb to the last server's end.
private struct DevService: Service {
    let options: Dev

    func run() async throws {
        guard let cluster = try await startCluster() else { return }
        do {
            try await serve(cluster)
        } catch  where Task.isShuttingDownGracefully {
            // Ctrl-C before the cluster was ready.
        } catch {
            await cluster.stop()
            throw error
        }
        await cluster.stop()
        print("stopped")
    }

    /// Starts the servers; nil when Ctrl-C came first.
    private func startCluster() async throws -> LocalCluster? {
        do {
            return try await cancelWhenGracefulShutdown {
                try await LocalCluster.start(
                    shards: options.shards, data: options.data, firstPort: options.shardPort
                )
            }
        } catch is CancellationError {
            return nil
        }
    }

    private func serve(_ cluster: LocalCluster) async throws {
        let configuration = try makeConfiguration(cluster)
        try await migrate(configuration)
        let file = try DevConfigurationFile(configuration, uncertainty: options.uncertainty.duration)
        defer { file.remove() }

        for server in cluster.servers { print("shard: \(server.name) \(server.conninfo())") }
        print("config: \(file.path)")
        print("data: \(options.data == nil ? "gone at the end" : "kept in \(cluster.path)")")
        print("Ctrl-C stops all of this")
        print("ready: \(cluster.servers.count) \(cluster.servers.count == 1 ? "shard" : "shards")")

        let logger = Logger(label: "meridian.dev")
        let supervisors = cluster.servers.map { ShardSupervisor(server: $0, logger: logger) }
        // The group stops its services in the reverse order: the nodes before what watches the shards.
        let nodes = try (1...options.nodes).map { try NodeService(number: $0, configuration) }
        try await ServiceGroup(services: supervisors + nodes, logger: logger).run()
    }

    private func migrate(_ configuration: ClusterConfiguration) async throws {
        let loop = try EventLoop(name: "migrate")
        defer { loop.shutdown() }
        _ = try await cancelWhenGracefulShutdown {
            try await ClusterMigration(configuration: configuration, loop: loop).apply()
        }
    }

    /// The configuration for other commands: a node of their own beside those that run here.
    private func makeConfiguration(_ cluster: LocalCluster) throws -> ClusterConfiguration {
        let shards = try cluster.servers.map { server in
            try ShardConfiguration(argument: "\(server.name) \(server.conninfo())")
        }
        var configuration = ClusterConfiguration(shards: shards)
        configuration.engine.node = NodeID(rawValue: UInt16(options.nodes + 1)) ?? configuration.engine.node
        configuration.clock = .host(uncertainty: options.uncertainty.duration)
        return configuration
    }
}

/// What a node runs without clients: it settles what nobody coordinates, and enforces retention.
private struct NodeService: Service {
    private let loop: EventLoop
    private let maintenance: Maintenance

    init(number: Int, _ configuration: ClusterConfiguration) throws {
        var engine = configuration.engine
        engine.node = NodeID(rawValue: UInt16(number)) ?? engine.node
        loop = try EventLoop(name: "node-\(number)")
        maintenance = Maintenance(engine, clock: SystemBoundedClock(source: configuration.clock), loop: loop)
    }

    func run() async throws {
        defer { loop.shutdown() }
        try await cancelWhenGracefulShutdown { try await maintenance.run() }
    }
}

/// Starts a shard's server again when it dies underneath.
///
/// Rather than ending the cluster: a shard that crashes and comes back is what the nodes must live through anyway, and
/// killing one is how people try it out. A server that keeps dying ends the cluster, with its log.
private struct ShardSupervisor: Service {
    /// So many deaths in a row, each within ``steadyAfter`` of the start, end the cluster.
    private static let earlyDeathsMax = 5
    private static let steadyAfter = Duration.seconds(10)

    let server: LocalPostgres
    let logger: Logger

    func run() async throws {
        var earlyDeaths = 0
        var started = ContinuousClock.now
        while let exit = await cancelWhenGracefulShutdown({ await server.waitForExit() }) {
            logger.error("\(server.name) ended (\(exit)) and is started again; its log ends with:\n\(server.logTail())")
            earlyDeaths = ContinuousClock.now - started < Self.steadyAfter ? earlyDeaths + 1 : 0
            guard earlyDeaths < Self.earlyDeathsMax else {
                throw LocalClusterError("server \(server.name) keeps ending: \(exit)", detail: server.logTail())
            }
            started = .now
            try await cancelWhenGracefulShutdown { try await server.start() }
            logger.notice("\(server.name) is back")
        }
    }
}
