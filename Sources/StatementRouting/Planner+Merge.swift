internal import CPgQuery
import Placement

extension Planner {
    /// How the parts of a SELECT that runs on several shards are put together; if they can't be, the route becomes one
    /// that asks for a single shard.
    mutating func planMerge(_ plan: inout StatementPlan) {
        switch plan.route {
        case .every: break
        case .keys(_, let mustAgree) where !mustAgree: break
        default: return
        }
        guard let level else { return }
        plan.merge = MergePlanner(self, level).plan()
        guard case .gather(let gather) = plan.merge else { return }
        if case .keys(let sets, _) = plan.route {
            plan.route = .keys(sets, mustAgree: true)
        } else {
            plan.route = .gather(gather)
        }
    }
}

/// Makes the merge plan of a SELECT whose tables are joined on their shard keys.
struct MergePlanner {
    let planner: Planner
    let analyzer: Analyzer
    let level: Level
    let select: PgQuery__SelectStmt
    let bytes: UnsafeBufferPointer<UInt8>
    let targets: [UnsafeMutablePointer<PgQuery__ResTarget>]
    let sorts: [UnsafeMutablePointer<PgQuery__SortBy>]

    init(_ planner: Planner, _ level: Level) {
        (self.planner, self.level, analyzer, bytes) = (planner, level, planner.analyzer, planner.source.bytes)
        select = level.select.pointee
        targets = nodes(select.n_target_list, select.target_list).compactMap(\.resTarget)
        sorts = nodes(select.n_sort_clause, select.sort_clause).compactMap(\.sortBy)
    }

    /// Why parts can't be put together.
    struct Obstacle: Error {
        var reason: String
        init(_ reason: String) { self.reason = reason }
    }

    func plan() -> MergePlan {
        do throws(Obstacle) {
            return try tryPlan()
        } catch {
            guard case .gather(let gather) = planner.gather(error.reason) else { return .concatenate }
            return .gather(gather)
        }
    }

    private func tryPlan() throws(Obstacle) -> MergePlan {
        guard level.branches.isEmpty else { throw Obstacle("it is a set operation") }
        let known = planner.known
        let spread = Analyzer.joined(level.from.map { analyzer.spread(of: $0, known) })
        guard spread == .partitioned else { throw Obstacle("its rows can't be told apart by shard") }
        let found = (targets.compactMap { $0.pointee.val } + sorts.compactMap { $0.pointee.node })
            .map { analyzer.calls($0) }
        if select.n_window_clause > 0 || found.contains(where: \.window) { throw Obstacle("it has a window function") }
        let distinct = nodes(select.n_distinct_clause, select.distinct_clause)
        if distinct.contains(where: { $0.kind != PG_QUERY__NODE__NODE__NOT_SET }) {
            throw Obstacle("it has DISTINCT ON")
        }
        let groups = nodes(select.n_group_clause, select.group_clause)
        if groups.contains(where: { $0.kind == PG_QUERY__NODE__NODE_GROUPING_SET }) {
            throw Obstacle("it has grouping sets")
        }
        let isAggregate = !groups.isEmpty || select.having_clause != nil || found.contains(where: \.aggregate)
        if isAggregate, !analyzer.groupsByKey(level, known) {
            return .combine(try CombinationPlanner(self).plan())
        }
        let isDistinct = !distinct.isEmpty && !analyzer.putsOutKey(level, known)
        if isDistinct { return .combine(try distinctRows()) }
        let isPlain = sorts.isEmpty && select.limit_count == nil && select.limit_offset == nil
        return isPlain ? .concatenate : .merge(try rowMerge())
    }

    func text() throws(Obstacle) -> SelectText {
        guard let text = SelectText(select, bytes, in: planner.statement.range) else {
            throw Obstacle("it is not a plain SELECT")
        }
        return text
    }

    // MARK: Sorting

    private func rowMerge() throws(Obstacle) -> RowMerge {
        guard select.limit_option != PG_QUERY__LIMIT_OPTION__LIMIT_OPTION_WITH_TIES else {
            throw Obstacle("it has WITH TIES")
        }
        let isLimited = select.limit_count != nil || select.limit_offset != nil
        if isLimited, select.n_locking_clause > 0 { throw Obstacle("it would lock more rows than it returns") }
        let text = try text()
        var hidden: [String] = []
        var keys: [SortKey] = []
        for (sort, range) in zip(sorts, text.sorts) {
            let place = try outputColumn(sort)
            if place == nil { hidden.append(bytes.text(bytes.sortParts(range).expression)) }
            keys.append(try key(sort, column: place ?? hidden.count - 1, isHidden: place == nil))
        }
        let (limit, offset) = (try rowCount(select.limit_count), try rowCount(select.limit_offset))
        let range = planner.statement.range
        let end = text.items.last?.upperBound ?? range.lowerBound
        if text.items.isEmpty, !hidden.isEmpty { throw Obstacle("it has no output columns") }
        var sql = bytes.text(range.lowerBound..<end) + hidden.map { ", " + $0 }.joined()
        if let limits = text.limits {
            sql += bytes.text(end..<limits.lowerBound) + Self.limitText(limit, offset)
            sql += bytes.text(limits.upperBound..<range.upperBound)
        } else {
            sql += bytes.text(end..<range.upperBound)
        }
        return RowMerge(
            shardSQL: RewrittenSQL(renumbering: sql), keys: keys, hiddenColumns: hidden.count, offset: offset,
            limit: limit)
    }

