import Foundation
import LocalCluster
import Logging
import PeerTransport
import ServiceLifecycle
import TransactionCore

/// The nodes of a `meridian dev` with several of them: what each is told, in a file of its own.
struct DevNodes: Sendable {
    /// By the nodes' numbers, from 1 on.
    let files: [String]
    /// How the first one forms a cluster with the others.
    let first: ReplicationSettings
    let directory: String

    /// Writes the files. The addresses by which nodes reach each other stay in them, because the nodes know each other
    /// by these from the first time on.
    init(_ configuration: ClusterConfiguration, ports: [Int], in directory: String) throws {
        self.directory = directory
        let manager = FileManager.default
        try manager.createDirectory(atPath: directory, withIntermediateDirectories: true)
        let known = "\(directory)/peers"
        var peers = ((try? String(contentsOfFile: known, encoding: .utf8)) ?? "").split(separator: "\n")
            .compactMap { PeerAddress(String($0)) }
        if peers.count != ports.count {
            guard peers.isEmpty else {
                throw ConfigurationError(
                    "the kept data is of \(peers.count) nodes, not \(ports.count)",
                    hint: "say --nodes \(peers.count), or use another --data")
            }
            peers = try ports.map { _ in PeerAddress(host: "127.0.0.1", port: Int(try freePort())) }
            try peers.map(\.description).joined(separator: "\n").write(toFile: known, atomically: true, encoding: .utf8)
        }
        let numbers = ports.indices.map { NodeID(rawValue: UInt16($0 + 1))! }
        let settings = numbers.indices.map { index in
            ReplicationSettings(
                name: "dev", listen: peers[index], address: peers[index],
                founders: Dictionary(uniqueKeysWithValues: zip(numbers, peers)),
                directory: "\(directory)/\(numbers[index])")
        }
        first = settings[0]
        files = try numbers.indices.map { index in
            var node = configuration
            node.engine.node = numbers[index]
            node.gateway.port = ports[index]
            node.replication = settings[index]
            let file = "\(directory)/node-\(numbers[index]).yaml"
            guard case .host(let uncertainty) = configuration.clock else {
                preconditionFailure("dev has the host's clock")
            }
            try DevConfigurationFile.text(node, uncertainty: uncertainty)
                .write(toFile: file, atomically: true, encoding: .utf8)
            return file
        }
    }
}

/// Runs one node as a process of its own, and starts it again some time after it has died, but not when it ends because
/// it was removed.
struct DevNodeSupervisor: Service {
    /// Long enough to see that the others go on without it.
    private static let restartAfter = Duration.seconds(5)

    private let number: Int
    private let nodes: DevNodes
    private let logger: Logger

    init(_ number: Int, of nodes: DevNodes, logger: Logger) {
        (self.number, self.nodes, self.logger) = (number, nodes, logger)
    }

    func run() async throws {
        while !Task.isShuttingDownGracefully {
            let command = ["/proc/self/exe", "serve", "--config", nodes.files[number - 1]]
            let node = try await LocalProgram.start(
                [URL(filePath: command[0]).resolvingSymlinksInPath().path] + command.dropFirst(), in: nodes.directory)
            print("node: \(number) process=\(node.processID) config=\(nodes.files[number - 1])")
            await withTaskGroup(of: Void.self) { group in
                group.addTask { await printReadiness(of: node) }
                let status = await cancelWhenGracefulShutdown { await node.exitStatus() }
                group.cancelAll()
                guard let status else { return await node.stop() }
                guard status != .exited(0) else {
                    print("node: \(number) has ended: \(node.lastLines)")
                    try? await gracefulShutdown()
                    return
                }
                logger.error(
                    "node \(number) ended (\(status)) and is started again soon; it said last:\n\(node.lastLines)")
                try? await cancelWhenGracefulShutdown { try await Task.sleep(for: Self.restartAfter) }
            }
        }
    }

    /// Hands on the node's own line.
    private func printReadiness(of node: LocalProgram) async {
        guard (try? await node.waits(for: "ready: ", timeout: .seconds(60))) != nil else { return }
        for line in node.output.split(separator: "\n") where line.hasPrefix("ready: ") { return print(line) }
    }
}

extension LocalProgram {
    fileprivate var lastLines: String { output.split(separator: "\n").suffix(5).joined(separator: "\n") }
}
