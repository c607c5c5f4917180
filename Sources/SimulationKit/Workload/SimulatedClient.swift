import TransactionCore
import TwoPhaseCommit

/// What clients remember of a run.
final class HistoryRecorder {
    var transactions: [TransactionRecord] = []
    var reads: [ReadRecord] = []
    /// Everything was read once more when all faults were mended.
    var hasFinalRead = false
    private var count = 0

    /// The number of the next transaction or read.
    func nextNumber() -> Int {
        count += 1
        return count
    }
}

/// A client: one transaction or read after the other, on a node that serves, and now and then on another.
final class SimulatedClient {
    let number: Int
    private unowned let cluster: SimulatedCluster
    private let recorder: HistoryRecorder
    private let workload: Workload
    private let thinkNanoseconds: ClosedRange<Nanoseconds>
    private var random: SeededGenerator
    private var node: SimulatedNode?
    /// How to end what is under way when its node is gone or silent.
    private var giveUp: (() -> Void)?
    /// No more is asked for.
    var isClosing = false
    private(set) var isIdle = true

    init(
        number: Int, cluster: SimulatedCluster, recorder: HistoryRecorder, workload: Workload,
        thinkNanoseconds: ClosedRange<Nanoseconds>
    ) {
        self.number = number
        self.cluster = cluster
        self.recorder = recorder
        self.workload = workload
        self.thinkNanoseconds = thinkNanoseconds
        self.random = cluster.scheduler.random.split()
    }

    private static let patienceNanoseconds: Nanoseconds = 600 * millisecond
    private static let latencyNanoseconds: ClosedRange<Nanoseconds> = 10 * microsecond...100 * microsecond

    /// The node is gone: what was under way there gets no answer.
    func nodeStopped(_ stopped: SimulatedNode) {
        if stopped === node { giveUp?() }
    }

    /// Asks for the next transaction or read after a while.
    func proceed() {
        isIdle = true
        guard !isClosing else { return }
        cluster.scheduler.after(random.delay(in: thinkNanoseconds)) { [self] in
            guard !isClosing else { return }
            let hasOneWriter = cluster.conditions.hasOneWriter
            if node == nil || node?.phase == .stopped || hasOneWriter || random.chance(0.3) { chooseNode() }
            guard let node else { return proceed() }
            isIdle = false
            let number = recorder.nextNumber()
            switch workload.operation(number: number, now: cluster.scheduler.now, random: &random) {
            case .transaction(let statements, let isGivenUp):
                let writer = hasOneWriter ? cluster.servingNodes.first { $0.id == cluster.nodeIDs[0] } : nil
                self.node = writer ?? node
                run(statements, isGivenUp: isGivenUp, number: number, on: writer ?? node)
            case .read(let keys, let bound): read(keys, bound: bound, number: number, on: node)
            }
        }
    }

    /// Looks at once whether another node shows as well what this client has just seen or been told.
    private func lookElsewhere(at keys: [RowKey]) {
        chooseNode()
        guard !isClosing, let node else { return proceed() }
        read(keys, bound: .strong, number: recorder.nextNumber(), on: node)
    }

    private func chooseNode() {
        let serving = cluster.servingNodes
        node = serving.count > 1 ? random.element(of: serving) : serving.first
    }

    /// Lets `body` happen at the node, a message later.
    private func send(to node: SimulatedNode, _ body: @escaping () -> Void) {
        cluster.scheduler.after(random.delay(in: Self.latencyNanoseconds)) { node.deliver(body) }
    }

    /// Returns what ends the operation, once, a message later.
    private func ending<Outcome>(_ onEnd: @escaping (Outcome) -> Void) -> (Outcome) -> Void {
        var isOver = false
        return { [self] outcome in
            cluster.scheduler.after(random.delay(in: Self.latencyNanoseconds)) { [self] in
                guard !isOver else { return }
                isOver = true
                giveUp = nil
                onEnd(outcome)
            }
        }
    }

    // MARK: Reads

    private func read(_ keys: [RowKey], bound: ReadBound, number: Int, on node: SimulatedNode) {
        let begun = cluster.scheduler.now
        let end = ending { [self] (result: SimulatedNode.ReadResult) in
            if case .success(let (timestamp, values)) = result {
                cluster.counts.reads += 1
                note("read", number, timestamp)
                recorder.reads.append(
                    ReadRecord(
                        number: number, client: self.number, bound: bound, begun: begun, ended: cluster.scheduler.now,
                        timestamp: timestamp,
                        observations: zip(keys, values).map { Observation(key: $0, value: $1) }))
                if bound != .strong, cluster.areSeveral, random.chance(0.7) { return lookElsewhere(at: keys) }
            }
            proceed()
        }
        setPatience { end(.failure(TransactionError(.queryCanceled, "no answer"))) }
        send(to: node) { node.read(keys, bound: bound, number: number, then: end) }
    }