    /// The output column that a sort expression means; nil when it isn't one.
    func outputColumn(_ sort: UnsafeMutablePointer<PgQuery__SortBy>) throws(Obstacle) -> Int? {
        guard let node = sort.pointee.node else { return nil }
        if let position = node.constant?.integer { return Int(position) - 1 }
        // A bare name means an output column before it means a column of FROM.
        guard let reference = node.columnRef, reference.pointee.n_fields == 1,
            let name = nodes(1, reference.pointee.fields).first?.string
        else { return nil }
        if let outputs = level.outputs { return outputs.firstIndex { $0.name == name } }
        let isAlias = targets.contains { StatementRouting.name($0.pointee.name) == name }
        if isAlias { throw Obstacle("it is sorted by an output column that can't be numbered") }
        return nil
    }

    private func key(
        _ sort: UnsafeMutablePointer<PgQuery__SortBy>, column: Int, isHidden: Bool
    ) throws(Obstacle) -> SortKey {
        guard sort.pointee.n_use_op == 0 else { throw Obstacle("it is sorted by an operator of its own") }
        let isDescending = sort.pointee.sortby_dir == PG_QUERY__SORT_BY_DIR__SORTBY_DESC
        let nullsFirst: Bool
        switch sort.pointee.sortby_nulls {
        case PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_FIRST: nullsFirst = true
        case PG_QUERY__SORT_BY_NULLS__SORTBY_NULLS_LAST: nullsFirst = false
        default: nullsFirst = isDescending
        }
        return SortKey(column: column, isHidden: isHidden, isDescending: isDescending, nullsFirst: nullsFirst)
    }

    private func rowCount(_ node: Node?) throws(Obstacle) -> RowCount? {
        guard let node else { return nil }
        if let parameter = node.paramRef { return .parameter(Int(parameter.pointee.number)) }
        if let constant = node.constant {
            if constant.isNull { return nil }
            if let count = constant.integer, count >= 0 { return .constant(Int64(count)) }
            if let count = constant.decimal.flatMap({ Int64($0) }), count >= 0 { return .constant(count) }
        }
        throw Obstacle("its LIMIT or OFFSET is an expression")
    }

    /// As many rows as the first shard's could be needed: those skipped, and those taken.
    private static func limitText(_ limit: RowCount?, _ offset: RowCount?) -> String {
        guard let limit else { return "" }
        switch (limit, offset ?? .constant(0)) {
        case (.constant(let limit), .constant(let offset)):
            let (sum, overflow) = limit.addingReportingOverflow(offset)
            return overflow ? "" : "LIMIT \(sum)"
        case (let limit, let offset):
            // NULL takes all rows, and least() passes it over.
            let sum = "\(term(limit)) + coalesce(\(term(offset)), 0)"
            return "LIMIT least(\(sum), 9223372036854775807)::bigint"
        }
    }

    private static func term(_ count: RowCount) -> String {
        switch count {
        case .constant(let count): "\(count)::numeric"
        case .parameter(let number): "$\(number)::bigint::numeric"
        }
    }

    // MARK: DISTINCT

    private func distinctRows() throws(Obstacle) -> RowCombination {
        guard select.limit_option != PG_QUERY__LIMIT_OPTION__LIMIT_OPTION_WITH_TIES, select.n_locking_clause == 0 else {
            throw Obstacle("it has DISTINCT with a locking clause or WITH TIES")
        }
        let text = try text()
        let range = planner.statement.range
        // Limits hold for the whole; each shard gives all its distinct rows.
        let end = text.limits?.lowerBound ?? range.upperBound
        var pieces: [RowCombination.Piece] = [.text("SELECT DISTINCT * FROM "), .relation]
        for (index, (sort, range)) in zip(sorts, text.sorts).enumerated() {
            guard let column = try outputColumn(sort) else {
                throw Obstacle("it has DISTINCT and is sorted by an expression")
            }
            let direction = bytes.text(bytes.sortParts(range).direction)
            pieces.append(
                .text((index == 0 ? " ORDER BY " : ", ") + "\(column + 1)" + (direction.isEmpty ? "" : " " + direction))
            )
        }
        if let limits = text.limits { pieces.append(.text(" " + bytes.text(limits))) }
        return RowCombination(
            shardSQL: RewrittenSQL(renumbering: bytes.text(range.lowerBound..<end)), pieces: pieces, columns: nil)
    }
}
