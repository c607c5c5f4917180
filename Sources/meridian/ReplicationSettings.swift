import Consensus
import EventLoops
import Logging
import PeerTransport
import ReplicatedMetadata
import TransactionCore

/// How this node forms a cluster with others: the section `cluster` of the configuration.
struct ReplicationSettings: Sendable, Equatable {
    /// What tells the cluster from every other one.
    var name: String
    /// Where this node listens for the others.
    var listen: PeerAddress
    /// Where other nodes find it; ``listen`` unless that is all of the machine's addresses.
    var address: PeerAddress
    /// The nodes with which the cluster began. One that is not among them joins.
    var founders: [NodeID: PeerAddress]
    /// What the node keeps of the metadata.
    var directory: String
    var tls: PeerTLS?

    static let addressExplanation = "it is an address, a colon and a port, like 10.0.0.1:7432"

    /// Connects to the nodes without being one. `node` is this configuration's own, which is asked first; nil where it
    /// has nothing to say.
    func connect(asking node: NodeID?, loop: EventLoop, logger: Logger) async throws -> RemoteMetadata {
        var nodes = founders
        if let node { nodes[node] = address }
        return try await RemoteMetadata.connect(
            cluster: name, tls: tls, nodes: nodes, preferring: node, loop: loop, logger: logger)
    }

    func metadata(of node: NodeID) -> MetadataNodeConfiguration {
        MetadataNodeConfiguration(
            peers: PeerConfiguration(cluster: name, node: node, tls: tls), listenAddress: listen, addresses: founders,
            founders: founders[node] == nil ? [] : NodeSet(founders.keys), directory: directory)
    }
}
