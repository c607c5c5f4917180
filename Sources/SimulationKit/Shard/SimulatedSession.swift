import TransactionCore
import TwoPhaseCommit

/// A transaction open on a shard.
final class ShardTransaction {
    /// Names it as the owner of its locks.
    let owner: Int
    var writes = Writes()

    init(owner: Int) {
        self.owner = owner
    }
}

/// A server process of a shard: carries out the pipelines of one connection, one after the other.
final class SimulatedSession {
    /// Whether the session is to end, and when.
    private enum Ending {
        case none
        /// When everything that has arrived is carried out: the other side is gone.
        case whenIdle
        /// When nothing is being flushed: the server was told to.
        case now
    }

    private unowned let shard: SimulatedShard
    /// Owns the locks that outlive transactions.
    let owner: Int
    var incarnation: Incarnation?
    var transaction: ShardTransaction?
    /// An error ended the transaction's work; only ROLLBACK is heard.
    var isFailed = false
    var snapshot: Int?
    private(set) var hasEnded = false
    private var pipelines: [(statements: [Statement], reply: (PipelineResult) -> Void)] = []
    private var isBusy = false
    /// A flush is under way, which nothing interrupts.
    var isFlushing = false
    private var ending = Ending.none
    private let onEnd: () -> Void

    init(shard: SimulatedShard, owner: Int, onEnd: @escaping () -> Void) {
        self.shard = shard
        self.owner = owner
        self.onEnd = onEnd
    }

    /// A pipeline of statements has arrived.
    func received(_ statements: [Statement], reply: @escaping (PipelineResult) -> Void) {
        guard !hasEnded else { return }
        pipelines.append((statements, reply))
        startNext()
    }

    /// The other side is gone: what has arrived is still carried out, an open transaction then rolled back.
    func disconnected() {
        if ending == .none { ending = .whenIdle }
        if !isBusy { end() }
    }

    /// The server ends the session, between statements or while one waits, but not during a flush.
    func terminate() {
        ending = .now
        if !isFlushing { end() }
    }

    /// The server is gone.
    func crashed() {
        hasEnded = true
        onEnd()
    }

    private func startNext() {
        guard !isBusy, !hasEnded else { return }
        guard !pipelines.isEmpty else {
            if ending == .whenIdle { end() }
            return
        }
        isBusy = true
        let (statements, reply) = pipelines.removeFirst()
        shard.afterServiceTime { [self] in
            run(statements[...], answers: []) { [self] result in
                isBusy = false
                reply(result)
                startNext()
            }
        }
    }

    private func run(
        _ statements: ArraySlice<Statement>, answers: [Answer], then finish: @escaping (PipelineResult) -> Void
    ) {
        guard !hasEnded else { return }
        guard let statement = statements.first else { return finish(.success(answers)) }
        shard.perform(statement, in: self) { [self] result in
            guard !hasEnded else { return }
            // Told to end during a flush: that is finished, and nothing more is heard or said.
            guard ending != .now else { return end() }
            switch result {
            case .success(let answer):
                run(statements.dropFirst(), answers: answers + [answer], then: finish)
            case .failure(let error):
                isFailed = transaction != nil
                finish(.failure(.refused(error, statement: answers.count)))
            }
        }
    }

    private func end() {
        guard !hasEnded else { return }
        hasEnded = true
        if let transaction { shard.release(transaction.owner) }
        transaction = nil
        shard.release(owner)
        shard.sessionEnded(self)
        onEnd()
    }
}
