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
    /// R10: reads a shard's plain tables, and does not look whether something was committed meanwhile.
    case plainReadNotLookedAtAgain
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

    // MARK: Of several coordinators

    /// R9: a strong read asks no peers what they have acknowledged.
    case strongReadAskingNobody
    /// R8, R9: a round does without one peer's answer.
    case roundIgnoringPeer
    /// R8: chooses timestamps before every peer has said up to where it has read.
    case chooseBeforeActivated
    /// R8: falls silent while something is in flight.
    case silentWhileInFlight
    /// R9: falls silent without a word of the newest timestamp that it chose.
    case silentWithoutNewest
    /// R8: reports nothing in flight.
    case reportWithoutInFlight
    /// R9: lets peers see what it has committed before strong reads there may not miss it.
    case visibleUnacknowledged
    /// R9: tells of another node's commit while peers do not ask it.
    case outcomeToldInSilence
    /// R8: takes a node that has vanished for silent before it is fenced on every shard.
    case deadTakenForSilent
    /// R6: raises a vanished node's epoch and leaves its sessions alone.
    case fencingWithoutEndingSessions
    /// R8: takes a vanished node for gone with what it has prepared.
    case fencingWithoutSettling
    /// R6: settles what a vanished node has prepared before its sessions have ended.
    case recoveryBeforeFencing
    /// R9: goes on to read from before a vanished node's last acknowledgement.
    case fencedWithoutTimestamp
    /// R6: fences at its start those nodes alone that shards have heard of.
    case startFencingWhatShardsKnow
}
