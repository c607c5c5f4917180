import TransactionCore
import TwoPhaseCommit

typealias StatementResult = Result<Answer, TransactionError>

extension SimulatedShard {
    /// Carries out one statement of `session`, now or when its locks are granted and its writes flushed.
    func perform(
        _ statement: Statement, in session: SimulatedSession, then: @escaping (StatementResult) -> Void
    ) {
        if session.isFailed, statement != .rollback {
            return then(.failure(error(.inFailedTransaction, "current transaction is aborted")))
        }
        if statement.writes, scheduler.random.chance(conditions.refusalProbability) {
            return then(.failure(error(.diskFull, "could not extend file: no space left on device")))
        }
        switch statement {
        case .openSession(let incarnation): then(openSession(incarnation, in: session))
        case .takeCoordinatorLock:
            acquire(.coordinator, .exclusive, by: session.owner, timeout: nil) { _ in then(.success(.done)) }
        case .readEpoch: then(.success(.epoch(storage.epoch)))
        case .raiseEpoch(let epoch, let node, let end): raiseEpoch(epoch, of: node, end, in: session, then: then)
        case .begin:
            session.transaction = ShardTransaction(owner: nextOwner())
            then(.success(.done))
        case .lock(let key, let mode): lockRow(key, mode, in: session) { then($0.map { .value($0) }) }
        case .update(let key, let update):
            lockRow(key, .exclusive, in: session) { then($0.map { self.change($0, of: key, by: update, in: session) }) }
        case .confirm: then(confirm(in: session))
        case .logCommit(let id): logCommit(id, in: session, then: then)
        case .prepare(let id): prepare(id, in: session, then: then)
        case .commit: commit(in: session, then: then)
        case .rollback: then(rollback(in: session))
        case .commitPrepared(let id): endPrepared(id, by: .commitPrepared(id), in: session, then: then)
        case .rollbackPrepared(let id): endPrepared(id, by: .rollbackPrepared(id), in: session, then: then)
        case .readDecision(let id):
            then(.success(.decision(isCommit: storage.logRow(at: id.commitTimestamp).map { !$0.isAborted })))
        case .insertTombstone(let id): insertTombstone(id, in: session, then: then)
        case .listPrepared:
            then(.success(.prepared(storage.prepared.keys.map(\.description).sorted())))
        case .readNewestTimestamp: then(.success(.timestamp(storage.newestTimestamp)))
        case .takeSnapshot:
            session.snapshot = storage.snapshot
            then(.success(.done))
        case .read(let keys, let timestamp):
            let snapshot = session.snapshot ?? storage.snapshot
            then(.success(.values(keys.map { storage.read($0, at: timestamp, snapshot: snapshot) })))
        }
    }

    private func error(_ state: SQLState, _ message: String) -> TransactionError {
        TransactionError(state, message, shard: id)
    }

    // MARK: Epochs

    private func openSession(_ incarnation: Incarnation, in session: SimulatedSession) -> StatementResult {
        let told = storage.epoch(of: incarnation.node)
        guard incarnation.epoch >= told else {
            return .failure(
                error(
                    .objectNotInPrerequisiteState,
                    "epoch \(incarnation.epoch) is over: the shard has been told of \(told)"))
        }
        session.incarnation = incarnation
        return .success(.done)
    }

    private func raiseEpoch(
        _ epoch: Epoch, of node: NodeID?, _ end: Statement.SessionsEnd, in session: SimulatedSession,
        then: @escaping (StatementResult) -> Void
    ) {
        write(.epoch(epoch, of: node), by: session) { [self] in
            guard end != .left else { return then(.success(.done)) }
            for older in sessions(before: epoch, of: node) { older.terminate() }
            guard end == .awaited else { return then(.success(.done)) }
            whenEnded(epoch, of: node) { then(.success(.done)) }
        }
    }

    private func sessions(before epoch: Epoch, of node: NodeID?) -> [SimulatedSession] {
        sessions.filter { session in
            guard let incarnation = session.incarnation else { return false }
            return incarnation.epoch < epoch && (node == nil || incarnation.node == node)
        }
    }

    private func whenEnded(_ epoch: Epoch, of node: NodeID?, then: @escaping () -> Void) {
        guard !sessions(before: epoch, of: node).isEmpty else { return then() }
        after(millisecond) { [self] in whenEnded(epoch, of: node, then: then) }
    }

    // MARK: Locks

    private func acquire(
        _ target: LockTable.Target, _ mode: LockTable.Mode, by owner: Int, timeout: Nanoseconds?,
        then: @escaping (_ isGranted: Bool) -> Void
    ) {
        guard let ticket = locks.request(target, mode, by: owner) else { return then(true) }
        waiting[ticket] = { then(true) }
        guard let timeout else { return }
        after(timeout) { [self] in
            guard waiting.removeValue(forKey: ticket) != nil else { return }
            grant(locks.cancel(ticket, for: target))
            then(false)
        }
    }

