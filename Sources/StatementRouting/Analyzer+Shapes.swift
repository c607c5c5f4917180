internal import CPgQuery
import Placement

extension Analyzer {
    /// How a SELECT's output rows follow from FROM's.
    func shape(of select: UnsafeMutablePointer<PgQuery__SelectStmt>) -> Level.Shape {
        let statement = select.pointee
        let groups = nodes(statement.n_group_clause, statement.group_clause)
        // DISTINCT ON keeps one row of several; plain DISTINCT, whose list is one empty item, only drops copies.
        let distinct = nodes(statement.n_distinct_clause, statement.distinct_clause)
        let keepsFirst = distinct.contains { $0.kind != PG_QUERY__NODE__NODE__NOT_SET }
        if statement.limit_count != nil || statement.limit_offset != nil || keepsFirst { return .whole }
        let targets = nodes(statement.n_target_list, statement.target_list)
        if statement.n_window_clause > 0 || targets.contains(where: { calls($0).window }) { return .whole }
        if groups.contains(where: { $0.kind == PG_QUERY__NODE__NODE_GROUPING_SET }) { return .whole }
        if !groups.isEmpty { return .grouped }
        let isAggregate = statement.having_clause != nil || targets.contains { calls($0).aggregate }
        return isAggregate ? .whole : .rows
    }

    /// Whether an expression calls an aggregate, or what may be one, or a window function, outside subqueries.
    func calls(_ node: Node) -> (aggregate: Bool, window: Bool) {
        var found = (aggregate: false, window: false)
        node.forEachDescendant { node in
            guard node.kind != PG_QUERY__NODE__NODE_SUB_LINK else { return false }
            guard let call = node.funcCall else { return true }
            if call.pointee.over != nil {
                found.window = true
            } else if isAggregate(call) != false {
                found.aggregate = true
            }
            return true
        }
        return found
    }

    /// Whether a call is one of an aggregate; nil when it isn't known.
    func isAggregate(_ call: UnsafeMutablePointer<PgQuery__FuncCall>) -> Bool? {
        guard call.pointee.over == nil else { return false }
        guard call.pointee.agg_star == 0, call.pointee.agg_within_group == 0, call.pointee.agg_distinct == 0,
            call.pointee.agg_filter == nil, call.pointee.n_agg_order == 0
        else { return true }
        let names = Node.names(call.pointee.n_funcname, call.pointee.funcname)
        guard let name = names.last, names.count == 1 || names[0] == "pg_catalog" else { return nil }
        switch catalog.function(name) {
        case .aggregate: return true
        case .unknown: return nil
        default: return false
        }
    }

    /// The output columns, stars spelled out; nil when one stands for columns that aren't known.
    func outputColumns(of level: Level) -> [(name: String?, column: Column?)]? {
        let select = level.select.pointee
        var columns: [(name: String?, column: Column?)] = []
        let groups = nodes(select.n_group_clause, select.group_clause).compactMap { resolve($0, in: level.scope) }
        for target in nodes(select.n_target_list, select.target_list).compactMap(\.resTarget) {
            guard let value = target.pointee.val else { return nil }
            if let star = star(value, in: level.scope) {
                guard let expanded = star.columns else { return nil }
                columns += expanded
                continue
            }
            var column = resolve(value, in: level.scope)
            if level.shape == .grouped, let found = column, !groups.contains(where: { $0.number == found.number }) {
                column = nil
            }
            columns.append((name(target.pointee.name) ?? Self.impliedName(value), column))
        }
        return columns
    }

    /// The columns of `*` or `t.*`; nil when the expression is neither.
    private func star(_ value: Node, in scope: Scope) -> (columns: [(name: String?, column: Column?)]?, Void)? {
        guard let reference = value.columnRef else { return nil }
        let fields = nodes(reference.pointee.n_fields, reference.pointee.fields)
        guard fields.last?.isStar == true else { return nil }
        let qualifier = fields.dropLast().last?.string
        // Merged columns come first and once; spelling that out is not worth it.
        if qualifier == nil, !scope.merged.isEmpty || !scope.opaque.isEmpty { return (nil, ()) }
        var columns: [(name: String?, column: Column?)] = []
        for index in scope.entries where !entries[index].isHidden {
            guard qualifier == nil || entries[index].name == qualifier else { continue }
            guard let names = entries[index].columns else { return (nil, ()) }
            columns += names.map { ($0, column($0, of: index)) }
        }
        return (columns, ())
    }

    /// The name that PostgreSQL gives an output column without an alias (`FigureColname`).
    static func impliedName(_ value: Node) -> String? {
        if let reference = value.columnRef {
            return nodes(reference.pointee.n_fields, reference.pointee.fields).last?.string
        }
        if let call = value.funcCall { return Node.names(call.pointee.n_funcname, call.pointee.funcname).last }
        if let cast = value.typeCast {
            if let inner = cast.pointee.arg.flatMap({ impliedName($0) }) { return inner }
            return cast.pointee.type_name.flatMap { Node.names($0.pointee.n_names, $0.pointee.names).last }
        }
        return nil
    }

