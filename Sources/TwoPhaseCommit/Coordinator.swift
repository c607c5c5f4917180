import BoundedTime
import TransactionCore

/// One read-write transaction from the client's COMMIT to the last participant's: two-phase commit with the home shard
/// as last agent (Gray & Reuter, Transaction Processing, §7.5; DESIGN R1-R5).
///
/// A value without I/O: each input is something that has happened, each result the orders to carry out, in their
/// sequence. A transaction that wrote one shard has no participant to prepare and takes the same path.
///
/// The steps and why they have this order:
/// 1. PREPARE on every written shard but home, while commit-wait runs.
/// 2. The commit timestamp has passed: the shards that were only read confirm that they still hold their locks (R7). A
///    session that died has let go of them without a word, and somebody may have written there at an earlier timestamp.
/// 3. All have voted yes and confirmed: COMMIT on the home shard. Nothing is visible before (R2).
/// 4. The home shard answered: that is the decision (R3). The client is told.
/// 5. COMMIT PREPARED on the others; until each has answered, the transaction is in flight there (R8).
public struct Coordinator: Sendable {
    /// An order to the shell.
    public enum Action: Hashable, Sendable {
        /// Call ``Coordinator/commitWaitEnded(_:)`` when the clock says that this timestamp has passed.
        case waitOut(Timestamp)
        /// Log the commit timestamp on this shard and PREPARE TRANSACTION there.
        case prepare(ShardID)
        /// Have this shard, which was only read, answer something in the transaction that is still open there.
        case confirm(ShardID)
        /// Log the commit timestamp on the home shard and COMMIT there: the decision.
        case commitHome(PreparedTransaction)
        /// Find out what the home shard decided, by ``Recovery``'s means, for as long as it takes (R5).
        case findDecision
        /// Nothing of the transaction is in flight on this shard any more.
        case retire(ShardID)
        /// Tell the client, once.
        case answer(Answer)
        /// COMMIT PREPARED or ROLLBACK PREPARED on this shard, again until it is done.
        case apply(DecidedTransaction, on: ShardID)
        /// ROLLBACK the open transaction on this shard.
        case rollback(ShardID)
        /// End the transaction on this shard, which was only read: its locks have outlived the decision.
        case release(ShardID)
    }

    /// What the client is told.
    public enum Answer: Hashable, Sendable {
        case committed(Timestamp)
        case failed(TransactionError)
    }

    /// Where the transaction stands; each case says what may follow.
    public enum State: Hashable, Sendable {
        /// Votes or confirmations are missing, or commit-wait runs. Next: `deciding` or `settling(.abort)`.
        case preparing(votesMissing: Set<ShardID>, confirmationsMissing: Set<ShardID>, isWaitOver: Bool)
        /// COMMIT is under way at home. Next: `settling`, or `inDoubt` when the answer is lost.
        case deciding
        /// COMMIT was sent and its answer lost. Next: `settling`.
        case inDoubt
        /// The decision stands; some shards have not applied it or not voted yet. Next: `finished`.
        case settling(Decision, votesMissing: Set<ShardID>, applying: Set<ShardID>)
        case finished(Decision)
    }

    /// The transaction's gid, its commit timestamp and home shard within.
    public let id: TransactionID
    /// The written shards other than home.
    public let participants: [ShardID]
    /// The shards that were only read, and hold read locks.
    public let readers: [ShardID]
    public private(set) var state: State
    private var hasAnswered = false

    /// Makes the coordinator of a transaction whose locks are all held and whose client has asked for commit; its
    /// commit timestamp was chosen after that (R1).
    public init(id: TransactionID, participants: [ShardID], readers: [ShardID]) {
        precondition(!participants.contains(id.home), "the home shard \(id.home) is no participant to prepare")
        self.id = id
        self.participants = participants
        self.readers = readers
        self.state = .preparing(
            votesMissing: Set(participants), confirmationsMissing: Set(readers), isWaitOver: false)
    }

    // MARK: Inputs

    /// The first input.
    public func commitRequested() -> [Action] {
        participants.map { .prepare($0) } + [.waitOut(id.commitTimestamp)]
    }

    /// A participant answered PREPARE.
    public mutating func voteReceived(_ vote: Vote, from shard: ShardID) -> [Action] {
        switch state {
        case .preparing(var votesMissing, let confirmationsMissing, let isWaitOver):
            guard votesMissing.remove(shard) != nil else { return [] }
            switch vote {
            case .prepared:
                state = .preparing(
                    votesMissing: votesMissing, confirmationsMissing: confirmationsMissing, isWaitOver: isWaitOver)
                return commitHomeIfReady()
            case .refused(let error), .lost(let error):
                return abort(because: error, votesMissing: votesMissing, lastVote: (vote, shard))
            }
        case .settling(let decision, var votesMissing, var applying):
            guard votesMissing.remove(shard) != nil else { return [] }
            let actions = undo(vote, of: shard, applying: &applying)
            state = .settling(decision, votesMissing: votesMissing, applying: applying)
            finishIfDone()
            return actions
        case .deciding, .inDoubt, .finished:
            return []
        }
    }

    /// Commit-wait is over: the commit timestamp has certainly passed.
    public mutating func commitWaitEnded(_ passed: PassedTimestamp) -> [Action] {
        precondition(passed.timestamp >= id.commitTimestamp, "\(passed.timestamp) has passed, not that of \(id)")
        guard case .preparing(let votesMissing, let confirmationsMissing, false) = state else { return [] }
        state = .preparing(
            votesMissing: votesMissing, confirmationsMissing: confirmationsMissing, isWaitOver: true)
        return readers.map { .confirm($0) } + commitHomeIfReady()
    }

