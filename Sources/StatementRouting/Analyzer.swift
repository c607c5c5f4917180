internal import CPgQuery
import Placement

/// Walks one statement: finds its tables, what is known of their shard keys, and the functions it calls.
final class Analyzer {
    let catalog: Catalog
    let searchPath: [String]
    let bytes: UnsafeBufferPointer<UInt8>

    /// Every range table entry of the statement.
    var entries: [Entry] = []
    var columnCount = 0
    var outputs: [OutputKey: Column] = [:]
    /// Every use of a table, with what holds there.
    var uses: [TableUse] = []
    /// Relations that aren't tables: views, system relations, unknown ones.
    var others: [(name: RelationName, relation: Catalog.Relation)] = []
    var functions: [FunctionUse] = []
    /// How often each parameter occurs.
    var parameters: [Int: Int] = [:]
    /// `IN (SELECT …)` that must hold: the subquery's first output equals this column.
    var memberships: [UnsafeMutablePointer<PgQuery__SubLink>: Column] = [:]
    /// The FROM clause of each scope.
    var fromClauses: [ObjectIdentifier: [JoinTree]] = [:]
    var columnsByNumber: [Int: Column] = [:]
    /// Levels visited, against exponential growth by CTEs in CTEs.
    var visits = 0
    /// The query of an INSERT.
    var insertSource: Level?
    /// The shard key would get another value.
    var changesShardKey: TableDefinition?
    /// A data-modifying CTE, a recursive one, or CURRENT OF.
    var writesInCTE = false
    var isRecursive = false
    var usesCursor = false

    struct OutputKey: Hashable {
        var entry: Int
        var index: Int
    }

    init(_ catalog: Catalog, searchPath: [String], _ bytes: UnsafeBufferPointer<UInt8>) {
        (self.catalog, self.searchPath, self.bytes) = (catalog, searchPath, bytes)
    }

    static let visitsMax = 200
}

/// A table where the statement uses it.
struct TableUse {
    var table: TableDefinition
    var entry: Int
    var role: TableRole
    var lock: RowLockClause?
    /// What holds for every row of it that matters.
    var equalities: Equalities
    /// In the FROM clause of the statement itself rather than in a subquery.
    var isOutermost: Bool
}

/// What a statement does with a table.
public enum TableRole: Hashable, Sendable {
    case read, insert, update, delete, merge

    /// The table may be changed.
    public var isWrite: Bool { self != .read }
}

/// A locking clause of SELECT.
public struct RowLockClause: Hashable, Sendable {
    /// FOR KEY SHARE to FOR UPDATE, from the weakest on.
    public enum Strength: Int32, Hashable, Sendable, Comparable {
        case keyShare = 2
        case share, noKeyUpdate, update

        /// As SQL says it.
        public var words: String {
            switch self {
            case .keyShare: "KEY SHARE"
            case .share: "SHARE"
            case .noKeyUpdate: "NO KEY UPDATE"
            case .update: "UPDATE"
            }
        }

        public static func < (lhs: Strength, rhs: Strength) -> Bool { lhs.rawValue < rhs.rawValue }
    }

    /// What happens when a row is locked by another.
    public enum Waiting: Hashable, Sendable { case wait, skipLocked, noWait }

    public var strength: Strength
    public var waiting: Waiting
}

/// A function that a statement calls.
public struct FunctionUse: Hashable, Sendable {
    /// The name as written; SQL's own (`CURRENT_TIMESTAMP`) in lower case.
    public var name: RelationName
    /// What is known of it.
    public var trait: FunctionTrait
}

// MARK: - Levels

