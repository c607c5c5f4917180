import TransactionCore

/// The number of an attempt to lead: a round, and the node that makes the attempt, so that no two are equal
/// (Paxos Made Simple §2.2 calls it the proposal number).
public struct Ballot: Hashable, Comparable, Sendable, CustomStringConvertible {
    public var round: UInt64
    public var node: NodeID

    /// Smaller than every ballot in use, whose rounds begin at 1.
    public static let zero = Ballot(round: 0, node: NodeID(rawValue: 0)!)

    public init(round: UInt64, node: NodeID) {
        self.round = round
        self.node = node
    }

    public var description: String { "\(round).\(node)" }

    public static func < (lhs: Ballot, rhs: Ballot) -> Bool { (lhs.round, lhs.node) < (rhs.round, rhs.node) }
}

/// A place in the log, from 1 on; each gets one chosen value for ever.
public struct Slot: RawRepresentable, Hashable, Comparable, Strideable, Sendable, CustomStringConvertible {
    public var rawValue: Int64

    /// The place before the first one.
    public static let zero = Slot(rawValue: 0)

    public init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    public var next: Slot { Slot(rawValue: rawValue + 1) }
    public var previous: Slot { Slot(rawValue: rawValue - 1) }

    public func distance(to other: Slot) -> Int64 { other.rawValue - rawValue }
    public func advanced(by distance: Int64) -> Slot { Slot(rawValue: rawValue + distance) }

    public var description: String { String(rawValue) }
}
