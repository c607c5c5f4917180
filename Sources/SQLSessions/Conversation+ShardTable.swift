import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// `SELECT meridian.shard_table('table', 'column')`: a table gets another shard key, in the client's transaction.
extension Conversation {
    /// How many rows are moved at most: they pass through this process, in one transaction.
    private static let movedRowsMax = 200_000
    /// How many rows are sent at a time.
    private static let rowsPerInsert = 1_000

    func shardTable(_ relation: String, by column: String?, isBlock: Bool) async throws {
        let transaction = try currentTransaction(isBlock: isBlock)
        try await transaction.checkMayWrite("SELECT")
        let catalog: Catalog
        if let own = await transaction.ownCatalog { catalog = own } else { catalog = await node.catalogs.settled() }
        let table = try definition(of: relation, catalog)
        guard let name = column ?? table.primaryKey.first, let key = table.column(name) else {
            throw TransactionError(
                .undefinedColumn,
                column.map { "column \"\($0)\" of relation \"\(table.name.name)\" does not exist" }
                    ?? "table \(table.name) has no primary key to be sharded by",
                hint: "name the column: SELECT meridian.shard_table('table', 'column')")
        }
        guard let type = key.shardKeyType else {
            throw TransactionError(
                .featureNotSupported, "table \(table.name) can't be sharded like this",
                detail: "type \(key.typeName) can't be a shard key", hint: "name another column")
        }
        var wanted = table
        wanted.distribution = .sharded(key: key.name, group: "\(type.family)")
        try check(wanted)
        let move = TableMove(table: table, key: key, type: type, buckets: catalog.buckets)
        let locking = try await transaction.lockingTransaction()
        await transaction.used(catalog, [table.name])
        try await move.run(locking, on: node.engine.shards, movedRowsMax: Self.movedRowsMax, Self.rowsPerInsert)
        try check(await transaction.schemaChanged())
    }

    private func definition(of relation: String, _ catalog: Catalog) throws(TransactionError) -> TableDefinition {
        let parts = SessionSettings.names(in: relation.replacing(".", with: ","))
        let found = catalog.relation(
            schema: parts.count > 1 ? parts[parts.count - 2] : nil, parts.last ?? "",
            searchPath: variables.settings.searchPath)
        switch found {
        case .table(let table): return table
        case .view, .system:
            throw TransactionError(
                .featureNotSupported, "\"\(relation)\" is not a table of yours", hint: "only tables can be sharded")
        case .unknown: throw TransactionError(.undefinedTable, "relation \"\(relation)\" does not exist")
        }
    }
}

/// The rows of a table on their way to the shards of another key.
private struct TableMove: Sendable {
    let table: TableDefinition
    let key: ColumnDefinition
    let type: ShardKeyType
    let buckets: BucketMap

    private var relation: SQLParameter { .text(table.name.description) }

    func run(
        _ transaction: ReadWriteTransaction, on shards: [ShardID], movedRowsMax: Int, _ rowsPerInsert: Int
    ) async throws(TransactionError) {
        var hasPast = false
        for shard in shards {
            let lock = SQLStatement("LOCK TABLE \(table.name) IN ACCESS EXCLUSIVE MODE", isPrepared: false)
            let past = SQLStatement("SELECT meridian.has_past($1::regclass)", [relation], isPrepared: false)
            let result = try await transaction.execute([lock, past], on: shard)[1]
            hasPast = try Self.bool(result) || hasPast
        }
        guard hasPast else {
            // There is nothing to move, nor to be read at an earlier timestamp.
            for shard in shards { _ = try await transaction.execute(distribution, on: shard) }
            return
        }
        try await checkMovable(transaction, shards[0])
        let rows = try await rows(transaction, shards, max: movedRowsMax)
        for shard in shards {
            var statements: [SQLStatement] = []
            if table.isVersioned { statements.append(call("unversion_table")) }
            statements += [SQLStatement("DELETE FROM \(table.name)", isPrepared: false), distribution]
            statements += inserts(of: rows[shard] ?? [], rowsPerInsert)
            // Where the rows were is not known any more, so that no earlier timestamp can be read.
            statements += [call("version_table"), SQLStatement("SELECT meridian.forget_past()", isPrepared: false)]
            _ = try await transaction.execute(statements, on: shard)
        }
    }

    private func call(_ function: String) -> SQLStatement {
        SQLStatement("SELECT meridian.\(function)($1::regclass)", [relation], isPrepared: false)
    }

    private var distribution: SQLStatement {
        SQLStatement(
            "SELECT meridian.set_distribution($1::regclass, 'sharded', $2::name, $3, NULL)",
            [relation, .text(key.name), .text("\(type.family)")], isPrepared: false)
    }

    private func checkMovable(_ transaction: ReadWriteTransaction, _ shard: ShardID) async throws(TransactionError) {
        let query = SQLStatement("SELECT meridian.is_movable($1::regclass)", [relation], isPrepared: false)
        guard try Self.bool(try await transaction.execute(query, on: shard)) else {
            throw TransactionError(
                .featureNotSupported, "table \(table.name) has rows that can't be moved",
                detail: "a foreign key leads to it, or it has triggers",
                hint: "drop them, shard the table, and make them again, in one transaction")
        }
    }

    /// All rows as JSON, by the shard that they go to.
    private func rows(
        _ transaction: ReadWriteTransaction, _ shards: [ShardID], max: Int
    ) async throws(TransactionError) -> [ShardID: [String]] {
        let sources: [ShardID] =
            switch table.distribution {
            case .sharded: shards
            case .reference: [shards[0]]
            case .single(let shard): [shard]
            }
        let bucket = type.bucketExpression("t.\(quotedIdentifier(key.name))")
        let query = SQLStatement(
            "SELECT \(bucket), row_to_json(t)::text FROM \(table.name) AS t LIMIT \(max + 1)", isPrepared: false,
            resultFormat: .text)
        var rows: [ShardID: [String]] = [:]
        var count = 0
        for source in sources {
            let result = try await transaction.execute(query, on: source)
            count += result.count
            guard count <= max else {
                throw TransactionError(
                    .configurationLimitExceeded, "table \(table.name) has more than \(max) rows to be moved",
                    hint: "create a table WITH (meridian.shard_key = '\(key.name)') and copy the rows in parts")
            }
            for row in result {
                do throws(ShardError) {
                    guard try !row.isNull(0) else {
                        throw ShardError(.decoding, "the shard key \(key.name) of a row is null")
                    }
                    rows[buckets.shard(ofBucket: Int(try row.int64(0))), default: []].append(try row.text(1))
                } catch {
                    throw TransactionError(error, shard: source)
                }
            }
        }
        return rows
    }

    private func inserts(of rows: [String], _ rowsPerInsert: Int) -> [SQLStatement] {
        let columns = table.columns.filter { $0.defaultKind != .computed }.map { quotedIdentifier($0.name) }
            .joined(separator: ", ")
        return stride(from: 0, to: rows.count, by: rowsPerInsert).map { start in
            let part = rows[start..<min(start + rowsPerInsert, rows.count)]
            return SQLStatement(
                """
                INSERT INTO \(table.name) (\(columns)) OVERRIDING SYSTEM VALUE \
                SELECT \(columns) FROM json_populate_recordset(NULL::\(table.name), $1::json)
                """, [.text("[" + part.joined(separator: ",") + "]")], isPrepared: false)
        }
    }

    private static func bool(_ result: SQLResult) throws(TransactionError) -> Bool {
        do throws(ShardError) { return try result[0].bool(0) } catch { throw TransactionError(error, shard: nil) }
    }
}
