import BoundedTime
import EventLoops
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Carries out the coordinator's orders (DESIGN section 3).
extension TransactionEngine {
    // MARK: Statements

    func leaseWriter(on shard: ShardID) async throws(TransactionError) -> ShardConnection {
        guard let pools = pools[shard] else { throw Self.unknownShard(shard) }
        do throws(ShardError) {
            return try await pools.writers.lease(deadline: .now + configuration.admissionTimeout)
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }

    func run(
        _ statements: [SQLStatement], on session: ReadWriteTransaction.Session
    ) async throws(TransactionError) -> [SQLResult] {
        let translated = try await translated(statements, to: session.shard)
        let results: [SQLResult]
        let request = requestBegan()
        defer { requestEnded(request) }
        do throws(ShardError) {
            results = try await session.connection.run(translated, deadline: .now + configuration.statementTimeout)
        } catch {
            throw TransactionError(error, shard: session.shard)
        }
        return try await self.translated(results, from: session.shard)
    }

    func describe(
        _ statement: SQLStatement, on session: ReadWriteTransaction.Session
    ) async throws(TransactionError) -> StatementDescription {
        let translated = try await translated([statement], to: session.shard)[0]
        let request = requestBegan()
        defer { requestEnded(request) }
        let description: StatementDescription
        do throws(ShardError) {
            description = try await session.connection.describe(
                translated, deadline: .now + configuration.statementTimeout)
        } catch {
            throw TransactionError(error, shard: session.shard)
        }
        return try await self.translated(description, from: session.shard)
    }

    func rollback(_ sessions: [ReadWriteTransaction.Session], endsTransaction: Bool = true) async {
        for session in sessions {
            if session.isPinned { await endPinned(session) } else { _ = try? await rollBack(session) }
            await giveBack(session)
        }
        if endsTransaction { transactionClosed() }
    }

    private func rollBack(_ session: ReadWriteTransaction.Session) async throws(ShardError) {
        let deadline = ContinuousClock.now + configuration.statementTimeout
        _ = try await session.connection.run([Statement.rollback], deadline: deadline)
    }

    /// Rolls back where the session goes on: also if the statement was cancelled, and with it the task that comes here.
    /// A session that can't be used any more is closed, as the pool would.
    private func endPinned(_ session: ReadWriteTransaction.Session) async {
        await Task(executorPreference: loop) {
            do throws(ShardError) { try await self.rollBack(session) } catch { await session.connection.close() }
        }.value
    }

    private func giveBack(_ session: ReadWriteTransaction.Session) async {
        sessionClosed(session.process, on: session.shard, by: session.owner)
        // Its client has it still, and may have begun the next transaction in it.
        if !session.isPinned { await pools[session.shard]!.writers.giveBack(session.connection) }
    }

    // MARK: Commit

    /// Commits the transaction whose locks `sessions` hold.
    func commit(_ sessions: [ReadWriteTransaction.Session]) async throws(TransactionError) -> Timestamp {
        let began = ContinuousClock.now
        // The first is the home shard, where nothing is prepared.
        let ordered = sessions.filter(\.isUnpreparable) + sessions.filter { !$0.isUnpreparable }
        let written = ordered.filter(\.isWritten).map(\.shard)
        let now: TimestampInterval
        do throws(TransactionError) {
            // Checked in the step in which it is chosen.
            while !peers.isActive { try await activate() }
            now = try present()
        } catch {
            await rollback(sessions)
            throw error
        }
        // R1: the locks are held and the client has asked for commit; choosing enters the in-flight set (R8).
        let timestamp = tracker.choose(at: now, writing: written)
        guard let home = written.first else { return try await endReading(sessions, at: timestamp) }
        let id = TransactionID(home: home, epoch: epoch, commitTimestamp: timestamp)
        let readers = sessions.filter { !$0.isWritten }.map(\.shard)
        let run = CommitRun(
            id: id, coordinator: Coordinator(id: id, participants: Array(written.dropFirst()), readers: readers),
            sessions: sessions, began: began)
        live[id] = run
        await reach(.beforePrepare, id)
        perform(run.coordinator.commitRequested(), run)
        return try await withUnsafeContinuation { run.await($0) }.get()
    }

    /// A transaction that only read under locks has a timestamp too: what it saw has one below, and strong reads that
    /// follow must not see less (R9).
    private func endReading(
        _ sessions: [ReadWriteTransaction.Session], at timestamp: Timestamp
    ) async throws(TransactionError) -> Timestamp {
        do throws(TransactionError) {
            try await waitOut(timestamp)
        } catch {
            await rollback(sessions)
            throw error
        }
        try await commitUnordered(sessions)
        tracker.acknowledged(timestamp)
        return timestamp
    }

    /// Commits on each shard by itself.
    func commitUnordered(_ sessions: [ReadWriteTransaction.Session]) async throws(TransactionError) {
        for (index, session) in sessions.enumerated() {
            do throws(TransactionError) {
                // Its answer is the proof that the read locks were held until now: see ``confirm(on:_:)``.
                _ = try await run([Statement.commit], on: session)
                await giveBack(session)
            } catch {
                await rollback(Array(sessions[index...]))
                throw error
            }
        }
        transactionClosed()
    }

    /// Carries out `actions` in their sequence; what takes time goes on by itself and comes back as an input.
    private func perform(_ actions: [Coordinator.Action], _ run: CommitRun) {
        for action in actions {
            switch action {
            case .retire(let shard):
                // Whoever reads what it wrote has seen a commit, whether its client was told or not (R9).
                if run.isCommitted { tracker.acknowledged(run.id.commitTimestamp) }
                retire(run.id.commitTimestamp, on: shard)
            case .answer(let answer): self.answer(answer, run)
            case .waitOut, .prepare, .confirm, .commitHome, .findDecision, .apply, .rollback, .release:
                // A task that does not prefer the loop would come back from every wait by way of another thread.
                Task(executorPreference: loop) { await self.carryOut(action, run) }
            }
        }
        if case .finished = run.coordinator.state { live[run.id] = nil }
    }

    /// Carries out an order that takes time.
    private func carryOut(_ order: Coordinator.Action, _ run: CommitRun) async {
        switch order {
        case .waitOut: await commitWait(run)
        case .prepare(let shard): await prepare(on: shard, run)
        case .confirm(let shard): await confirm(on: shard, run)
        case .commitHome(let prepared): await commitHome(prepared, run)
        case .findDecision: await findDecision(run)
        case .apply(let decided, let shard): await apply(decided, on: shard, run)
        case .rollback(let shard): await end(on: shard, run)
        case .release(let shard): await release(shard, run)
        case .retire, .answer: perform([order], run)
        }
    }

    private func retire(_ timestamp: Timestamp, on shard: ShardID) {
        release(tracker.retire(timestamp, on: shard))
        perform(peers.retired(timestamp, on: shard))
    }

    /// The reads may take their snapshots.
    func release(_ waiters: [SafeTimeTracker.WaiterID]) {
        for waiter in waiters {
            if let id = readWaiters.removeValue(forKey: waiter) { waits.end(id, .granted) }
        }
    }

    private func answer(_ answer: Coordinator.Answer, _ run: CommitRun) {
        let now = ContinuousClock.now
        switch answer {
        case .committed(let timestamp):
            tracker.acknowledged(timestamp)
            run.finish(with: .success(timestamp))
            statistics.commitTime += now - run.began
            if run.coordinator.participants.isEmpty {
                statistics.oneShardCommits += 1
            } else {
                statistics.crossShardCommits += 1
            }
        case .failed(let error):
            statistics.aborts[error.sqlState, default: 0] += 1
            run.finish(with: .failure(error))
        }
    }

    // MARK: Orders

    private func commitWait(_ run: CommitRun) async {
        do throws(TransactionError) {
            let passed = try await waitOut(run.id.commitTimestamp)
            if let preparedAt = run.preparedAt { statistics.exposedCommitWait += .now - preparedAt }
            perform(run.coordinator.commitWaitEnded(passed), run)
        } catch {
            perform(run.coordinator.gaveUp(because: error), run)
        }
    }

    /// Sleeps until `timestamp` has passed (R2). Fails when the clock can't be trusted any more.
    @discardableResult
    func waitOut(_ timestamp: Timestamp) async throws(TransactionError) -> PassedTimestamp {
        let wait = CommitWait(until: timestamp)
        while true {
            let progress: CommitWait.Progress
            do throws(ClockError) {
                progress = wait.progress(at: try clock.now())
            } catch {
                throw error.transactionError
            }
            switch progress {
            case .passed(let passed): return passed
            case .waiting(let duration):
                do { try await loop.sleep(until: .now + duration) } catch { throw Self.cancelled }
            }
        }
    }

    private func prepare(on shard: ShardID, _ run: CommitRun) async {
        let statements = [
            ShardSchema.logCommit(run.id, participants: run.coordinator.participants), Statement.prepare(run.id),
        ]
        let reached = reachMeanwhile(.duringCommitWait, run.id)
        let vote: Vote
        do throws(ShardError) {
            let connection = run.connection(to: shard)!
            let results = try await runUncancelled(statements, on: connection)
            // In a failed transaction PREPARE TRANSACTION rolls back, and says so only in its tag.
            vote = results[1].commandTag == "PREPARE TRANSACTION" ? .prepared : .refused(Self.rolledBack(on: shard))
        } catch {
            let failure = TransactionError(error, shard: shard)
            vote = error.isAnswerMissing ? .lost(failure) : .refused(failure)
        }
        await reached?.value
        let actions = run.coordinator.voteReceived(vote, from: shard)
        if case .preparing(let missing, _, _) = run.coordinator.state, missing.isEmpty { run.preparedAt = .now }
        perform(actions, run)
    }

    /// Runs what prepares or decides. Where the time is over, the outcome is looked for (R5).
    private func runUncancelled(
        _ statements: [SQLStatement], on connection: ShardConnection
    ) async throws(ShardError) -> [SQLResult] {
        let request = requestBegan()
        defer { requestEnded(request) }
        return try await connection.runUncancelled(statements, within: configuration.statementTimeout)
    }

    /// Asks for any answer in the open transaction of a shard that was only read: had its session been lost, the read
    /// locks would be gone, and another transaction might have changed what was read.
    private func confirm(on shard: ShardID, _ run: CommitRun) async {
        let confirmation: Confirmation
        do throws(ShardError) {
            let session = run.sessions.first { $0.shard == shard }!
            // Constraints on temporary tables are checked while it can still be called off.
            let statement = session.isPinned ? Statement.checkConstraints : Statement.confirm
            _ = try await session.connection.run([statement], deadline: .now + configuration.statementTimeout)
            confirmation = .held
        } catch {
            confirmation = .lost(TransactionError(error, shard: shard))
        }
        perform(run.coordinator.confirmed(confirmation, by: shard), run)
    }

    private func commitHome(_ prepared: PreparedTransaction, _ run: CommitRun) async {
        let shard = prepared.id.home
        await reach(.afterPrepareBeforeDecision, prepared.id)
        let statements = [
            ShardSchema.logCommit(prepared.id, participants: run.coordinator.participants), Statement.commit,
        ]
        let reached = reachMeanwhile(.duringDecision, prepared.id)
        let answer: HomeAnswer
        do throws(ShardError) {
            let connection = run.connection(to: shard)!
            let results = try await runUncancelled(statements, on: connection)
            // A COMMIT in a failed transaction is answered by the tag ROLLBACK.
            answer = results[1].commandTag == "COMMIT" ? .committed : .refused(Self.rolledBack(on: shard))
        } catch {
            let isTombstone = error.statementIndex == 0 && error.sqlState == .uniqueViolation
            let failure = isTombstone ? Self.abortedByRecovery(on: shard) : TransactionError(error, shard: shard)
            answer = error.isAnswerMissing ? .lost(failure) : .refused(failure)
        }
        await reached?.value
        if answer == .committed {
            hasCommitted(prepared.id.commitTimestamp, on: shard)
            await reach(.afterDecisionBeforeApply, prepared.id)
            if let session = run.removeSession(on: shard) { await giveBack(session) }
        }
        perform(run.coordinator.homeAnswered(answer), run)
        closeIfDone(run)
    }

    private func hasCommitted(_ timestamp: Timestamp, on shard: ShardID) {
        newestCommits[shard] = max(newestCommits[shard] ?? .zero, timestamp)
    }

    /// R5: the answer to the home COMMIT is lost. Finds the decision for as long as it takes; the client waits a while.
    private func findDecision(_ run: CommitRun) async {
        // Every vote is in and the timestamp has passed: nothing needs these sessions and their locks any more, and a
        // home shard that is down must not keep others from being admitted.
        for shard in run.sessions.map(\.shard) {
            guard let session = run.removeSession(on: shard) else { continue }
            if session.isPinned { await session.connection.close() }
            await giveBack(session)
        }
        closeIfDone(run)
        let patience = Task { await limitWait(of: run) }
        defer { patience.cancel() }
        var pause = Backoff()
        while !isStopped {
            do throws(ShardError) {
                let decided = try await recovery.decide(run.id)
                perform(run.coordinator.decisionFound(decided.decision), run)
                return closeIfDone(run)
            } catch {
                logger.warning("the decision of \(run.id) can't be read yet: \(error.message)")
            }
            try? await pause.wait(on: loop)
        }
        perform(run.coordinator.gaveUp(because: Self.stopping), run)
    }

    /// Tells the client that the outcome is unknown when it has waited long enough for it.
    private func limitWait(of run: CommitRun) async {
        guard (try? await loop.sleep(until: .now + configuration.outcomeTimeout)) != nil else { return }
        let lost = TransactionError(
            .connectionFailure, "the answer of shard \(run.id.home) to COMMIT was lost", shard: run.id.home)
        perform(run.coordinator.gaveUp(because: lost), run)
    }

    /// Applies the decision on `shard`: on the session that prepared while it lasts, else on any, until it is done.
    private func apply(_ decided: DecidedTransaction, on shard: ShardID, _ run: CommitRun) async {
        if decided.decision == .commit { await reach(.afterAnswerBeforeApply, decided.id) }
        var isApplied = false
        if let session = run.removeSession(on: shard) {
            do throws(ShardError) {
                _ = try await session.connection.runUncancelled(
                    [Statement.apply(decided)], within: configuration.statementTimeout)
                isApplied = true
            } catch {
                logger.debug("\(decided.id) is not applied on \(shard) yet: \(error.message)")
            }
            await giveBack(session)
        }
        closeIfDone(run)
        var pause = Backoff()
        while !isApplied, !isStopped {
            do throws(ShardError) {
                try await recovery.apply(decided, on: shard)
                isApplied = true
            } catch {
                logger.warning("\(decided.id) is not applied on \(shard) yet: \(error.message)")
                do { try await pause.wait(on: loop) } catch { return }
            }
        }
        if isApplied, decided.decision == .commit { hasCommitted(decided.id.commitTimestamp, on: shard) }
        if isApplied { perform(run.coordinator.applied(on: shard), run) }
    }

    /// Ends the session on `shard`, which has outlived the decision. What is in a pinned one, of its client alone,
    /// commits with the rest; if it is lost instead, so is all that was ever in it.
    private func release(_ shard: ShardID, _ run: CommitRun) async {
        guard run.isCommitted, let session = run.sessions.first(where: { $0.shard == shard }), session.isPinned else {
            return await end(on: shard, run)
        }
        _ = run.removeSession(on: shard)
        let deadline = ContinuousClock.now + configuration.statementTimeout
        _ = try? await session.connection.run([Statement.commit], deadline: deadline)
        await giveBack(session)
        closeIfDone(run)
    }

    /// Ends the session on `shard`, where nothing is prepared and nothing is to be committed.
    private func end(on shard: ShardID, _ run: CommitRun) async {
        if let session = run.removeSession(on: shard) { await rollback([session], endsTransaction: false) }
        closeIfDone(run)
    }

    /// The transaction's place is free once all its connections are given back, even if some shard has to be applied
    /// to later.
    private func closeIfDone(_ run: CommitRun) {
        guard run.sessions.isEmpty, !run.isClosed else { return }
        run.isClosed = true
        transactionClosed()
    }

    private func reach(_ point: FaultPoint, _ id: TransactionID) async {
        if let hook = configuration.faultHook { await hook(point, id) }
    }

    /// Reaches `point` while the caller waits for a shard.
    private func reachMeanwhile(_ point: FaultPoint, _ id: TransactionID) -> Task<Void, Never>? {
        configuration.faultHook.map { hook in Task { await hook(point, id) } }
    }

    private static func rolledBack(on shard: ShardID) -> TransactionError {
        TransactionError(
            .inFailedTransaction, "the shard rolled the transaction back", hint: "run the transaction again",
            shard: shard)
    }

    /// Recovery decided first (R4), as it may at any time.
    private static func abortedByRecovery(on shard: ShardID) -> TransactionError {
        TransactionError(
            .serializationFailure, "recovery aborted the transaction before it was decided",
            hint: "run the transaction again", shard: shard)
    }

    static func unknownShard(_ shard: ShardID) -> TransactionError {
        TransactionError(.undefinedObject, "there is no shard \"\(shard)\"", shard: shard)
    }
}

/// Statements of the protocol that name no table.
enum Statement {
    static let commit = SQLStatement("COMMIT")
    static let rollback = SQLStatement("ROLLBACK")
    static let confirm = SQLStatement("SELECT")
    static let checkConstraints = SQLStatement("SET CONSTRAINTS ALL IMMEDIATE")
    /// A decision and a tombstone must be flushed when they are answered, whatever the server's default is (R3, R4);
    /// stricter settings, which wait for standbys, stay.
    static let flushCommits = SQLStatement(
        "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'")

