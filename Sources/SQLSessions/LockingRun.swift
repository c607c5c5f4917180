import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// Runs statements in a transaction that locks what it reads and writes.
///
/// Shards are visited in their order, one after the other, so that two statements which lock on several shards do not
/// wait for each other in a circle.
struct LockingRun: Sendable {
    /// What of a read must stay as it is until the transaction ends.
    enum Lasting {
        /// All that it told.
        case result
        /// The rows that it told, which it has locked: those that it passed over may be anything.
        case lockedRows
        /// Nothing, since nobody could notice that it would read something else the next time.
        case nothing
    }

    let writer: ReadWriteTransaction
    private let engine: TransactionEngine
    private let preparation: SessionPreparation

    init(_ writer: ReadWriteTransaction, _ engine: TransactionEngine, _ preparation: @escaping SessionPreparation) {
        (self.writer, self.engine, self.preparation) = (writer, engine, preparation)
    }

    // MARK: Reads

    /// Reads under locks that last to the transaction's end.
    func read(_ statement: BoundStatement, _ lasting: Lasting) async throws(TransactionError) -> StatementResult {
        let shards = try statement.shards()
        if try statement.isReadByKeys(), let rows = statement.plan.locks.rows {
            return try await readRows(statement, rows, on: shards[0])
        }
        let locks = readLocks(of: statement, lasting)
        let sql = shards.count > 1 ? statement.shardSQL ?? statement.sql : statement.sql
        var parts: [SQLResult] = []
        for shard in shards {
            let results = try await run(
                locks + [sql], isWrite: hasSideEffects(statement), on: shard)
            parts.append(results[locks.count])
        }
        guard shards.count > 1 else { return StatementResult(parts) }
        return try await MergedRead(statement, engine, preparation).result(of: parts)
    }

    /// Reads as ``read(_:_:)`` does, rows that are handed on as they arrive; nil when they are few or must be put
    /// together first.
    ///
    /// A shard is locked and read when the rows of those before it have been read.
    func stream(
        _ statement: BoundStatement, _ lasting: Lasting, _ completion: ResultStream.Completion? = nil
    ) async throws(TransactionError) -> ResultStream? {
        let shards = try statement.shards()
        guard !statement.hasFewRows, shards.count == 1 || statement.shardSQL == nil else {
            return nil
        }
        let locks = readLocks(of: statement, lasting)
        let (writer, isWrite) = (writer, hasSideEffects(statement))
        return try await ResultStream(
            of: shards, on: engine.loop, completion: completion
        ) { shard throws(TransactionError) in
            try await writer.stream(statement.sql, after: locks, on: shard, isWrite: isWrite)
        }
    }

    /// Reads all rows, without keeping them where they may be many.
    func digest(of statement: BoundStatement) async throws(TransactionError) -> RowsDigest {
        guard let stream = try await stream(statement, .result) else {
            return try await read(statement, .result).digest
        }
        return try await stream.digestOfRest()
    }

    /// Locks the rows that a SELECT … FOR UPDATE or the like finds, and drops them.
    func lockRows(of statement: BoundStatement) async throws(TransactionError) {
        if let stream = try await stream(statement, .nothing) {
            _ = try await stream.digestOfRest()
            return
        }
        let shards = try statement.shards()
        let sql = shards.count > 1 ? statement.shardSQL ?? statement.sql : statement.sql
        for shard in shards { _ = try await run([sql], isWrite: false, on: shard) }
    }

    /// Takes the locks that keep what a statement reads as it is, and reads nothing.
    func lock(_ statement: BoundStatement) async throws(TransactionError) {
        let locks = readLocks(of: statement, .result)
        for shard in try statement.shards() { _ = try await run(locks, isWrite: false, on: shard) }
    }

