internal import CPgQuery
import Placement

/// Splits a SELECT with aggregates into partial aggregates on the shards and a query that combines them.
struct CombinationPlanner {
    typealias Obstacle = MergePlanner.Obstacle

    private let merge: MergePlanner
    private let text: SelectText
    private var bytes: UnsafeBufferPointer<UInt8> { merge.bytes }

    /// The shards' output expressions; the first ones are those grouped by.
    private var partials: [String] = []
    private var groups: [Group] = []

    private struct Group {
        var text: String
        var column: Column?
    }

    init(_ merge: MergePlanner) throws(Obstacle) {
        self.merge = merge
        text = try merge.text()
    }

    func plan() throws(Obstacle) -> RowCombination {
        var planner = self
        return try planner.make()
    }

    private mutating func make() throws(Obstacle) -> RowCombination {
        let select = merge.select
        guard select.limit_option != PG_QUERY__LIMIT_OPTION__LIMIT_OPTION_WITH_TIES, select.n_locking_clause == 0 else {
            throw Obstacle("it has WITH TIES or a locking clause")
        }
        for (node, range) in zip(nodes(select.n_group_clause, select.group_clause), text.groups) {
            groups.append(try group(node, range))
        }
        partials = groups.map(\.text)
        var pieces: [RowCombination.Piece] = [.text(select.n_distinct_clause > 0 ? "SELECT DISTINCT " : "SELECT ")]
        var direct: [ColumnCombination]? = []
        for (index, (target, item)) in zip(merge.targets, text.items).enumerated() {
            if index > 0 { pieces.append(.text(", ")) }
            guard let value = target.pointee.val else { throw Obstacle("it has an empty output column") }
            let alias = name(target.pointee.name)
            let range = bytes.expression(item, hasAlias: alias != nil)
            let count = partials.count
            pieces += try expression(value, range)
            if let label = alias ?? Analyzer.impliedName(value) {
                pieces.append(.text(" AS \(quotedIdentifier(label))"))
            }
            // Only if this column is one new partial value and nothing else.
            let combination = directCombination(value)
            if let combination, partials.count == count + 1 { direct?.append(combination) } else { direct = nil }
        }
        pieces += [.text(" FROM "), .relation]
        if !groups.isEmpty {
            pieces.append(.text(" GROUP BY " + groups.indices.map { "c\($0 + 1)" }.joined(separator: ", ")))
        }
        if let having = select.having_clause, let range = text.having {
            pieces += [.text(" HAVING ")] + (try expression(having, range))
        }
        pieces += try order()
        if let limits = text.limits { pieces.append(.text(" " + bytes.text(limits))) }
        let isSingle = groups.isEmpty && select.having_clause == nil && text.limits == nil && merge.sorts.isEmpty
        return RowCombination(
            shardSQL: RewrittenSQL(renumbering: shardText()), pieces: pieces, columns: isSingle ? direct : nil)
    }

    private func shardText() -> String {
        let list = partials.enumerated().map { "\($0.element) AS c\($0.offset + 1)" }.joined(separator: ", ")
        let grouping = groups.isEmpty ? "" : " GROUP BY " + groups.indices.map { "\($0 + 1)" }.joined(separator: ", ")
        return "SELECT \(list) \(bytes.text(text.source))" + grouping
    }

    /// What an item of GROUP BY means: an output column by number, a column of FROM, an output column by name.
    private func group(_ node: Node, _ range: Range<Int>) throws(Obstacle) -> Group {
        let analyzer = merge.analyzer
        let scope = merge.level.scope
        if let position = node.constant?.integer { return try output(Int(position) - 1) }
        if let column = analyzer.resolve(node, in: scope) { return Group(text: bytes.text(range), column: column) }
        if let reference = node.columnRef, reference.pointee.n_fields == 1,
            let name = nodes(1, reference.pointee.fields).first?.string
        {
            let matches = merge.targets.indices.filter { StatementRouting.name(merge.targets[$0].pointee.name) == name }
            guard matches.count == 1 else { throw Obstacle("it is grouped by a column that can't be found") }
            return try output(matches[0])
        }
        return Group(text: bytes.text(range), column: nil)
    }

    private func output(_ index: Int) throws(Obstacle) -> Group {
        guard let target = merge.targets[safe: index], let value = target.pointee.val,
            !merge.targets.prefix(index + 1).contains(where: { isStar($0.pointee.val) })
        else { throw Obstacle("it is grouped by an output column that can't be found") }
        let range = bytes.expression(text.items[index], hasAlias: name(target.pointee.name) != nil)
        return Group(text: bytes.text(range), column: merge.analyzer.resolve(value, in: merge.level.scope))
    }

    private func isStar(_ node: Node?) -> Bool {
        node?.columnRef.map { nodes($0.pointee.n_fields, $0.pointee.fields).last?.isStar == true } ?? false
    }

