/// The global identifier (gid) of a cross-shard transaction, as it stands in `pg_prepared_xacts` on every participant.
///
/// Its text is `meridian:HOME:NODE:EPOCH:TIMESTAMP`. Whoever finds it prepared on a shard knows from the text alone
/// where the decision is recorded (R3), who coordinated it, and at which commit timestamp (R4).
public struct TransactionID: Hashable, Sendable {
    /// What the gid of every transaction of ours begins with; anything else in `pg_prepared_xacts` is a stranger's.
    public static let prefix = "meridian:"

    /// The shard whose commit log holds the decision.
    public let home: ShardID
    /// The node that coordinated the transaction; always ``commitTimestamp``'s.
    public var node: NodeID { commitTimestamp.node }
    /// The coordinating node's epoch.
    public let epoch: Epoch
    /// The transaction's commit timestamp, should it commit.
    public let commitTimestamp: Timestamp

    /// Names the transaction that commits at `commitTimestamp` by the decision of `home`.
    public init(home: ShardID, epoch: Epoch, commitTimestamp: Timestamp) {
        self.home = home
        self.epoch = epoch
        self.commitTimestamp = commitTimestamp
    }
}

extension TransactionID: LosslessStringConvertible {
    /// Reads the text that ``description`` writes; nil for anything else, a stranger's gid among them.
    public init?(_ description: String) {
        guard description.hasPrefix(Self.prefix) else { return nil }
        let parts = description.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 5, let home = ShardID(String(parts[1])), let node = UInt16(parts[2]).flatMap(NodeID.init),
            let epoch = Int64(parts[3]), let timestamp = Timestamp(String(parts[4]))
        else { return nil }
        self.init(home: home, epoch: Epoch(rawValue: epoch), commitTimestamp: timestamp)
        guard timestamp.node == node, self.description == description else { return nil }
    }

    public var description: String {
        "\(Self.prefix)\(home):\(node):\(epoch):\(commitTimestamp)"
    }
}
