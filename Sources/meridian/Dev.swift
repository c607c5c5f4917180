import ArgumentParser
import EventLoops
import Foundation
import LocalCluster
import Logging
import ServiceLifecycle
import ShardBackend
import SystemClock
import TransactionEngine

/// `meridian dev`: a local cluster in the foreground.
struct Dev: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Run a local cluster: throw-away PostgreSQL servers and the nodes over them.",
        discussion: """
            Prints a line per shard, and "ready: URL" per node once clients can connect; Ctrl-C stops everything it \
            started. Other commands of the same user find the cluster by themselves.

              meridian dev                            three shards, gone at the end
              meridian dev --data ~/bank              kept, and opened again the next time
              meridian dev --shards 1 --uncertainty 0
              meridian dev --nodes 3                  three nodes, each its own process: kill one
              meridian dev --nodes 0                  the shards alone, for a `meridian serve` of your own
            """
    )

    /// More nodes than this on one machine show nothing that fewer do not.
    private static let nodesMax = 16

    @Option(help: "How many shards; by default 3, or as many as the kept data has.")
    var shards: Int?

    @Option(
        help: """
            How many nodes clients can connect to; 0 is none. Several are a process each, which may be killed or \
            stopped: all of them coordinate, and the others go on without it.
            """)
    var nodes = 1

    @Option(help: "The first node's port for clients, the others' follow; by default free ones.")
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
        guard (0...Self.nodesMax).contains(nodes) else {
            throw ValidationError("--nodes is 0 to \(Self.nodesMax).")
        }
        guard port.map({ $0 > 0 && Int($0) + max(1, nodes) <= 65_536 }) ?? true else {
            throw ValidationError("--port is 1 to \(65_536 - max(1, nodes)) for \(nodes) nodes.")
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
        var configuration = try makeConfiguration(cluster)
        try await migrate(configuration)
        let ports = try nodePorts()
        configuration.gateway.port = ports[0]
        var nodes: DevNodes?
        if options.nodes > 1 {
            nodes = try DevNodes(configuration, ports: ports, in: cluster.path + "/nodes")
            configuration.replication = nodes?.first
        }
        let file = try DevConfigurationFile(configuration, uncertainty: options.uncertainty.duration)
        defer { file.remove() }

        for server in cluster.servers { print("shard: \(server.name) \(server.conninfo())") }
        print("config: \(file.path)")
        print("data: \(options.data == nil ? "gone at the end" : "kept in \(cluster.path)")")
        print("Ctrl-C stops all of this")
        if options.nodes == 0 { print("ready: no node, \(cluster.servers.count) shards") }

        let logger = Logger(label: "meridian.dev")
        var services: [any Service] = cluster.servers.map { ShardSupervisor(server: $0, logger: logger) }
        // The group stops its services in the reverse order: the nodes before what watches the shards.
        if options.nodes == 1 { services.append(try NodeService(configuration)) }
        if let nodes {
            for number in 1...options.nodes { services.append(DevNodeSupervisor(number, of: nodes, logger: logger)) }
        }
        try await ServiceGroup(services: services, logger: logger).run()
    }

    /// The nodes' ports; one of a node to come when there is none.
    private func nodePorts() throws -> [Int] {
        let count = max(1, options.nodes)
        if let first = options.port { return (0..<count).map { Int(first) + $0 } }
        var ports: Set<Int> = []
        while ports.count < count { ports.insert(Int(try freePort())) }
        return ports.sorted()
    }

    private func migrate(_ configuration: ClusterConfiguration) async throws {
        let loop = try EventLoop(name: "migrate")
        defer { loop.shutdown() }
        _ = try await cancelWhenGracefulShutdown {
            try await ClusterMigration(configuration: configuration, loop: loop).apply()
        }
    }

    private func makeConfiguration(_ cluster: LocalCluster) throws -> ClusterConfiguration {
        let shards = try cluster.servers.map { server in
            try ShardConfiguration(argument: "\(server.name) \(server.conninfo())")
        }
        var configuration = ClusterConfiguration(shards: shards)
        configuration.clock = .host(uncertainty: options.uncertainty.duration)
        return configuration
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
