import EventLoops
import Foundation
import Gateway
import Logging
import Metadata
import ReplicatedMetadata
import ServiceLifecycle
import SystemClock
import TransactionCore
import UnixSignals

/// A node among several: it takes part in the metadata, and coordinates transactions beside the others (``NodeLives``).
/// While it can't, it hands its clients on to one that does.
struct ReplicatedNodeService: Service {
    let configuration: ClusterConfiguration
    let replication: ReplicationSettings
    let door: GatewayConfiguration
    /// SIGHUP has the gateway's files read again; a node that hands clients on reads them when it serves.
    let reloads: Bool

    private static let logger = Logger(label: "meridian.node")

    func run() async throws {
        let clock = SystemBoundedClock(source: configuration.clock)
        let loops = (metadata: try EventLoop(name: "metadata"), clients: try EventLoop(name: "clients"))
        defer {
            loops.metadata.shutdown()
            loops.clients.shutdown()
        }
        let nodes = ServingNodes(besides: node, founders: replication.founders.values.map(\.host))
        let door = try ClientDoor.open(
            host: door.host, port: door.port, clientsMax: door.clientsMax, on: loops.clients, logger: Self.logger,
            nodes.directory)
        nodes.whenGone { door.endStrays() }
        do {
            let metadata = try await MetadataNode.start(
                replication.metadata(of: configuration.engine.node), clock: clock, loop: loops.metadata,
                logger: Logger(label: "meridian.metadata"))
            let status = NodeStatus { nodes.areThere }
            let result = await Result {
                try await configuration.withAdminInterface(status, clock) {
                    try await join(metadata, clock)
                    print("ready: \(configuration.gateway.url(port: door.port))")
                    let lives = NodeLives(
                        configuration: configuration, metadata: metadata, clock: clock, loop: loops.clients, door: door,
                        nodes: nodes, status: status, record: record(.serving, clientAddress(port: door.port)))
                    try await takePart(lives)
                }
            }
            if await metadata.isRemoved { print("removed: node \(node) is no member of the cluster any more") }
            await metadata.stop()
            try result.get()
        } catch {
            await door.close()
            throw error
        }
        await door.close()
    }

    private var node: NodeID { configuration.engine.node }

    private func record(_ state: NodeRecord.State, _ clientAddress: String) -> NodeRecord {
        NodeRecord(node, state, clientAddress: clientAddress, peerAddress: replication.address.description)
    }

    /// Has the others make this node a voter, unless it is one already: it may have been stopped when it was a learner.
    private func join(_ metadata: MetadataNode, _ clock: SystemBoundedClock) async throws {
        guard replication.founders[node] == nil, await !metadata.status.membership.voters.contains(node) else { return }
        print("joining: node \(node) asks the nodes of cluster \(replication.name)")
        let remote = try await replication.connect(
            asking: nil, loop: metadata.loop, logger: Logger(label: "meridian.metadata"))
        let record = record(.joining, "-")
        let result = await Result {
            while !Task.isShuttingDownGracefully {
                do {
                    return try await cancelWhenGracefulShutdown {
                        try await remote.add(record, clock: clock, deadline: .now + .seconds(10))
                    }
                } catch let error as MetadataError where error.kind == .noLeader {
                    Self.logger.warning("not part of the cluster yet", metadata: ["error": "\(error)"])
                }
            }
        }
        await remote.close()
        try result.get()
    }

    /// Until the node is to stop, was removed, or can't take part any more.
    private func takePart(_ lives: NodeLives) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await lives.nodes.follow(lives.metadata) }
            if reloads {
                let signals = await UnixSignalsSequence(trapping: .sighup)
                group.addTask { for await _ in signals { lives.nodes.reload() } }
            }
            defer { group.cancelAll() }
            try await lives.run()
        }
    }

    /// Where other nodes find this one's door: at the host by which they know it, where the door is at all addresses of
    /// the machine.
    private func clientAddress(port: Int) -> String {
        let host = ["0.0.0.0", "::"].contains(door.host) ? replication.address.host : door.host
        return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }
}
