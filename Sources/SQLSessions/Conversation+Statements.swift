import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import Synchronization
import TransactionCore
import TransactionEngine

/// A statement and how it is planned: what is kept of a text. An object, since it has many parts and is passed on
/// often.
final class PlannedStatement: Sendable {
    let plan: StatementPlan
    let catalog: Catalog
    /// Why it can't be run; it has no plan then.
    let refusal: StatementError?
    /// Of rows by their keys, and nothing else: it can be read without a task (``Conversation/answerAtOnce()``).
    let isPlainRead: Bool
    /// The tables, shared with others, whose definition it depends on.
    let tables: Set<TableName>
    /// What a shard said that it takes and returns, its parameters being declared with these types.
    let described = Mutex<(types: [UInt32], description: StatementDescription)?>(nil)

    init(_ plan: StatementPlan, _ catalog: Catalog, refusal: StatementError? = nil) {
        (self.plan, self.catalog, self.refusal) = (plan, catalog, refusal)
        isPlainRead = refusal == nil && plan.isPlainRead
        tables = Set(plan.tables.map(\.table).filter { !$0.isTemporary })
    }

    var statement: Statement { plan.statement }
}

extension StatementPlan {
    fileprivate var isPlainRead: Bool {
        // Its rows are written in one go.
        guard case .query = statement.kind, let rows = locks.rows, rows.count <= 16 else { return false }
        return session.isEmpty && views.isEmpty && otherRelations.isEmpty
            && tables.allSatisfy { !$0.role.isWrite && $0.lock == nil }
            && !functions.contains { [.unknown, .sequence, .setReturning].contains($0.trait) }
    }
}

/// Running one statement, whichever protocol it came by.
extension Conversation {
    /// What a statement returned, when it is rows; nil when it has been answered already.
    func run(
        _ planned: PlannedStatement, _ parameters: [SQLParameter] = [], types: [UInt32] = [],
        format: SQLStatement.Format = .text, isBlock: Bool, delivery: ResultDelivery = .whole
    ) async throws -> StatementResult? {
        let timer = startStatementTimer()
        defer { timer?.cancel() }
        try checkBlock(allows: planned)
        if let refusal = planned.refusal { throw refusal }
        let kind = planned.statement.kind
        switch kind {
        case .query where !planned.plan.session.isEmpty:
            return try await runSessionQuery(planned, parameters, types, format, isBlock: isBlock)
        case .insert where isMovingRows(planned):
            return try await insert(
                planned.plan.queryInsert!, of: planned, parameters, types, format, isBlock: isBlock)
        case .query, .insert, .update, .delete, .merge:
            let statement = try BoundStatement(planned, parameters, types: types, resultFormat: format)
            let transaction = try currentTransaction(isBlock: isBlock)
            guard !transaction.modes.isBlock, !planned.plan.usesTemporaryTables,
                let unlocked = try await unlocked(statement)
            else {
                return try await transaction.run(statement, delivery)
            }
            return try await transaction.read(unlocked, behindLocksOf: statement, delivery)
        case .transaction(let command): try await runTransaction(command)
        case .setting(let command): try await runSetting(command)
        case .ddl(let command): return try await runSchemaChange(command, isBlock: isBlock)
        case .truncate(let relations, _, _) where try areTemporary(relations):
            return try await runOnTemporaries(planned, isBlock: isBlock, tag: "TRUNCATE TABLE")
        case .lockTable(let relations, _, _) where try areTemporary(relations):
            return try await runOnTemporaries(planned, isBlock: isBlock, tag: "LOCK TABLE")
        case .temporary(let command): return try await createTemporary(command, parameters, types, isBlock: isBlock)
        case .truncate(let relations, _, _):
            return try await runOnEveryShard(planned, relations, isBlock: isBlock, tag: "TRUNCATE TABLE")
        case .lockTable(let relations, _, _):
            if !isImplicitBlock { try checkInBlock("LOCK TABLE") }
            return try await runOnEveryShard(planned, relations, isBlock: isBlock, tag: "LOCK TABLE")
        case .maintenance("ANALYZE", _, let relations) where try areTemporary(relations):
            return try await runOnTemporaries(planned, isBlock: isBlock, tag: "ANALYZE")
        case .maintenance(let command, _, _): try await runMaintenance(planned, command)
        case .explain(let options, let range):
            return try await explain(
                Explanation(planned, options, range), parameters, types, format, isBlock: isBlock)
        case .prepare(let name, let types, let range): try await prepare(name, types, range, of: planned)
        case .execute(let name, let arguments):
            return try await execute(name, arguments, format, isBlock: isBlock, delivery)
        case .deallocate(let name): try deallocate(name)
        case .setConstraints: writer.commandComplete("SET CONSTRAINTS")
        case .listen(let channel): try await listen(to: channel)
        case .unlisten(let channel): try await unlisten(channel)
        case .notify(let channel, let payload):
            try await currentTransaction(isBlock: isBlock).notify(channel, payload)
            return StatementResult([], tag: "NOTIFY")
        case .copy(let command): return try await runCopy(planned, command, isBlock: isBlock)
        case .declareCursor(let name, let range, let options):
            try await declareCursor(
                name, planned.statement.part(range), options, parameters, types: types)
        case .fetch(let name, let amount, let isMove):
            return try await fetch(name, amount, isMove: isMove, format)
        case .closeCursor(let name): try await closeCursor(name)
        case .call, .doBlock, .unsupported:
            throw Self.unsupported(kind)
        }
        return nil
    }

