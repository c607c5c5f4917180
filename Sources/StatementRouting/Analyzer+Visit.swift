internal import CPgQuery
import Placement

extension Analyzer {
    /// Follows a level: `known` holds around it. Returns what holds in its rows.
    @discardableResult
    func visit(
        _ level: Level, _ known: Equalities, isOutermost: Bool = false, lock inherited: RowLockClause? = nil
    ) -> Equalities {
        visits += 1
        var known = known
        if !level.branches.isEmpty {
            for branch in level.branches { visit(branch, known) }
            visitClauses(of: level, known)
            return known
        }
        let select = level.select.pointee
        for tree in level.from { identifyOutputs(tree, &known) }
        if let filter = select.where_clause { apply(filter, in: level.scope, within: nil, &known) }
        hold(level.from, in: level.scope, &known)
        let locks = nodes(select.n_locking_clause, select.locking_clause).compactMap(\.lockingClause)
        for tree in level.from {
            descend(
                tree, level.scope, known, Context(isOutermost: isOutermost, locks: locks, inherited: inherited))
        }
        visitClauses(of: level, known)
        return known
    }

    private func visitClauses(of level: Level, _ known: Equalities) {
        let select = level.select.pointee
        let lists = [
            (select.n_target_list, select.target_list), (select.n_group_clause, select.group_clause),
            (select.n_window_clause, select.window_clause), (select.n_sort_clause, select.sort_clause),
            (select.n_distinct_clause, select.distinct_clause), (select.n_values_lists, select.values_lists),
        ]
        for (count, list) in lists {
            for node in nodes(count, list) { visitExpression(node, in: level.scope, known) }
        }
        for node in [select.where_clause, select.having_clause, select.limit_count, select.limit_offset] {
            if let node { visitExpression(node, in: level.scope, known) }
        }
        for node in level.scope.expressions { visitExpression(node, in: level.scope, known) }
        visitUnusedCTEs(level.scope, known)
    }

    /// CTEs that nothing reads are not run, unless they write; what they name counts all the same.
    func visitUnusedCTEs(_ scope: Scope, _ known: Equalities) {
        for cte in scope.ctes.values where !cte.isVisited {
            guard let query = cte.node.pointee.ctequery else { continue }
            if let select = query.select {
                guard cte.references == 0 || cte.isRecursive else { continue }
                cte.isVisited = true
                visit(makeLevel(select, in: cte.scope), known)
            } else {
                cte.isVisited = true
                writesInCTE = true
                visitChange(query, in: cte.scope, known)
            }
        }
    }

    struct Context {
        var isOutermost: Bool
        var locks: [UnsafeMutablePointer<PgQuery__LockingClause>] = []
        var inherited: RowLockClause?
        var role = TableRole.read
    }

    /// What a subquery in FROM puts out is what its own columns are.
    func identifyOutputs(_ tree: JoinTree, _ known: inout Equalities) {
        switch tree {
        case .join(let join):
            identifyOutputs(join.left, &known)
            identifyOutputs(join.right, &known)
        case .entry(let index):
            guard let level = entries[index].level, level.shape != .whole else { return }
            for inner in level.from { identifyOutputs(inner, &known) }
            for (position, output) in (level.outputs ?? []).enumerated() {
                guard let inner = output.column, let name = entries[index].columns?[position],
                    let column = column(name, of: index)
                else { continue }
                known.identify(column, inner)
            }
        }
    }

    /// Adds what the joins of FROM make hold for every row that matters.
    func hold(_ trees: [JoinTree], in scope: Scope, _ known: inout Equalities) {
        for tree in trees { holdInner(tree, in: scope, &known) }
        var outer: [JoinTree.Join] = []
        for tree in trees { collectOuter(tree, &outer) }
        // An outer join whose nullable side is not null in any row that matters is an inner one there.
        var grew = true
        while grew {
            grew = false
            for index in outer.indices.reversed() where !known.touched.isDisjoint(with: nullable(outer[index])) {
                let join = outer.remove(at: index)
                apply(join, in: scope, &known)
                holdInner(join.kind == PG_QUERY__JOIN_TYPE__JOIN_LEFT ? join.right : join.left, in: scope, &known)
                grew = true
            }
        }
    }

