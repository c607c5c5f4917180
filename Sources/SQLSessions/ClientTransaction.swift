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
actor ClientTransaction {
    struct Modes: Sendable {
        var isReadOnly = false
        /// Several statements may follow: reads must be remembered.
        var isBlock: Bool
        var bound = ReadBound.strong
    }

    private struct RecordedRead {
        let statement: BoundStatement
        let digest: RowsDigest
    }

    let engine: TransactionEngine
    private let catalogs: SchemaCatalog
    let modes: Modes
    private let applied: AppliedSettings
    private(set) var settings: SessionSettings
    /// The catalog as the transaction itself has changed it.
    private(set) var ownCatalog: Catalog?
    private(set) var snapshot: Snapshot?
    private(set) var writer: ReadWriteTransaction?
    private var reads: [RecordedRead] = []
    private var savepoints: [(name: String, readCount: Int)] = []
    /// What statements were planned by, with the tables that they used.
    private var plannedBy: [(catalog: Catalog, tables: Set<TableName>)] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    init(
        _ engine: TransactionEngine, _ catalogs: SchemaCatalog, _ modes: Modes, settings: SessionSettings,
        applied: AppliedSettings
    ) {
        self.engine = engine
        self.catalogs = catalogs
        self.modes = modes
        (self.settings, self.applied) = (settings, applied)
    }

    var preparation: SessionPreparation {
        let (settings, applied) = (settings, applied)
        return { applied.statements(bringing: $0, to: settings) }
    }

    /// A setting was changed; the sessions that the transaction has already are told too, until its end.
    func changeSettings(_ settings: SessionSettings, _ name: String, _ value: String) async throws(TransactionError) {
        self.settings = settings
        guard let writer else { return }
        await writer.setAppliedSettings(fingerprint())
        let statement = SQLStatement("SELECT set_config($1, $2, true)", [.text(name), .text(value)])
        for shard in await writer.shards { _ = try await writer.lockingRead([statement], on: shard) }
    }

    // MARK: Statements

    /// Runs a query or a change of rows.
    func run(_ statement: BoundStatement) async throws(TransactionError) -> StatementResult {
        try checkFunctions(of: statement)
        if statement.isLocking {
            if statement.plan.isWrite {
                try checkMayWrite(statement.plan.statement.text.prefix { $0.isLetter }.uppercased())
            }
            let writer = try await lockingTransaction(for: statement)
            note(statement.catalog, statement.tables)
            guard statement.plan.isWrite else {
                return try await LockingRun(writer, engine).read(statement, modes.isBlock)
            }
            return try await LockingRun(writer, engine).write(statement)
        }
        if writer == nil, statement.readsNoTable {
            return StatementResult([
                try await engine.evaluate(
                    ClientStatement(statement.sql, searchPath: settings.searchPath, preparation: preparation))
            ])
        }
        note(statement.catalog, statement.tables)
        let result: StatementResult
        if let writer {
            result = try await LockingRun(writer, engine).read(statement, true)
        } else {
            result = try await SnapshotRun(
                try await currentSnapshot(), engine, searchPath: settings.searchPath, preparation: preparation
            ).read(statement)
            guard await catalogs.stillPlaces(statement.tables, as: statement.catalog) else { throw Self.movedRows }
        }
        if modes.isBlock, !modes.isReadOnly, modes.bound == .strong, !statement.plan.tables.isEmpty {
            reads.append(RecordedRead(statement: statement, digest: result.digest))
        }
        return result
    }

    /// The transaction under locks, what was read before it locked and found unchanged.
    ///
    /// What `statement` is about to change is locked before that, as strongly as the change needs it: a lock that is
    /// shared first and then made stronger makes two that change what they have read wait for each other, and where
    /// many do, the oldest for ever new ones.
    func lockingTransaction(
        for statement: BoundStatement? = nil
    ) async throws(TransactionError) -> ReadWriteTransaction {
        if let writer { return writer }
        let writer = try await engine.begin(preparing: preparation)
        self.writer = writer
        for savepoint in savepoints { try await writer.savepoint(savepoint.name) }
        if let statement, !reads.isEmpty { try await LockingRun(writer, engine).lock(for: statement) }
        try await validate(reads[...])
        return writer
    }

    /// The timestamp that the transaction reads at, chosen with its first read.
    func currentSnapshot() async throws(TransactionError) -> Snapshot {
        if let snapshot { return snapshot }
        let snapshot = try await engine.snapshot(modes.bound)
        self.snapshot = snapshot
        return snapshot
    }

    private func validate(_ reads: ArraySlice<RecordedRead>) async throws(TransactionError) {
        guard let writer else { return }
        for read in reads {
            let again = try await LockingRun(writer, engine).read(read.statement, true)
            guard again.digest == read.digest else { throw Self.changedRead }
        }
    }

    private static let changedRead = TransactionError(
        .serializationFailure, "could not serialize access due to concurrent update",
        detail: "rows that the transaction had read were changed before it locked them",
        hint: "the transaction might succeed if retried")

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

    func checkMayWrite(_ command: String) throws(TransactionError) {
        guard modes.isReadOnly || modes.bound != .strong else { return }
        throw TransactionError(
            .readOnlyTransaction, "cannot execute \(command) in a read-only transaction",
            hint: modes.bound == .strong ? nil : "RESET meridian.read_staleness and meridian.read_timestamp to write")
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

    // MARK: Savepoints

    /// `name` as it stands in SQL.
    func savepoint(_ name: String) async throws(TransactionError) {
        if let writer { try await writer.savepoint(name) }
        savepoints.append((name, reads.count))
    }

    func release(_ name: String) async throws(TransactionError) {
        guard let index = savepoints.lastIndex(where: { $0.name == name }) else { throw Self.noSavepoint(name) }
        if let writer { try await writer.release(name) }
        savepoints.removeSubrange(index...)
    }

    func rollback(to name: String) async throws(TransactionError) {
        guard let index = savepoints.lastIndex(where: { $0.name == name }) else { throw Self.noSavepoint(name) }
        savepoints.removeSubrange((index + 1)...)
        guard let writer else { return }
        let remembered = savepoints[index].readCount..<reads.count
        let before = remembered.isEmpty ? nil : await engine.quietShards()
        try await writer.rollback(to: name)
        // The client remembers what it read since, and the shards have given up the locks.
        for read in remembered { try await repeatRead(read, unchangedSince: before) }
    }

    /// Locks and reads again what was read before a rollback to a savepoint.
    ///
    /// What the rolled-back part had written itself makes it another result; that of others must be the same. It is
    /// when nothing was committed on the shards from before their locks were given up until they were taken again.
    private func repeatRead(
        _ index: Int, unchangedSince before: TransactionEngine.QuietShards?
    ) async throws(TransactionError) {
        guard let writer else { return }
        let read = reads[index]
        let again = try await LockingRun(writer, engine).read(read.statement, true)
        guard again.digest != read.digest else { return }
        let shards = try read.statement.shards()
        guard let before, await engine.isQuiet(shards, since: before) else { throw Self.changedRead }
        reads[index] = RecordedRead(statement: read.statement, digest: again.digest)
    }

    private static func noSavepoint(_ name: String) -> TransactionError {
        TransactionError(.invalidSavepoint, "savepoint \(name) does not exist")
    }

    // MARK: End

    /// Commits; nil for a transaction that only read at its snapshot.
    func commit() async throws(TransactionError) -> Timestamp? {
        guard let writer else { return nil }
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
        await writer?.rollback()
    }

    /// A statement has failed: without a savepoint to go back to, nothing of the transaction will ever commit, and
    /// whoever waits for its locks need not wait for the client's ROLLBACK.
    func statementFailed() async {
        if savepoints.isEmpty { await writer?.rollback() }
    }
}
