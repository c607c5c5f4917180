import TransactionCore
import TwoPhaseCommit

extension SimulatedNode {
    /// Lists now and then what stands prepared, and settles what nobody coordinates (R4).
    func sweep() {
        onEveryShard(
            { [self] shard, done in
                run([.listPrepared], on: shard) { [self] result in
                    guard case .success(let answers) = result, case .prepared(let names)? = answers.first else {
                        return done()
                    }
                    recover(Recovery.orphans(among: names, live: live).filter(isOver), on: shard, then: done)
                }
            },
            then: { [self] in
                after(cluster.conditions.sweepNanoseconds) { [self] in sweep() }
            })
    }

    /// Settles `orphans` on `shard`, one after the other.
    func recover(_ orphans: [TransactionID], on shard: ShardID, then: @escaping () -> Void) {
        guard let orphan = orphans.first else { return then() }
        cluster.counts.recoveries += 1
        note("recovers", timestamp: orphan.commitTimestamp)
        findDecision(of: orphan) { [self] decided in
            apply(decided, on: shard) { [self] in recover(Array(orphans.dropFirst()), on: shard, then: then) }
        }
    }

    /// Runs ``Recovery`` until the decision stands, for as long as it takes.
    func findDecision(of id: TransactionID, then: @escaping (DecidedTransaction) -> Void) {
        perform(Recovery(id: id), { $0.started() }, then: then)
    }

    private func perform(
        _ recovery: Recovery, _ input: (inout Recovery) -> Recovery.Action,
        then: @escaping (DecidedTransaction) -> Void
    ) {
        var recovery = recovery
        switch input(&recovery) {
        case .lookUpDecision:
            ask(.readDecision(recovery.id), of: recovery, then: then) { recovery, answer in
                guard case .decision(let isCommit) = answer else { return recovery.started() }
                return recovery.decisionRead(isCommit.map { $0 ? .commit : .abort })
            }
        case .insertTombstone where bug == .recoveryWithoutTombstone:
            perform(recovery, { $0.tombstoneInserted(true) }, then: then)
        case .insertTombstone:
            ask(.insertTombstone(recovery.id), of: recovery, then: then) { recovery, answer in
                recovery.tombstoneInserted(answer == .inserted(true))
            }
        case .apply(let decided):
            note("decision found: \(decided.decision)", timestamp: decided.id.commitTimestamp)
            then(decided)
        }
    }

    /// Asks the home shard, and begins again when it does not answer.
    private func ask(
        _ statement: Statement, of recovery: Recovery, then: @escaping (DecidedTransaction) -> Void,
        input: @escaping (inout Recovery, Answer) -> Recovery.Action
    ) {
        run([statement], on: recovery.id.home) { [self] result in
            if case .success(let answers) = result, let answer = answers.first {
                return perform(recovery, { input(&$0, answer) }, then: then)
            }
            after(retryDelay) { [self] in perform(recovery, { $0.started() }, then: then) }
        }
    }

    /// The one that coordinated it is no more, or has settled it.
    private func isOver(_ id: TransactionID) -> Bool {
        guard cluster.areSeveral, Incarnation(id.node, id.epoch) != incarnation else { return !live.contains(id) }
        return fencedEpochs[id.node].map { id.epoch <= $0 } ?? false
    }

    /// Tells a client that was left in doubt what became of its transaction; nil while that is open.
    ///
    /// What nobody coordinates any more is settled by asking.
    func outcome(of id: TransactionID, then: @escaping (Decision?) -> Void) {
        guard phase == .serving else { return then(nil) }
        guard isOver(id) else { return readOutcome(of: id, then: then) }
        findDecision(of: id) { [self] decided in
            decided.decision == .commit ? readOutcome(of: id, then: then) : then(.abort)
        }
    }

    /// To be told that it committed is an acknowledgement: no strong read afterwards may miss it, wherever (R9).
    ///
    /// So this node is active when it tells, and peers ask it; or it was fenced after it had read the decision, in a
    /// session of its epoch, and they read from later than that.
    private func readOutcome(of id: TransactionID, then: @escaping (Decision?) -> Void) {
        runFenced([.readDecision(id)], on: id.home) { [self] result in
            guard case .success(let answers) = result, case .decision(let isCommit?)? = answers.last else {
                return then(nil)
            }
            guard isCommit, bug != .outcomeToldUnnoticed else { return then(isCommit ? .commit : .abort) }
            let tell = { [self] in
                tracker.acknowledged(id.commitTimestamp)
                then(.commit)
            }
            bug == .outcomeToldInSilence ? tell() : whenActive(tell)
        }
    }

    /// COMMIT PREPARED or ROLLBACK PREPARED, again until it is done or was done by somebody else.
    func apply(_ decided: DecidedTransaction, on shard: ShardID, then: @escaping () -> Void) {
        let statement: Statement =
            decided.decision == .commit ? .commitPrepared(decided.id) : .rollbackPrepared(decided.id)
        run([statement], on: shard) { [self] result in
            if case .failure(let failure) = result, failure.error.sqlState != .undefinedObject {
                return after(retryDelay) { [self] in apply(decided, on: shard, then: then) }
            }
            then()
        }
    }
}
