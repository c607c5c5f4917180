import TransactionCore

/// A clock that knows how wrong it may be: Spanner's TrueTime API (OSDI 2012, table 1).
public protocol IntervalClock: Sendable {
    /// The interval that the present lies in. Neither end is ever smaller than one given before.
    func now() throws(ClockError) -> TimestampInterval
}

extension IntervalClock {
    /// Throws ``ClockError/behind(newestTimestamp:shard:by:)`` when `newestTimestamp`, that of a transaction visible on
    /// `shard`, can't have passed yet.
    ///
    /// Commit-wait (R2) makes a transaction visible only once its timestamp has passed everywhere, so a later one is
    /// proof of a wrong clock: this one, or the one that chose it. To be asked when a shard is opened; it is what
    /// keeps timestamps from going back across a restart, which forgets how far the wall clock had come.
    public func check(newestTimestamp: Timestamp, on shard: ShardID) throws(ClockError) {
        let latest = try now().latest
        guard newestTimestamp > latest else { return }
        let shortfall = Duration.nanoseconds(newestTimestamp.nanoseconds(since: latest))
        throw .behind(newestTimestamp: newestTimestamp, shard: shard, by: shortfall)
    }
}