    /// How a level's rows lie over the shards: on each shard all of them, or on each its own part, or neither.
    func spread(of level: Level, _ known: Equalities) -> JoinTree.Spread {
        guard level.branches.isEmpty else { return hasSharded(level) ? .mixed : .replicated }
        let from = level.from.map { spread(of: $0, known) }
        let joined = Self.joined(from)
        // Each shard might choose other rows of a copy.
        let chooses = level.select.pointee.limit_count != nil || level.select.pointee.limit_offset != nil
        guard joined == .partitioned else { return chooses && !from.isEmpty ? .mixed : joined }
        switch level.shape {
        case .rows:
            let isDistinct = level.select.pointee.n_distinct_clause > 0
            return isDistinct && !putsOutKey(level, known) ? .mixed : .partitioned
        case .grouped: return groupsByKey(level, known) ? .partitioned : .mixed
        case .whole: return .mixed
        }
    }

    static func joined(_ parts: [JoinTree.Spread]) -> JoinTree.Spread {
        if parts.contains(.mixed) { return .mixed }
        return parts.contains(.partitioned) ? .partitioned : .replicated
    }

    func spread(of tree: JoinTree, _ known: Equalities) -> JoinTree.Spread {
        switch tree {
        case .entry(let index):
            if let table = entries[index].table {
                switch table.distribution {
                case .sharded: return .partitioned
                case .reference: return .replicated
                case .single: return .mixed
                }
            }
            return entries[index].level.map { spread(of: $0, known) } ?? .replicated
        case .join(let join):
            let (left, right) = (spread(of: join.left, known), spread(of: join.right, known))
            let whole = Self.joined([left, right])
            switch join.kind {
            case PG_QUERY__JOIN_TYPE__JOIN_INNER: return whole
            case PG_QUERY__JOIN_TYPE__JOIN_LEFT: return left == .replicated && right != .replicated ? .mixed : whole
            case PG_QUERY__JOIN_TYPE__JOIN_RIGHT: return right == .replicated && left != .replicated ? .mixed : whole
            // Rows without a match are put out by either side, and nothing is known to hold for them.
            default: return whole == .replicated ? .replicated : .mixed
            }
        }
    }

    private func hasSharded(_ level: Level) -> Bool {
        level.branches.contains { hasSharded($0) } || spread(of: level, Equalities()) != .replicated
    }

    /// Every group of a grouped level lies on one shard, since its rows have one shard key.
    func groupsByKey(_ level: Level, _ known: Equalities) -> Bool {
        let select = level.select.pointee
        let groups = nodes(select.n_group_clause, select.group_clause).compactMap { node -> Column? in
            if let position = node.constant?.integer { return level.outputs?[safe: Int(position) - 1]?.column }
            return resolve(node, in: level.scope)
        }
        return groups.contains { isShardKey($0, of: level, known) }
    }

    /// The output has the shard key, so that equal rows are on one shard.
    func putsOutKey(_ level: Level, _ known: Equalities) -> Bool {
        (level.outputs ?? []).contains { $0.column.map { isShardKey($0, of: level, known) } ?? false }
    }

    /// The column is a shard key in every row that a level's FROM gives: that of a table which is never null-extended,
    /// since rows without a match lie on every shard.
    func isShardKey(_ column: Column, of level: Level, _ known: Equalities) -> Bool {
        level.from.flatMap { presentEntries($0) }.contains { index in
            guard let table = entries[index].table, let definition = table.shardKey,
                let key = tableColumn(definition.name, of: index, table)
            else { return false }
            return known.same(column.number, key.number)
        }
    }

    /// The entries that no outer join extends with nulls, those of subqueries too.
    private func presentEntries(_ tree: JoinTree) -> [Int] {
        switch tree {
        case .entry(let index):
            guard let level = entries[index].level, level.shape != .whole else { return [index] }
            return level.from.flatMap { presentEntries($0) }
        case .join(let join):
            switch join.kind {
            case PG_QUERY__JOIN_TYPE__JOIN_INNER: return presentEntries(join.left) + presentEntries(join.right)
            case PG_QUERY__JOIN_TYPE__JOIN_LEFT: return presentEntries(join.left)
            case PG_QUERY__JOIN_TYPE__JOIN_RIGHT: return presentEntries(join.right)
            default: return []
            }
        }
    }

    /// The shard key column of a sharded table's use.
    func shardKey(of use: TableUse) -> Column? {
        use.table.shardKey.flatMap { tableColumn($0.name, of: use.entry, use.table) }
    }
}

extension Array {
    /// The element at an index, if there is one.
    subscript(safe index: Int) -> Element? { indices.contains(index) ? self[index] : nil }
}
