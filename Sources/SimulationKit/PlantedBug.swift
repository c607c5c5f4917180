/// A mistake that the simulated node makes on purpose, to show that the simulation notices it.
///
/// Each breaks a rule where the real engine could: in how the actions of the pure state machines are carried out.
public enum PlantedBug: String, CaseIterable, Sendable {
    /// R2: takes the commit timestamp for passed without waiting.
    case skipCommitWait
    /// R8: drops a transaction from the in-flight set before every participant has applied it.
    case retireBeforeApplied
    /// R1: chooses the commit timestamp before the locks are held.
    case timestampBeforeLocks
    /// R4: rolls an orphan back without a tombstone at its home shard.
    case recoveryWithoutTombstone
    /// R8, R10: takes a read's snapshot without waiting for what is in flight.
    case readIgnoringSafeTime
    /// R3: tells the client that it committed when every participant has prepared.
    case acknowledgeBeforeDecision
    /// R3: sends COMMIT to the home shard before the votes are in.
    case commitHomeBeforeAllVotes
    /// R3: sends COMMIT PREPARED to the participants along with COMMIT to the home shard.
    case applyBeforeDecision
    /// R5: takes a lost answer to COMMIT for a refusal.
    case lostAnswerMeansAborted
    /// R7: reads rows without locking them.
    case readsUnlocked
    /// R7: commits although the session that held a read lock may have died.
    case readLocksUnconfirmed
    /// R8: serves before what an earlier coordinator left prepared is settled.
    case startWithoutSettling
    /// R1, R9: starts without asking the shards for their newest timestamp.
    case timestampsGoBackOnRestart
    /// R6: leaves the sessions of an earlier coordinator alone.
    case epochNotFenced
    /// R6: raises the epoch in sessions other than those that hold the locks, which may be somebody else's by then.
    case epochRaisedWithoutLock
    /// R6: goes on while sessions of an earlier coordinator are still finishing a commit.
    case endOfSessionsNotAwaited
    /// R9: tells a client that its transaction committed, found out afterwards, and lets strong reads miss it.
    case outcomeToldUnnoticed
}