    private func nullable(_ join: JoinTree.Join) -> Range<Int> {
        join.kind == PG_QUERY__JOIN_TYPE__JOIN_LEFT
            ? join.middle..<join.entries.upperBound : join.entries.lowerBound..<join.middle
    }

    private func collectOuter(_ tree: JoinTree, _ outer: inout [JoinTree.Join]) {
        guard case .join(let join) = tree else { return }
        if join.kind == PG_QUERY__JOIN_TYPE__JOIN_LEFT || join.kind == PG_QUERY__JOIN_TYPE__JOIN_RIGHT {
            outer.append(join)
        }
        collectOuter(join.left, &outer)
        collectOuter(join.right, &outer)
    }

    private func holdInner(_ tree: JoinTree, in scope: Scope, _ known: inout Equalities) {
        guard case .join(let join) = tree else { return absorb(tree, &known) }
        switch join.kind {
        case PG_QUERY__JOIN_TYPE__JOIN_INNER:
            apply(join, in: scope, &known)
            holdInner(join.left, in: scope, &known)
            holdInner(join.right, in: scope, &known)
        case PG_QUERY__JOIN_TYPE__JOIN_LEFT: holdInner(join.left, in: scope, &known)
        case PG_QUERY__JOIN_TYPE__JOIN_RIGHT: holdInner(join.right, in: scope, &known)
        default: break
        }
    }

    /// What a subquery's own WHERE and joins say holds wherever it has a row.
    private func absorb(_ tree: JoinTree, _ known: inout Equalities) {
        guard case .entry(let index) = tree, let level = entries[index].level, level.shape != .whole else { return }
        if let filter = level.select.pointee.where_clause { apply(filter, in: level.scope, within: nil, &known) }
        hold(level.from, in: level.scope, &known)
    }

    private func apply(_ join: JoinTree.Join, in scope: Scope, _ known: inout Equalities) {
        for (left, right) in join.merged { known.unite(left, right) }
        if let quals = join.quals { apply(quals, in: scope, within: join.entries, &known) }
    }

    /// Records tables and follows subqueries, each with what holds for it.
    func descend(_ tree: JoinTree, _ scope: Scope, _ known: Equalities, _ context: Context) {
        switch tree {
        case .entry(let index):
            let lock = lockClause(on: index, context)
            if let table = entries[index].table {
                uses.append(
                    TableUse(
                        table: table, entry: index, role: context.role, lock: lock, equalities: known,
                        isOutermost: context.isOutermost))
            } else if let level = entries[index].level {
                visit(level, known, isOutermost: context.isOutermost, lock: lock)
            }
        case .join(let join):
            if let quals = join.quals { visitExpression(quals, in: scope, known) }
            var matched = known
            if join.kind == PG_QUERY__JOIN_TYPE__JOIN_LEFT || join.kind == PG_QUERY__JOIN_TYPE__JOIN_RIGHT {
                apply(join, in: scope, &matched)
                let side = join.kind == PG_QUERY__JOIN_TYPE__JOIN_LEFT ? join.right : join.left
                holdInner(side, in: scope, &matched)
            }
            let isLeft = join.kind == PG_QUERY__JOIN_TYPE__JOIN_LEFT
            let isRight = join.kind == PG_QUERY__JOIN_TYPE__JOIN_RIGHT
            if isLeft || isRight { matched = closed(matched, over: scope) }
            descend(join.left, scope, isRight ? matched : known, context)
            descend(join.right, scope, isLeft ? matched : known, context)
        }
    }

    /// What holds in rows where an outer join found a match: the outer joins it leans on found theirs too.
    private func closed(_ known: Equalities, over scope: Scope) -> Equalities {
        guard let trees = fromClauses[ObjectIdentifier(scope)] else { return known }
        var known = known
        hold(trees, in: scope, &known)
        return known
    }

