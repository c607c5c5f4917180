internal import CPgQuery
import Placement

extension Analyzer {
    /// Follows INSERT, UPDATE, DELETE or MERGE, also as a CTE.
    func visitChange(_ node: Node, in parent: Scope?, _ known: Equalities, isOutermost: Bool = false) {
        switch node.kind {
        case PG_QUERY__NODE__NODE_INSERT_STMT:
            visitInsert(node.pointee.insert_stmt, in: parent, known, isOutermost: isOutermost)
        case PG_QUERY__NODE__NODE_UPDATE_STMT:
            let update = node.pointee.update_stmt.pointee
            let scope = Scope(parent)
            register(update.with_clause, in: scope)
            let targets = nodes(update.n_target_list, update.target_list)
            let target = change(
                update.relation, .update, using: nodes(update.n_from_clause, update.from_clause),
                filter: update.where_clause, in: scope, known, isOutermost: isOutermost,
                expressions: targets + nodes(update.n_returning_list, update.returning_list))
            noteKeyChange(targets, of: target)
        case PG_QUERY__NODE__NODE_DELETE_STMT:
            let delete = node.pointee.delete_stmt.pointee
            let scope = Scope(parent)
            register(delete.with_clause, in: scope)
            change(
                delete.relation, .delete, using: nodes(delete.n_using_clause, delete.using_clause),
                filter: delete.where_clause, in: scope, known, isOutermost: isOutermost,
                expressions: nodes(delete.n_returning_list, delete.returning_list))
        case PG_QUERY__NODE__NODE_MERGE_STMT:
            let merge = node.pointee.merge_stmt.pointee
            let scope = Scope(parent)
            register(merge.with_clause, in: scope)
            let clauses = nodes(merge.n_merge_when_clauses, merge.merge_when_clauses)
            // A source row without a match is inserted, so the condition holds for no row for sure.
            change(
                merge.relation, .merge, using: [merge.source_relation].compactMap { $0 }, filter: nil, in: scope, known,
                isOutermost: isOutermost, expressions: clauses + [merge.join_condition].compactMap { $0 })
        default: break
        }
    }

    @discardableResult
    private func change(
        _ relation: UnsafeMutablePointer<PgQuery__RangeVar>, _ role: TableRole, using others: [Node], filter: Node?,
        in scope: Scope, _ known: Equalities, isOutermost: Bool, expressions: [Node]
    ) -> Int {
        // The target is never a CTE.
        let target = addTarget(relation, in: scope)
        let trees = [JoinTree.entry(target)] + others.map { tree($0, in: scope) }
        fromClauses[ObjectIdentifier(scope)] = trees
        var known = known
        for tree in trees { identifyOutputs(tree, &known) }
        if let filter { apply(filter, in: scope, within: nil, &known) }
        hold(trees, in: scope, &known)
        descend(trees[0], scope, known, Context(isOutermost: isOutermost, role: role))
        for tree in trees.dropFirst() { descend(tree, scope, known, Context(isOutermost: isOutermost)) }
        for expression in expressions + scope.expressions { visitExpression(expression, in: scope, known) }
        if let filter { visitExpression(filter, in: scope, known) }
        visitUnusedCTEs(scope, known)
        return target
    }

    private func addTarget(_ relation: UnsafeMutablePointer<PgQuery__RangeVar>, in scope: Scope) -> Int {
        let hidden = scope.ctes
        let outer = Scope(nil)
        let index = add(relation, in: outer)
        scope.ctes = hidden
        scope.entries.append(index)
        return index
    }

    private func noteKeyChange(_ targets: [Node], of entry: Int) {
        guard let table = entries[entry].table, let key = table.shardKey else { return }
        let names = targets.compactMap { $0.resTarget.flatMap { name($0.pointee.name) } }
        if names.contains(key.name) { changesShardKey = table }
    }

    private func visitInsert(
        _ pointer: UnsafeMutablePointer<PgQuery__InsertStmt>, in parent: Scope?, _ known: Equalities, isOutermost: Bool
    ) {
        let insert = pointer.pointee
        let scope = Scope(parent)
        register(insert.with_clause, in: scope)
        let target = addTarget(insert.relation, in: scope)
        var inserted = known
        if let select = insert.select_stmt?.select {
            // The target's own columns are out of sight in the query.
            let inner = Scope(parent)
            inner.ctes = scope.ctes
            let level = makeLevel(select, in: inner)
            insertSource = isOutermost ? level : insertSource
            inserted = visit(level, known, isOutermost: isOutermost)
            bindKey(of: target, insert, level, &inserted)
        }
        descend(.entry(target), scope, inserted, Context(isOutermost: isOutermost, role: .insert))
        var expressions = nodes(insert.n_returning_list, insert.returning_list)
        if let conflict = insert.on_conflict_clause {
            let targets = nodes(conflict.pointee.n_target_list, conflict.pointee.target_list)
            noteKeyChange(targets, of: target)
            expressions += targets + [conflict.pointee.where_clause].compactMap { $0 }
        }
        let excluded = Entry(name: "excluded")
        entries.append(excluded)
        scope.entries.append(entries.count - 1)
        for expression in expressions { visitExpression(expression, in: scope, inserted) }
        visitUnusedCTEs(scope, known)
    }

    /// What the query puts into the shard key column.
    private func bindKey(
        of target: Int, _ insert: PgQuery__InsertStmt, _ level: Level, _ known: inout Equalities
    ) {
        guard let table = entries[target].table, let definition = table.shardKey,
            let key = tableColumn(definition.name, of: target, table)
        else { return }
        let named = nodes(insert.n_cols, insert.cols).compactMap { $0.resTarget.flatMap { name($0.pointee.name) } }
        let columns = named.isEmpty ? table.columns.map(\.name) : named
        guard let position = columns.firstIndex(of: definition.name) else { return }
        let select = level.select.pointee
        let rows = nodes(select.n_values_lists, select.values_lists).compactMap(\.list)
        if !rows.isEmpty {
            let sources = rows.compactMap { row in row[safe: position].flatMap { source($0, for: key) } }
            if sources.count == rows.count, let type = key.type {
                known.bind(key, KeySet(type: type, sources: sources))
            }
            return
        }
        if let output = level.outputs?[safe: position]?.column { return known.unite(key, output) }
        let targets = nodes(select.n_target_list, select.target_list).compactMap { $0.resTarget?.pointee.val }
        let hasStar = targets.contains { target in
            target.columnRef.map { nodes($0.pointee.n_fields, $0.pointee.fields).last?.isStar == true } ?? false
        }
        guard !hasStar, let value = targets[safe: position], let source = source(value, for: key), let type = key.type
        else { return }
        known.bind(key, KeySet(type: type, sources: [source]))
    }
}
