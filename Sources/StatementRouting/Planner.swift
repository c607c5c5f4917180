internal import CPgQuery
public import Placement
import TransactionCore

extension ParsedText {
    /// Plans the statement at `index` for the schema and search path of the moment.
    ///
    /// Throws 0A000 with a hint for what can never run: a changed shard key, a write that can't be pushed to its rows.
    /// Statements that touch no table have a plan too; ``Statement/kind`` says what to do with them.
    public func plan(
        _ index: Int, in catalog: Catalog, searchPath: [String] = ["public"]
    ) throws(StatementError) -> StatementPlan {
        let statement = statements[index]
        guard let node = tree.pointee.stmts[index]!.pointee.stmt else {
            return StatementPlan(statement: statement, route: .anyOne)
        }
        let result = text.withBytes { bytes -> Result<StatementPlan, StatementError> in
            var planner = Planner(
                statement: statement, source: SourceNode(node, bytes),
                analyzer: Analyzer(catalog, searchPath: searchPath, bytes))
            do throws(StatementError) {
                return .success(try planner.plan())
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }
}

/// Makes the plan of one statement.
struct Planner {
    let statement: Statement
    let source: SourceNode
    let analyzer: Analyzer
    var level: Level?

    init(statement: Statement, source: SourceNode, analyzer: Analyzer) {
        (self.statement, self.source, self.analyzer) = (statement, source, analyzer)
    }

    mutating func plan() throws(StatementError) -> StatementPlan {
        let node = source.node
        var plan = StatementPlan(statement: statement, route: .anyOne)
        switch node.kind {
        case PG_QUERY__NODE__NODE_SELECT_STMT:
            let level = analyzer.makeLevel(node.pointee.select_stmt, in: nil)
            known = analyzer.visit(level, Equalities(), isOutermost: true)
            self.level = level
        case PG_QUERY__NODE__NODE_INSERT_STMT, PG_QUERY__NODE__NODE_UPDATE_STMT, PG_QUERY__NODE__NODE_DELETE_STMT,
            PG_QUERY__NODE__NODE_MERGE_STMT:
            analyzer.visitChange(node, in: nil, Equalities(), isOutermost: true)
        default:
            switch statement.kind {
            case .explain, .temporary:
                plan.parameterCount = statement.text.withBytes { RewrittenSQL.parameters($0).map(\.number).max() } ?? 0
            default: break
            }
            return plan
        }
        describe(&plan)
        try check()
        plan.route = try route(&plan)
        let mixesTemporary = plan.usesTemporaryTables && !plan.tables.allSatisfy { $0.table.isTemporary }
        if case .gather = plan.route { plan.queryInsert = queryInsert() }
        if mixesTemporary, !plan.changesSharedTables { plan.queryInsert = queryInsert() }
        if case .query = statement.kind {
            planMerge(&plan)
            plan.session = sessionUse(plan)
        }
        plan.conflict = conflict()
        plan.locks = locks(plan)
        plan.unlockedText = unlockedText()
        plan.asOfSQL = asOfSQL()
        if plan.asOfSQL != nil { plan.partsAsOfSQL = asOfSQL(ofParts: plan.merge) }
        return plan
    }

    /// What holds in the rows of the outermost SELECT.
    var known = Equalities()

    private func describe(_ plan: inout StatementPlan) {
        plan.tables = analyzer.uses.map { TableAccess(table: $0.table.name, role: $0.role, lock: $0.lock) }
        for (name, relation) in analyzer.others {
            if case .view(let view) = relation { plan.views.append(view) } else { plan.otherRelations.append(name) }
        }
        plan.functions = analyzer.functions
        plan.parameterCount = analyzer.parameters.keys.max() ?? 0
    }

    private func conflict() -> ConflictClause? {
        guard case PG_QUERY__NODE__NODE_INSERT_STMT = source.node.kind,
            let clause = source.node.pointee.insert_stmt.pointee.on_conflict_clause?.pointee
        else { return nil }
        let infer = clause.infer?.pointee
        let elements = infer.map { nodes($0.n_index_elems, $0.index_elems) } ?? []
        let names = elements.compactMap { element in
            element.kind == PG_QUERY__NODE__NODE_INDEX_ELEM ? name(element.pointee.index_elem.pointee.name) : nil
        }
        return ConflictClause(
            updates: clause.action == PG_QUERY__ON_CONFLICT_ACTION__ONCONFLICT_UPDATE,
            columns: names.count == elements.count ? names : [], constraint: infer.flatMap { name($0.conname) },
            hasFilter: clause.where_clause != nil)
    }

    private func check() throws(StatementError) {
        if let table = analyzer.changesShardKey {
            throw .unsupported(
                "the shard key of table \(table.name.name) can't be changed",
                hint: "delete the row and insert it anew, in one transaction")
        }
        if analyzer.usesCursor {
            throw .unsupported(
                "WHERE CURRENT OF is not supported", hint: "name the row by its primary key")
        }
        let sets = analyzer.functions.contains { use in
            use.name.name == "set_config" && [nil, "pg_catalog"].contains(use.name.schema)
        }
        if sets, !analyzer.uses.isEmpty {
            // What it sets would stay in a session that others share, and might be a setting that only Meridian makes.
            throw .unsupported(
                "set_config in a statement with tables is not supported",
                hint: "call it as a column of a SELECT without tables")
        }
        // As many as a message can bind.
        if let number = analyzer.parameters.keys.first(where: { !(1...65_535).contains($0) }) {
            throw StatementError(.undefinedParameter, "there is no parameter $\(number)")
        }
    }
}

// MARK: - Routes

extension Planner {
    private func route(_ plan: inout StatementPlan) throws(StatementError) -> Route {
        let uses = analyzer.uses
        guard plan.views.isEmpty else {
            return gather("view \(plan.views[0]) reads tables that the statement does not name")
        }
        guard analyzer.visits <= Analyzer.visitsMax else { return gather("it has too many subqueries") }
        let written = uses.filter(\.role.isWrite)
        if let copied = written.first(where: { $0.table.distribution == .reference }) {
            return try copyRoute(copied, uses)
        }
        if case .insert = statement.kind, let target = uses.first(where: { $0.role == .insert && $0.isOutermost }),
            let rows = try insertRoute(target, &plan)
        {
            return rows
        }
        let sharded = uses.filter { $0.table.shardKey != nil }
        let singles = Set(
            uses.compactMap { use -> ShardID? in
                if case .single(let shard) = use.table.distribution { return shard }
                return nil
            })
        if let shard = singles.first {
            guard singles.count == 1 else { return gather("its tables are on different shards") }
            guard sharded.isEmpty else { return gather("one of its tables is on shard \(shard) alone") }
            return .single(shard)
        }
        guard !sharded.isEmpty else { return .anyOne }
        return shardedRoute(sharded, hasWrites: !written.isEmpty)
    }

    /// A write of a reference table is done on every shard, and must do the same on each.
    private func copyRoute(_ target: TableUse, _ uses: [TableUse]) throws(StatementError) -> Route {
        let name = target.table.name.name
        if uses.contains(where: { $0.table.distribution != .reference }) {
            throw .unsupported(
                "a write of reference table \(name) can't read or write other tables",
                hint: "read the values first, and write them as constants")
        }
        let differing = analyzer.functions.first {
            ![.immutable, .aggregate, .window, .setReturning].contains($0.trait)
        }
        if let differing {
            throw .unsupported(
                "a write of reference table \(name) can't call \(differing.name)",
                hint: "compute the value first, and write it as a constant",
                detail: "it may give another value on each shard")
        }
        try checkDefaults(of: target)
        return .everyCopy
    }

    private func checkDefaults(of target: TableUse) throws(StatementError) {
        guard target.role == .insert, case PG_QUERY__NODE__NODE_INSERT_STMT = source.node.kind else { return }
        let defaulted = InsertPlanner(source, target.table)?.defaulted ?? []
        let differing = defaulted.first { column in
            switch column.defaultKind {
            case .none, .constant, .computed: false
            case .sequence, .identity, .expression: true
            }
        }
        if let differing {
            throw .unsupported(
                "column \(differing.name) of reference table \(target.table.name.name) needs a value",
                hint: "compute the value first, and write it as a constant",
                detail: "its default may give another value on each shard")
        }
    }

    /// One shard when every table's key has a value, every shard when all keys are equal, else none.
    private func shardedRoute(_ uses: [TableUse], hasWrites: Bool) -> Route {
        var sets: [KeySet] = []
        var isBound = true
        for use in uses {
            guard let set = keySet(of: use) else {
                isBound = false
                continue
            }
            if !sets.contains(set) { sets.append(set) }
        }
        let flaw = fanOutFlaw(uses, hasWrites: hasWrites)
        guard isBound else { return flaw.map { gather($0, uses) } ?? .every }
        // Where parts can't be put together, all keys must lead to one shard.
        return .keys(sets, mustAgree: flaw != nil || sets.count > 1)
    }

    func keySet(of use: TableUse) -> KeySet? {
        guard let key = analyzer.shardKey(of: use), var set = use.equalities.values(of: key) else { return nil }
        // A parameter used elsewhere too may have got its type there.
        for case .parameter(let number, _) in set.sources where analyzer.parameters[number, default: 0] > 1 {
            switch set.type.family {
            case .integer, .other(.uuid), .other(.boolean), .other(.oid), .other(.numeric): break
            default: set.untypedParameters.insert(number)
            }
        }
        return set
    }

    /// Why the statement can't be run on every shard for its part; nil when it can.
    private func fanOutFlaw(_ uses: [TableUse], hasWrites: Bool) -> String? {
        if analyzer.isRecursive { return "it has a recursive CTE" }
        if analyzer.writesInCTE { return "it writes in a CTE" }
        if uses.contains(where: { $0.role == .merge }) { return "it is a MERGE" }
        let groups = Set(
            uses.map { use -> String in
                if case .sharded(_, let group) = use.table.distribution { return group }
                return ""
            })
        guard groups.count == 1 else { return "its tables are of different groups" }
        // Rows that are written, or put out, or inserted from.
        let role = analyzer.insertSource != nil ? TableRole.read : uses.first { $0.role.isWrite }?.role ?? .read
        let anchors = uses.filter { $0.isOutermost && $0.role == role }
        let anchored = anchors.contains { anchor in
            guard let key = analyzer.shardKey(of: anchor) else { return false }
            return uses.allSatisfy { use in
                analyzer.shardKey(of: use).map { use.equalities.same($0.number, key.number) } ?? false
            }
        }
        guard anchored else {
            return uses.count == 1
                ? "table \(uses[0].table.name) is read in a subquery whose rows aren't on the shard of the rows "
                    + "around it"
                : "its tables are not joined on their shard keys"
        }
        return hasWrites ? insertFlaw() : nil
    }

    /// An INSERT … SELECT is pushed down only if its query gives each shard its own rows.
    private func insertFlaw() -> String? {
        guard let level = analyzer.insertSource else { return nil }
        return analyzer.spread(of: level, Equalities()) == .partitioned
            ? nil : "the query's rows are not spread as the table's"
    }

    func gather(_ reason: String, _ uses: [TableUse]? = nil) -> Route {
        .gather(
            Gather(
                reason: reason,
                relations: (uses ?? analyzer.uses).map {
                    GatheredRelation(table: $0.table.name, keys: keySet(of: $0))
                }))
    }
}