extension Analyzer {
    /// Takes a SELECT's names in: its CTEs, what is in FROM, what it puts out.
    func makeLevel(_ select: UnsafeMutablePointer<PgQuery__SelectStmt>, in parent: Scope?) -> Level {
        let scope = Scope(parent)
        let level = Level(select, scope)
        register(select.pointee.with_clause, in: scope)
        if let left = select.pointee.larg, let right = select.pointee.rarg {
            level.branches = [makeLevel(left, in: scope), makeLevel(right, in: scope)]
            level.outputs = level.branches[0].outputs?.map { ($0.name, nil) }
            level.shape = .whole
            return level
        }
        let values = nodes(select.pointee.n_values_lists, select.pointee.values_lists)
        if let first = values.first?.list {
            level.outputs = first.indices.map { ("column\($0 + 1)", nil) }
            return level
        }
        level.from = nodes(select.pointee.n_from_clause, select.pointee.from_clause).map { tree($0, in: scope) }
        fromClauses[ObjectIdentifier(scope)] = level.from
        level.shape = shape(of: select)
        level.outputs = outputColumns(of: level)
        return level
    }

    func register(_ clause: UnsafeMutablePointer<PgQuery__WithClause>?, in scope: Scope) {
        guard let clause else { return }
        let recursive = clause.pointee.recursive != 0
        for node in nodes(clause.pointee.n_ctes, clause.pointee.ctes).compactMap(\.cte) {
            // Each sees the ones before it; in WITH RECURSIVE also itself and the ones behind it.
            let inner = Scope(scope.parent)
            inner.ctes = scope.ctes
            let cte = CommonTable(node, scope: recursive ? scope : inner, isRecursive: recursive)
            scope.ctes[String(cString: node.pointee.ctename)] = cte
        }
        if recursive { isRecursive = true }
    }

    /// One item of FROM.
    func tree(_ node: Node, in scope: Scope) -> JoinTree {
        if let relation = node.rangeVar { return .entry(add(relation, in: scope)) }
        if let join = node.joinExpr { return .join(self.join(join, in: scope)) }
        if let subselect = node.rangeSubselect, let select = subselect.pointee.subquery?.select {
            let level = makeLevel(select, in: subselect.pointee.lateral != 0 ? scope : scope.parent)
            return .entry(add(level, alias: subselect.pointee.alias, columns: level.outputs?.map(\.name), in: scope))
        }
        if node.kind == PG_QUERY__NODE__NODE_RANGE_TABLE_SAMPLE,
            let relation = node.pointee.range_table_sample.pointee.relation
        {
            scope.expressions.append(node)
            return tree(relation, in: scope)
        }
        var entry = Entry(columns: nil)
        if node.kind == PG_QUERY__NODE__NODE_RANGE_FUNCTION {
            entry.name = node.pointee.range_function.pointee.alias.flatMap { name($0.pointee.aliasname) }
        } else if node.kind == PG_QUERY__NODE__NODE_RANGE_TABLE_FUNC {
            entry.name = node.pointee.range_table_func.pointee.alias.flatMap { name($0.pointee.aliasname) }
        }
        scope.expressions.append(node)
        return .entry(add(entry, in: scope))
    }

    private func add(_ entry: Entry, in scope: Scope) -> Int {
        entries.append(entry)
        scope.entries.append(entries.count - 1)
        return entries.count - 1
    }

    private func add(
        _ level: Level?, alias: UnsafeMutablePointer<PgQuery__Alias>?, columns: [String?]?, in scope: Scope
    ) -> Int {
        var names = columns?.enumerated().map { $0.element ?? "?column?\($0.offset)" }
        if let alias {
            for (index, column) in Node.names(alias.pointee.n_colnames, alias.pointee.colnames).enumerated()
            where index < names?.count ?? 0 {
                names?[index] = column
            }
        }
        return add(Entry(name: alias.flatMap { name($0.pointee.aliasname) }, columns: names, level: level), in: scope)
    }