    private func lockClause(on entry: Int, _ context: Context) -> RowLockClause? {
        var strongest = context.inherited
        for clause in context.locks {
            let names = nodes(clause.pointee.n_locked_rels, clause.pointee.locked_rels)
                .compactMap { $0.rangeVar.map { RelationName($0).name } }
            guard names.isEmpty || entries[entry].name.map(names.contains) == true,
                let strength = RowLockClause.Strength(rawValue: Int32(clause.pointee.strength.rawValue))
            else { continue }
            if strongest.map({ $0.strength < strength }) ?? true {
                strongest = RowLockClause(strength: strength, waiting: .wait)
            }
            switch clause.pointee.wait_policy {
            case PG_QUERY__LOCK_WAIT_POLICY__LockWaitSkip: strongest?.waiting = .skipLocked
            case PG_QUERY__LOCK_WAIT_POLICY__LockWaitError: strongest?.waiting = .noWait
            default: break
            }
        }
        return strongest
    }
}

// MARK: - Expressions

extension Analyzer {
    /// Finds functions, parameters and subqueries in an expression.
    func visitExpression(_ node: Node, in scope: Scope, _ known: Equalities, skipping skipped: Node? = nil) {
        node.forEachDescendant { node in
            if node == skipped { return false }
            switch node.kind {
            case PG_QUERY__NODE__NODE_SUB_LINK:
                let link = node.pointee.sub_link!
                if let test = link.pointee.testexpr { self.visitExpression(test, in: scope, known) }
                if let select = link.pointee.subselect?.select { self.visitSubquery(link, select, in: scope, known) }
                return false
            case PG_QUERY__NODE__NODE_FUNC_CALL:
                let call = node.pointee.func_call.pointee
                if let name = RelationName(parts: Node.names(call.n_funcname, call.funcname)) { self.called(name) }
                return true
            case PG_QUERY__NODE__NODE_SQLVALUE_FUNCTION:
                self.called(RelationName(Self.valueFunction(node.pointee.sqlvalue_function.pointee.op)), .stable)
                return true
            case PG_QUERY__NODE__NODE_PARAM_REF:
                self.parameters[Int(node.pointee.param_ref.pointee.number), default: 0] += 1
                return true
            case PG_QUERY__NODE__NODE_CURRENT_OF_EXPR:
                self.usesCursor = true
                return false
            default: return true
            }
        }
    }

    private func visitSubquery(
        _ link: UnsafeMutablePointer<PgQuery__SubLink>, _ select: UnsafeMutablePointer<PgQuery__SelectStmt>,
        in scope: Scope, _ known: Equalities
    ) {
        guard visits <= Self.visitsMax else { return }
        let level = makeLevel(select, in: scope)
        var known = known
        if let tested = memberships[link], level.shape != .whole, let output = level.outputs?.first?.column {
            known.unite(tested, output)
        }
        visit(level, known)
    }

    private func called(_ name: RelationName, _ trait: FunctionTrait? = nil) {
        let known: FunctionTrait =
            switch name.schema {
            case nil, "pg_catalog": catalog.function(name.name)
            // They look at the system's catalogs alone.
            case "information_schema": .stable
            default: .unknown
            }
        let use = FunctionUse(name: name, trait: trait ?? known)
        if !functions.contains(use) { functions.append(use) }
    }

    private static func valueFunction(_ op: PgQuery__SQLValueFunctionOp) -> String {
        switch op {
        case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_DATE: "current_date"
        case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_TIME, PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_TIME_N:
            "current_time"
        case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_TIMESTAMP,
            PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_TIMESTAMP_N:
            "current_timestamp"
        case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIME, PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIME_N:
            "localtime"
        case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIMESTAMP,
            PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_LOCALTIMESTAMP_N:
            "localtimestamp"
        case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_CATALOG: "current_catalog"
        case PG_QUERY__SQLVALUE_FUNCTION_OP__SVFOP_CURRENT_SCHEMA: "current_schema"
        default: "current_user"
        }
    }
}
