import Placement
import ShardBackend
import StatementRouting
import TransactionCore

/// A statement with the values of its parameters: what Execute runs.
struct BoundStatement: Sendable {
    let planned: PlannedStatement
    var parameters: [SQLParameter]
    /// The types that the client declared; 0 where it left them to the server.
    var parameterTypes: [UInt32]
    var resultFormat: SQLStatement.Format

    /// Throws 42P02 for a parameter without a value: of the simple protocol, or of the query within another statement.
    init(
        _ planned: PlannedStatement, _ parameters: [SQLParameter] = [], types parameterTypes: [UInt32] = [],
        resultFormat: SQLStatement.Format = .text
    ) throws(TransactionError) {
        guard planned.plan.parameterCount <= parameters.count else {
            throw TransactionError(
                .undefinedParameter, "there is no parameter $\(parameters.count + 1)",
                hint: "bind parameters by the extended query protocol")
        }
        (self.planned, self.parameters) = (planned, parameters)
        (self.parameterTypes, self.resultFormat) = (parameterTypes, resultFormat)
    }

    var plan: StatementPlan { planned.plan }

    /// What it was planned by.
    var catalog: Catalog { planned.catalog }

    /// The statement as it was written.
    var sql: SQLStatement {
        SQLStatement(
            plan.statement.text, parameters, parameterTypes: parameterTypes, isPrepared: isWorthPreparing,
            resultFormat: resultFormat)
    }

    /// A text made from the statement, with the parameters that it still has.
    func sql(_ rewritten: RewrittenSQL, resultFormat: SQLStatement.Format? = nil) -> SQLStatement {
        SQLStatement(
            rewritten.text, rewritten.parameters.map { parameters[$0 - 1] },
            parameterTypes: rewritten.parameters.map { $0 <= parameterTypes.count ? parameterTypes[$0 - 1] : 0 },
            isPrepared: isWorthPreparing, resultFormat: resultFormat ?? self.resultFormat)
    }

    /// A text without parameters has its values in it, and is not likely to come again.
    /// The same text may be about another table for the next session that has temporary ones.
    var isWorthPreparing: Bool { !parameters.isEmpty && !plan.usesTemporaryTables }

    /// The parameters as routing reads them.
    var bound: [BoundParameter] {
        parameters.enumerated().map { index, parameter in
            let type = index < parameterTypes.count ? parameterTypes[index] : 0
            return switch parameter {
            case .null: BoundParameter(type: type, nil)
            case .bytes(let bytes): BoundParameter(type: type, format: .binary, bytes)
            case .text(let text): BoundParameter(type: type, text: text)
            case .int64(let number): BoundParameter(type: type, text: String(number))
            case .double(let number): BoundParameter(type: type, text: String(number))
            case .bool(let bool): BoundParameter(type: type, text: bool ? "t" : "f")
            }
        }
    }

    /// Reads rows by their keys on one shard, where each can be locked.
    func isReadByKeys() throws(TransactionError) -> Bool {
        guard plan.locks.rows != nil else { return false }
        return try shards().count == 1
    }

    /// The shards that the statement runs on, in their order.
    func shards() throws(TransactionError) -> [ShardID] {
        if case .gather(let gather) = plan.route { return try onlyShard(else: gather.error.transactionError) }
        if case .gather(let gather) = plan.merge, catalog.buckets.shards.count > 1 {
            guard case .shards(let shards) = plan.route.shards(for: bound, in: catalog.buckets), shards.count == 1
            else {
                throw gather.error.transactionError
            }
            return shards
        }
        switch plan.route.shards(for: bound, in: catalog.buckets) {
        case .shards(let shards): return shards.count == 1 ? shards : shards.sorted()
        case .every: return catalog.buckets.shards.sorted()
        case .apart:
            return try onlyShard(
                else: TransactionError(
                    .featureNotSupported, "this statement needs rows of several shards at once",
                    detail: "its keys lead to different shards",
                    hint: "run one statement for each, in one transaction"))
        }
    }

    private func onlyShard(else error: TransactionError) throws(TransactionError) -> [ShardID] {
        guard catalog.buckets.shards.count == 1 else { throw error }
        return catalog.buckets.shards
    }

