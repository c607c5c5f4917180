public import TransactionCore

/// A session as its holder keeps it: whether it still lives, and which commands wait for their answers.
///
/// When a leader is lost, ``unanswered`` goes to the next one: what was done already is not done again.
public struct MetadataSession: Sendable {
    /// How many commands may be under way, from the oldest without an answer on.
    public static let unansweredMax = 64

    public let id: SessionID
    /// The latest expiry that is known to stand in the state.
    public private(set) var expiry: Timestamp
    private let durationNanoseconds: Int64
    private var nextNumber: UInt64 = 1
    /// By rising number.
    private var waiting: [(number: UInt64, transaction: MetadataTransaction)] = []

    /// The command that opens a session of a node for `durationNanoseconds` from now.
    public static func opening(
        node: NodeID, durationNanoseconds: Int64, at now: TimestampInterval
    ) -> MetadataCommand {
        .openSession(node: node, expiry: now.earliest.advanced(byNanoseconds: durationNanoseconds))
    }

    /// The session that ``MetadataAnswer/session(_:expiry:)`` tells of.
    public init(_ id: SessionID, expiry: Timestamp, durationNanoseconds: Int64) {
        (self.id, self.expiry, self.durationNanoseconds) = (id, expiry, durationNanoseconds)
    }

    /// Whether nobody can have ended the session yet. What depends on it must be done by ``expiry``, or be fenced.
    public func isAlive(at now: TimestampInterval) -> Bool { now.isBefore(expiry) }

    /// What renews the session; nil while more than five sixths of its time are left. The log may be without a leader
    /// for half of its time: whatever is renewed later would often come too late then.
    public func renewal(at now: TimestampInterval) -> MetadataCommand? {
        guard expiry.nanoseconds(since: now.latest) < durationNanoseconds / 6 * 5 else { return nil }
        return .renewSession(id, expiry: now.earliest.advanced(byNanoseconds: durationNanoseconds))
    }

    /// The answer to a renewal.
    public mutating func renewed(until expiry: Timestamp) {
        self.expiry = max(self.expiry, expiry)
    }

    /// Numbers a transaction; nil while too many wait, which the next answer changes.
    public mutating func submit(_ transaction: MetadataTransaction) -> MetadataCommand? {
        guard nextNumber - (waiting.first?.number ?? nextNumber) < UInt64(Self.unansweredMax) else { return nil }
        waiting.append((nextNumber, transaction))
        nextNumber += 1
        return command(waiting[waiting.count - 1])
    }

    /// The answer to the command of that number is here.
    public mutating func answered(_ number: UInt64) {
        waiting.removeAll { $0.number == number }
    }

    /// The commands without an answer, in sequence.
    public var unanswered: [MetadataCommand] { waiting.map(command) }

    private func command(_ waiting: (number: UInt64, transaction: MetadataTransaction)) -> MetadataCommand {
        .transaction(
            CommandNumber(
                session: id, number: waiting.number, answeredBelow: self.waiting.first?.number ?? nextNumber),
            waiting.transaction)
    }
}
