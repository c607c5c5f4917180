import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// Runs queries at a snapshot, without locks.
struct SnapshotRun: Sendable {
    private let snapshot: Snapshot
    private let engine: TransactionEngine
    private let searchPath: [String]
    private let preparation: SessionPreparation

    init(
        _ snapshot: Snapshot, _ engine: TransactionEngine, searchPath: [String],
        preparation: @escaping SessionPreparation
    ) {
        (self.snapshot, self.engine) = (snapshot, engine)
        (self.searchPath, self.preparation) = (searchPath, preparation)
    }

    func read(_ statement: BoundStatement) async throws(TransactionError) -> StatementResult {
        let shards = try statement.shards()
        guard shards.count > 1 else { return StatementResult([try await run(statement.sql, statement, on: shards[0])]) }
        let parts = try await run(statement.shardSQL ?? statement.sql, statement, on: shards)
        return try await MergedRead(statement, engine, preparation).result(of: parts)
    }

    /// Reads rows that are handed on as they arrive; nil when they must be put together first.
    func stream(
        _ statement: BoundStatement, _ completion: ResultStream.Completion?
    ) async throws(TransactionError) -> ResultStream? {
        let shards = try statement.shards()
        guard shards.count == 1 || statement.shardSQL == nil else { return nil }
        let streams = try await snapshot.streams(of: client(statement.sql, statement), on: shards)
        return await ResultStream(streams, on: engine.loop, completion: completion)
    }

    /// Copies a query's rows out; see ``Snapshot/copiesOut(of:on:text:)``.
    func copyOut(
        _ statement: BoundStatement, on shards: [ShardID], _ text: @escaping @Sendable (String, Int) -> String
    ) async throws(TransactionError) -> [ShardStream<CopyOutStream>] {
        try await snapshot.copiesOut(of: client(statement.sql, statement), on: shards, text: text)
    }

    /// Reads all rows without keeping them.
    func digest(of statement: BoundStatement) async throws(TransactionError) -> RowsDigest {
        guard !statement.hasFewRows, let stream = try await stream(statement, nil) else {
            return try await read(statement).digest
        }
        return try await stream.digestOfRest()
    }

    /// Runs on all shards at once.
    private func run(
        _ sql: SQLStatement, _ statement: BoundStatement, on shards: [ShardID]
    ) async throws(TransactionError) -> [SQLResult] {
        try await engine.onEach(shards) { shard throws(TransactionError) in
            try await run(sql, statement, on: shard)
        }
    }

    private func run(
        _ sql: SQLStatement, _ statement: BoundStatement, on shard: ShardID
    ) async throws(TransactionError) -> SQLResult {
        try await snapshot.run(client(sql, statement), on: shard)
    }

    func client(_ sql: SQLStatement, _ statement: BoundStatement) -> ClientStatement {
        let isWhole = sql.text == statement.plan.statement.text
        let textInThePast = isWhole ? statement.plan.asOfSQL : statement.plan.partsAsOfSQL
        // What was made of a statement that needs a text of its own for as-of views must have one, too.
        let isReadableInThePast =
            statement.isReadableInThePast && (statement.plan.asOfSQL == nil || textInThePast != nil)
        return ClientStatement(
            sql, searchPath: searchPath, tables: statement.tableNames, preparation: preparation,
            isReadableInThePast: isReadableInThePast, textInThePast: textInThePast)
    }
}

/// Puts the rows of several shards together.
struct MergedRead: Sendable {
    private let statement: BoundStatement
    private let engine: TransactionEngine
    private let preparation: SessionPreparation

    /// - Parameter preparation: the client's settings, under which the shards wrote the values that are read here.
    init(_ statement: BoundStatement, _ engine: TransactionEngine, _ preparation: @escaping SessionPreparation) {
        (self.statement, self.engine, self.preparation) = (statement, engine, preparation)
    }

    /// The statement's result from the shards' rows.
    func result(of parts: [SQLResult]) async throws(TransactionError) -> StatementResult {
        switch statement.plan.merge {
        case .merge(let merge): return try await merged(parts, merge)
        case .combine(let combination): return try await combined(parts, combination)
        case .concatenate, .gather: return StatementResult(parts)
        }
    }

    private func merged(_ parts: [SQLResult], _ merge: RowMerge) async throws(TransactionError) -> StatementResult {
        let fields = parts[0].fields
        let visible = fields.count - merge.hiddenColumns
        let keys = merge.keys.map { key in
            "c\((key.isHidden ? visible : 0) + key.column + 1)\(key.isDescending ? " DESC" : "")"
                + (key.nullsFirst ? " NULLS FIRST" : " NULLS LAST")
        }
        var sql = "SELECT " + (0..<visible).map { "c\($0 + 1)" }.joined(separator: ", ") + " FROM meridian_parts"
        if !keys.isEmpty { sql += " ORDER BY " + keys.joined(separator: ", ") }
        if let offset = merge.offset { sql += " OFFSET \(try count(offset) ?? 0)" }
        if let limit = try merge.limit.flatMap({ row throws(TransactionError) in try count(row) }) {
            sql += " LIMIT \(limit)"
        }
        let result = try await overParts(parts, sql, [], [])
        // The columns are the shards' own; only the rows came from the query over them.
        return StatementResult([result], fields: zip(fields, result.fields).map { $0.inFormat(of: $1) })
    }

