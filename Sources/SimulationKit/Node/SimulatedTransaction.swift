import BoundedTime
import TransactionCore
import TwoPhaseCommit

/// A read-write transaction at its node: a connection per shard, and from COMMIT on the real ``Coordinator``.
final class SimulatedTransaction {
    private unowned let node: SimulatedNode
    private let number: Int
    private var connections: [ShardID: SimulatedConnection] = [:]
    private var shards: [ShardID] = []
    private var written: [ShardID] = []
    private var coordinator: Coordinator?
    private var answer: (Coordinator.Answer) -> Void = { _ in }
    /// The timestamp that ``PlantedBug/timestampBeforeLocks`` chose too early.
    private var earlyTimestamp: Timestamp?

    /// Begins a transaction; the shards it is going to write are known to the planted bug alone.
    init(node: SimulatedNode, number: Int, toWrite: [ShardID]) throws(ClockError) {
        self.node = node
        self.number = number
        if node.bug == .timestampBeforeLocks {
            earlyTimestamp = node.tracker.choose(at: try node.clock.now(), writing: toWrite)
        }
    }

    // MARK: Statements

    /// Runs one statement under locks.
    func run(_ statement: Statement, on shard: ShardID, then: @escaping (Result<Value, TransactionError>) -> Void) {
        let statement = node.bug == .readsUnlocked ? unlocked(statement) : statement
        var pipeline = [statement]
        if connections[shard] == nil {
            connections[shard] = node.connect(to: shard)
            shards.append(shard)
            pipeline = [.openSession(node.incarnation), .begin, statement]
        }
        if case .update = statement, !written.contains(shard) { written.append(shard) }
        connections[shard]!.run(pipeline) { [self] result in
            node.noticeFencing(result)
            switch result {
            case .success(let answers):
                switch answers.last {
                case .value(let value)?: then(.success(value))
                case .values(let values)?: then(.success(values[0]))
                default: break
                }
            case .failure(let failure): then(.failure(failure.error))
            }
        }
    }

    private func unlocked(_ statement: Statement) -> Statement {
        if case .lock(let key, .share) = statement { .read([key], at: Timestamp(rawValue: .max)) } else { statement }
    }

    /// Ends the transaction without a trace.
    func rollback() {
        for shard in shards { connections[shard]!.close() }
        if let earlyTimestamp {
            for shard in written { node.retire(earlyTimestamp, on: shard) }
        }
    }

    // MARK: Commit

    /// Commits; `then` is called once with what the client is to be told.
    func commit(then: @escaping (Coordinator.Answer) -> Void) {
        node.whenActive { [self] in choose(then: then) }
    }

    private func choose(then: @escaping (Coordinator.Answer) -> Void) {
        do {
            let now = try node.clock.now()
            let timestamp = earlyTimestamp ?? node.tracker.choose(at: now, writing: written)
            guard let home = written.first else { return release(at: timestamp, then: then) }
            answer = then
            let id = TransactionID(home: home, epoch: node.epoch, commitTimestamp: timestamp)
            node.live.insert(id)
            node.note("commits", number: number, timestamp: timestamp)
            coordinator = Coordinator(
                id: id, participants: Array(written.dropFirst()), readers: shards.filter { !written.contains($0) })
            perform(coordinator!.commitRequested())
            node.after(node.cluster.conditions.commitTimeoutNanoseconds) { [self] in
                feed { $0.gaveUp(because: TransactionError(.queryCanceled, "the commit took too long")) }
            }
        } catch {
            node.cluster.counts.clockRefusals += 1
            rollback()
            then(.failed(error.transactionError))
        }
    }

    /// A transaction that wrote nothing but holds read locks still has a place in the order: what it saw under them may
    /// not be acknowledged yet, and a strong read after it must not miss that.
    private func release(at timestamp: Timestamp, then: @escaping (Coordinator.Answer) -> Void) {
        node.note("commits without a write", number: number, timestamp: timestamp)
        node.waitOut(timestamp) { [self] result in
            switch result {
            case .success:
                confirmAll(shards[...]) { [self] error in
                    if error == nil { node.tracker.acknowledged(timestamp) }
                    then(error.map { .failed($0) } ?? .committed(timestamp))
                    rollback()
                }
            case .failure(let error):
                then(.failed(error.transactionError))
                rollback()
            }
        }
    }

    private func confirmAll(_ shards: ArraySlice<ShardID>, then: @escaping (TransactionError?) -> Void) {
        guard let shard = shards.first, node.bug != .readLocksUnconfirmed else { return then(nil) }
        connections[shard]!.run([.confirm]) { [self] result in
            if case .failure(let failure) = result { return then(failure.error) }
            confirmAll(shards.dropFirst(), then: then)
        }
    }

