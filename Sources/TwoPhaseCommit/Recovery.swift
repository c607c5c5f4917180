import TransactionCore

/// Settles one orphan: a transaction that stands prepared on a shard while nobody coordinates it (R4).
///
/// Anyone may run it at any time, several at once, also while the coordinator is alive after all. Three observations
/// make the race: *L*, the home shard's commit log has no row; *T*, the tombstone was inserted; *C*, the coordinator's
/// own row was inserted. *L* alone proves nothing, since *C* may follow. *T* and *C* exclude each other by the unique
/// index on the commit timestamp, where the later one waits for the earlier one's end; so ROLLBACK PREPARED follows *T*
/// alone, and COMMIT PREPARED a committed *C* alone.
public struct Recovery: Sendable {
    /// An order to the shell.
    public enum Action: Hashable, Sendable {
        /// Read the decision from the home shard's commit log.
        case lookUpDecision
        /// Insert an aborted row at the home shard, and flush it.
        case insertTombstone
        /// COMMIT PREPARED or ROLLBACK PREPARED.
        case apply(DecidedTransaction)
    }

    /// Where recovery stands.
    public enum State: Hashable, Sendable {
        case lookingUp
        case insertingTombstone
        case decided(DecidedTransaction)
    }

    public let id: TransactionID
    public private(set) var state: State = .lookingUp

    /// Recovers the transaction named `id`.
    public init(id: TransactionID) {
        self.id = id
    }

    /// The first input; also the one after any failure to reach the home shard, since every step can be repeated.
    public mutating func started() -> Action {
        state = .lookingUp
        return .lookUpDecision
    }

    /// The home shard's commit log was read: its decision, or nil when it has no row.
    public mutating func decisionRead(_ decision: Decision?) -> Action {
        guard let decision else {
            state = .insertingTombstone
            return .insertTombstone
        }
        return decided(decision)
    }

    /// The insert of the tombstone ended: `true` when the row is ours and durable, `false` when another row was there.
    public mutating func tombstoneInserted(_ isOurs: Bool) -> Action {
        precondition(state == .insertingTombstone, "no tombstone was asked for in \(state)")
        return isOurs ? decided(.abort) : started()
    }

    private mutating func decided(_ decision: Decision) -> Action {
        let decided = DecidedTransaction(id: id, decision: decision)
        state = .decided(decided)
        return .apply(decided)
    }
}

extension Recovery {
    /// The transactions of `prepared` to recover: those of ours by their gid that no coordinator in `live` runs.
    ///
    /// `prepared` must have been listed *before* `live` was read. A transaction is live from before its PREPARE is sent
    /// until it is settled, so one that is listed and not live has lost its coordinator or been settled since.
    public static func orphans(among prepared: [String], live: Set<TransactionID>) -> [TransactionID] {
        prepared.compactMap { TransactionID($0) }.filter { !live.contains($0) }
    }
}