    private mutating func order() throws(Obstacle) -> [RowCombination.Piece] {
        var pieces: [RowCombination.Piece] = []
        for (index, (sort, range)) in zip(merge.sorts, text.sorts).enumerated() {
            guard sort.pointee.n_use_op == 0 else { throw Obstacle("it is sorted by an operator of its own") }
            pieces.append(.text(index == 0 ? " ORDER BY " : ", "))
            let (part, direction) = bytes.sortParts(range)
            if let column = try merge.outputColumn(sort) {
                pieces.append(.text("\(column + 1)"))
            } else if let node = sort.pointee.node {
                pieces += try expression(node, part)
            }
            if !direction.isEmpty { pieces.append(.text(" " + bytes.text(direction))) }
        }
        return pieces
    }

    // MARK: Expressions

    /// An expression over partial columns: aggregates and columns in it are replaced.
    private mutating func expression(_ node: Node, _ range: Range<Int>) throws(Obstacle) -> [RowCombination.Piece] {
        let whole = bytes.text(range)
        if let index = groups.firstIndex(where: { $0.text == whole }) { return [.text("c\(index + 1)")] }
        var places: [(range: Range<Int>, pieces: [RowCombination.Piece])] = []
        var obstacle: Obstacle?
        var calls: [UnsafeMutablePointer<PgQuery__FuncCall>] = []
        var columns: [Node] = []
        let analyzer = merge.analyzer
        node.forEachDescendant { node in
            if node.subLink != nil { obstacle = Obstacle("it has a subquery beside an aggregate") }
            if node.columnRef != nil { columns.append(node) }
            guard let call = node.funcCall else { return obstacle == nil }
            switch analyzer.isAggregate(call) {
            case true?:
                calls.append(call)
                return false
            case false?: return true
            case nil:
                obstacle = Obstacle("a function in it may be an aggregate")
                return false
            }
        }
        if let obstacle { throw obstacle }
        for call in calls {
            let start = Int(call.pointee.location)
            guard let end = bytes.endOfCall(at: start, in: range) else { throw Obstacle("an aggregate can't be found") }
            places.append((start..<end, try aggregate(call, start..<end)))
        }
        for node in columns {
            guard let column = analyzer.resolve(node, in: merge.level.scope),
                let index = groups.firstIndex(where: { $0.column?.number == column.number })
            else { throw Obstacle("an expression in it is neither grouped by nor an aggregate") }
            let start = Int(node.pointee.column_ref.pointee.location)
            places.append((start..<bytes.endOfName(at: start, in: range), [.text("c\(index + 1)")]))
        }
        places.sort { $0.range.lowerBound < $1.range.lowerBound }
        var pieces: [RowCombination.Piece] = []
        var position = range.lowerBound
        for place in places {
            guard place.range.lowerBound >= position else { throw Obstacle("an expression in it can't be taken apart") }
            pieces.append(.text(bytes.text(position..<place.range.lowerBound)))
            pieces += place.pieces
            position = place.range.upperBound
        }
        return pieces + [.text(bytes.text(position..<range.upperBound))]
    }

    private static let selfCombining: Set<String> = ["min", "max", "bool_and", "bool_or", "every", "bit_and", "bit_or"]

    private mutating func aggregate(
        _ call: UnsafeMutablePointer<PgQuery__FuncCall>, _ range: Range<Int>
    ) throws(Obstacle) -> [RowCombination.Piece] {
        let function = Node.names(call.pointee.n_funcname, call.pointee.funcname).last ?? ""
        guard call.pointee.agg_within_group == 0, call.pointee.n_agg_order == 0, call.pointee.func_variadic == 0 else {
            throw Obstacle("aggregate \(function) can't be computed from parts")
        }
        if call.pointee.agg_distinct != 0, !isOverKey(call) {
            throw Obstacle("aggregate \(function) with DISTINCT can't be computed from parts")
        }
        let written = bytes.text(range)
        switch function {
        case "count": return [.text("coalesce(sum(c\(partial(written))), 0)::bigint")]
        case "sum": return [.sum(partial(written))]
        case "avg":
            guard let open = written.firstIndex(of: "(") else { throw Obstacle("an average can't be taken apart") }
            let arguments = written[open...]
            return [.average(sum: partial("sum" + arguments), count: partial("count" + arguments))]
        case let name where Self.selfCombining.contains(name): return [.text("\(name)(c\(partial(written)))")]
        default: throw Obstacle("aggregate \(function) can't be computed from parts")
        }
    }

    /// Distinct values of the shard key are distinct over all shards.
    private func isOverKey(_ call: UnsafeMutablePointer<PgQuery__FuncCall>) -> Bool {
        guard call.pointee.n_args == 1, let argument = nodes(1, call.pointee.args).first,
            let column = merge.analyzer.resolve(argument, in: merge.level.scope)
        else { return false }
        return merge.analyzer.isShardKey(column, of: merge.level, merge.planner.known)
    }

    /// The number of a partial column, from 1.
    private mutating func partial(_ text: String) -> Int {
        if let index = partials.firstIndex(of: text), index >= groups.count { return index + 1 }
        partials.append(text)
        return partials.count
    }

    private func directCombination(_ value: Node) -> ColumnCombination? {
        guard let call = value.funcCall else { return nil }
        switch Node.names(call.pointee.n_funcname, call.pointee.funcname).last {
        case "count": return .count
        case "sum": return .sum
        case "min": return .min
        case "max": return .max
        default: return nil
        }
    }
}
