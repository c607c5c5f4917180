import TransactionCore

/// The named moments of a commit at which tests stop, crash or cut things (DESIGN section 3).
public enum FaultPoint: String, CaseIterable, Sendable {
    /// Locks are held, the commit timestamp is chosen, nothing was sent.
    case beforePrepare
    /// PREPARE is on its way to the participants and commit-wait runs.
    case duringCommitWait
    /// Every participant is prepared and the timestamp has passed; COMMIT was not sent.
    case afterPrepareBeforeDecision
    /// COMMIT was sent to the home shard; its answer is not here.
    case duringDecision
    /// The home shard committed; the client knows nothing and no participant was told.
    case afterDecisionBeforeApply
    /// The client was told; COMMIT PREPARED is not sent.
    case afterAnswerBeforeApply
}

/// What a test does at a fault point: nothing, wait, or crash something. Called on the engine's loop.
public typealias FaultHook = @Sendable (FaultPoint, TransactionID) async -> Void
