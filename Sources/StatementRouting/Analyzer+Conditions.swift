internal import CPgQuery
import Placement

extension Analyzer {
    /// Adds what a condition that must hold says of columns.
    func apply(_ condition: Node, in scope: Scope, within range: Range<Int>?, _ known: inout Equalities) {
        if let bool = condition.boolExpr, bool.pointee.boolop == PG_QUERY__BOOL_EXPR_TYPE__AND_EXPR {
            for part in nodes(bool.pointee.n_args, bool.pointee.args) { apply(part, in: scope, within: range, &known) }
        } else if let link = condition.subLink {
            if link.pointee.sub_link_type == PG_QUERY__SUB_LINK_TYPE__ANY_SUBLINK, isEquality(link),
                let test = link.pointee.testexpr, let column = resolve(test, in: scope, within: range)
            {
                memberships[link] = column
            }
        } else if let expression = condition.aExpr, let (left, right) = equation(expression) {
            equate(left, right, in: scope, within: range, &known)
        } else {
            for (column, set) in restrictions(condition, in: scope, within: range) { known.bind(column, set) }
        }
    }

    private func isEquality(_ link: UnsafeMutablePointer<PgQuery__SubLink>) -> Bool {
        let names = Node.names(link.pointee.n_oper_name, link.pointee.oper_name)
        return names.isEmpty || names == ["="]
    }

    /// Both sides of an `=`.
    private func equation(_ expression: UnsafeMutablePointer<PgQuery__AExpr>) -> (Node, Node)? {
        guard expression.pointee.kind == PG_QUERY__A__EXPR__KIND__AEXPR_OP, isEquals(expression),
            let left = expression.pointee.lexpr, let right = expression.pointee.rexpr
        else { return nil }
        return (left, right)
    }

    private func isEquals(_ expression: UnsafeMutablePointer<PgQuery__AExpr>) -> Bool {
        let names = Node.names(expression.pointee.n_name, expression.pointee.name)
        return names == ["="] || names == ["pg_catalog", "="]
    }

    private func equate(
        _ left: Node, _ right: Node, in scope: Scope, within range: Range<Int>?, _ known: inout Equalities
    ) {
        if let (lefts, rights) = rows(left, right) {
            for (left, right) in zip(lefts, rights) { equate(left, right, in: scope, within: range, &known) }
            return
        }
        let (one, other) = (resolve(left, in: scope, within: range), resolve(right, in: scope, within: range))
        if let one, let other { return known.unite(one, other) }
        guard let column = one ?? other else { return }
        known.bind(column, source(one == nil ? left : right, for: column).map { set([$0], for: column) } ?? nil)
    }

    private func rows(_ left: Node, _ right: Node) -> ([Node], [Node])? {
        guard let left = left.rowExpr, let right = right.rowExpr, left.pointee.n_args == right.pointee.n_args
        else { return nil }
        return (nodes(left.pointee.n_args, left.pointee.args), nodes(right.pointee.n_args, right.pointee.args))
    }

    private func set(_ sources: [KeySource], for column: Column) -> KeySet? {
        column.type.map { KeySet(type: $0, sources: sources) }
    }

    /// The columns that a condition restricts to listed values: IN, ANY, and OR whose every arm restricts one.
    private func restrictions(_ condition: Node, in scope: Scope, within range: Range<Int>?) -> [(Column, KeySet)] {
        if let bool = condition.boolExpr {
            let parts = nodes(bool.pointee.n_args, bool.pointee.args)
            switch bool.pointee.boolop {
            case PG_QUERY__BOOL_EXPR_TYPE__AND_EXPR:
                return parts.flatMap { restrictions($0, in: scope, within: range) }
            case PG_QUERY__BOOL_EXPR_TYPE__OR_EXPR:
                return alternatives(parts.map { restrictions($0, in: scope, within: range) })
            default: return []
            }
        }
        guard let expression = condition.aExpr, isEquals(expression) else { return [] }
        switch expression.pointee.kind {
        case PG_QUERY__A__EXPR__KIND__AEXPR_OP:
            var known = Equalities()
            guard let (left, right) = equation(expression) else { return [] }
            equate(left, right, in: scope, within: range, &known)
            return known.values.compactMap { value in columnsByNumber[value.column].map { ($0, value.set) } }
        case PG_QUERY__A__EXPR__KIND__AEXPR_IN: return membership(expression, in: scope, within: range)
        case PG_QUERY__A__EXPR__KIND__AEXPR_OP_ANY:
            guard let left = expression.pointee.lexpr, let right = expression.pointee.rexpr,
                let column = resolve(left, in: scope, within: range), let sources = elements(right, for: column),
                let set = set(sources, for: column)
            else { return [] }
            return [(column, set)]
        default: return []
        }
    }

    /// Of OR's arms: the columns that each of them restricts.
    private func alternatives(_ arms: [[(Column, KeySet)]]) -> [(Column, KeySet)] {
        guard let first = arms.first else { return [] }
        return first.compactMap { column, set in
            var joined = set
            var seen = Set(set.sources)
            for arm in arms.dropFirst() {
                guard let other = arm.first(where: { $0.0.number == column.number }) else { return nil }
                joined.sources += other.1.sources.filter { seen.insert($0).inserted }
            }
            return (column, joined)
        }
    }

