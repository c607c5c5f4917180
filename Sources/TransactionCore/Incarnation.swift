/// One life of a node as a coordinator. Epochs rise from life to life, and no two lives share one (R6).
public struct Incarnation: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var node: NodeID
    public var epoch: Epoch

    public init(_ node: NodeID, _ epoch: Epoch) {
        (self.node, self.epoch) = (node, epoch)
    }

    public var description: String { "node \(node), epoch \(epoch)" }

    public static func < (lhs: Incarnation, rhs: Incarnation) -> Bool {
        (lhs.node, lhs.epoch) < (rhs.node, rhs.epoch)
    }
}