    /// A name in FROM: a CTE in scope, or a relation.
    func add(_ relation: UnsafeMutablePointer<PgQuery__RangeVar>, in scope: Scope) -> Int {
        let written = RelationName(relation)
        let alias = relation.pointee.alias
        if written.schema == nil, let cte = scope.cte(written.name) { return add(cte, written.name, alias, in: scope) }
        let found = catalog.relation(schema: written.schema, written.name, searchPath: searchPath)
        var entry = Entry(name: alias.flatMap { name($0.pointee.aliasname) } ?? written.name)
        guard case .table(let table) = found else {
            others.append((written, found))
            return add(entry, in: scope)
        }
        entry.table = table
        if alias == nil { entry.schema = table.name.schema }
        entry.tableColumns = table.columns.map(\.name)
        entry.columns = entry.tableColumns
        if let alias {
            for (index, column) in Node.names(alias.pointee.n_colnames, alias.pointee.colnames).enumerated()
            where index < table.columns.count {
                entry.columns?[index] = column
            }
        }
        return add(entry, in: scope)
    }

    private func add(
        _ cte: CommonTable, _ cteName: String, _ alias: UnsafeMutablePointer<PgQuery__Alias>?, in scope: Scope
    ) -> Int {
        cte.references += 1
        visits += 1
        guard !cte.isRecursive, visits <= Self.visitsMax, let select = cte.node.pointee.ctequery?.select else {
            return add(Entry(name: alias.flatMap { name($0.pointee.aliasname) } ?? cteName, columns: nil), in: scope)
        }
        // Read anew at each reference: rows that no reference needs need not be there.
        let level = makeLevel(select, in: cte.scope)
        var columns = level.outputs?.map(\.name)
        let own = Node.names(cte.node.pointee.n_aliascolnames, cte.node.pointee.aliascolnames)
        for (index, column) in own.enumerated() where index < columns?.count ?? 0 { columns?[index] = column }
        let entry = add(level, alias: alias, columns: columns, in: scope)
        if alias == nil { entries[entry].name = cteName }
        return entry
    }

    private func join(_ pointer: UnsafeMutablePointer<PgQuery__JoinExpr>, in scope: Scope) -> JoinTree.Join {
        let start = entries.count
        let left = pointer.pointee.larg.map { tree($0, in: scope) } ?? .entry(0)
        let middle = entries.count
        let right = pointer.pointee.rarg.map { tree($0, in: scope) } ?? .entry(0)
        var join = JoinTree.Join(
            kind: pointer.pointee.jointype, left: left, right: right, quals: pointer.pointee.quals, merged: [],
            entries: start..<entries.count, middle: middle)
        var names = Node.names(pointer.pointee.n_using_clause, pointer.pointee.using_clause)
        if pointer.pointee.is_natural != 0 {
            let own = scope.entries.filter { join.entries.contains($0) }
            let leftNames = own.filter { $0 < middle }.flatMap { entries[$0].columns ?? [] }
            let rightNames = Set(own.filter { $0 >= middle }.flatMap { entries[$0].columns ?? [] })
            names = leftNames.filter { rightNames.contains($0) }
        }
        for name in names { merge(name, &join, in: scope) }
        if pointer.pointee.alias != nil {
            for index in scope.entries where join.entries.contains(index) { entries[index].isHidden = true }
            _ = add(
                Entry(name: pointer.pointee.alias.flatMap { StatementRouting.name($0.pointee.aliasname) }), in: scope)
            join.entries = start..<entries.count
        }
        return join
    }

    /// USING (name): the only column of that name on either side, or the left one of columns merged before.
    private func merge(_ name: String, _ join: inout JoinTree.Join, in scope: Scope) {
        func find(_ range: Range<Int>) -> Column? {
            let matches = scope.entries.filter { range.contains($0) && entries[$0].columns?.contains(name) == true }
            guard matches.count == 1 || scope.merged.contains(name), let first = matches.first else { return nil }
            return column(name, of: first)
        }
        if !scope.opaque.contains(name), let left = find(join.entries.lowerBound..<join.middle),
            let right = find(join.middle..<join.entries.upperBound)
        {
            join.merged.append((left, right))
        }
        let keepsLeft = join.kind == PG_QUERY__JOIN_TYPE__JOIN_INNER || join.kind == PG_QUERY__JOIN_TYPE__JOIN_LEFT
        if keepsLeft { scope.merged.insert(name) } else { scope.opaque.insert(name) }
    }
}
