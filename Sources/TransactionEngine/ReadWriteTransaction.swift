import EventLoops
import ShardBackend
import TransactionCore

/// What a pooled session is told before a client's statements run on it: its settings, for example. It runs outside the
/// client's transaction, so that a rollback leaves it alone. Called on the session's event loop.
public typealias SessionPreparation = @Sendable (ShardConnection) -> [SQLStatement]

/// A read-write transaction: statements on shards that the caller names, then one commit or rollback.
///
/// Each shard it touches gives it one connection, on which a PostgreSQL transaction at READ COMMITTED runs. What makes
/// the whole strictly serializable is that **every statement locks what it reads and writes** (DESIGN section 4), and
/// that is the caller's part: read by `SELECT … FOR SHARE` or `FOR UPDATE`, and lock what an UPDATE's condition looked
/// at and did not change. Lock in one order everywhere (by shard, then by key), or transactions that wait for each
/// other on two shards end by their statement timeout.
///
/// Statements on different shards may run at the same time; on one shard they run one after the other.
public actor ReadWriteTransaction: LockOwner, LoopActor {
    /// The session of this transaction on one shard.
    struct Session {
        let shard: ShardID
        let connection: ShardConnection
        /// The server process behind it.
        let process: Int32
        /// The transaction's number.
        let owner: UInt64
        var isWritten: Bool
        /// It outlives the transaction; see ``PinnedSession``.
        var isPinned: Bool
        /// PostgreSQL prepares no transaction that has notified.
        var hasNotified = false

        init(shard: ShardID, connection: ShardConnection, owner: UInt64, isWritten: Bool, isPinned: Bool = false) {
            (self.shard, self.connection, self.isWritten) = (shard, connection, isWritten)
            (self.owner, self.isPinned) = (owner, isPinned)
            process = connection.onLoop { $0.processID }
        }

        /// PREPARE TRANSACTION would be refused: if the shard is written, it is to be the home shard, which commits
        /// without.
        var isUnpreparable: Bool { isPinned || hasNotified }
    }

    private enum Phase {
        case open
        /// A statement failed: ``rollback(to:)`` and ``rollback()`` are left.
        case failed(TransactionError)
        case ended
    }

    /// The later a transaction begins, the larger.
    nonisolated let number: UInt64
    let engine: TransactionEngine
    private let preparation: SessionPreparation?
    private var pinned: PinnedSession?
    private var phase = Phase.open
    private var sessions: [Session] = []
    private var connecting: Set<ShardID> = []
    private var statementsUnderWay = 0
    /// Why what it waits for was called off.
    private var calledOff: TransactionError?
    /// The names of the savepoints, oldest first; the server quotes nothing, so they are quoted already.
    private var savepoints: [String] = []
    /// How often it was rolled back to one.
    private(set) var rollbackCount = 0
    private var cursors: [String: OpenCursor] = [:]

    /// A cursor that statements of the caller's have declared in the transaction's sessions.
    private struct OpenCursor {
        /// Where it is open.
        var shards: Set<ShardID>
        /// How many savepoints there were when it was declared: it goes with the part that a rollback undoes.
        var depth: Int
        /// Nobody needs it any more: a shard is told with the next statement there.
        var isUnneeded = false
    }

    public nonisolated var loop: EventLoop { engine.loop }
    public nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    init(engine: TransactionEngine, number: UInt64, preparation: SessionPreparation?, pinned: PinnedSession?) {
        self.engine = engine
        self.number = number
        self.preparation = preparation
        self.pinned = pinned
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

    /// Runs statements that lock what they read on `shard` and write nothing, in one round trip.
    public func lockingRead(
        _ statements: [SQLStatement], on shard: ShardID
    ) async throws(TransactionError) -> [SQLResult] {
        try await run(statements, on: shard, isWrite: false)
    }

    /// Notifies those who listen to `channel`, when the transaction commits: PostgreSQL's NOTIFY on `shard`.
    ///
    /// All such of one transaction, and what is pinned, must be on one shard.
    public func notify(
        _ channel: String, _ payload: String, on shard: ShardID
    ) async throws(TransactionError) {
        let call = SQLStatement("SELECT pg_catalog.pg_notify($1, $2)", [.text(channel), .text(payload)])
        _ = try await run([call], on: shard, isWrite: true)
        if let index = sessions.firstIndex(where: { $0.shard == shard }) { sessions[index].hasNotified = true }
    }

    /// Keeps the transaction's session on `shard` beyond the transaction, to be let go by
    /// ``TransactionEngine/unpin(_:)`` when this has ended.
    public func pin(on shard: ShardID) async throws(TransactionError) -> PinnedSession {
        if let pinned { return pinned }
        try await engine.pinOne()
        guard let index = sessions.firstIndex(where: { $0.shard == shard }) else {
            preconditionFailure("transaction \(number) has no session on shard \(shard) to pin")
        }
        sessions[index].isPinned = true
        let session = PinnedSession(shard: shard, connection: sessions[index].connection)
        pinned = session
        return session
    }

    /// The shards that the transaction has a session on.
    public var shards: [ShardID] { sessions.map(\.shard) }

    /// Notes that the sessions' settings are others from here on; see ``ShardConnection/appliedSettings``.
    public func setAppliedSettings(_ fingerprint: UInt64) {
        for session in sessions { session.connection.onLoop { $0.setAppliedSettings(fingerprint) } }
    }

    // MARK: Savepoints

    /// Sets a savepoint on every shard, those that the transaction comes to later among them.
    ///
    /// - Parameter name: as it stands in SQL, quoted where it must be.
    public func savepoint(_ name: String) async throws(TransactionError) {
        for shard in shards { _ = try await run([SQLStatement("SAVEPOINT \(name)")], on: shard, isWrite: false) }
        savepoints.append(name)
    }

    /// Forgets a savepoint, and those after it.
    public func release(_ name: String) async throws(TransactionError) {
        guard let index = savepoints.lastIndex(of: name) else { throw Self.noSavepoint(name) }
        for shard in shards {
            _ = try await run([SQLStatement("RELEASE SAVEPOINT \(name)")], on: shard, isWrite: false)
        }
        savepoints.removeSubrange(index...)
        for name in cursors.keys { cursors[name]!.depth = min(cursors[name]!.depth, index) }
    }

    /// Undoes what was done since a savepoint, also after a statement has failed. The savepoint stays.
    ///
    /// The shards give up the locks taken since: what was read under them has to be locked and compared again by the
    /// caller (DESIGN section 4).
    public func rollback(to name: String) async throws(TransactionError) {
        if case .ended = phase { throw Self.ended }
        guard let index = savepoints.lastIndex(of: name) else { throw Self.noSavepoint(name) }
        phase = .open
        rollbackCount += 1
        cursors = cursors.filter { $0.value.depth <= index }
        for shard in shards {
            // Where a statement has failed, nothing can be run before it.
            let statements = [SQLStatement("ROLLBACK TO SAVEPOINT \(name)")] + takeClosings(on: shard)
            _ = try await run(statements, on: shard, isWrite: false)
        }
        savepoints.removeSubrange((index + 1)...)
    }

    private static func noSavepoint(_ name: String) -> TransactionError {
        TransactionError(.invalidSavepoint, "savepoint \(name) does not exist")
    }

    // MARK: Cursors

    /// A cursor of that name is being declared on `shards`, by the statements that follow.
    public func declares(cursor name: String, on shards: [ShardID]) {
        cursors[name] = OpenCursor(shards: Set(shards), depth: savepoints.count)
    }

    /// A cursor is not needed any more. Each shard closes it before the transaction's next statement there, which may
    /// be one that an open cursor would be in the way of (55006); at the end of the transaction it closes by itself.
    public func unneeded(cursor name: String) { cursors[name]?.isUnneeded = true }

    /// What closes the cursors on `shard` that nobody needs.
    private func takeClosings(on shard: ShardID) -> [SQLStatement] {
        guard !cursors.isEmpty else { return [] }
        let names = cursors.filter { $0.value.isUnneeded && $0.value.shards.contains(shard) }.keys.sorted()
        for name in names { cursors[name]!.shards.remove(shard) }
        return names.map { SQLStatement("CLOSE \($0)", isPrepared: false) }
    }

    // MARK: End

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

    /// Commits a transaction that has touched nothing but what is in its pinned session: it is in no order with others.
    public func commitUnordered() async throws(TransactionError) {
        guard case .open = phase, statementsUnderWay == 0, !sessions.contains(where: \.isWritten) else {
            _ = try await commit()
            return
        }
        phase = .ended
        try await engine.commitUnordered(sessions)
    }

    /// Rolls back on every shard. Does nothing when the transaction has ended.
    public func rollback() async {
        if case .ended = phase { return }
        phase = .ended
        await engine.rollback(sessions)
    }

    /// What a statement takes and returns, by one of the transaction's own sessions; nil while it has none.
    ///
    /// Describing a change takes a lock on its table, which may be waited for: another session would wait for this
    /// transaction's own locks, and in nobody's sight for those of others.
    public func describe(_ statement: SQLStatement) async throws(TransactionError) -> StatementDescription? {
        // Temporary tables are there alone where the session is pinned.
        guard let shard = pinned?.shard ?? sessions.first?.shard else { return nil }
        let engine = engine
        return try await perform(on: shard, isWrite: false) { session, prologue throws(TransactionError) in
            if !prologue.isEmpty { _ = try await engine.run(prologue, on: session) }
            return try await engine.describe(statement, on: session)
        }
    }

    private func run(
        _ statements: [SQLStatement], on shard: ShardID, isWrite: Bool
    ) async throws(TransactionError) -> [SQLResult] {
        let engine = engine
        return try await perform(on: shard, isWrite: isWrite) { session, prologue throws(TransactionError) in
            guard !prologue.isEmpty else { return try await engine.run(statements, on: session) }
            return Array(try await engine.run(prologue + statements, on: session).dropFirst(prologue.count))
        }
    }

    /// Runs `body` as a statement of the transaction, with the session on `shard` and what must be sent there first.
    func perform<Value: Sendable>(
        on shard: ShardID, isWrite: Bool,
        _ body: (Session, _ prologue: [SQLStatement]) async throws(TransactionError) -> Value
    ) async throws(TransactionError) -> Value {
        try statementBegins()
        do throws(TransactionError) {
            let value: Value
            if let index = sessions.firstIndex(where: { $0.shard == shard }) {
                sessions[index].isWritten = sessions[index].isWritten || isWrite
                value = try await body(sessions[index], takeClosings(on: shard))
            } else {
                let session = try await open(on: shard, isWrite: isWrite)
                value = try await body(session, [Self.begin] + savepoints.map { SQLStatement("SAVEPOINT \($0)") })
            }
            statementsUnderWay -= 1
            return value
        } catch {
            throw statementFailed(error)
        }
    }

    /// A statement is under way from here on, until it has ended or failed.
    func statementBegins() throws(TransactionError) {
        switch phase {
        case .ended: throw Self.ended
        case .failed(let error):
            throw TransactionError(
                .inFailedTransaction, "the transaction is aborted, commands are ignored until it is rolled back",
                detail: "a statement had failed: \(error.message)")
        case .open: statementsUnderWay += 1
        }
    }

    func statementEnded() { statementsUnderWay -= 1 }

    /// Returns the reason why the statement failed.
    @discardableResult
    func statementFailed(_ error: TransactionError) -> TransactionError {
        statementsUnderWay -= 1
        let reason = error.sqlState == .queryCanceled ? calledOff ?? error : error
        calledOff = nil
        if case .open = phase { phase = .failed(reason) }
        return reason
    }

    /// Ends the waits of the transaction's statements; they fail with `reason`.
    func abortWaiting(because reason: TransactionError) async {
        guard statementsUnderWay > 0 else { return }
        calledOff = reason
        for session in sessions { await session.connection.cancel() }
    }

    /// Opens the session on `shard`; BEGIN goes in one round trip with the first statements.
    private func open(on shard: ShardID, isWrite: Bool) async throws(TransactionError) -> Session {
        guard connecting.insert(shard).inserted else {
            throw TransactionError(
                .objectNotInPrerequisiteState, "two statements of one transaction at the same time on shard \(shard)",
                hint: "wait for the first one", shard: shard)
        }
        defer { connecting.remove(shard) }
        let kept = pinned.flatMap { $0.shard == shard ? $0.connection : nil }
        let connection: ShardConnection = if let kept { kept } else { try await engine.leaseWriter(on: shard) }
        let session = Session(
            shard: shard, connection: connection, owner: number, isWritten: isWrite, isPinned: kept != nil)
        guard case .open = phase else {
            // Another statement failed meanwhile and the transaction was rolled back without this session.
            await engine.rollback([session], endsTransaction: false)
            throw Self.ended
        }
        sessions.append(session)
        await engine.sessionOpened(session.process, on: shard, by: self)
        try await engine.prepare(session.connection, by: preparation, for: shard)
        return session
    }

    /// The session's defaults say the rest: ``Statement/writeByDefault``.
    private static let begin = SQLStatement("BEGIN")
    private static let ended = TransactionError(
        .inFailedTransaction, "the transaction has ended", hint: "begin a new transaction")
}