    /// A SELECT that locks rows, without the locks; nil where it can't be said, or would be another statement.
    private func unlocked(_ statement: BoundStatement) async throws -> BoundStatement? {
        guard let text = statement.plan.unlockedText,
            !statement.plan.functions.contains(where: { $0.trait == .volatile || $0.trait == .sequence }),
            let planned = try? await plans(of: text).first,
            planned.plan.tables.allSatisfy({ $0.lock == nil })
        else { return nil }
        let unlocked = try BoundStatement(
            planned, statement.parameters, types: statement.parameterTypes, resultFormat: statement.resultFormat)
        return unlocked.isReadableInThePast ? unlocked : nil
    }

    /// In a failed block nothing is parsed, bound or run but what ends it.
    func checkBlock(allows planned: PlannedStatement?) throws(TransactionError) {
        guard block.hasFailed else { return }
        switch planned?.statement.kind {
        case nil, .transaction(.commit), .transaction(.rollback), .transaction(.rollbackTo): return
        default:
            throw TransactionError(
                .inFailedTransaction, "current transaction is aborted, commands ignored until end of transaction block")
        }
    }

    private static func unsupported(_ kind: StatementKind) -> TransactionError {
        let (what, hint): (String, String) =
            switch kind {
            // What they read and write is hidden: decision 0011.
            case .call, .doBlock: ("CALL and DO", "send their statements in a transaction")
            case .unsupported(let words): (words, "see the manual for what is supported")
            default: ("this statement", "see the manual for what is supported")
            }
        return TransactionError(.featureNotSupported, "\(what) can't be used through Meridian yet", hint: hint)
    }

    /// An INSERT of rows that are on other shards, or that a temporary table gets of others: these are read at the
    /// snapshot, as any.
    private func isMovingRows(_ planned: PlannedStatement) -> Bool {
        guard let insert = planned.plan.queryInsert else { return false }
        return insert.table.isTemporary || node.engine.shards.count > 1
    }

    private func runOnTemporaries(
        _ planned: PlannedStatement, isBlock: Bool, tag: String
    ) async throws(TransactionError) -> StatementResult {
        let words = tag == "TRUNCATE TABLE" ? tag : nil
        let sql = SQLStatement(planned.statement.text, isPrepared: false)
        _ = try await changeTemporaries(sql, words, isBlock: isBlock)
        return StatementResult([], tag: tag)
    }

    // MARK: On every shard

    private func runOnEveryShard(
        _ planned: PlannedStatement, _ relations: [RelationName], isBlock: Bool, tag: String
    ) async throws(TransactionError) -> StatementResult {
        let transaction = try currentTransaction(isBlock: isBlock)
        if case .lockTable = planned.statement.kind {} else { try await transaction.checkMayWrite(tag) }
        let sql = SQLStatement(planned.statement.text, isPrepared: false)
        let tables = relations.compactMap { table(named: $0, planned.catalog) }
        switch planned.statement.kind {
        case .lockTable(_, let mode, _) where mode != .accessExclusive: break
        default: try checkNotInUse(tables, by: planned.statement.text.prefix { $0.isLetter }.uppercased())
        }
        let locking = try await transaction.lockingTransaction()
        for shard in node.engine.shards { _ = try await locking.execute(sql, on: shard) }
        await transaction.used(planned.catalog, tables)
        return StatementResult([], tag: tag)
    }

    /// What keeps everyone from a table would wait for a cursor or portal of this transaction that reads the table at
    /// the snapshot, in another session, and so for ever. PostgreSQL refuses it, too, where it finds its own cursors.
    func checkNotInUse(_ tables: [TableName], by command: String) throws(TransactionError) {
        var used: Set<TableName> = []
        for cursor in cursors.values where cursor.isAtSnapshot { used.formUnion(cursor.query.tables) }
        for portal in portals.values where portal.reader?.isOpen == true && !portal.isDone {
            used.formUnion(portal.planned?.plan.tables.map(\.table) ?? [])
        }
        guard let table = tables.first(where: used.contains) else { return }
        throw TransactionError(
            .objectInUse,
            "cannot \(command) \"\(table.name)\" because it is being used by active queries in this session",
            hint: "close the cursor or portal that reads it")
    }