    private func membership(
        _ expression: UnsafeMutablePointer<PgQuery__AExpr>, in scope: Scope, within range: Range<Int>?
    ) -> [(Column, KeySet)] {
        guard let left = expression.pointee.lexpr, let items = expression.pointee.rexpr?.list else { return [] }
        if let row = left.rowExpr {
            let parts = nodes(row.pointee.n_args, row.pointee.args)
            return parts.enumerated().compactMap { index, part in
                guard let column = resolve(part, in: scope, within: range) else { return nil }
                let sources = items.compactMap { item -> KeySource? in
                    guard let row = item.rowExpr, row.pointee.n_args == parts.count else { return nil }
                    return nodes(row.pointee.n_args, row.pointee.args)[index].self.asSource(self, column)
                }
                guard sources.count == items.count, let set = set(sources, for: column) else { return nil }
                return (column, set)
            }
        }
        guard let column = resolve(left, in: scope, within: range) else { return [] }
        let sources = items.compactMap { source($0, for: column) }
        guard sources.count == items.count, let set = set(sources, for: column) else { return [] }
        return [(column, set)]
    }

    /// The elements of an array: a literal, ARRAY[…] or a parameter, perhaps behind a cast.
    private func elements(_ node: Node, for column: Column) -> [KeySource]? {
        if let cast = node.typeCast, let argument = cast.pointee.arg, let type = cast.pointee.type_name {
            guard type.pointee.n_array_bounds == 1, let element = castType(type), element.family == column.type?.family
            else { return nil }
            return elements(argument, for: column)
        }
        if let parameter = node.paramRef { return [.elements(ofParameter: Int(parameter.pointee.number))] }
        if let array = node.arrayExpr {
            let items = nodes(array.pointee.n_elements, array.pointee.elements)
            let sources = items.compactMap { source($0, for: column) }
            return sources.count == items.count ? sources : nil
        }
        guard let text = node.constant?.string, let elements = ArrayText.elements(Array(text.utf8)) else { return nil }
        return elements.map { $0.map { .constant(String(decoding: $0, as: UTF8.self)) } ?? .null }
    }

    /// A constant or parameter that a column is compared with; nil when its value can't be told without a server.
    func source(_ node: Node, for column: Column) -> KeySource? {
        guard let type = column.type else { return nil }
        if let parameter = node.paramRef { return .parameter(Int(parameter.pointee.number), cast: 0) }
        if let cast = node.typeCast, let argument = cast.pointee.arg, let name = cast.pointee.type_name {
            guard let target = castType(name), name.pointee.n_array_bounds == 0, name.pointee.n_typmods == 0,
                target.family == type.family
            else { return nil }
            if let parameter = argument.paramRef {
                return .parameter(Int(parameter.pointee.number), cast: target.rawValue)
            }
            return argument.constant.flatMap { constant($0, as: target, isCast: true) }
        }
        if let constant = node.constant { return self.constant(constant, as: type, isCast: false) }
        guard let minus = node.aExpr, minus.pointee.lexpr == nil, let operand = minus.pointee.rexpr?.constant,
            Node.names(minus.pointee.n_name, minus.pointee.name) == ["-"], operand.string == nil,
            case .constant(let text)? = constant(operand, as: type, isCast: false), !text.hasPrefix("-")
        else { return nil }
        return .constant("-" + text)
    }

    private func constant(
        _ constant: UnsafeMutablePointer<PgQuery__AConst>, as type: ShardKeyType, isCast: Bool
    ) -> KeySource? {
        if constant.isNull { return .null }
        if let text = constant.string {
            // Truncated or padded by the cast: left to the server.
            if isCast, type == .name || type == .bpchar { return nil }
            return .constant(text)
        }
        if let boolean = constant.boolean { return type == .boolean ? .constant(boolean ? "true" : "false") : nil }
        let digits = constant.integer.map { String($0) } ?? constant.decimal
        switch type.family {
        case .integer, .other(.numeric), .other(.oid): return digits.map { .constant($0) }
        case .text where isCast: return constant.integer.map { .constant(String($0)) }
        default: return nil
        }
    }

    /// The type that a cast names, if it can be a shard key's.
    func castType(_ type: UnsafeMutablePointer<PgQuery__TypeName>) -> ShardKeyType? {
        var names = Node.names(type.pointee.n_names, type.pointee.names)
        if names.count == 2, names[0] == "pg_catalog" { names.removeFirst() }
        guard names.count == 1 else { return nil }
        switch names[0] {
        case "int2": return .smallint
        case "int4": return .integer
        case "int8": return .bigint
        case "text": return .text
        case "varchar": return .varchar
        case "bpchar": return .bpchar
        case "uuid": return .uuid
        case "bool": return .boolean
        case "date": return .date
        case "timestamp": return .timestamp
        case "timestamptz": return .timestamptz
        case "numeric": return .numeric
        case "oid": return .oid
        case "name": return .name
        default: return nil
        }
    }
}

extension Node {
    fileprivate func asSource(_ analyzer: Analyzer, _ column: Column) -> KeySource? {
        analyzer.source(self, for: column)
    }
}
