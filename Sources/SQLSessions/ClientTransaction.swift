import EventLoops
import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

/// A client's transaction, strictly serializable (DESIGN section 4).
///
/// 1. Before the first write or explicit lock it reads at one snapshot timestamp, without locks. What it read is
///    remembered.
/// 2. At the first write it turns to locking: the reads so far are done again under locks and must give the same rows,
///    else 40001. From then on reads lock.
/// 3. A ROLLBACK TO gives locks up: what was read since the savepoint is locked and compared again.
///
/// All locks are held until the transaction's end, so its timestamp, chosen then, is right for all it read and wrote.
actor ClientTransaction: LoopActor {
    struct Modes: Sendable {
        var isReadOnly = false
        /// Several statements may follow: reads must be remembered.
        var isBlock: Bool
        var bound = ReadBound.strong
    }

    let engine: TransactionEngine
    private let catalogs: SchemaCatalog
    let modes: Modes
    private let applied: AppliedSettings
    /// Is told what a session's server says without being asked.
    private let notices: @Sendable (ShardConnection, PostgresErrorFields) -> Void
    private(set) var settings: SessionSettings
    /// The catalog as the transaction itself has changed it.
    private(set) var ownCatalog: Catalog?
    private(set) var snapshot: Snapshot?
    /// What is the client's own on one shard, temporary tables.
    private var pinned: PinnedSession?
    /// The transaction's sessions on the shards. Until it locks, they are for what is the client's own.
    private(set) var sessions: ReadWriteTransaction?
    private(set) var isLocking = false
    /// The sessions, once reads lock.
    var writer: ReadWriteTransaction? { isLocking ? sessions : nil }
    var reads: [RecordedRead] = []
    /// With the number of reads whose locks going back to it would not give up.
    var savepoints: [(name: String, readCount: Int)] = []
    /// The reads before the first lock have been found unchanged under locks.
    var isValidated = false
    /// Something that was read is no more: the transaction can't commit, to whatever savepoint it goes back.
    var changed: TransactionError?
    /// What was quiet before the statement that runs, or before an earlier one.
    var quietBefore: TransactionEngine.QuietShards?
    /// A statement has failed: with it the shards have given up the locks since a savepoint. Until a rollback to one no
    /// other statement runs.
    var hasFailed = false
    private var portalCount = 0
    /// What statements were planned by, with the tables that they used.
    private var plannedBy: [(catalog: Catalog, tables: Set<TableName>)] = []

    nonisolated var loop: EventLoop { engine.loop }
    nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    init(
        _ engine: TransactionEngine, _ catalogs: SchemaCatalog, _ modes: Modes, in pinned: PinnedSession?,
        settings: SessionSettings, applied: AppliedSettings,
        notices: @escaping @Sendable (ShardConnection, PostgresErrorFields) -> Void
    ) {
        self.engine = engine
        self.catalogs = catalogs
        (self.modes, self.pinned) = (modes, pinned)
        (self.settings, self.applied, self.notices) = (settings, applied, notices)
    }

    var preparation: SessionPreparation {
        let (settings, applied, notices) = (settings, applied, notices)
        return { connection in
            // Until the pool has it back.
            connection.onLoop { $0.setNoticeHandler { [unowned connection] in notices(connection, $0) } }
            return applied.statements(bringing: connection, to: settings)
        }
    }

    /// A setting was changed; the sessions that the transaction has already are told too, until its end.
    func changeSettings(_ settings: SessionSettings, _ name: String, _ value: String) async throws(TransactionError) {
        self.settings = settings
        guard let sessions else { return }
        await sessions.setAppliedSettings(fingerprint())
        let statement = SQLStatement("SELECT set_config($1, $2, true)", [.text(name), .text(value)])
        for shard in await sessions.shards { _ = try await sessions.lockingRead([statement], on: shard) }
    }

    // MARK: Statements

    /// Runs a query or a change of rows.
    func run(
        _ statement: BoundStatement, _ delivery: ResultDelivery = .whole
    ) async throws(TransactionError) -> StatementResult {
        try checkFunctions(of: statement)
        let sessions = try await sessions(for: statement)
        if statement.plan.isWrite, let sessions { return try await write(statement, in: sessions) }
        let quiet = await quietShards()
        do throws(TransactionError) {
            return try await read(statement, in: sessions, delivery)
        } catch {
            remember(error, of: statement, [], quiet)
            throw error
        }
    }

    /// Changes rows.
    private func write(
        _ statement: BoundStatement, in sessions: ReadWriteTransaction
    ) async throws(TransactionError) -> StatementResult {
        note(statement.catalog, statement.tables)
        let run = locking(sessions)
        let pieces = try await run.pieces(of: statement)
        let quiet = await quietShards()
        do throws(TransactionError) {
            let result = try await run.write(statement, pieces)
            if statement.plan.usesTemporaryTables {
                rememberFound(by: statement)
            } else if modes.isBlock, !savepoints.isEmpty {
                reads.append(
                    RecordedRead(statement: statement, extent: .answer(StatementAnswer(result), pieces, nil)))
            }
            return result
        } catch {
            remember(error, of: statement, pieces, quiet)
            throw error
        }
    }

    private func read(
        _ statement: BoundStatement, in sessions: ReadWriteTransaction?, _ delivery: ResultDelivery
    ) async throws(TransactionError) -> StatementResult {
        if sessions == nil, statement.readsNoTable, delivery == .whole || !statement.mayHaveManyRows {
            return StatementResult([try await evaluate(statement)])
        }
        note(statement.catalog, statement.tables)
        if delivery == .inPortions, let sessions {
            if let result = try await portions(of: statement, sessions) { return result }
        } else if delivery != .whole, !statement.hasFewRows, let stream = try await stream(statement, sessions) {
            return StatementResult(stream, fields: stream.fields)
        }
        let result: StatementResult
        if let sessions {
            result = try await locking(sessions).read(statement, lasting(statement))
        } else {
            result = try await snapshotRun().read(statement)
            guard await catalogs.stillPlaces(statement.tables, as: statement.catalog) else { throw Self.movedRows }
        }
        if isRemembered(statement) {
            reads.append(RecordedRead(statement: statement, extent: .all(result.digest)))
        } else if statement.plan.usesTemporaryTables {
            rememberFound(by: statement)
        }
        return result
    }

    /// The sessions that a statement runs in; nil for one that reads at the snapshot.
    ///
    /// Temporary tables are nobody else's: what uses nothing else needs no lock, and leaves the snapshot to the rest.
    func sessions(for statement: BoundStatement) async throws(TransactionError) -> ReadWriteTransaction? {
        let plan = statement.plan
        if plan.changesSharedTables { try checkMayWrite(plan.statement.text.prefix { $0.isLetter }.uppercased()) }
        try checkMayLockRows(statement)
        guard plan.usesTemporaryTables else {
            return statement.isLocking ? try await lockingTransaction(for: statement) : writer
        }
        if statement.tables.isEmpty, plan.views.isEmpty { return try await ownSessions() }
        guard !modes.isReadOnly, modes.bound == .strong else {
            throw TransactionError(
                .featureNotSupported,
                "other tables can't be read together with temporary ones in a read-only transaction",
                detail: "they are read at a snapshot, which temporary tables have no part in",
                hint: "copy what is needed of them into a temporary table first")
        }
        return try await lockingTransaction(for: statement.isLocking ? statement : nil)
    }

    /// What reads no table; where the client has temporary ones, with these in sight.
    private func evaluate(_ statement: BoundStatement) async throws(TransactionError) -> SQLResult {
        if let own = try await runInOwnSession(statement.sql) { return own }
        return try await engine.evaluate(
            ClientStatement(statement.sql, searchPath: settings.searchPath, preparation: preparation))
    }

    /// Runs what changes nothing in the session that the client keeps; nil when it keeps none.
    func runInOwnSession(_ sql: SQLStatement) async throws(TransactionError) -> SQLResult? {
        guard let pinned else { return nil }
        if let sessions { return try await sessions.lockingRead(sql, on: pinned.shard) }
        return try await engine.evaluate(
            ClientStatement(sql, searchPath: settings.searchPath, preparation: preparation), in: pinned)
    }

    /// Runs a statement that concerns the client's temporary relations alone, in a session that it keeps from then on.
    func runOwn(_ sql: SQLStatement) async throws(TransactionError) -> (result: SQLResult, session: PinnedSession) {
        let sessions = try await ownSessions()
        let shard = pinned?.shard ?? engine.shards[0]
        let result = try await sessions.lockingRead(sql, on: shard)
        let session = try await sessions.pin(on: shard)
        pinned = session
        return (result, session)
    }

    /// Notifies those who listen to a channel, with the commit.
    func notify(_ channel: String, _ payload: String) async throws(TransactionError) {
        // What the client says may rest on what it has read.
        let sessions = try await modes.isReadOnly ? ownSessions() : lockingTransaction()
        try await sessions.notify(channel, payload, on: engine.shards[0])
    }

    /// Runs a lone SELECT that locks rows; `unlocked` is the same without its locks.
    ///
    /// The locks end with it, so nobody can tell whether it had them: what is left of them is that it waits for those
    /// who have the rows (or fails at once, with NOWAIT), and that what it returns is the state at one timestamp, with
    /// what it waited for. Row locks do not make it that: rows that a transaction in flight has inserted can't be seen,
    /// and so not be waited for, though it may have been acknowledged; and what commits while the second of its shards
    /// is read would be seen there and not on the first. Locks on the tables would, and keep every writer away. So the
    /// rows are locked first, and then all is read at a snapshot: of a timestamp that was chosen when the locks were
    /// held, and is no smaller than any that was chosen for a commit before (R8, R9).
    func read(
        _ unlocked: BoundStatement, behindLocksOf statement: BoundStatement, _ delivery: ResultDelivery
    ) async throws(TransactionError) -> StatementResult {
        if try statement.isReadByKeys() { return try await run(statement, delivery) }
        try checkFunctions(of: statement)
        try checkMayLockRows(statement)
        note(statement.catalog, statement.tables)
        try await locking(try await lockingTransaction()).lockRows(of: statement)
        snapshot = try await engine.newestSnapshot()
        let run = try await snapshotRun()
        let result: StatementResult
        if delivery != .whole, !unlocked.hasFewRows, let stream = try await run.stream(unlocked, nil) {
            result = StatementResult(stream, fields: stream.fields)
        } else {
            result = try await run.read(unlocked)
        }
        guard await catalogs.stillPlaces(unlocked.tables, as: unlocked.catalog) else { throw Self.movedRows }
        return result
    }

    /// A read whose rows are handed on as they arrive; nil for one whose rows must be put together first.
    private func stream(
        _ statement: BoundStatement, _ sessions: ReadWriteTransaction?
    ) async throws(TransactionError) -> ResultStream? {
        guard isRemembered(statement) else {
            let stream = try await stream(statement, sessions, completion: nil)
            if stream != nil, statement.plan.usesTemporaryTables { rememberFound(by: statement) }
            return stream
        }
        // What the client has read in part counts from the first row on.
        let number = reads.count
        let stream = try await stream(statement, sessions) { digest in
            self.onLoop { $0.reads[number].extent = digest.map { .all($0) } ?? .broken }
        }
        // Under locks there is no snapshot to compare with.
        if stream != nil { reads.append(RecordedRead(statement: statement, extent: writer == nil ? .some : .broken)) }
        return stream
    }

    /// Rows under locks, so many at a time: the transaction's own session can't be kept waiting while it does something
    /// else. Nil when they are few or must be put together first.
    private func portions(
        of statement: BoundStatement, _ writer: ReadWriteTransaction
    ) async throws(TransactionError) -> StatementResult? {
        portalCount += 1
        let lasting = lasting(statement)
        let name = "meridian_portal_\(portalCount)"
        guard let cursor = try await locking(writer).cursor(statement, lasting, name: name) else { return nil }
        try await remember(statement)
        return StatementResult(cursor, fields: try await cursor.open(statement.resultFormat))
    }

    private func stream(
        _ statement: BoundStatement, _ sessions: ReadWriteTransaction?, completion: ResultStream.Completion?
    ) async throws(TransactionError) -> ResultStream? {
        if let sessions {
            return try await locking(sessions).stream(statement, lasting(statement), completion)
        }
        let stream = try await snapshotRun().stream(statement, completion)
        // The shards' snapshots have been taken by now.
        guard await catalogs.stillPlaces(statement.tables, as: statement.catalog) else { throw Self.movedRows }
        return stream
    }

    func snapshotRun() async throws(TransactionError) -> SnapshotRun {
        SnapshotRun(try await currentSnapshot(), engine, searchPath: settings.searchPath, preparation: preparation)
    }

    /// A SELECT … SKIP LOCKED tells of a table's rows those alone that it locks; of a lone one, nobody could notice
    /// that it would read something else the next time.
    func lasting(_ statement: BoundStatement) -> LockingRun.Lasting {
        if !statement.skipsLockedRows { .result } else { modes.isBlock ? .lockedRows : .nothing }
    }

    func locking(_ writer: ReadWriteTransaction) -> LockingRun { LockingRun(writer, engine, preparation) }

    /// The transaction under locks, what was read before it locked and found unchanged.
    ///
    /// What `statement` is about to change is locked before that, as strongly as the change needs it: a lock that is
    /// shared first and then made stronger makes two that change what they have read wait for each other, and where
    /// many do, the oldest for ever new ones.
    func lockingTransaction(
        for statement: BoundStatement? = nil
    ) async throws(TransactionError) -> ReadWriteTransaction {
        if let writer { return writer }
        let sessions = try await ownSessions()
        isLocking = true
        // What was read before a savepoint is locked after it only here: going back to it gives that up, too.
        for index in savepoints.indices { savepoints[index].readCount = 0 }
        if let statement, !reads.isEmpty { try await locking(sessions).lock(for: statement) }
        try await validate(reads[...])
        isValidated = true
        return sessions
    }

    /// The transaction's sessions, for what is the client's own: nothing is locked in them.
    func ownSessions() async throws(TransactionError) -> ReadWriteTransaction {
        if let sessions { return sessions }
        let sessions = try await engine.begin(preparing: preparation, in: pinned)
        self.sessions = sessions
        for savepoint in savepoints { try await sessions.savepoint(savepoint.name) }
        return sessions
    }

    /// The timestamp that the transaction reads at, chosen with its first read.
    func currentSnapshot() async throws(TransactionError) -> Snapshot {
        if let snapshot { return snapshot }
        let snapshot = try await engine.snapshot(modes.bound)
        self.snapshot = snapshot
        return snapshot
    }

    private static let movedRows = TransactionError(
        .serializationFailure, "rows were moved to other shards while a statement was reading them",
        hint: "the transaction might succeed if retried")

    func note(_ catalog: Catalog, _ tables: Set<TableName>) {
        guard !tables.isEmpty, catalog.version != .max else { return }
        if plannedBy.last?.catalog.version == catalog.version {
            plannedBy[plannedBy.count - 1].tables.formUnion(tables)
        } else {
            plannedBy.append((catalog, tables))
        }
    }

    func checkMayWrite(_ command: @autoclosure @Sendable () -> String) throws(TransactionError) {
        guard modes.isReadOnly || modes.bound != .strong else { return }
        throw TransactionError(
            .readOnlyTransaction, "cannot execute \(command()) in a read-only transaction",
            hint: modes.bound == .strong ? nil : "RESET meridian.read_staleness and meridian.read_timestamp to write")
    }

    private func checkMayLockRows(_ statement: BoundStatement) throws(TransactionError) {
        guard let lock = statement.plan.tables.compactMap(\.lock).max(by: { $0.strength < $1.strength }) else { return }
        try checkMayWrite("SELECT FOR \(lock.strength.words)")
    }

    /// What a statement takes and returns, as the transaction's own sessions see it; nil while it has none.
    func describe(_ statement: SQLStatement) async throws(TransactionError) -> StatementDescription? {
        guard let sessions else { return nil }
        return try await sessions.describe(statement)
    }

    /// Notes that a statement which was planned by `catalog` used `tables`.
    func used(_ catalog: Catalog, _ tables: [TableName]) { note(catalog, Set(tables)) }

    /// The transaction has changed the schema: reads what it is now, for its own statements.
    func schemaChanged() async throws(TransactionError) -> Catalog {
        guard let writer else { preconditionFailure("the schema was changed without a session") }
        let shard = engine.shards[0]
        let result = try await writer.lockingRead([SchemaCatalog.query], on: shard)
        let catalog = try catalogs.catalog(from: result[0], version: .max)
        ownCatalog = catalog
        await writer.setAppliedSettings(fingerprint())
        return catalog
    }

    private func fingerprint() -> UInt64 {
        ownCatalog == nil ? applied.fingerprint(of: settings) : applied.fingerprintOfOwnSchema()
    }

    /// A function may read tables of which its shard has only a part.
    func checkFunctions(of statement: BoundStatement) throws(TransactionError) {
        guard statement.catalog.buckets.shards.count > 1,
            let hidden = statement.plan.functions.first(where: { $0.trait == .unknown })
        else { return }
        throw TransactionError(
            .featureNotSupported, "function \(hidden.name) may read or write tables that are spread over shards",
            hint: "declare it IMMUTABLE if it reads no table, or write its statements into the transaction")
    }

    // MARK: End

    /// Commits; nil for a transaction that only read at its snapshot.
    func commit() async throws(TransactionError) -> Timestamp? {
        guard let writer else {
            try await sessions?.commitUnordered()
            return nil
        }
        for planned in plannedBy where await !catalogs.isCurrent(planned.catalog, tables: planned.tables) {
            await writer.rollback()
            throw TransactionError(
                .serializationFailure, "the schema changed while the transaction was running",
                hint: "the transaction might succeed if retried")
        }
        guard ownCatalog != nil else { return try await writer.commit() }
        return try await catalogs.commitChange(of: writer)
    }

    func rollback() async {
        await sessions?.rollback()
    }

    /// A statement has failed: without a savepoint to go back to, nothing of the transaction will ever commit, and
    /// whoever waits for its locks need not wait for the client's ROLLBACK.
    func statementFailed() async {
        if savepoints.isEmpty { await sessions?.rollback() }
        hasFailed = true
    }
}