    func table(named name: RelationName, _ catalog: Catalog) -> TableName? {
        guard
            case .table(let table) = catalog.relation(
                schema: name.schema, name.name, searchPath: variables.settings.searchPath)
        else { return nil }
        return table.name
    }

    /// VACUUM and its kin, outside every transaction's order.
    private func runMaintenance(_ planned: PlannedStatement, _ command: String) async throws(TransactionError) {
        try checkNotInBlock(command)
        guard transaction == nil else {
            throw TransactionError(.activeTransaction, "\(command) cannot be executed within a pipeline")
        }
        let sql = SQLStatement(planned.statement.text, isPrepared: false)
        for shard in node.engine.shards { _ = try await node.engine.inspect(sql, on: shard) }
        writer.commandComplete(command)
    }

    // MARK: Rows

    /// Writes a whole result, in text.
    ///
    /// - Parameter endsTransaction: with its last row, the implicit transaction is done, and committed before that is
    ///   told.
    func write(_ result: StatementResult, tag: String? = nil, endsTransaction: Bool = false) async throws {
        // What is here already is not shown before it is committed.
        if endsTransaction, result.rest == nil { try await endImplicitTransaction() }
        let formats: [FormatCode] = result.isBinary ? [.binary] : []
        if describesAnswers, result.isRows { describe(Self.descriptions(result.fields), formats) }
        var reader = ResultReader(result)
        try await writeRows(&reader, formats)
        if endsTransaction, result.rest != nil { try await endImplicitTransaction() }
        let resultTag = await reader.tag
        writer.commandComplete(tag ?? resultTag)
    }

    /// Writes a result's next rows, `limit` of them if there are so many, waiting for a client that reads slowly.
    ///
    /// - Returns: how many there were.
    @discardableResult
    func writeRows(
        _ reader: inout ResultReader, _ formats: [FormatCode], limit: Int = .max
    ) async throws(TransactionError) -> Int {
        let encoder = RowEncoder(reader.fields, formats)
        let written = encoder.writtenColumns
        let batchRows = written.isEmpty ? 256 : min(256, max(1, ColumnTexts.valuesMax / written.count))
        var count = 0
        while count < limit {
            // A batch at a time: between them memory is looked at.
            guard let block = try await reader.next(atMost: min(batchRows, limit - count)) else { break }
            var texts = ColumnTexts()
            if let query = ColumnTexts.query(of: written, block, fields: reader.fields) {
                texts = ColumnTexts(of: written, rowCount: block.count, try await evaluate(query))
            }
            if reader.isRows { encoder.write(block, texts, to: &writer) }
            count += block.count
            if writer.bytesWritten > 64 << 10 { try await flushAndWait() }
        }
        return count
    }

    /// Sends what is written, and waits for the client if too much is on its way to it.
    func flushAndWait() async throws(TransactionError) {
        flush()
        guard output.isBacklogged, await !output.drained() else { return }
        // The client is gone, or wants no more of it.
        throw TransactionError(.queryCanceled, "canceling statement due to user request")
    }

    func describe(_ fields: [FieldDescription], _ formats: [FormatCode]) {
        writer.beginRowDescription(fields: fields.count)
        for (index, field) in fields.enumerated() {
            var field = field
            field.format = formats.format(at: index)
            writer.field(field)
        }
        writer.endRowDescription()
    }

    static func descriptions(_ fields: [ResultField]) -> [FieldDescription] {
        fields.map { field in
            FieldDescription(
                name: field.name, table: field.tableOID, attribute: field.columnNumber, type: field.typeOID,
                typeSize: field.typeSize, typeModifier: field.typeModifier)
        }
    }

    /// Rows of one text column that Meridian makes itself.
    func writeText(_ values: [String], column: String) {
        if describesAnswers { describe([FieldDescription(name: column, type: 25)], []) }
        for value in values {
            writer.beginDataRow(columns: 1)
            writer.column(value)
            writer.endDataRow()
        }
    }
}

extension [FormatCode] {
    /// None: all text; one: for all; else one for each.
    func format(at index: Int) -> FormatCode {
        count == 1 ? self[0] : index < count ? self[index] : .text
    }

    /// What the shards are asked for: text only if that is asked for everywhere.
    var shardFormat: SQLStatement.Format { contains(.binary) ? .binary : .text }
}
