import Foundation
import LocalCluster

/// Three servers of one kind on this machine, and the program that puts load on them.
struct ServerGroup {
    static let keys = 1_000
    static let valueBytes = 100

    let name: String
    private let directory: String
    private let servers: [LocalProgram]
    /// The load program's command, up to what it is to do.
    private let load: [String]

    /// What is started: for each server its command, and the load program.
    private struct Plan {
        var servers: [[String]]
        var load: [String]
    }

    /// Starts the servers, runs `body`, and ends them, also after an error.
    ///
    /// - Parameters:
    ///   - programs: the directory with the load programs for the other systems.
    ///   - warmUp: how many seconds they are written to before `body`.
    static func with(
        _ name: String, in directory: String, programs: String, warmUp: Double,
        _ body: (ServerGroup) async throws -> Void
    ) async throws {
        let home = "\(directory)/\(name)"
        try FileManager.default.createDirectory(atPath: home, withIntermediateDirectories: true)
        let plan =
            switch name {
            case "etcd": try etcd(in: home, programs)
            case "ZooKeeper": try zooKeeper(in: home, programs)
            case "Meridian": try meridian(in: home)
            default: throw LocalClusterError("there is no system \"\(name)\"")
            }
        var servers: [LocalProgram] = []
        let result: Result<Void, any Error>
        do {
            for command in plan.servers { servers.append(try await LocalProgram.start(command, in: home)) }
            let group = ServerGroup(
                name: name, directory: home, servers: servers,
                load: plan.load + ["\(keys)", "\(valueBytes)"])
            _ = try await group.run("fill", clients: 30, warmUp: 0, seconds: 0)
            // What a JVM runs often it compiles.
            _ = try await group.run("write", clients: 64, warmUp: 0, seconds: warmUp)
            result = .success(try await body(group))
        } catch {
            result = .failure(error)
        }
        for server in servers { await server.stop() }
        try result.get()
    }

    /// Runs the load program once.
    ///
    /// - Returns: by what it measured, the latencies; the servers' processor time is in proportion to what was counted.
    func run(_ operation: String, clients: Int, warmUp: Double, seconds: Double) async throws -> [String: Cell] {
        let before = serverSeconds
        let program = try await LocalProgram.start(
            load + [operation, "\(clients)", "\(warmUp)", "\(seconds)"], in: directory)
        let status = await program.exitStatus()
        let spent = serverSeconds - before
        guard status == .exited(0), let line = program.output.split(separator: "\n").last else {
            throw LocalClusterError(
                "the load on \(name) failed", detail: program.output + servers.map(\.output).joined(separator: "\n"))
        }
        let result = try JSONDecoder().decode(LoadResult.self, from: Data(line.utf8))
        return result.latencies.mapValues { pairs in
            var cell = Cell()
            for pair in pairs { cell.latencies.record(pair[0], count: UInt32(pair[1])) }
            cell.seconds = result.seconds
            cell.processor.own = result.processor
            cell.processor.servers = spent * Double(cell.latencies.totalCount) / Double(max(1, result.total))
            return cell
        }
    }

    private var serverSeconds: Double { servers.reduce(0) { $0 + ProcessorTime.ofProcess($1.processID) } }

    // MARK: The three kinds

    private static func meridian(in home: String) throws -> Plan {
        let program = URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().path(percentEncoded: false)
        let addresses = try (0..<3).map { _ in "127.0.0.1:\(try freePort())" }.joined(separator: ",")
        return Plan(
            servers: (1...3).map { [program, "metadata-node", "\($0)", addresses, "\(home)/\($0)"] },
            load: [program, "metadata-load", addresses])
    }

    /// All settings are etcd's defaults.
    private static func etcd(in home: String, _ programs: String) throws -> Plan {
        let (clientPorts, peerPorts) = (
            try (0..<3).map { _ in try freePort() }, try (0..<3).map { _ in try freePort() }
        )
        let cluster = (0..<3).map { "m\($0)=http://127.0.0.1:\(peerPorts[$0])" }.joined(separator: ",")
        return Plan(
            servers: (0..<3).map { index in
                let (client, peer) = ("http://127.0.0.1:\(clientPorts[index])", "http://127.0.0.1:\(peerPorts[index])")
                return [
                    "/usr/bin/etcd", "--name", "m\(index)", "--data-dir", "\(home)/\(index)",
                    "--listen-client-urls", client, "--advertise-client-urls", client,
                    "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
                    "--initial-cluster", cluster, "--initial-cluster-state", "new",
                ]
            },
            load: ["\(programs)/etcd-load", clientPorts.map { "127.0.0.1:\($0)" }.joined(separator: ",")])
    }

    /// The settings are those of Debian's example file; without -Xrs the JVM would not end with this process.
    private static func zooKeeper(in home: String, _ programs: String) throws -> Plan {
        let ports = try (0..<3).map { _ in try (0..<3).map { _ in try freePort() } }
        let members = (0..<3).map { "server.\($0 + 1)=127.0.0.1:\(ports[$0][1]):\(ports[$0][2])" }
        let java = ["/usr/bin/java", "-Xrs", "-cp"]
        let library = "/usr/share/java/zookeeper.jar"
        for index in 0..<3 {
            let directory = "\(home)/\(index)"
            try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
            let settings =
                ["tickTime=2000", "initLimit=10", "syncLimit=5", "admin.enableServer=false"]
                + ["dataDir=\(directory)", "clientPortAddress=127.0.0.1", "clientPort=\(ports[index][0])"] + members
            try settings.joined(separator: "\n").write(toFile: "\(directory).cfg", atomically: true, encoding: .utf8)
            try "\(index + 1)\n".write(toFile: "\(directory)/myid", atomically: true, encoding: .utf8)
        }
        return Plan(
            servers: (0..<3).map {
                java + [library, "org.apache.zookeeper.server.quorum.QuorumPeerMain", "\(home)/\($0).cfg"]
            },
            load: java + [
                "\(programs):\(library)", "ZooKeeperLoad", ports.map { "127.0.0.1:\($0[0])" }.joined(separator: ","),
            ])
    }
}