    /// Hands an input to the coordinator and carries out what it orders.
    private func feed(_ input: (inout Coordinator) -> [Coordinator.Action]) {
        guard coordinator != nil else { return }
        perform(input(&coordinator!))
        if case .finished = coordinator!.state { node.live.remove(coordinator!.id) }
    }

    private func perform(_ actions: [Coordinator.Action]) {
        for action in actions { perform(action) }
    }

    private func perform(_ action: Coordinator.Action) {
        let id = coordinator!.id
        switch action {
        case .waitOut(let timestamp): waitOut(timestamp)
        case .prepare(let shard): prepare(shard)
        case .confirm(let shard): confirm(shard)
        case .commitHome(let prepared): commitHome(prepared)
        case .findDecision:
            node.findDecision(of: id) { [self] decided in feed { $0.decisionFound(decided.decision) } }
        case .retire(let shard):
            // Peers that are told may show it to clients, who go on to read elsewhere (R9).
            if isCommitted, node.bug != .visibleUnacknowledged { node.tracker.acknowledged(id.commitTimestamp) }
            node.retire(id.commitTimestamp, on: shard)
        case .answer(let answer): tell(answer)
        case .apply(let decided, let shard):
            if node.bug == .retireBeforeApplied { node.retire(id.commitTimestamp, on: shard) }
            node.apply(decided, on: shard) { [self] in feed { $0.applied(on: shard) } }
        case .rollback(let shard), .release(let shard): connections[shard]?.close()
        }
    }

    private var isCommitted: Bool {
        switch coordinator!.state {
        case .settling(.commit, _, _), .finished(.commit): true
        default: false
        }
    }

    private func waitOut(_ timestamp: Timestamp) {
        if node.bug == .skipCommitWait {
            let lie = TimestampInterval(earliest: timestamp.successor, latest: timestamp.successor)
            guard case .passed(let passed) = CommitWait(until: timestamp).progress(at: lie) else { return }
            return node.after(0) { [self] in feed { $0.commitWaitEnded(passed) } }
        }
        node.waitOut(timestamp) { [self] result in
            feed { coordinator in
                switch result {
                case .success(let passed): coordinator.commitWaitEnded(passed)
                case .failure(let error): coordinator.gaveUp(because: error.transactionError)
                }
            }
        }
    }

    private func prepare(_ shard: ShardID) {
        let id = coordinator!.id
        if node.bug == .commitHomeBeforeAllVotes {
            node.after(0) { [self] in feed { $0.voteReceived(.prepared, from: shard) } }
        }
        connections[shard]!.run([.logCommit(id), .prepare(id)]) { [self] result in
            connections[shard]!.close()
            feed { coordinator in
                switch result {
                case .success: coordinator.voteReceived(.prepared, from: shard)
                case .failure(.refused(let error, _)): coordinator.voteReceived(.refused(error), from: shard)
                case .failure(.lost(let error)): coordinator.voteReceived(.lost(error), from: shard)
                }
            }
        }
    }

    private func confirm(_ shard: ShardID) {
        guard node.bug != .readLocksUnconfirmed else {
            return node.after(0) { [self] in feed { $0.confirmed(.held, by: shard) } }
        }
        connections[shard]!.run([.confirm]) { [self] result in
            feed { coordinator in
                switch result {
                case .success: coordinator.confirmed(.held, by: shard)
                case .failure(let failure): coordinator.confirmed(.lost(failure.error), by: shard)
                }
            }
        }
    }

    private func commitHome(_ prepared: PreparedTransaction) {
        let id = prepared.id
        node.note("sends COMMIT home", number: number, timestamp: id.commitTimestamp)
        if node.bug == .acknowledgeBeforeDecision { tell(.committed(id.commitTimestamp)) }
        if node.bug == .applyBeforeDecision {
            for shard in coordinator!.participants { node.run([.commitPrepared(id)], on: shard) { _ in } }
        }
        connections[id.home]!.run([.logCommit(id), .commit]) { [self] result in
            connections[id.home]!.close()
            feed { coordinator in
                switch result {
                case .success: return coordinator.homeAnswered(.committed)
                case .failure(.refused(let error, _)): return coordinator.homeAnswered(.refused(error))
                case .failure(.lost(let error)):
                    node.cluster.counts.answersLost += 1
                    node.note("lost the answer to COMMIT", number: number, timestamp: id.commitTimestamp)
                    let isRefusal = node.bug == .lostAnswerMeansAborted
                    return coordinator.homeAnswered(isRefusal ? .refused(error) : .lost(error))
                }
            }
        }
        node.cluster.onCommitSent(node, id.home)
    }

    private func tell(_ answer: Coordinator.Answer) {
        if case .committed(let timestamp) = answer { node.tracker.acknowledged(timestamp) }
        self.answer(answer)
    }
}