    /// A shard that was only read answered in its open transaction, so its locks were held until now; or it failed to,
    /// and they may be gone.
    public mutating func confirmed(_ confirmation: Confirmation, by shard: ShardID) -> [Action] {
        guard case .preparing(let votesMissing, var confirmationsMissing, true) = state,
            confirmationsMissing.remove(shard) != nil
        else { return [] }
        switch confirmation {
        case .held:
            state = .preparing(
                votesMissing: votesMissing, confirmationsMissing: confirmationsMissing, isWaitOver: true)
            return commitHomeIfReady()
        case .lost(let error):
            return abort(because: error, votesMissing: votesMissing, lastVote: nil)
        }
    }

    /// Commit can't go on: the clock is not to be trusted, a deadline passed or the client gave up.
    ///
    /// Before COMMIT was sent this aborts. Afterwards nothing can be called off: the client is told that the outcome is
    /// unknown, and the decision is found and applied all the same.
    public mutating func gaveUp(because error: TransactionError) -> [Action] {
        switch state {
        case .preparing(let votesMissing, _, _):
            return abort(because: error, votesMissing: votesMissing, lastVote: nil)
        case .deciding, .inDoubt:
            return answer(.failed(indeterminate(because: error)))
        case .settling, .finished:
            return []
        }
    }

    /// The home shard answered COMMIT, or its answer was lost.
    public mutating func homeAnswered(_ answer: HomeAnswer) -> [Action] {
        guard case .deciding = state else { return [] }
        switch answer {
        case .committed:
            return settle(.commit, because: nil)
        case .refused(let error):
            return settle(.abort, because: error)
        case .lost:
            state = .inDoubt
            return [.findDecision]
        }
    }

    /// The home shard's commit log was read after an answer was lost.
    public mutating func decisionFound(_ decision: Decision) -> [Action] {
        guard case .inDoubt = state else { return [] }
        let error = TransactionError(
            .serializationFailure, "the home shard's answer to COMMIT was lost, and it had not committed",
            hint: "run the transaction again", shard: id.home)
        return settle(decision, because: decision == .abort ? error : nil)
    }

    /// COMMIT PREPARED or ROLLBACK PREPARED is done on this shard, or the transaction was found settled there.
    public mutating func applied(on shard: ShardID) -> [Action] {
        guard case .settling(let decision, let votesMissing, var applying) = state, applying.remove(shard) != nil
        else { return [] }
        state = .settling(decision, votesMissing: votesMissing, applying: applying)
        // After an abort nothing was visible, and the shard was retired at once.
        finishIfDone()
        return decision == .commit ? [.retire(shard)] : []
    }

    // MARK: Steps

    private mutating func commitHomeIfReady() -> [Action] {
        guard case .preparing(let votesMissing, let confirmationsMissing, true) = state, votesMissing.isEmpty,
            confirmationsMissing.isEmpty
        else { return [] }
        state = .deciding
        return [.commitHome(PreparedTransaction(id: id))]
    }

    /// Aborts before COMMIT was sent to the home shard: its row can't be there, so no tombstone is needed (R4).
    private mutating func abort(
        because error: TransactionError, votesMissing: Set<ShardID>, lastVote: (vote: Vote, shard: ShardID)?
    ) -> [Action] {
        var applying: Set<ShardID> = []
        var actions: [Action] = [.retire(id.home)] + participants.map { .retire($0) }
        actions += answer(.failed(error)) + [.rollback(id.home)]
        for shard in participants where !votesMissing.contains(shard) {
            let vote = lastVote.flatMap { $0.shard == shard ? $0.vote : nil } ?? .prepared
            actions += undo(vote, of: shard, applying: &applying)
        }
        state = .settling(.abort, votesMissing: votesMissing, applying: applying)
        finishIfDone()
        return actions + readers.map { .release($0) }
    }

    /// The order that undoes a participant of an aborted transaction.
    private func undo(_ vote: Vote, of shard: ShardID, applying: inout Set<ShardID>) -> [Action] {
        switch vote {
        case .refused:
            return [.rollback(shard)]
        case .prepared, .lost:
            applying.insert(shard)
            return [.apply(DecidedTransaction(id: id, decision: .abort), on: shard)]
        }
    }

    private mutating func settle(_ decision: Decision, because error: TransactionError?) -> [Action] {
        let decided = DecidedTransaction(id: id, decision: decision)
        var actions: [Action] = [.retire(id.home)]
        if let error {
            actions += participants.map { .retire($0) } + answer(.failed(error)) + [.rollback(id.home)]
        } else {
            actions += answer(.committed(id.commitTimestamp))
        }
        state = .settling(decision, votesMissing: [], applying: Set(participants))
        actions += participants.map { .apply(decided, on: $0) } + readers.map { .release($0) }
        finishIfDone()
        return actions
    }

    private mutating func finishIfDone() {
        if case .settling(let decision, let votesMissing, let applying) = state, votesMissing.isEmpty, applying.isEmpty
        {
            state = .finished(decision)
        }
    }

    private mutating func answer(_ answer: Answer) -> [Action] {
        guard !hasAnswered else { return [] }
        hasAnswered = true
        return [.answer(answer)]
    }

    private func indeterminate(because error: TransactionError) -> TransactionError {
        TransactionError(
            .transactionResolutionUnknown, "the outcome of the transaction is not known yet",
            detail: "\(error.message); the transaction is \(id)",
            hint: "ask for the outcome of this transaction before running it again; it is settled when shard "
                + "\(id.home) is reachable", shard: id.home, outcome: .indeterminate(id))
    }
}