    /// Declares a cursor for rows that are read under locks; nil when they are few or must be put together first.
    func cursor(
        _ statement: BoundStatement, _ lasting: Lasting, name: String
    ) async throws(TransactionError) -> SessionCursor? {
        let shards = try statement.shards()
        guard !statement.hasFewRows, shards.count == 1 || statement.shardSQL == nil else {
            return nil
        }
        return try await SessionCursor(
            statement.sql, after: readLocks(of: statement, lasting), name: name, on: shards,
            isWrite: hasSideEffects(statement), in: writer, engine.loop)
    }

    /// What locks the rows that COPY reads.
    func locksForCopy(of statement: BoundStatement, _ lasting: Lasting) -> [SQLStatement] {
        readLocks(of: statement, lasting)
    }

    private func readLocks(of statement: BoundStatement, _ lasting: Lasting) -> [SQLStatement] {
        let locks = tableLocks(of: statement)
        return switch lasting {
        case .result: locks.statements
        case .lockedRows: locks.filter { !statement.tellsOnlyLockedRows(of: $0.table) }.statements
        case .nothing: statement.plan.tables.contains { $0.lock != nil } ? [] : locks.statements
        }
    }

    /// Reads rows by their keys, FOR SHARE. Rows that are not there are kept away by a lock on the table.
    private func readRows(
        _ statement: BoundStatement, _ rows: RowLocks, on shard: ShardID
    ) async throws(TransactionError) -> StatementResult {
        let sql = statement.sql(rows.sql)
        let result = try await run([sql], isWrite: false, on: shard)[0]
        guard result.count < rows.count, !rows.ifMissing.isEmpty else { return StatementResult([result]) }
        let locks = rows.ifMissing.statements
        return StatementResult([try await run(locks + [sql], isWrite: false, on: shard)[locks.count]])
    }

    /// The locks that keep what a statement reads as it is: those of its plan, or if this names none, SHARE on every
    /// table that it reads.
    private func tableLocks(of statement: BoundStatement) -> [TableLock] {
        guard statement.plan.locks.tables.isEmpty else { return statement.plan.locks.tables }
        let read = Set(statement.plan.tables.filter { !$0.role.isWrite }.map(\.table)).sorted()
        return read.map { TableLock(table: $0, mode: .share) }
    }

    private func hasSideEffects(_ statement: BoundStatement) -> Bool {
        statement.plan.functions.contains { $0.trait == .sequence }
    }

    /// Takes the strongest locks that a statement needs on what is there already, without running it.
    func lock(for statement: BoundStatement) async throws(TransactionError) {
        let plan = statement.plan
        if case .rows = plan.route { return }
        let locks: [SQLStatement]
        if plan.isWrite {
            locks = writeLocks(of: statement).statements + (plan.locks.rows.map { [statement.sql($0.sql)] } ?? [])
        } else {
            // A SELECT that locks its rows; parts of one for several shards may not.
            locks = [statement.sql]
        }
        guard !locks.isEmpty else { return }
        let shards = try statement.shards()
        guard plan.isWrite || shards.count == 1 else { return }
        for shard in shards { _ = try await run(locks, isWrite: false, on: shard) }
    }

    /// Takes locks that keep what a write, or a statement that was explained, looks at as it is, and does nothing.
    func lockFound(by statement: BoundStatement) async throws(TransactionError) {
        guard statement.plan.isWrite else { return try await lock(statement) }
        let plan = statement.plan
        for shard in try statement.shards() {
            guard let rows = plan.locks.rows else {
                // Of what it would not change again, SHARE is enough.
                let tables = Set(plan.tables.map(\.table)).sorted().map { TableLock(table: $0, mode: .share) }
                _ = try await run(tables.statements, isWrite: false, on: shard)
                continue
            }
            let locks = plan.locks.tables.statements
            let found = try await run(locks + [statement.sql(rows.sql)], isWrite: false, on: shard)[locks.count]
            guard found.count < rows.count, !rows.ifMissing.isEmpty else { continue }
            _ = try await run(rows.ifMissing.statements, isWrite: false, on: shard)
        }
    }

    // MARK: Writes

