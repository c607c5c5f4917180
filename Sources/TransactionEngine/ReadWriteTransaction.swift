import ShardBackend
import TransactionCore

/// A read-write transaction: statements on shards that the caller names, then one commit or rollback.
///
/// Each shard it touches gives it one connection, on which a PostgreSQL transaction at READ COMMITTED runs. What makes
/// the whole strictly serializable is that **every statement locks what it reads and writes** (DESIGN section 4), and
/// that is the caller's part: read by `SELECT … FOR SHARE` or `FOR UPDATE`, and lock what an UPDATE's condition looked
/// at and did not change. Lock in one order everywhere (by shard, then by key), or transactions that wait for each
/// other on two shards end by their statement timeout.
///
/// Statements on different shards may run at the same time; on one shard they run one after the other.
public actor ReadWriteTransaction {
    /// The session of this transaction on one shard.
    struct Session {
        let shard: ShardID
        let connection: ShardConnection
        var isWritten: Bool
    }

    private enum Phase {
        case open
        /// A statement failed: only ``rollback()`` is left.
        case failed(TransactionError)
        case ended
    }

    private let engine: TransactionEngine
    private var phase = Phase.open
    private var sessions: [Session] = []
    private var connecting: Set<ShardID> = []
    private var statementsUnderWay = 0

    public nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    init(engine: TransactionEngine) {
        self.engine = engine
    }

    /// Runs statements that may write on `shard`, in one round trip.
    ///
    /// - Throws: ``TransactionError``; the transaction can then only be rolled back.
    public func execute(_ statements: [SQLStatement], on shard: ShardID) async throws(TransactionError) -> [SQLResult] {
        try await run(statements, on: shard, isWrite: true)
    }

    /// Runs one statement that may write on `shard`.
    public func execute(_ statement: SQLStatement, on shard: ShardID) async throws(TransactionError) -> SQLResult {
        try await run([statement], on: shard, isWrite: true)[0]
    }

    /// Runs a statement that locks what it reads on `shard` and writes nothing.
    public func lockingRead(_ statement: SQLStatement, on shard: ShardID) async throws(TransactionError) -> SQLResult {
        try await run([statement], on: shard, isWrite: false)[0]
    }

    /// Commits on every shard that was written, or on none.
    ///
    /// Returns when the client may be told: the commit timestamp has passed and every later read sees the transaction.
    ///
    /// - Returns: the commit timestamp.
    /// - Throws: ``TransactionError``, whose ``TransactionError/outcome`` tells what is known.
    public func commit() async throws(TransactionError) -> Timestamp {
        switch phase {
        case .ended: throw Self.ended
        case .failed(let error):
            await rollback()
            throw TransactionError(
                error.isRetryable ? error.sqlState : .inFailedTransaction, "the transaction was rolled back",
                detail: "a statement had failed: \(error.message)", hint: "roll back after a statement has failed")
        case .open: break
        }
        guard statementsUnderWay == 0 else {
            // The timestamp is chosen when all locks are held (R1), and a statement may still wait for one.
            throw TransactionError(
                .objectNotInPrerequisiteState, "a statement of the transaction is still under way",
                hint: "wait for it, then commit")
        }
        phase = .ended
        return try await engine.commit(sessions)
    }

    /// Rolls back on every shard. Does nothing when the transaction has ended.
    public func rollback() async {
        if case .ended = phase { return }
        phase = .ended
        await engine.rollback(sessions)
    }

    private func run(
        _ statements: [SQLStatement], on shard: ShardID, isWrite: Bool
    ) async throws(TransactionError) -> [SQLResult] {
        switch phase {
        case .ended: throw Self.ended
        case .failed(let error):
            throw TransactionError(
                .inFailedTransaction, "the transaction is aborted, commands are ignored until it is rolled back",
                detail: "a statement had failed: \(error.message)")
        case .open: break
        }
        statementsUnderWay += 1
        defer { statementsUnderWay -= 1 }
        do throws(TransactionError) {
            if let index = sessions.firstIndex(where: { $0.shard == shard }) {
                sessions[index].isWritten = sessions[index].isWritten || isWrite
                return try await engine.run(statements, on: sessions[index])
            }
            return try await begin(on: shard, isWrite: isWrite, running: statements)
        } catch {
            if case .open = phase { phase = .failed(error) }
            throw error
        }
    }

    /// Opens the session on `shard`; BEGIN goes in one round trip with the first statements.
    private func begin(
        on shard: ShardID, isWrite: Bool, running statements: [SQLStatement]
    ) async throws(TransactionError) -> [SQLResult] {
        guard connecting.insert(shard).inserted else {
            throw TransactionError(
                .objectNotInPrerequisiteState, "two statements of one transaction at the same time on shard \(shard)",
                hint: "wait for the first one", shard: shard)
        }
        let session = Session(shard: shard, connection: try await engine.leaseWriter(on: shard), isWritten: isWrite)
        connecting.remove(shard)
        guard case .open = phase else {
            // Another statement failed meanwhile and the transaction was rolled back without this session.
            await engine.rollback([session], endsTransaction: false)
            throw Self.ended
        }
        sessions.append(session)
        let results = try await engine.run([Self.begin] + statements, on: session)
        return Array(results.dropFirst())
    }

    /// The session's defaults say the rest: ``Statement/writeByDefault``.
    private static let begin = SQLStatement("BEGIN")
    private static let ended = TransactionError(
        .inFailedTransaction, "the transaction has ended", hint: "begin a new transaction")
}
