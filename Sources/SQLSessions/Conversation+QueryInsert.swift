import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// INSERT of a query's rows that are on other shards than those they go to: into a temporary table, or out of one.
extension Conversation {
    /// So many rows go with one statement.
    private static let rowsPerInsert = 1_000
    /// ON CONFLICT DO UPDATE is to find out if it would change a row twice: all its rows go with one statement.
    private static let rowsPerUpsertMax = 10_000

    /// The rows pass through this process and are held until they are inserted.
    func insert(
        _ insert: QueryInsert, of planned: PlannedStatement, _ parameters: [SQLParameter], _ types: [UInt32],
        _ format: SQLStatement.Format, isBlock: Bool
    ) async throws -> StatementResult {
        let transaction = try currentTransaction(isBlock: isBlock)
        if !insert.table.isTemporary {
            try await transaction.checkMayWrite("INSERT")
            // What is inserted rests on what is read.
            _ = try await transaction.lockingTransaction()
        }
        let rows = try await literals(
            of: try await transaction.run(
                try await bound(insert.query, planned, parameters, types, .text)))
        guard !rows.isEmpty else {
            let fields = try await description(of: planned, types: types)?.fields ?? []
            return StatementResult([], fields: fields, tag: "INSERT 0 0")
        }
        guard !insert.updatesOnConflict || rows.count <= Self.rowsPerUpsertMax else {
            throw TransactionError(
                .featureNotSupported, "ON CONFLICT DO UPDATE with this many rows of other shards is not supported",
                detail: "there are \(rows.count), and \(Self.rowsPerUpsertMax) at most can go with one statement",
                hint: "insert them in parts")
        }
        let size = insert.updatesOnConflict ? rows.count : Self.rowsPerInsert
        var parts: [SQLResult] = []
        for start in stride(from: 0, to: rows.count, by: size) {
            let portion = Array(rows[start..<min(start + size, rows.count)])
            let statement = try await bound(insert.sql(inserting: portion), planned, parameters, types, format)
            parts += try await transaction.run(statement).parts
        }
        return StatementResult(parts)
    }

    /// A statement made of the client's, with the parameters that it still has.
    private func bound(
        _ sql: RewrittenSQL, _ planned: PlannedStatement, _ parameters: [SQLParameter], _ types: [UInt32],
        _ format: SQLStatement.Format
    ) async throws -> BoundStatement {
        let plans = try await plans(of: sql.text)
        guard plans.count == 1 else {
            throw TransactionError(.internalError, "an INSERT of a query's rows was cut wrongly", detail: sql.text)
        }
        if let refusal = plans[0].refusal { throw refusal }
        return try BoundStatement(
            plans[0], sql.parameters.map { parameters[$0 - 1] },
            types: sql.parameters.map { $0 <= types.count ? types[$0 - 1] : 0 }, resultFormat: format)
    }

    /// Types whose texts any column reads as it would read the value: `text` and its kin, whole numbers, `uuid`.
    private static let plainTypes: Set<UInt32> = [19, 20, 21, 23, 25, 705, 1042, 1043, 2950]

    /// The rows as items of VALUES.
    private func literals(of result: StatementResult) async throws(TransactionError) -> [String] {
        let names = try await node.engine.typeNames(of: result.fields.map(\.typeOID))
        let casts = zip(result.fields, names).map { Self.plainTypes.contains($0.typeOID) ? "" : "::\($1)" }
        var literals: [String] = []
        for part in result.parts {
            for row in part {
                do throws(ShardError) {
                    var items: [String] = []
                    for column in casts.indices {
                        items.append(
                            try row.isNull(column) ? "NULL" : quotedLiteral(try row.text(column)) + casts[column])
                    }
                    literals.append("(" + items.joined(separator: ", ") + ")")
                } catch {
                    throw TransactionError(error, shard: nil)
                }
            }
        }
        return literals
    }
}