    /// What BEGIN stands for in a writer's session, whatever the server's defaults are. Set once: naming the modes in
    /// each BEGIN costs a shard about a twentieth of a transfer.
    static let writeByDefault = SQLStatement(
        """
        SELECT set_config('default_transaction_isolation', 'read committed', false), \
        set_config('default_transaction_read_only', 'off', false)
        """)

    /// A reader's session writes nothing, whatever a function that it calls would like to.
    static let readByDefault = SQLStatement("SELECT set_config('default_transaction_read_only', 'on', false)")

    static func prepare(_ id: TransactionID) -> SQLStatement {
        SQLStatement("PREPARE TRANSACTION '\(id)'", isPrepared: false)
    }

    static func apply(_ decided: DecidedTransaction) -> SQLStatement {
        let verb = decided.decision == .commit ? "COMMIT" : "ROLLBACK"
        return SQLStatement("\(verb) PREPARED '\(decided.id)'", isPrepared: false)
    }
}

/// Growing pauses between tries.
struct Backoff {
    private var next: Duration = .milliseconds(20)
    private static let longest = Duration.seconds(1)

    mutating func wait(on loop: EventLoop) async throws {
        try await loop.sleep(until: .now + next)
        next = min(next * 2, Self.longest)
    }
}

extension ShardError {
    /// Whether the shard did what it was asked to is not known. A session that is ended in the middle of a COMMIT may
    /// have committed, as when it waits for a synchronous standby.
    fileprivate var isAnswerMissing: Bool { isOutcomeUnknown || serverFields?.isFatal == true }
}
