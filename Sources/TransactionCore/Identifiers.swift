/// The number of a node, 0 to 1023; it is part of every commit timestamp that the node chooses.
public struct NodeID: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The largest node number that fits a timestamp's low bits.
    public static let maximum: UInt16 = (1 << UInt16(Timestamp.nodeBits)) - 1

    /// The number.
    public let rawValue: UInt16

    /// Returns nil when `rawValue` is above ``maximum``.
    public init?(rawValue: UInt16) {
        guard rawValue <= Self.maximum else { return nil }
        self.rawValue = rawValue
    }

    public var description: String { String(rawValue) }

    public static func < (lhs: NodeID, rhs: NodeID) -> Bool { lhs.rawValue < rhs.rawValue }
}

/// How often a node has taken up work; a shard refuses sessions of an epoch older than the newest it was told (R6).
public struct Epoch: RawRepresentable, Hashable, Comparable, Sendable, CustomStringConvertible {
    public var rawValue: Int64

    public init(rawValue: Int64) {
        self.rawValue = rawValue
    }

    public var description: String { String(rawValue) }

    public static func < (lhs: Epoch, rhs: Epoch) -> Bool { lhs.rawValue < rhs.rawValue }
}

/// The name of a shard: a lower-case letter, then up to 62 lower-case letters, digits or underscores.
public struct ShardID: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// The longest name, which keeps every transaction identifier below PostgreSQL's 200 bytes.
    public static let lengthMax = 63

    /// The name.
    public let rawValue: String

    /// Returns nil when `rawValue` is not such a name.
    public init?(_ rawValue: String) {
        let bytes = rawValue.utf8
        guard let first = bytes.first, Self.isLetter(first), bytes.count <= Self.lengthMax,
            bytes.allSatisfy({ Self.isLetter($0) || (0x30...0x39).contains($0) || $0 == 0x5F })
        else { return nil }
        self.rawValue = rawValue
    }

    public var description: String { rawValue }

    public static func < (lhs: ShardID, rhs: ShardID) -> Bool { lhs.rawValue < rhs.rawValue }

    private static func isLetter(_ byte: UInt8) -> Bool { (0x61...0x7A).contains(byte) }
}