    /// Locks rows or is a write: it takes the transaction from its snapshot to locking.
    var isLocking: Bool {
        plan.isWrite || plan.tables.contains { $0.lock != nil } || plan.functions.contains { $0.trait == .sequence }
    }

    /// It passes over rows that others have locked: nobody can tell whether there were more.
    var skipsLockedRows: Bool { plan.tables.contains { $0.lock?.waiting == .skipLocked } }

    /// Of a table it tells nothing but the rows that it has locked: it passes over those of others, and its locks keep
    /// every column as it is, which FOR KEY SHARE does not.
    func tellsOnlyLockedRows(of table: TableName) -> Bool {
        plan.tables.allSatisfy { use in
            use.table != table || use.lock.map { $0.waiting == .skipLocked && $0.strength >= .share } ?? false
        }
    }

    /// What each of several shards runs, where that is not the statement itself.
    var shardSQL: SQLStatement? { plan.merge.shardSQL.map { sql($0, resultFormat: .text) } }

    /// What it reads can be read at a timestamp: nothing hides in views and functions, which are bound to the tables.
    var isReadableInThePast: Bool { plan.views.isEmpty && !plan.functions.contains { $0.trait == .unknown } }

    /// It reads nothing that a timestamp would matter to: the system's catalogs at most, which are the same on every
    /// shard, and as of now also on PostgreSQL.
    var readsNoTable: Bool { plan.tables.isEmpty && plan.views.isEmpty }

    /// Of what reads no table: a function may make any number of rows. The system's catalogs are read whole, since they
    /// are not what they were at a timestamp.
    var mayHaveManyRows: Bool { !plan.functions.isEmpty && plan.otherRelations.isEmpty }

    /// So few rows that they may be waited for: those that are named by their keys.
    var hasFewRows: Bool {
        if plan.functions.contains(where: { $0.trait == .setReturning }) { return false }
        if let rows = plan.locks.rows { return rows.count <= 1_000 }
        return plan.tables.isEmpty && plan.functions.isEmpty && plan.otherRelations.isEmpty
    }

    /// The tables as they stand in SQL, in one order everywhere.
    var tableNames: [String] { tables.sorted().map(\.description) }

    /// The tables, shared with others, whose definition the plan depends on.
    var tables: Set<TableName> { planned.tables }
}

/// What a statement returned, of one shard or several.
struct StatementResult: Sendable {
    /// Rows, one result's after another's.
    var parts: [SQLResult]
    /// What the client is told of the columns; those of the first part unless they were changed on the way.
    var fields: [ResultField]
    /// The command tag; of no meaning while there is a ``rest``, which has it.
    var tag: String
    /// There are rows, be it none or without any column.
    var isRows: Bool
    /// They are told in binary, whatever the protocol: those of a binary cursor.
    var isBinary = false
    /// What follows after the parts, when the rows are handed on as they arrive.
    var rest: (any RowSource)?

    /// Rows to be handed on as they arrive.
    init(_ source: any RowSource, fields: [ResultField]) {
        (parts, self.fields, tag, isRows, rest) = ([], fields, "", true, source)
    }

    init(_ parts: [SQLResult], fields: [ResultField]? = nil, tag: String? = nil) {
        self.parts = parts
        self.fields = fields ?? parts.first?.fields ?? []
        self.tag = tag ?? Self.tag(of: parts)
        isRows = parts.first.map { $0.kind == .rows } ?? !self.fields.isEmpty
    }

    /// The shards' tags as one: their counts are added up.
    static func tag(of parts: [SQLResult]) -> String {
        guard let first = parts.first?.commandTag else { return "" }
        guard parts.count > 1, let blank = first.lastIndex(of: " "), Int(first[first.index(after: blank)...]) != nil
        else { return first }
        return first[...blank] + String(parts.reduce(0) { $0 + $1.affectedRows })
    }

    /// The same rows in any order have the same digest; others, as good as certainly, another.
    var digest: RowsDigest {
        var digest = RowsDigest()
        for part in parts { part.withRawRows { digest.add($0) } }
        return digest
    }
}

/// What a read returned, for comparing it with the same read under locks.
struct RowsDigest: Hashable, Sendable {
    private var count = 0
    private var sums: SIMD2<Int> = .zero

    mutating func add(_ one: Int, _ other: Int) {
        count += 1
        sums &+= SIMD2(one, other)
    }
}
