/// A commit or read timestamp: nanoseconds since the Unix epoch in a signed 64-bit integer.
///
/// The low ``nodeBits`` bits of a *commit* timestamp hold the number of the node that chose it, so that two nodes never
/// choose the same one; a *read* timestamp may be any value. Timestamps of one node are thus 1024 ns apart.
public struct Timestamp: RawRepresentable, Hashable, Comparable, Sendable {
    /// How many low bits of a commit timestamp hold the node number: 1024 nodes, one timestamp a microsecond.
    public static let nodeBits = 10

    /// Before every transaction.
    public static let zero = Timestamp(rawValue: 0)

    /// Nanoseconds since the Unix epoch.
    public var rawValue: Int64

    /// Makes a timestamp of nanoseconds since the Unix epoch.
    public init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    /// The node that chose this commit timestamp.
    public var node: NodeID {
        NodeID(rawValue: UInt16(truncatingIfNeeded: rawValue & Self.nodeMask))!
    }

    /// The smallest commit timestamp of `node` that is no smaller than `self`.
    public func roundedUp(for node: NodeID) -> Timestamp {
        let low = Int64(node.rawValue)
        let candidate = (rawValue & ~Self.nodeMask) | low
        return Timestamp(rawValue: candidate >= rawValue ? candidate : candidate + (1 << Self.nodeBits))
    }

    /// The smallest timestamp greater than this one.
    public var successor: Timestamp { Timestamp(rawValue: rawValue + 1) }

    /// This timestamp moved by `nanoseconds`, which may be negative; at most to the first or last timestamp there is.
    public func advanced(byNanoseconds nanoseconds: Int64) -> Timestamp {
        let (sum, overflow) = rawValue.addingReportingOverflow(nanoseconds)
        return Timestamp(rawValue: overflow ? (nanoseconds < 0 ? .min : .max) : sum)
    }

    /// Nanoseconds from `earlier` to `self`; negative when `self` comes first.
    public func nanoseconds(since earlier: Timestamp) -> Int64 {
        rawValue - earlier.rawValue
    }

    public static func < (lhs: Timestamp, rhs: Timestamp) -> Bool { lhs.rawValue < rhs.rawValue }

    private static let nodeMask: Int64 = (1 << nodeBits) - 1
}

extension Timestamp: CustomStringConvertible {
    /// The raw nanoseconds in decimal, as stored on the shards.
    public var description: String { String(rawValue) }
}

extension Timestamp: LosslessStringConvertible {
    /// Reads the decimal form that ``description`` writes.
    public init?(_ description: String) {
        guard let value = Int64(description) else { return nil }
        self.init(rawValue: value)
    }
}
