import Consensus
import PeerTransport
import TransactionCore

/// What a node's share in the metadata is like.
public struct MetadataNodeConfiguration: Sendable {
    /// How nodes reach each other; the node's own number is in it.
    public var peers: PeerConfiguration
    /// Where this node listens for the others.
    public var listenAddress: PeerAddress
    /// Where the other nodes listen, as far as it is known before the metadata tells.
    public var addresses: [NodeID: PeerAddress]
    /// The nodes with which the cluster begins, the same on each of them; none on a node that joins later.
    public var founders: NodeSet
    /// The directory that keeps what this node has promised and accepted.
    public var directory: String
    public var timing = ConsensusTiming.standard
    /// A snapshot takes the place of so many entries.
    public var snapshotEntriesMax = 4_096

    public init(
        peers: PeerConfiguration, listenAddress: PeerAddress, addresses: [NodeID: PeerAddress], founders: NodeSet,
        directory: String
    ) {
        self.peers = peers
        self.listenAddress = listenAddress
        self.addresses = addresses
        self.founders = founders
        self.directory = directory
    }
}
