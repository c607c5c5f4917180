import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// Changes of the schema: on every shard, in one transaction.
extension Conversation {
    func runSchemaChange(_ command: DDLCommand, isBlock: Bool) async throws -> StatementResult {
        if let own = try await changeTemporary(by: command, isBlock: isBlock) { return own }
        guard !command.isConcurrent else {
            throw TransactionError(
                .featureNotSupported, "\(command.object) changes CONCURRENTLY are not supported",
                hint: "leave CONCURRENTLY out")
        }
        let transaction = try currentTransaction(isBlock: isBlock)
        try await transaction.checkMayWrite(Self.tag(of: command))
        let locking = try await transaction.lockingTransaction()
        let catalog: Catalog
        if let own = await transaction.ownCatalog { catalog = own } else { catalog = await node.catalogs.settled() }
        let known = command.relations.compactMap { table(named: $0, catalog) }
        if command.object == "table", command.action != .create {
            try checkNotInUse(known, by: Self.tag(of: command))
        }
        await transaction.used(catalog, known)
        let change = SQLStatement(command.sql, isPrepared: false)
        let (before, after) = Self.upkeep(command, known, catalog)
        for shard in node.engine.shards {
            // The schema is one on all shards: what the session alone has is no part of it.
            let hides = temporaries?.session.shard == shard
            let statements = before + [change] + after
            _ = try await locking.execute(
                hides ? [Self.hideTemporaries] + statements + [Self.showTemporaries] : statements, on: shard)
        }
        if case ("table", .create) = (command.object, command.action), let name = command.relations.first {
            try await distribute(name, as: command.distribution, locking)
        }
        let changed = try await transaction.schemaChanged()
        try check(changed)
        // Told once it is committed.
        return StatementResult([], tag: Self.tag(of: command))
    }

    private static let hideTemporaries = SQLStatement(
        "SELECT set_config('search_path', current_setting('search_path') || ', pg_temp', true)", isPrepared: false)
    private static let showTemporaries = SQLStatement(
        "SELECT set_config('search_path', regexp_replace(current_setting('search_path'), ', pg_temp$', ''), true)",
        isPrepared: false)

    /// Runs a change that is about the session's temporary relations; nil for any other.
    private func changeTemporary(by command: DDLCommand, isBlock: Bool) async throws -> StatementResult? {
        let isNew = command.action == .create && command.object != "index" && command.object != "trigger"
        guard isNew else {
            guard try areTemporary(command.relations) else { return nil }
            let tag = Self.tag(of: command)
            _ = try await changeTemporaries(SQLStatement(command.sql, isPrepared: false), tag, isBlock: isBlock)
            return StatementResult([], tag: tag)
        }
        guard let name = command.relations.first, name.schema == nil else { return nil }
        guard variables.settings.searchPath.first != TableName.temporarySchema else {
            return try await createTemporary(command, [], [], isBlock: isBlock)
        }
        guard !isTemporary(name) else {
            throw TransactionError(
                .featureNotSupported, "relation \"\(name.name)\" can't be created while a temporary one has its name",
                hint: "drop the temporary one, or qualify the name by a schema")
        }
        return nil
    }

    /// What keeps undo tables and as-of views in step, before and after the change.
    private static func upkeep(
        _ command: DDLCommand, _ tables: [TableName], _ catalog: Catalog
    ) -> (before: [SQLStatement], after: [SQLStatement]) {
        let versioned = tables.filter { catalog.tables[$0]?.isVersioned == true }
        func call(_ function: String, _ table: TableName) -> SQLStatement {
            SQLStatement(
                "SELECT meridian.\(function)($1::regclass)", [.text(table.description)], isPrepared: false)
        }
        switch (command.object, command.action) {
        case ("table", .drop): return (versioned.map { call("unversion_table", $0) }, [])
        case ("table", .alter):
            return (versioned.map { call("drop_as_of_view", $0) }, versioned.map { call("refresh_table", $0) })
        default: return ([], [])
        }
    }

