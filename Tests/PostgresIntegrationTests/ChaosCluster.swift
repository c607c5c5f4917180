import EventLoops
import Foundation
import LocalCluster
import ShardBackend
import ShardSchema
import Synchronization
import TestSupport
import Testing

/// Three nodes, each a process, over three shards, and the network between them.
final class ChaosCluster: Sendable {
    static let nodeCount = 3

    let shards: EngineShards
    let network: ChaosNetwork
    /// What the nodes keep and say.
    private let directory: String
    private let ports: [Int]
    private let programs = Mutex<[Int: LocalProgram]>([:])
    /// Nodes that ended although nobody killed them, and what they said last.
    private let ends = Mutex<[String]>([])

    /// The nodes' numbers.
    var nodes: ClosedRange<Int> { 1...Self.nodeCount }
    /// The shards' places in ``EngineShards/shards``.
    var shardPlaces: Range<Int> { shards.shards.indices }

    /// Starts all of it while `body` runs.
    static func with(_ body: (ChaosCluster) async throws -> Void) async throws {
        try await EngineShards.withPrivate(3) { shards in
            let files = try TemporaryDirectory()
            let kept = ProcessInfo.processInfo.environment["MERIDIAN_CHAOS_DIRECTORY"]
            let cluster = try ChaosCluster(shards, in: kept ?? files.path)
            do {
                for node in cluster.nodes { try await cluster.start(node) }
                try await body(cluster)
                await cluster.stop()
            } catch {
                await cluster.stop()
                throw error
            }
        }
    }

    private init(_ shards: EngineShards, in directory: String) throws {
        (self.shards, self.directory) = (shards, directory)
        network = try ChaosNetwork()
        ports = try (0..<Self.nodeCount).map { _ in Int(try freePort()) }
        let peers = try (0..<Self.nodeCount).map { _ in Int(try freePort()) }
        let doors = try zip(nodes, peers).map { try network.openPort(to: .node($0), on: $1) }
        for node in nodes {
            try FileManager.default.createDirectory(
                atPath: "\(directory)/\(node)", withIntermediateDirectories: true)
            try text(of: node, listeningOn: peers[node - 1], doors: doors)
                .write(toFile: "\(directory)/\(node).yaml", atomically: true, encoding: .utf8)
        }
    }

    private func text(of node: Int, listeningOn port: Int, doors: [Int]) throws -> String {
        let founders = zip(nodes, doors).map { "    - node: \($0)\n      address: 127.0.0.1:\($1)\n" }
        let shards = try zip(shardPlaces, shards.shards).map { place, shard in
            let door = try network.openPort(to: .shard(place), on: Int(shard.server.port), from: .node(node))
            return "  - name: \(shard.name)\n    conninfo: host=127.0.0.1 port=\(door) dbname=\(shard.database) "
                + "user=meridian\n"
        }
        return """
            node: \(node)
            cluster:
              name: chaos
              listen: 127.0.0.1:\(port)
              address: 127.0.0.1:\(doors[node - 1])
              directory: \(directory)/\(node)/metadata
              nodes:
            \(founders.joined())gateway:
              listen: 127.0.0.1:\(ports[node - 1])
            shards:
            \(shards.joined())
            """
    }

    private func stop() async {
        for program in programs.withLock({ Array($0.values) }) {
            program.signal(SIGCONT)
            await program.stop()
        }
        await network.shutdown()
    }

    // MARK: Nodes

    func start(_ node: Int) async throws {
        let program = try await LocalProgram.start(
            [RunningCommand.meridian, "serve", "--config", "\(directory)/\(node).yaml"], in: "\(directory)/\(node)")
        programs.withLock { $0[node] = program }
        try await program.waits(for: "ready: ", timeout: .seconds(60))
    }

    /// Kills the node's process, and returns when it has ended.
    func kill(_ node: Int) async {
        guard let program = programs.withLock({ $0[node] }) else { return }
        program.signal(SIGKILL)
        let status = await program.exitStatus()
        if status != .signaled(SIGKILL) {
            ends.withLock {
                $0.append("node \(node): \(status.map { "\($0)" } ?? "?"), \(program.output.suffix(2_000))")
            }
        }
    }

    /// Asks the node to end, and returns when it has.
    func end(_ node: Int) async {
        await programs.withLock { $0[node] }?.stop()
    }

    /// Stops the node's process where it is, or has it go on.
    func signal(_ node: Int, _ number: Int32) {
        programs.withLock { $0[node] }?.signal(number)
    }

    /// Kills all nodes; what those said that had ended before by themselves.
    func killAll() async -> [String] {
        for node in nodes { await kill(node) }
        return ends.withLock { $0 }
    }

    // MARK: Clients

    /// How libpq connects to a node, or to the next ones where it can't.
    func conninfo(of first: Int) -> String {
        let hosts = nodes.map { "127.0.0.1:\(ports[(first + $0 - 2) % Self.nodeCount])" }
        return "postgresql://meridian@\(hosts.joined(separator: ","))/meridian"
    }

    /// Connects to one node only.
    func connect(to node: Int, within duration: Duration = .seconds(15)) async throws -> ShardConnection {
        let conninfo = "postgresql://meridian@127.0.0.1:\(ports[node - 1])/meridian"
        return try await ShardConnection.connect(
            to: try ConnectionSettings(conninfo), on: shards.loop, deadline: .now + duration)
    }

    /// Connects to a node, or to the next that answers.
    func connect(toAnyFrom first: Int) async throws -> ShardConnection {
        let deadline = ContinuousClock.now + .seconds(60)
        var node = first
        while true {
            do {
                return try await connect(to: node, within: .seconds(1))
            } catch {
                guard ContinuousClock.now < deadline else { throw error }
                node = node % Self.nodeCount + 1
                try await Task.sleep(for: .milliseconds(20))
            }
        }
    }

    // MARK: What is so

    /// The nodes that coordinate: those that hold their lock on every shard.
    func coordinators() async throws -> Set<Int> {
        let name = "meridian coordinator, node "
        let query = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE '\(name)%'"
        var found = Set(nodes)
        for place in shardPlaces {
            let names = try await shards.session(on: place) { try await $0.text(query) }
            let numbers = names.split(separator: "\n").map { $0.dropFirst(name.count).prefix { $0.isNumber } }
            found.formIntersection(numbers.compactMap { Int($0) })
        }
        return found
    }

    /// Has that node lead the metadata.
    func lead(_ node: Int) async throws {
        let command = try RunningCommand([
            "metadata", "members", "lead", "\(node)", "--config", "\(directory)/\(node).yaml",
        ])
        try #require(await command.exitStatus() == 0, "\(command.errors)")
    }

    /// How many lives nodes have had as coordinators: the newest epoch of all.
    func lifeCount() async throws -> Int64 {
        try await shards.session(on: 0) { connection in
            try await connection.run(ShardSchema.newestEpochs, deadline: .now + .seconds(10))
                .map { try $0.int64(1) }.max() ?? 0
        }
    }
}
