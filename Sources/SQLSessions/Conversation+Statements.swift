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
        format: SQLStatement.Format = .text, isBlock: Bool, delivery: ResultDelivery = .whole
    ) async throws -> StatementResult? {
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
        case .query, .insert, .update, .delete, .merge:
            let statement = BoundStatement(
                plan: planned.plan, catalog: planned.catalog, parameters: parameters, parameterTypes: types,
                resultFormat: format)
            return try await currentTransaction(isBlock: isBlock).run(statement, delivery)
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
        case .explain(let options, let range): return try await explain(planned, parameters, types, options, range)
        case .deallocate(let name):
            if let name {
                guard statements.removeValue(forKey: name) != nil else { throw Self.noStatement(name) }
            } else {
                statements = statements.filter { $0.key.isEmpty }
            }
            writer.commandComplete("DEALLOCATE")
        case .setConstraints: writer.commandComplete("SET CONSTRAINTS")
        case .copy(let command): return try await runCopy(planned, command, isBlock: isBlock)
        case .declareCursor(let name, let range, let options):
            try await declareCursor(
                name, planned.statement.part(range), options, parameters, types: types, isBlock: isBlock)
        case .fetch(let name, let amount, let isMove):
            return try await fetch(name, amount, isMove: isMove, format)
        case .closeCursor(let name): try await closeCursor(name)
        case .prepare, .execute, .notification, .temporary, .call, .doBlock, .unsupported:
            throw Self.unsupported(kind)
        }
        return nil
    }

    private static func unsupported(_ kind: StatementKind) -> TransactionError {
        let (what, hint): (String, String) =
            switch kind {
            case .prepare, .execute: ("PREPARE and EXECUTE as statements", "prepare by your driver's protocol")
            case .notification: ("LISTEN, NOTIFY and UNLISTEN", "connect to a shard for notifications")
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

    /// The route and each shard's own plan.
    private func explain(
        _ planned: PlannedStatement, _ parameters: [SQLParameter], _ types: [UInt32], _ options: [String: String],
        _ range: Range<Int>
    ) async throws -> StatementResult? {
        guard options["analyze"].map({ ["false", "off", "0"].contains($0) }) ?? true else {
            throw TransactionError(
                .featureNotSupported, "EXPLAIN (ANALYZE) can't be used through Meridian yet",
                hint: "use EXPLAIN, which shows the route and each shard's plan")
        }
        let offset = range.lowerBound - planned.statement.range.lowerBound
        let text = planned.statement.text
        let start = text.utf8.index(text.utf8.startIndex, offsetBy: max(0, offset))
        let inner = try await node.plan(String(text[start...]), variables.settings.searchPath, transaction)
        guard let target = inner.first else { return nil }
        let bound = BoundStatement(
            plan: target.plan, catalog: target.catalog, parameters: parameters, parameterTypes: types)
        let shards = try bound.shards()
        var lines: [String] = ["Route: \(Self.describe(target.plan.route, shards, node.engine.shards.count))"]
        for shard in shards {
            let plan = try await evaluate(
                SQLStatement(text, parameters, parameterTypes: types, isPrepared: false, resultFormat: .text),
                on: shard)
            lines.append("Shard \(shard):")
            for row in plan { lines.append("  " + (try row.text(0))) }
        }
        writeText(lines, column: "QUERY PLAN")
        writer.commandComplete("EXPLAIN")
        return nil
    }

    private static func describe(_ route: Route, _ shards: [ShardID], _ count: Int) -> String {
        let names = shards.map(\.rawValue).joined(separator: ", ")
        return switch route {
        case .anyOne: "any one shard (\(names))"
        case .single: "the only shard that has the tables (\(names))"
        case .keys: "by shard key: \(shards.count) of \(count) shards (\(names))"
        case .every: "all \(count) shards, the rows put together"
        case .everyCopy: "all \(count) shards, each the same"
        case .rows: "each row to the shard of its key"
        case .gather: "gathered"
        }
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
        if describesAnswers, !result.fields.isEmpty { describe(Self.descriptions(result.fields), formats) }
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
        try encoder.check()
        var count = 0
        while count < limit {
            // A batch at a time: between them memory is looked at.
            guard let block = try await reader.next(atMost: min(256, limit - count)) else { break }
            if !reader.fields.isEmpty { encoder.write(block, to: &writer) }
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