    /// The value of LIMIT or OFFSET; nil for NULL.
    private func count(_ count: RowCount) throws(TransactionError) -> Int64? {
        switch count {
        case .constant(let number): return number
        case .parameter(let number):
            switch statement.parameters[number - 1] {
            case .null: return nil
            case .int64(let value): return value
            case .text(let text): if let value = Int64(text) { return value }
            case .bytes(let bytes):
                if bytes.count == 4 || bytes.count == 8 {
                    let value = bytes.reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
                    return bytes.count == 4 ? Int64(Int32(truncatingIfNeeded: value)) : Int64(bitPattern: value)
                }
            default: break
            }
            throw TransactionError(
                .invalidParameterValue, "parameter $\(number) is no number of rows", hint: "declare it as bigint")
        }
    }

    private func combined(
        _ parts: [SQLResult], _ combination: RowCombination
    ) async throws(TransactionError) -> StatementResult {
        let query: RewrittenSQL
        do throws(StatementError) {
            query = try combination.sql(over: "meridian_parts", columnTypes: parts[0].fields.map(\.typeOID))
        } catch {
            throw error.transactionError
        }
        let own = statement.sql(query)
        return StatementResult([try await overParts(parts, query.text, own.parameters, own.parameterTypes)])
    }

    /// Runs `sql` on one server, the gathered rows being the relation `meridian_parts (c1, c2, …)`.
    private func overParts(
        _ parts: [SQLResult], _ sql: String, _ parameters: [SQLParameter], _ types: [UInt32]
    ) async throws(TransactionError) -> SQLResult {
        let fields = parts[0].fields
        let settled = { (text: String, parameters: [SQLParameter], types: [UInt32]) in
            ClientStatement(
                SQLStatement(
                    text, parameters, parameterTypes: types, isPrepared: false, resultFormat: statement.resultFormat),
                searchPath: [], preparation: preparation)
        }
        guard !fields.isEmpty else {
            // Rows without a column can only be counted.
            let rows = "SELECT FROM pg_catalog.generate_series(1, \(parts.reduce(0) { $0 + $1.count }))"
            return try await engine.evaluate(settled("WITH meridian_parts AS (\(rows)) \(sql)", parameters, types))
        }
        let names = try await engine.typeNames(of: fields.map(\.typeOID))
        let columns = fields.indices.map { "c\($0 + 1)" }.joined(separator: ", ")
        // As texts, since there are no arrays of arrays.
        let arrays = names.indices.map { "pg_catalog.unnest($\(parameters.count + $0 + 1)::pg_catalog.text[])" }
        let typed = names.enumerated().map { "c\($0.offset + 1)::\($0.element)" }.joined(separator: ", ")
        let rows = "ROWS FROM (\(arrays.joined(separator: ", "))) AS t (\(columns))"
        let text = "WITH meridian_parts (\(columns)) AS (SELECT \(typed) FROM \(rows)) \(sql)"
        let values = fields.indices.map { SQLParameter.text(Self.array(of: $0, in: parts)) }
        return try await engine.evaluate(settled(text, parameters + values, types + fields.map { _ in 0 }))
    }

    /// One column of all rows as a PostgreSQL array.
    static func array(of column: Int, in parts: [SQLResult]) -> String {
        var bytes: [UInt8] = []
        for part in parts {
            part.withRawRows { rows in
                for row in 0..<rows.count {
                    CopyKeys.append(rows[row, column]?.assumingMemoryBound(to: UInt8.self), to: &bytes)
                }
            }
        }
        return bytes.isEmpty ? "{}" : String(decoding: bytes, as: UTF8.self) + "}"
    }
}

extension TransactionEngine {
    /// Runs a query that reads no table.
    nonisolated func compute(_ statement: SQLStatement) async throws(TransactionError) -> SQLResult {
        try await inspect(statement, on: shards[0])
    }

    /// The names of types, for casts that change nothing: `bpchar` rather than `character`, which has a length of 1.
    nonisolated func typeNames(of types: [UInt32]) async throws(TransactionError) -> [String] {
        let list = "{" + types.map(String.init).joined(separator: ",") + "}"
        let result = try await compute(
            SQLStatement(
                """
                SELECT format_type(type, -1) FROM unnest($1::oid[]) WITH ORDINALITY AS t (type, number) \
                ORDER BY number
                """, [.text(list)]))
        var names: [String] = []
        for row in result {
            do throws(ShardError) { names.append(try row.text(0)) } catch { throw TransactionError(error, shard: nil) }
        }
        return names
    }
}
