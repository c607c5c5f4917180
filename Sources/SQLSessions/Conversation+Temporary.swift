import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// The temporary relations of a session, on one shard, in a connection that the session keeps for as long as there are
/// any.
struct TemporaryRelations: Sendable {
    let session: PinnedSession
    fileprivate(set) var tables: [TableDefinition] = []
    /// Of all relations: indexes and sequences, too.
    fileprivate(set) var names: Set<String> = []
    /// The transaction that is open has changed them.
    fileprivate var isChanged = false
    /// They may be others than was last seen.
    fileprivate var isStale = false
    /// They are gone with their connection, and the client has been told.
    fileprivate var isLossTold = false

    fileprivate init(in session: PinnedSession) { self.session = session }

    /// A row for each column; for a relation without any, one whose column is NULL.
    fileprivate static let query = SQLStatement(
        """
        SELECT c.relname::text, c.relkind IN ('r', 'p'), a.attname::text, a.atttypid::bigint, \
        format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attgenerated <> '', a.atthasdef OR a.attidentity <> '' \
        FROM pg_catalog.pg_class AS c LEFT JOIN pg_catalog.pg_attribute AS a \
        ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped \
        WHERE c.relnamespace = pg_catalog.pg_my_temp_schema() ORDER BY c.relname, a.attnum
        """, resultFormat: .text)

    fileprivate mutating func read(_ rows: SQLResult) throws(TransactionError) {
        var columns: [String: [ColumnDefinition]] = [:]
        names = []
        do throws(ShardError) {
            for row in rows {
                let name = try row.text(0)
                names.insert(name)
                guard try row.bool(1) else { continue }
                columns[name, default: []] += try row.isNull(2) ? [] : [Self.column(row)]
            }
        } catch {
            throw TransactionError(error, shard: session.shard)
        }
        tables = columns.map { name, columns in
            TableDefinition(
                TableName(schema: TableName.temporarySchema, name), columns: columns, primaryKey: [],
                uniqueConstraints: [], distribution: .single(session.shard), isVersioned: false)
        }
        isStale = false
    }

    private static func column(_ row: SQLRow) throws(ShardError) -> ColumnDefinition {
        let isComputed = try row.bool(6)
        let isDefaulted = try row.bool(7)
        return ColumnDefinition(
            try row.text(2), type: UInt32(truncatingIfNeeded: try row.int64(3)), typeName: try row.text(4),
            isNotNull: try row.bool(5),
            // The session's own server makes it, whatever it is.
            defaultKind: isComputed ? .computed : isDefaulted ? .expression("") : .none)
    }
}

/// Temporary tables: the session's alone, on one shard.
extension Conversation {
    /// The statements of a text, planned with the session's temporary tables in sight.
    func plans(of text: String) async throws -> [PlannedStatement] {
        try await lookAtTemporaries()
        return try await node.plan(
            text, variables.settings.searchPath, transaction, temporary: temporaries?.tables ?? [])
    }

    /// The relation is one of the session's temporary ones.
    func isTemporary(_ relation: RelationName) -> Bool {
        guard let temporaries, temporaries.names.contains(relation.name) else { return false }
        return relation.schema == nil || relation.schema == TableName.temporarySchema
    }

    /// Whether a statement about these relations is about temporary ones alone.
    func areTemporary(_ relations: [RelationName]) throws(TransactionError) -> Bool {
        guard temporaries != nil else { return false }
        let own = relations.filter(isTemporary)
        guard own.isEmpty || own.count == relations.count else {
            throw TransactionError(
                .featureNotSupported, "temporary tables and others can't be changed by one statement",
                hint: "run one statement for each")
        }
        return !own.isEmpty
    }

    /// CREATE TEMP TABLE, with the rows of a query or without.
    func createTemporary(
        _ command: DDLCommand, _ parameters: [SQLParameter], _ types: [UInt32], isBlock: Bool
    ) async throws -> StatementResult {
        guard command.object == "table" || command.object == "table as" else {
            throw TransactionError(
                .featureNotSupported, "temporary \(command.object)s are not supported",
                hint: "use a temporary table, or a common table expression")
        }
        let isThere = isTemporary(command.relations[0])
        let tag = "CREATE \(command.object.uppercased())"
        _ = try await changeTemporaries(
            SQLStatement(command.sql, parameters, parameterTypes: types, isPrepared: false), tag, isBlock: isBlock)
        guard let query = command.filling, !isThere else { return StatementResult([], tag: tag) }
        let table = TableName(schema: TableName.temporarySchema, command.relations[0].name)
        let plans = try await plans(of: "INSERT INTO \(table) \(query)")
        guard plans.count == 1, case .insert = plans[0].statement.kind,
            let filled = try await run(plans[0], parameters, types: types, isBlock: isBlock)
        else {
            throw TransactionError(
                .featureNotSupported, "a temporary table can't be made of what this statement returns",
                hint: "make it of a query")
        }
        return StatementResult([], tag: filled.tag.replacing("INSERT 0", with: "SELECT"))
    }

    /// Runs a statement that changes temporary relations, and keeps their session from then on.
    ///
    /// - Parameter words: what a read-only transaction may not do; nil for what it may.
    func changeTemporaries(
        _ sql: SQLStatement, _ words: String?, isBlock: Bool
    ) async throws(TransactionError) -> SQLResult {
        let transaction = try currentTransaction(isBlock: isBlock)
        if let words { try await transaction.checkMayWrite(words) }
        let (result, session) = try await transaction.runOwn(sql)
        if temporaries == nil { temporaries = TemporaryRelations(in: session) }
        temporaries!.isChanged = true
        temporaries!.isStale = true
        return result
    }

    /// DISCARD TEMP, also as a part of DISCARD ALL.
    func discardTemporaries() async throws(TransactionError) {
        guard temporaries != nil else { return }
        _ = try await changeTemporaries(SQLStatement("DISCARD TEMP", isPrepared: false), nil, isBlock: true)
    }

    /// The transaction, or a part of it, has ended: what it had changed of them may be undone, or dropped by ON COMMIT.
    func temporariesMayDiffer() {
        if temporaries?.isChanged == true { temporaries!.isStale = true }
    }

    /// Between two transactions: lets go of the session's connection if nothing is left in it.
    func settleTemporaries() async {
        if temporaries?.isLossTold == true { return await releaseTemporaries() }
        guard temporaries?.isChanged == true else { return }
        // After a cancelled statement it is left to the next time.
        guard (try? await lookAtTemporaries()) != nil else { return }
        temporaries?.isChanged = false
        if let left = temporaries, !left.isStale, left.names.isEmpty { await releaseTemporaries() }
    }

    func releaseTemporaries() async {
        guard let session = temporaries?.session else { return }
        temporaries = nil
        await node.engine.unpin(session)
    }

    private func lookAtTemporaries() async throws(TransactionError) {
        // In a failed block nothing is run but what ends it.
        guard let known = temporaries, !block.hasFailed else { return }
        guard known.session.isOpen else {
            temporaries?.isLossTold = true
            throw TransactionError(
                .connectionFailure, "the session's connection to shard \(known.session.shard) was lost",
                detail: "its temporary tables are gone", hint: "connect again", shard: known.session.shard)
        }
        guard known.isStale else { return }
        let own = try await transaction?.runInOwnSession(TemporaryRelations.query)
        let rows: SQLResult =
            if let own { own } else {
                try await node.engine.evaluate(clientStatement(TemporaryRelations.query), in: known.session)
            }
        try temporaries?.read(rows)
    }
}