    private func setPatience(_ giveUp: @escaping () -> Void) {
        self.giveUp = giveUp
        cluster.scheduler.after(Self.patienceNanoseconds, giveUp)
    }

    private func note(_ what: String, _ number: Int, _ timestamp: Timestamp? = nil) {
        cluster.scheduler.note(.client(self.number), what, number: number, timestamp: timestamp)
    }

    // MARK: Transactions

    /// How a transaction ended for its client.
    private enum Ending {
        case answered(Coordinator.Answer)
        case failed(TransactionError)
        case noAnswer
    }

    private func run(_ statements: [Statement], isGivenUp: Bool, number: Int, on node: SimulatedNode) {
        var record = TransactionRecord(number: number, client: self.number, begun: cluster.scheduler.now)
        record.written = statements.compactMap { if case .update(let key, _) = $0 { key } else { nil } }
        let index = recorder.transactions.count
        recorder.transactions.append(record)
        note("begins", number)

        var hasAskedForCommit = false
        let end = ending { [self] (ending: Ending) in
            switch ending {
            case .noAnswer where hasAskedForCommit: finish(index, .unknown)
            case .noAnswer: finish(index, .aborted(.connectionFailure))
            case .failed(let error): finish(index, .aborted(error.sqlState))
            case .answered(.committed(let timestamp)): finish(index, .committed(timestamp))
            case .answered(.failed(let error)):
                guard case .indeterminate(let id) = error.outcome else {
                    return finish(index, .aborted(error.sqlState))
                }
                recorder.transactions[index].outcome = .unknown
                note("was told that the outcome is unknown", number, id.commitTimestamp)
                cluster.counts.outcomesUnknown += 1
                ask(for: id, index: index)
            }
        }
        setPatience { end(.noAnswer) }
        send(to: node) { [self] in
            guard node.phase == .serving else { return end(.failed(node.notServing)) }
            let toWrite = Set(record.written.map(\.shard)).sorted()
            guard let transaction = try? SimulatedTransaction(node: node, number: number, toWrite: toWrite) else {
                return end(.failed(node.notServing))
            }
            run(statements[...], in: transaction, index: index) { error in
                if let error { return end(.failed(error)) }
                guard !isGivenUp else {
                    transaction.rollback()
                    return end(.failed(TransactionError(.queryCanceled, "the client rolled back")))
                }
                hasAskedForCommit = true
                transaction.commit { end(.answered($0)) }
            }
        }
    }

    private func run(
        _ statements: ArraySlice<Statement>, in transaction: SimulatedTransaction, index: Int,
        then: @escaping (TransactionError?) -> Void
    ) {
        guard let statement = statements.first else { return then(nil) }
        let key: RowKey
        switch statement {
        case .lock(let locked, _): key = locked
        case .update(let updated, _): key = updated
        default: return then(nil)
        }
        transaction.run(statement, on: key.shard) { [self] result in
            switch result {
            case .success(let value):
                if !recorder.transactions[index].observations.contains(where: { $0.key == key }) {
                    recorder.transactions[index].observations.append(Observation(key: key, value: value))
                }
                run(statements.dropFirst(), in: transaction, index: index, then: then)
            case .failure(let error):
                transaction.rollback()
                then(error)
            }
        }
    }

    private func finish(_ index: Int, _ outcome: TransactionRecord.Outcome) {
        recorder.transactions[index].outcome = outcome
        recorder.transactions[index].ended = cluster.scheduler.now
        let number = recorder.transactions[index].number
        switch outcome {
        case .committed(let timestamp):
            cluster.counts.transactionsCommitted += 1
            note("was told committed", number, timestamp)
        case .aborted(let state):
            cluster.counts.transactionsAborted += 1
            note("was told \(state)", number)
        case .unknown:
            cluster.counts.outcomesUnknown += 1
            note("got no answer", number)
        }
        proceed()
    }

    /// Asks what became of a transaction until somebody knows (R5).
    private func ask(for id: TransactionID, index: Int) {
        guard !isClosing else { return proceed() }
        cluster.scheduler.after(random.number(in: cluster.conditions.askingNanoseconds)) { [self] in
            chooseNode()
            guard let node else { return ask(for: id, index: index) }
            let end = ending { [self] (decision: Decision?) in
                guard let decision else { return ask(for: id, index: index) }
                recorder.transactions[index].resolution = decision
                recorder.transactions[index].ended = cluster.scheduler.now
                note("found: \(decision)", recorder.transactions[index].number, id.commitTimestamp)
                guard decision == .commit, cluster.areSeveral else { return proceed() }
                lookElsewhere(at: recorder.transactions[index].written)
            }
            setPatience { end(nil) }
            send(to: node) { node.outcome(of: id, then: end) }
        }
    }
}
