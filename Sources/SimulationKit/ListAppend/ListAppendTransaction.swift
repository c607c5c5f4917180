/// A transaction over lists, as its client knows it: what it appended and read, when, and what became of it.
public struct ListAppendTransaction<Key: Hashable & Sendable, Element: Hashable & Sendable>: Hashable, Sendable {
    public enum Operation: Hashable, Sendable {
        /// Appended an element to a key's list. No element is appended to the same key twice in a history.
        case append(Key, Element)
        /// Read the whole of a key's list.
        case read(Key, [Element])
    }

    public enum Outcome: Hashable, Sendable {
        /// The client was told so.
        case committed
        /// Nothing of it may ever be seen.
        case aborted
        /// The client was told nothing. It counts as committed when somebody saw what it appended, else as aborted.
        case unknown
    }

    public let client: Int
    /// When the client began it and when it heard the outcome, on one clock for all clients, in any unit: only the
    /// order counts. Of an unknown outcome the end is when the client gave up, and says nothing.
    public let began, ended: Int64
    public let outcome: Outcome
    /// Its commit timestamp, where it is known.
    public let timestamp: Int64?
    public let operations: [Operation]

    public init(
        client: Int, began: Int64, ended: Int64, outcome: Outcome = .committed, timestamp: Int64? = nil,
        _ operations: [Operation]
    ) {
        precondition(began <= ended, "a transaction that began at \(began) ended at \(ended)")
        (self.client, self.began, self.ended) = (client, began, ended)
        (self.outcome, self.timestamp, self.operations) = (outcome, timestamp, operations)
    }
}

/// A way in which a history is not strictly serializable, with the transactions that witness it.
public struct ListAppendAnomaly: Hashable, Sendable, CustomStringConvertible {
    /// Adya's names (Weak Consistency, 1999, §4.2 and §5), with `-realtime` where one transaction's end before
    /// another's begin is part of the contradiction; and what breaks before there is an order to speak of.
    public enum Kind: String, Hashable, Sendable, CaseIterable {
        /// Two reads of a key of which neither is the beginning of the other.
        case incompatibleOrder = "incompatible-order"
        /// An element is twice in a list.
        case duplicateElement = "duplicate-element"
        /// An element that nobody appended.
        case unwrittenElement = "unwritten-element"
        /// A transaction does not see its own appends, or not the same list again.
        case internalInconsistency = "internal"
        /// What an aborted transaction appended was read.
        case abortedRead = "G1a"
        /// A list was read that ends between two appends of one transaction.
        case intermediateRead = "G1b"
        /// One comes before another by what they read and appended, and has no smaller commit timestamp (R7).
        case timestampOrder = "timestamp-order"
        /// Two transactions read the same list and both appended to it.
        case lostUpdate = "lost-update"
        /// A cycle of appends.
        case writeCycle = "G0"
        /// A cycle of appends and reads of them.
        case circularRead = "G1c"
        /// A cycle with one read that missed an append.
        case singleAntidependency = "G-single"
        /// A cycle with several reads that missed appends: write skew, long fork.
        case antidependencyCycle = "G2-item"
        case writeCycleInRealTime = "G0-realtime"
        case circularReadInRealTime = "G1c-realtime"
        case singleAntidependencyInRealTime = "G-single-realtime"
        case antidependencyCycleInRealTime = "G2-item-realtime"
    }

    public let kind: Kind
    /// What contradicts what, each transaction by its place in the history: `t12`.
    public let message: String
    /// The witnesses' places in the history; of a cycle, in its order.
    public let witnesses: [Int]

    public var description: String { "\(kind.rawValue): \(message)" }
}
