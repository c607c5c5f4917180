import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// A statement and how it is planned: what is kept of a text.
struct PlannedStatement: Sendable {
    let statement: Statement
    let plan: StatementPlan
    let catalog: Catalog
}

/// Running one statement, whichever protocol it came by.
extension Conversation {
    /// What a statement returned, when it is rows; nil when it has been answered already.
    func run(
        _ planned: PlannedStatement, _ parameters: [SQLParameter] = [], types: [UInt32] = [],
        format: SQLStatement.Format = .text, isBlock: Bool
    ) async throws -> StatementResult? {
        let timer = startStatementTimer()
        defer { timer?.cancel() }
        let kind = planned.statement.kind
        if block.hasFailed {
            switch kind {
            case .transaction(.commit), .transaction(.rollback), .transaction(.rollbackTo): break
            default:
                throw TransactionError(
                    .inFailedTransaction,
                    "current transaction is aborted, commands ignored until end of transaction block"
                )
            }
        }
        switch kind {
        case .query where !planned.plan.session.isEmpty:
            return try await runSessionQuery(planned, parameters, types, format, isBlock: isBlock)
        case .query, .insert, .update, .delete, .merge:
            let statement = BoundStatement(
                plan: planned.plan, catalog: planned.catalog, parameters: parameters, parameterTypes: types,
                resultFormat: format)
            return try await currentTransaction(isBlock: isBlock).run(statement)
        case .transaction(let command): try await runTransaction(command)
        case .setting(let command): try await runSetting(command)
        case .ddl(let command): try await runSchemaChange(command, isBlock: isBlock)
        case .truncate(let relations, _, _):
            try await runOnEveryShard(planned, relations, isBlock: isBlock, tag: "TRUNCATE TABLE")
        case .lockTable(let relations, _, _):
            guard block.isOpen else {
                throw TransactionError(
                    .noActiveTransaction, "LOCK TABLE can only be used in transaction blocks")
            }
            try await runOnEveryShard(planned, relations, isBlock: isBlock, tag: "LOCK TABLE")
        case .maintenance(let command, _): try await runMaintenance(planned, command)
        case .explain(let options, let range):
            return try await explain(
                Explanation(planned, options, range), parameters, types, format, isBlock: isBlock)
        case .prepare(let name, let types, let range): try await prepare(name, types, range, of: planned)
        case .execute(let name, let arguments):
            return try await execute(name, arguments, parameters, format, isBlock: isBlock)
        case .deallocate(let name): try deallocate(name)
        case .setConstraints: writer.commandComplete("SET CONSTRAINTS")
        // Nothing is listened to.
        case .unlisten: writer.commandComplete("UNLISTEN")
        case .closeCursor(nil): writer.commandComplete("CLOSE CURSOR ALL")
        case .declareCursor, .fetch, .closeCursor, .copy, .notification, .temporary, .call, .doBlock, .unsupported:
            throw Self.unsupported(kind)
        }
        return nil
    }

    private static func unsupported(_ kind: StatementKind) -> TransactionError {
        let (what, hint): (String, String) =
            switch kind {
            case .declareCursor, .fetch, .closeCursor:
                ("cursors by DECLARE and FETCH", "fetch with a row limit by your driver's protocol")
            case .copy: ("COPY", "use INSERT with many rows")
            case .notification: ("LISTEN and NOTIFY", "connect to a shard for notifications")
            case .temporary: ("temporary tables, views and sequences", "use a common table expression")
            case .call, .doBlock: ("CALL and DO", "send their statements in a transaction")
            case .unsupported(let words): (words, "see the manual for what is supported")
            default: ("this statement", "see the manual for what is supported")
            }
        return TransactionError(.featureNotSupported, "\(what) can't be used through Meridian yet", hint: hint)
    }

    // MARK: On every shard

    private func runOnEveryShard(
        _ planned: PlannedStatement, _ relations: [RelationName], isBlock: Bool, tag: String
    ) async throws(TransactionError) {
        let transaction = try currentTransaction(isBlock: isBlock)
        if case .lockTable = planned.statement.kind {} else { try await transaction.checkMayWrite(tag) }
        let sql = SQLStatement(planned.statement.text, isPrepared: false)
        let locking = try await transaction.lockingTransaction()
        for shard in node.engine.shards { _ = try await locking.execute(sql, on: shard) }
        await transaction.used(planned.catalog, relations.compactMap { table(named: $0, planned.catalog) })
        writer.commandComplete(tag)
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
        guard !block.isOpen, transaction == nil else {
            throw TransactionError(
                .activeTransaction, "\(command) cannot run inside a transaction block")
        }
        let sql = SQLStatement(planned.statement.text, isPrepared: false)
        for shard in node.engine.shards { _ = try await node.engine.inspect(sql, on: shard) }
        writer.commandComplete(command)
    }

    // MARK: Rows

    /// Writes a whole result, in text.
    func write(_ result: StatementResult, tag: String? = nil) async throws(TransactionError) {
        if describesAnswers, !result.fields.isEmpty { describe(Self.descriptions(result.fields), []) }
        try await writeRows(result, from: 0, to: result.rowCount, [])
        writer.commandComplete(tag ?? result.tag)
    }

    /// Writes rows `start` to `end` of a result, waiting for a client that reads slowly.
    func writeRows(
        _ result: StatementResult, from start: Int, to end: Int, _ formats: [FormatCode]
    ) async throws(TransactionError) {
        guard !result.fields.isEmpty else { return }
        let encoder = RowEncoder(result.fields, formats)
        let written = encoder.writtenColumns
        let batchRows = written.isEmpty ? 256 : max(1, ColumnTexts.valuesMax / written.count)
        var first = 0
        for part in result.parts {
            let range = max(start, first)..<max(max(start, first), min(end, first + part.count))
            var row = range.lowerBound
            while row < range.upperBound {
                // A batch at a time: between them memory is looked at.
                let batch = row..<min(row + batchRows, range.upperBound)
                let rows = (batch.lowerBound - first)..<(batch.upperBound - first)
                var texts = ColumnTexts()
                if let query = ColumnTexts.query(of: written, part, rows: rows, fields: result.fields) {
                    texts = ColumnTexts(of: written, rowCount: rows.count, try await evaluate(query))
                }
                encoder.write(part, rows: rows, texts, to: &writer)
                row = batch.upperBound
                guard writer.bytesWritten > 64 << 10 else { continue }
                flush()
                if output.isBacklogged, await !output.drained() { return }
            }
            first += part.count
        }
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
