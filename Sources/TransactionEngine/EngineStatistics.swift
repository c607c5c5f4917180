import TransactionCore

/// What an engine has done since it started.
public struct EngineStatistics: Sendable, Hashable {
    /// Commits that wrote one shard.
    public var oneShardCommits = 0
    /// Commits that wrote several shards.
    public var crossShardCommits = 0
    /// Transactions that failed, by SQLSTATE.
    public var aborts: [SQLState: Int] = [:]
    /// Deadlocks across shards that were ended.
    public var deadlocks = 0
    /// Reads at a timestamp, by shard.
    public var reads = 0
    /// Of them those that took no task (``PlainRead``).
    public var plainReads = 0
    /// Of them those of clients' statements that went through as-of views, the plain tables not being the state.
    public var readsOfThePast = 0
    /// Reads that had to wait for a transaction in flight.
    public var readsThatWaited = 0
    /// Time from the client's COMMIT to its answer, summed.
    public var commitTime: Duration = .zero
    /// The part of ``commitTime`` in which nothing but commit-wait was waited for.
    public var exposedCommitWait: Duration = .zero
    /// The share of commits' time in which nothing but commit-wait was waited for, 0 to 1.
    public var commitWaitShare: Double { commitTime > .zero ? exposedCommitWait / commitTime : 0 }
    /// Prepared transactions that were settled by recovery.
    public var recovered = 0

    public init() {}
}