    private func acquire(
        _ target: LockTable.Target, _ mode: LockTable.Mode, in session: SimulatedSession,
        then: @escaping (Result<ShardTransaction, TransactionError>) -> Void
    ) {
        guard let transaction = session.transaction else {
            return then(.failure(error(.inFailedTransaction, "there is no transaction in progress")))
        }
        let timeout = scheduler.random.delay(in: conditions.lockTimeoutNanoseconds)
        acquire(target, mode, by: transaction.owner, timeout: timeout) { [self] isGranted in
            then(isGranted ? .success(transaction) : .failure(error(.serializationFailure, "lock timeout")))
        }
    }

    // MARK: Transactions

    /// Locks a row and returns what is committed there once the lock is held, or what the transaction wrote itself.
    private func lockRow(
        _ key: RowKey, _ mode: LockTable.Mode, in session: SimulatedSession,
        then: @escaping (Result<Value, TransactionError>) -> Void
    ) {
        acquire(.row(key), mode, in: session) { [self] result in
            then(result.map { $0.writes.changes.last { $0.key == key }?.new ?? storage.row(key) })
        }
    }

    private func change(
        _ old: Value, of key: RowKey, by update: Statement.Update, in session: SimulatedSession
    ) -> Answer {
        let new = update.applied(to: old)
        session.transaction?.writes.changes.append(Change(key: key, old: old, new: new))
        return .value(old)
    }

    private func confirm(in session: SimulatedSession) -> StatementResult {
        guard session.transaction == nil else { return .success(.done) }
        return .failure(error(.inFailedTransaction, "there is no transaction in progress"))
    }

    private func logCommit(
        _ id: TransactionID, in session: SimulatedSession, then: @escaping (StatementResult) -> Void
    ) {
        acquire(.logRow(id.commitTimestamp), .exclusive, in: session) { [self] result in
            then(
                result.flatMap { transaction in
                    guard storage.logRow(at: id.commitTimestamp) == nil else {
                        return .failure(error(.uniqueViolation, "duplicate key value violates unique constraint"))
                    }
                    transaction.writes.logRow = LogRow(id: id, isAborted: false)
                    return .success(.done)
                })
        }
    }

    private func prepare(
        _ id: TransactionID, in session: SimulatedSession, then: @escaping (StatementResult) -> Void
    ) {
        guard let transaction = session.transaction else {
            return then(.failure(error(.inFailedTransaction, "there is no transaction in progress")))
        }
        session.transaction = nil
        let locks = locks.held(by: transaction.owner)
        write(.prepare(id, transaction.writes, owner: transaction.owner, locks: locks), by: session) { [self] in
            scheduler.note(.shard(self.id), "prepared", timestamp: id.commitTimestamp)
            then(.success(.done))
        }
    }

    private func commit(in session: SimulatedSession, then: @escaping (StatementResult) -> Void) {
        guard let transaction = session.transaction else { return then(.success(.done)) }
        session.transaction = nil
        let end = { [self] in
            release(transaction.owner)
            then(.success(.done))
        }
        guard transaction.writes != Writes() else { return end() }
        write(.commit(transaction.writes), by: session) { [self] in
            scheduler.note(.shard(id), "committed", timestamp: transaction.writes.logRow?.id.commitTimestamp)
            end()
        }
    }

    private func rollback(in session: SimulatedSession) -> StatementResult {
        if let transaction = session.transaction { release(transaction.owner) }
        session.transaction = nil
        session.isFailed = false
        return .success(.done)
    }

    // MARK: Recovery

    private func endPrepared(
        _ id: TransactionID, by record: WALRecord, in session: SimulatedSession,
        then: @escaping (StatementResult) -> Void
    ) {
        guard let transaction = storage.prepared[id] else {
            return then(.failure(error(.undefinedObject, "prepared transaction \"\(id)\" does not exist")))
        }
        guard busy.insert(id).inserted else {
            return then(.failure(error(.objectNotInPrerequisiteState, "prepared transaction \"\(id)\" is busy")))
        }
        write(record, by: session) { [self] in
            busy.remove(id)
            release(transaction.owner)
            let isCommit = if case .commitPrepared = record { true } else { false }
            scheduler.note(
                .shard(self.id), isCommit ? "committed prepared" : "rolled back prepared", timestamp: id.commitTimestamp
            )
            then(.success(.done))
        }
    }

    private func insertTombstone(
        _ id: TransactionID, in session: SimulatedSession, then: @escaping (StatementResult) -> Void
    ) {
        let transaction = ShardTransaction(owner: nextOwner())
        session.transaction = transaction
        acquire(.logRow(id.commitTimestamp), .exclusive, in: session) { [self] result in
            session.transaction = nil
            guard case .success = result else {
                release(transaction.owner)
                return then(result.map { _ in .done })
            }
            guard storage.logRow(at: id.commitTimestamp) == nil else {
                release(transaction.owner)
                return then(.success(.inserted(false)))
            }
            transaction.writes.logRow = LogRow(id: id, isAborted: true)
            write(.commit(transaction.writes), by: session) { [self] in
                scheduler.note(.shard(self.id), "tombstone committed", timestamp: id.commitTimestamp)
                release(transaction.owner)
                then(.success(.inserted(true)))
            }
        }
    }
}