    /// What one shard runs of a write.
    struct Piece: Sendable {
        let shard: ShardID
        let sql: SQLStatement
        /// The numbers of its rows, where it is a part of an INSERT of values.
        var rows: [Int] = []
    }

    /// What each shard that a write concerns runs of it. Values that are the cluster's, of sequences, are in it.
    func pieces(of statement: BoundStatement) async throws(TransactionError) -> [Piece] {
        if case .rows = statement.plan.route, let insert = statement.plan.insert {
            return try await split(statement, insert)
        }
        return try statement.shards().map { Piece(shard: $0, sql: statement.sql) }
    }

    /// Changes rows, on every shard that has some of them.
    func write(_ statement: BoundStatement, _ pieces: [Piece]) async throws(TransactionError) -> StatementResult {
        var parts: [SQLResult] = []
        if case .rows = statement.plan.route {
            let locks = (insertLocks(of: statement) + statement.plan.locks.tables).statements
            for piece in pieces {
                parts.append(try await run(locks + [piece.sql], isWrite: true, on: piece.shard)[locks.count])
            }
            return try Self.inOrder(parts, pieces.map(\.rows))
        }
        for piece in pieces { parts.append(try await write(statement, on: piece.shard)) }
        if case .everyCopy = statement.plan.route { return StatementResult([parts[0]]) }
        return StatementResult(parts)
    }

    private func write(_ statement: BoundStatement, on shard: ShardID) async throws(TransactionError) -> SQLResult {
        let isWrite = statement.plan.changesSharedTables
        let locks = (insertLocks(of: statement) + writeLocks(of: statement)).statements
        guard let rows = statement.plan.locks.rows else {
            return try await run(locks + [statement.sql], isWrite: isWrite, on: shard)[locks.count]
        }
        guard rows.hasOtherConditions || rows.count > 1 else {
            // The row that it changes it locks; a row that is not there is kept away, and looked for again.
            let result = try await run(locks + [statement.sql], isWrite: isWrite, on: shard)[locks.count]
            guard result.affectedRows == 0, !rows.ifMissing.isEmpty else { return result }
            let missing = rows.ifMissing.statements
            return try await run(missing + [statement.sql], isWrite: isWrite, on: shard)[missing.count]
        }
        // What the condition looks at is locked before it is looked at, whether it then holds or not.
        let found = try await run(locks + [statement.sql(rows.sql)], isWrite: false, on: shard)[locks.count]
        let missing = found.count < rows.count ? rows.ifMissing.statements : []
        return try await run(missing + [statement.sql], isWrite: isWrite, on: shard)[missing.count]
    }

    /// The plan's locks, or where it names none for a change that is not by key, SHARE ROW EXCLUSIVE.
    private func writeLocks(of statement: BoundStatement) -> [TableLock] {
        let plan = statement.plan
        guard plan.locks.tables.isEmpty, plan.locks.rows == nil else { return plan.locks.tables }
        return plan.tables.compactMap { use in
            switch use.role {
            case .insert: nil
            case let role where role.isWrite: TableLock(table: use.table, mode: .shareRowExclusive)
            default: TableLock(table: use.table, mode: .share)
            }
        }
    }

    /// A row that is in an INSERT's way was read. ON CONFLICT DO UPDATE locks it; DO NOTHING does not, and of an INSERT
    /// within another statement the plan does not tell the clause: then the table is kept as it is.
    private func insertLocks(of statement: BoundStatement) -> [TableLock] {
        let plan = statement.plan
        let targets = plan.tables.filter { $0.role == .insert }.map(\.table)
        if plan.statement.kind == .insert, targets.count == 1, plan.conflict?.updates ?? true { return [] }
        return Set(targets).sorted().map { TableLock(table: $0, mode: .shareRowExclusive) }
    }

    // MARK: Split INSERTs

