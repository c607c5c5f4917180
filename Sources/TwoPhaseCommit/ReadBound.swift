import TransactionCore

/// How fresh a read must be: Spanner's timestamp bounds (Spanner OSDI 2012 §4.2.4 and the Cloud Spanner documentation).
public enum ReadBound: Hashable, Sendable {
    /// Sees every transaction acknowledged before the read began (R9).
    case strong
    /// At exactly this timestamp.
    case at(Timestamp)
    /// As of this long ago.
    case exactStaleness(Duration)
    /// The newest state that needs no waiting, at most this old.
    case maxStaleness(Duration)
    /// The newest state that needs no waiting, no older than this timestamp.
    case minTimestamp(Timestamp)
}

extension SafeTimeTracker {
    /// The timestamp at which a read with `bound` over `shards` runs.
    ///
    /// The result may lie ahead of the present for a timestamp that the client named; the shell waits until it has
    /// passed before it asks ``readRequested(at:on:)``, so that a timestamp once read at is never chosen for a commit,
    /// not even after a restart.
    ///
    /// - Parameter closed: a later timestamp would have to be closed by peers first; nil if none.
    public func readTimestamp(
        for bound: ReadBound, over shards: [ShardID], at now: TimestampInterval, closedByPeers closed: Timestamp? = nil
    ) -> Timestamp {
        switch bound {
        case .strong:
            return strongReadTimestamp
        case .at(let timestamp):
            return timestamp
        case .exactStaleness(let staleness):
            return now.earliest.advanced(byNanoseconds: -staleness.nanoseconds)
        case .maxStaleness(let staleness):
            let oldest = now.latest.advanced(byNanoseconds: -staleness.nanoseconds)
            return freshest(over: shards, notBefore: oldest, closed)
        case .minTimestamp(let timestamp):
            return freshest(over: shards, notBefore: timestamp, closed)
        }
    }

    private func freshest(over shards: [ShardID], notBefore bound: Timestamp, _ closed: Timestamp?) -> Timestamp {
        // Never past what has been acknowledged or read: a chosen timestamp may lie ahead of the present.
        let safe = shards.map { safeTime(of: $0) }.min() ?? strongReadTimestamp
        return max(bound, min(safe, strongReadTimestamp, closed ?? strongReadTimestamp))
    }
}
