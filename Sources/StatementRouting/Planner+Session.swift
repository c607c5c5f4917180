internal import CPgQuery
import Placement

extension Planner {
    /// What the statement asks of its session; called for queries.
    func sessionUse(_ plan: StatementPlan) -> SessionUse {
        var use = SessionUse()
        use.relations = Set(plan.otherRelations.compactMap { OwnRelation($0) })
        if !use.relations.isEmpty { use.sql = ownRelationsNamed() }
        if let level, analyzer.uses.isEmpty, plan.views.isEmpty {
            let targets = nodes(level.select.pointee.n_target_list, level.select.pointee.target_list)
            use.settings = settingCalls(targets)
            use.call = ownCall(level, targets)
        }
        return use
    }

    // MARK: set_config

    /// Nothing if there is a call that is no output column of its own: what it sets would not be known.
    private func settingCalls(_ targets: [Node]) -> [SettingCall] {
        var count = 0
        source.node.forEachDescendant { node in
            if let call = node.funcCall, Self.name(of: call) == "set_config" { count += 1 }
            return true
        }
        guard count > 0 else { return [] }
        let calls = targets.enumerated().compactMap { index, target -> SettingCall? in
            guard let call = target.resTarget?.pointee.val?.funcCall, Self.name(of: call) == "set_config" else {
                return nil
            }
            let arguments = nodes(call.pointee.n_args, call.pointee.args)
            guard arguments.count == 3, let name = PlainArgument(arguments[0]),
                let isLocal = PlainArgument(arguments[2])
            else { return nil }
            return SettingCall(column: index, name: name, isLocal: isLocal)
        }
        return calls.count == count ? calls : []
    }

    /// A function's name, if it may be one of `pg_catalog`.
    private static func name(of call: UnsafeMutablePointer<PgQuery__FuncCall>) -> String? {
        let names = Node.names(call.pointee.n_funcname, call.pointee.funcname)
        return names.count == 1 || names.first == "pg_catalog" ? names.last : nil
    }

    // MARK: Own functions

    private func ownCall(_ level: Level, _ targets: [Node]) -> OwnCall? {
        let select = level.select.pointee
        guard level.branches.isEmpty, targets.count == 1, select.where_clause == nil, select.with_clause == nil,
            let target = targets[0].resTarget?.pointee.val
        else { return nil }
        if select.n_from_clause == 0 { return target.funcCall.flatMap { OwnCall($0) } }
        let isStar = target.columnRef.map { nodes($0.pointee.n_fields, $0.pointee.fields).first?.isStar == true }
        guard isStar == true, select.n_from_clause == 1, let item = nodes(1, select.from_clause).first,
            item.kind == PG_QUERY__NODE__NODE_RANGE_FUNCTION,
            let function = nodes(
                item.pointee.range_function.pointee.n_functions, item.pointee.range_function.pointee.functions
            ).first?.list?.first?.funcCall
        else { return nil }
        return OwnCall(function)
    }

    // MARK: Own relations

    /// The text with `pg_prepared_statements` and its like led to the views that the node fills; nil without any.
    private func ownRelationsNamed() -> String? {
        var places: [(start: Int, name: RelationName, needsAlias: Bool, view: String)] = []
        source.node.forEachDescendant { node in
            if let relation = node.rangeVar {
                let name = RelationName(relation)
                if name.schema != "meridian", let view = OwnRelation(name) {
                    places.append(
                        (Int(relation.pointee.location), name, relation.pointee.alias == nil, view.rawValue))
                }
            }
            return true
        }
        guard !places.isEmpty else { return nil }
        let bytes = source.bytes
        var text = ""
        var position = statement.range.lowerBound
        for place in places.sorted(by: { $0.start < $1.start }) {
            text += bytes.text(position..<place.start) + "meridian." + quotedIdentifier(place.view)
            if place.needsAlias { text += " AS " + quotedIdentifier(place.name.name) }
            // The name with its schema: one token, or three.
            var lexer = Lexer(bytes, from: place.start, to: statement.range.upperBound)
            for _ in 0..<(place.name.schema == nil ? 1 : 3) { position = lexer.next()?.end ?? position }
        }
        return text + bytes.text(position..<statement.range.upperBound)
    }
}

extension OwnCall {
    fileprivate init?(_ call: UnsafeMutablePointer<PgQuery__FuncCall>) {
        var names = Node.names(call.pointee.n_funcname, call.pointee.funcname)
        // The one of PostgreSQL's that is the node's to carry out.
        if names == ["pg_notify"] { names.insert("pg_catalog", at: 0) }
        guard names.count == 2, names[0] == "meridian" || names == ["pg_catalog", "pg_notify"] else { return nil }
        let nodes = nodes(call.pointee.n_args, call.pointee.args)
        let arguments = nodes.compactMap { PlainArgument($0) }
        guard arguments.count == nodes.count else { return nil }
        self.init(function: names[1], arguments: arguments)
    }
}

extension PlainArgument {
    init?(_ node: Node) {
        if let cast = node.typeCast, let argument = cast.pointee.arg {
            self.init(argument)
        } else if let parameter = node.paramRef {
            self = .parameter(Int(parameter.pointee.number))
        } else if let constant = node.constant {
            if constant.isNull {
                self = .constant(nil)
            } else if let boolean = constant.boolean {
                self = .constant(boolean ? "true" : "false")
            } else {
                self = .constant(constant.string ?? constant.integer.map { String($0) } ?? constant.decimal ?? "")
            }
        } else {
            return nil
        }
    }
}