    /// What RETURNING gives, in the order of the rows inserted, as on one PostgreSQL: ORMs go by it.
    ///
    /// - Parameter rows: the numbers of each part's rows. Where ON CONFLICT left some out, which ones can't be told.
    private static func inOrder(
        _ parts: [SQLResult], _ rows: [[Int]]
    ) throws(TransactionError) -> StatementResult {
        guard parts.count > 1, parts[0].columnCount > 0, zip(parts, rows).allSatisfy({ $0.count == $1.count }) else {
            return StatementResult(parts)
        }
        let places = rows.enumerated().flatMap { part, rows in
            rows.enumerated().map { (number: $0.element, place: (part: part, row: $0.offset)) }
        }
        do throws(ShardError) {
            let order = places.sorted { $0.number < $1.number }.map(\.place)
            return StatementResult(
                [try SQLResult.assembled(from: parts, order: order)], tag: StatementResult.tag(of: parts))
        } catch {
            throw TransactionError(error, shard: nil)
        }
    }

    /// What each shard is told of an INSERT whose rows go to several.
    func split(
        _ statement: BoundStatement, _ insert: InsertPlan
    ) async throws(TransactionError) -> [Piece] {
        var values = try await defaults(of: insert)
        var split = insert.split(statement.bound, values: values, in: statement.catalog.buckets)
        for row in split.unknown {
            guard let expression = insert.keyExpression(ofRow: row) else {
                throw TransactionError(
                    .featureNotSupported, "the shard key \(insert.key.name) of row \(row + 1) can't be computed",
                    hint: "give it a value in the INSERT")
            }
            let value = try await engine.compute(statement.sql(expression, resultFormat: .text))
            values[InsertSlot(row: row, column: insert.key.name)] = .some(try Self.text(value))
        }
        if !split.unknown.isEmpty {
            split = insert.split(statement.bound, values: values, in: statement.catalog.buckets)
        }
        guard split.unknown.isEmpty else {
            throw TransactionError(
                .featureNotSupported, "the shard key \(insert.key.name) has a value that can't be hashed here",
                hint: "write it in the usual form of its type")
        }
        return split.rows.sorted { $0.key < $1.key }.map { shard, rows in
            let sql = insert.sql(rows: rows, values: values.filter { rows.contains($0.key.row) })
            return Piece(shard: shard, sql: statement.sql(sql), rows: rows)
        }
    }

    /// Values that must be the cluster's and not a shard's: of sequences, which live on the first shard.
    private func defaults(of insert: InsertPlan) async throws(TransactionError) -> [InsertSlot: String?] {
        var values: [InsertSlot: String?] = [:]
        for (slot, kind) in insert.defaults.sorted(by: { ($0.key.row, $0.key.column) < ($1.key.row, $1.key.column) }) {
            let expression: String
            switch kind {
            case .sequence(let name), .identity(let name, _):
                let literal = name.description.replacing("'", with: "''")
                expression = "pg_catalog.nextval('\(literal)'::regclass)"
            case .expression(let text), .constant(let text): expression = text
            case .none, .computed: continue
            }
            let result = try await engine.compute(
                SQLStatement("SELECT \(expression)", isPrepared: false, resultFormat: .text))
            values[slot] = .some(try Self.text(result))
        }
        return values
    }

    /// The only value of a result; nil for NULL.
    private static func text(_ result: SQLResult) throws(TransactionError) -> String? {
        do throws(ShardError) {
            guard let row = result.first, try !row.isNull(0) else { return nil }
            return try row.text(0)
        } catch {
            throw TransactionError(error, shard: nil)
        }
    }

    // MARK: Running

    private func run(
        _ statements: [SQLStatement], isWrite: Bool, on shard: ShardID
    ) async throws(TransactionError) -> [SQLResult] {
        isWrite
            ? try await writer.execute(statements, on: shard) : try await writer.lockingRead(statements, on: shard)
    }

}

extension [TableLock] {
    /// What takes the locks. Of temporary tables none is needed.
    var statements: [SQLStatement] {
        filter { !$0.table.isTemporary }.map { SQLStatement("LOCK TABLE \($0.table) IN \($0.mode) MODE") }
    }
}
