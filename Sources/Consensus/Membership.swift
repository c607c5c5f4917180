import TransactionCore

/// Some nodes, in the order of their numbers: as few as a cluster has, and the same in every process.
public struct NodeSet: Hashable, Sendable, ExpressibleByArrayLiteral, CustomStringConvertible {
    public private(set) var nodes: [NodeID]

    public init(_ nodes: some Sequence<NodeID> = []) {
        self.nodes = Set(nodes).sorted()
    }

    public init(arrayLiteral elements: NodeID...) {
        self.init(elements)
    }

    public var count: Int { nodes.count }
    public var isEmpty: Bool { nodes.isEmpty }

    public func contains(_ node: NodeID) -> Bool { nodes.contains(node) }

    public mutating func insert(_ node: NodeID) {
        guard !nodes.contains(node) else { return }
        nodes.insert(node, at: nodes.firstIndex { $0 > node } ?? nodes.endIndex)
    }

    public mutating func remove(_ node: NodeID) { nodes.removeAll { $0 == node } }

    public var description: String { "{\(nodes.map(\.description).joined(separator: ", "))}" }
}

/// Who takes part: voters make quorums; learners only follow, until they have caught up and may become voters.
///
/// The membership of a slot is what the log up to the slot before says it is. It changes by one voter at a time, so a
/// quorum before a change and one after it have a node in common.
public struct Membership: Hashable, Sendable, CustomStringConvertible {
    public private(set) var voters: NodeSet
    public private(set) var learners: NodeSet

    /// A node that is about to join knows of nobody: it waits to be told.
    public static let none = Membership(voters: [])

    public init(voters: NodeSet, learners: NodeSet = []) {
        self.voters = voters
        self.learners = NodeSet(learners.nodes.filter { !voters.contains($0) })
    }

    /// Voters and learners.
    public var members: NodeSet { NodeSet(voters.nodes + learners.nodes) }

    public func contains(_ node: NodeID) -> Bool { voters.contains(node) || learners.contains(node) }

    /// How many voters are more than half of them.
    public var quorumCount: Int { voters.count / 2 + 1 }

    /// Whether more than half of the voters are among `nodes`.
    public func hasQuorum(_ nodes: NodeSet) -> Bool {
        !voters.isEmpty && voters.nodes.count { nodes.contains($0) } >= quorumCount
    }

    /// One change.
    public enum Change: Hashable, Sendable {
        /// The node follows, without a vote.
        case addLearner(NodeID)
        /// The learner becomes a voter.
        case promote(NodeID)
        /// The node leaves, whatever it was.
        case remove(NodeID)
    }

    /// The membership after `change`; nil where it changes nothing, or would leave no voter.
    public func applying(_ change: Change) -> Membership? {
        var changed = self
        switch change {
        case .addLearner(let node):
            guard !contains(node) else { return nil }
            changed.learners.insert(node)
        case .promote(let node):
            guard learners.contains(node) else { return nil }
            changed.learners.remove(node)
            changed.voters.insert(node)
        case .remove(let node):
            guard contains(node), voters.nodes != [node] else { return nil }
            changed.learners.remove(node)
            changed.voters.remove(node)
        }
        return changed
    }

    public var description: String { learners.isEmpty ? "\(voters)" : "\(voters) + \(learners)" }
}
