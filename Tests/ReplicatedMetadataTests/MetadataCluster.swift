import BoundedTime
import Consensus
import EventLoops
import LocalCluster
import Logging
import Metadata
import PeerTransport
import ReplicatedMetadata
import SystemClock
import TestSupport
import TransactionCore

/// Three nodes in this process, each with its loop, its directory and its sockets.
final class MetadataCluster {
    let directory: TemporaryDirectory
    let clock: SystemBoundedClock
    private(set) var addresses: [NodeID: PeerAddress] = [:]
    private var loops: [NodeID: EventLoop] = [:]
    private(set) var nodes: [NodeID: MetadataNode] = [:]
    let founders: NodeSet
    var snapshotEntriesMax = 4_096

    init(founders count: Int = 3) throws {
        directory = try TemporaryDirectory()
        clock = SystemBoundedClock(source: try ClockSource(name: "host", uncertainty: .microseconds(500)))
        founders = NodeSet((1...count).map { NodeID(rawValue: UInt16($0))! })
        for node in founders.nodes { try giveAddress(to: node) }
    }

    func giveAddress(to node: NodeID) throws {
        addresses[node] = PeerAddress(host: "127.0.0.1", port: Int(try freePort()))
    }

    /// Starts a node, for the first time or again.
    @discardableResult
    func start(_ node: NodeID) async throws -> MetadataNode {
        let loop = try EventLoop(name: "node-\(node)")
        var configuration = MetadataNodeConfiguration(
            peers: PeerConfiguration(cluster: "test", node: node), listenAddress: addresses[node]!,
            addresses: addresses, founders: founders.contains(node) ? founders : [],
            directory: "\(directory.path)/\(node)")
        configuration.snapshotEntriesMax = snapshotEntriesMax
        var logger = Logger(label: "node-\(node)")
        logger.logLevel = .critical
        let started = try await MetadataNode.start(configuration, clock: clock, loop: loop, logger: logger)
        loops[node] = loop
        nodes[node] = started
        return started
    }

    func startAll() async throws {
        for node in founders.nodes { try await start(node) }
    }

    func stop(_ node: NodeID) async {
        await nodes.removeValue(forKey: node)?.stop()
        loops.removeValue(forKey: node)?.shutdown()
    }

    func stopAll() async {
        for node in nodes.keys.sorted() { await stop(node) }
    }

    /// The node that leads, once one does.
    func leader() async throws -> NodeID {
        while true {
            for (id, node) in nodes where await node.status.holdsLease { return id }
            try await Task.sleep(for: .milliseconds(5))
        }
    }
}

extension MetadataNode {
    /// Sets a key outside of any session would need none: opens one for it.
    func session() async throws -> NodeSession {
        let source = try ClockSource(name: "host", uncertainty: .microseconds(500))
        return try await NodeSession.open(
            on: self, duration: .seconds(5), clock: SystemBoundedClock(source: source), deadline: soon)
    }
}

var soon: ContinuousClock.Instant { .now + .seconds(20) }

func makeKey(_ text: String) -> MetadataKey { MetadataKey(text)! }
func makePrefix(_ text: String) -> MetadataPrefix { MetadataPrefix(text)! }
