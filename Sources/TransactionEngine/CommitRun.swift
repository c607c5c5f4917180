import ShardBackend
import TransactionCore
import TwoPhaseCommit

/// A commit under way: the protocol's state, the sessions it commands, and the client that waits.
///
/// Only its engine's actor touches it.
final class CommitRun: @unchecked Sendable {
    let id: TransactionID
    var coordinator: Coordinator
    /// The sessions not given back to their pools yet.
    private(set) var sessions: [ReadWriteTransaction.Session]
    private(set) var answer: Result<Timestamp, TransactionError>?
    private var client: UnsafeContinuation<Result<Timestamp, TransactionError>, Never>?

    /// When the client asked for commit.
    let began: ContinuousClock.Instant
    /// When the last participant had voted; nil until then.
    var preparedAt: ContinuousClock.Instant?
    /// The transaction's place among the open ones was given up.
    var isClosed = false

    init(
        id: TransactionID, coordinator: Coordinator, sessions: [ReadWriteTransaction.Session],
        began: ContinuousClock.Instant
    ) {
        self.id = id
        self.coordinator = coordinator
        self.sessions = sessions
        self.began = began
        preparedAt = coordinator.participants.isEmpty ? began : nil
    }

    /// The decision is to commit.
    var isCommitted: Bool {
        switch coordinator.state {
        case .settling(.commit, _, _), .finished(.commit): true
        default: false
        }
    }

    func connection(to shard: ShardID) -> ShardConnection? {
        sessions.first { $0.shard == shard }?.connection
    }

    /// Takes the session on `shard` out, to be given back.
    func removeSession(on shard: ShardID) -> ReadWriteTransaction.Session? {
        sessions.firstIndex { $0.shard == shard }.map { sessions.remove(at: $0) }
    }

    func finish(with answer: Result<Timestamp, TransactionError>) {
        precondition(self.answer == nil, "transaction \(id) was answered twice")
        self.answer = answer
        client?.resume(returning: answer)
        client = nil
    }

    /// Registers the client; it gets the answer at once when there is one.
    func await(_ client: UnsafeContinuation<Result<Timestamp, TransactionError>, Never>) {
        if let answer { client.resume(returning: answer) } else { self.client = client }
    }
}
