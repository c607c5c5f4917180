/// A mistake that the simulated shell of a replica makes on purpose, to show that the simulation notices it.
public enum ConsensusBug: String, CaseIterable, Sendable {
    /// Answers before what it promised or accepted is durable.
    case answerBeforeDurable
    /// Reads by a lease for a while after the lease was there.
    case leaseUsedPastExpiry
    /// Starts as if it could not have granted anybody a lease.
    case grantsForgotten
    /// Writing its storage anew, it keeps the snapshot and the chosen entries and forgets what else it accepted.
    case snapshotForgetsAccepted
    /// Takes up after a restart with the members that there were at first.
    case quorumOfOldMembership
    /// Reads by lease although its clock refuses to tell the time.
    case leaseWithoutClock
    /// Acknowledges a command when it is proposed.
    case acknowledgedBeforeChosen
    /// Installs a snapshot and goes on applying from where it was.
    case snapshotNotInstalled
}