    /// Decides where the rows of a new table are, and has its past kept.
    ///
    /// What pg_dump and pgbench create gets its primary key when it has its rows: without one, a first column that is
    /// NOT NULL is the shard key.
    private func distribute(
        _ name: RelationName, as request: DistributionRequest?, _ locking: ReadWriteTransaction
    ) async throws {
        let relation = SQLParameter.text(name.description)
        let facts = try await locking.execute(
            SQLStatement(
                """
                SELECT to_regclass($1) IS NULL \
                OR EXISTS (SELECT FROM meridian.distribution WHERE relation = to_regclass($1)), \
                a.attname::text, a.atttypid::bigint FROM (SELECT 1) AS one \
                LEFT JOIN pg_attribute AS a ON a.attrelid = to_regclass($1) AND CASE WHEN $2::text IS NOT NULL \
                THEN a.attname = $2 WHEN meridian.primary_key(to_regclass($1)) = '{}' \
                THEN a.attnum = 1 AND a.attnotnull ELSE a.attnum = (meridian.primary_key(to_regclass($1)))[1] END
                """, [relation, request?.shardKey.map { .text($0) } ?? .null], isPrepared: false),
            on: node.engine.shards[0])
        // IF NOT EXISTS, and it was there.
        guard let row = facts.first, try !row.bool(0) else { return }
        let key = try row.isNull(1) ? nil : try row.text(1)
        let type = try row.isNull(2) ? nil : ShardKeyType(oid: UInt32(truncatingIfNeeded: try row.int64(2)))
        if let wanted = request?.shardKey, key == nil {
            throw TransactionError(
                .undefinedColumn, "column \"\(wanted)\" of the shard key does not exist",
                hint: "meridian.shard_key names a column of the table")
        }
        let kind = request?.table ?? (key != nil && type != nil || request?.shardKey != nil ? "sharded" : "single")
        guard ["sharded", "reference", "single"].contains(kind) else {
            throw TransactionError(
                .invalidParameterValue, "invalid value for parameter \"meridian.table\": \"\(kind)\"",
                hint: "it is 'sharded', 'reference' or 'single'")
        }
        if kind == "sharded", type == nil {
            throw TransactionError(
                .featureNotSupported, "table \(name) has no column that it could be sharded by",
                hint: "give it a primary key, or name a column by WITH (meridian.shard_key = 'column')")
        }
        let isSharded = kind == "sharded"
        let single = SQLParameter.text(node.engine.shards[0].rawValue)
        let statements = [
            SQLStatement("SELECT meridian.version_table($1::regclass)", [relation], isPrepared: false),
            SQLStatement(
                "SELECT meridian.set_distribution($1::regclass, $2, $3::name, $4, $5)",
                [
                    relation, .text(kind), isSharded ? key.map { .text($0) } ?? .null : .null,
                    isSharded ? type.map { .text("\($0.family)") } ?? .null : .null, kind == "single" ? single : .null,
                ], isPrepared: false),
        ]
        for shard in node.engine.shards { _ = try await locking.execute(statements, on: shard) }
    }

    /// Refuses a schema that the shards could not keep.
    func check(_ catalog: Catalog) throws(TransactionError) {
        for table in catalog.tables.values { try check(table) }
    }

    func check(_ table: TableDefinition) throws(TransactionError) {
        guard let flaw = table.flaw else { return }
        throw TransactionError(
            .featureNotSupported, "table \(table.name) can't be sharded like this", detail: flaw,
            hint: "put the shard key into the constraint, or make the table single or reference")
    }

    /// As PostgreSQL tells that it is done.
    private static func tag(of command: DDLCommand) -> String {
        let verb =
            switch command.action {
            case .create: "CREATE"
            case .alter, .rename: "ALTER"
            case .drop: "DROP"
            case .other: ""
            }
        return verb.isEmpty ? command.object.uppercased() : "\(verb) \(command.object.uppercased())"
    }
}
