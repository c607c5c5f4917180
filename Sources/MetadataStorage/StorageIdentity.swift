import TransactionCore

/// Whose storage it is; another's is refused.
public struct StorageIdentity: Hashable, Sendable {
    /// What tells the cluster from every other one.
    public var cluster: String
    public var node: NodeID

    public init(cluster: String, node: NodeID) {
        self.cluster = cluster
        self.node = node
    }
}
