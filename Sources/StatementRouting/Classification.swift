internal import CPgQuery
import Placement

extension StatementKind {
    /// Tells what a parsed statement is; `range` is where it stands in the whole text.
    init(_ source: SourceNode, range: Range<Int>) {
        let node = source.node
        switch node.kind {
        case PG_QUERY__NODE__NODE_SELECT_STMT: self = Self.query(source, range)
        case PG_QUERY__NODE__NODE_INSERT_STMT: self = .insert
        case PG_QUERY__NODE__NODE_UPDATE_STMT: self = .update
        case PG_QUERY__NODE__NODE_DELETE_STMT: self = .delete
        case PG_QUERY__NODE__NODE_MERGE_STMT: self = .merge
        case PG_QUERY__NODE__NODE_TRANSACTION_STMT:
            self = .transaction(TransactionCommand(node.pointee.transaction_stmt))
        case PG_QUERY__NODE__NODE_VARIABLE_SET_STMT: self = Self.variable(node.pointee.variable_set_stmt)
        case PG_QUERY__NODE__NODE_VARIABLE_SHOW_STMT:
            self = .setting(.show(name: String(cString: node.pointee.variable_show_stmt.pointee.name)))
        case PG_QUERY__NODE__NODE_DISCARD_STMT: self = .setting(.discard(Self.discarded(node)))
        case PG_QUERY__NODE__NODE_CONSTRAINTS_SET_STMT: self = .setConstraints
        case PG_QUERY__NODE__NODE_COPY_STMT: self = .copy(CopyCommand(source, range))
        case PG_QUERY__NODE__NODE_LISTEN_STMT:
            self = .listen(channel: String(cString: node.pointee.listen_stmt.pointee.conditionname))
        case PG_QUERY__NODE__NODE_UNLISTEN_STMT:
            self = .unlisten(channel: optionalName(node.pointee.unlisten_stmt.pointee.conditionname))
        case PG_QUERY__NODE__NODE_NOTIFY_STMT:
            let notify = node.pointee.notify_stmt.pointee
            self = .notify(
                channel: String(cString: notify.conditionname),
                payload: notify.payload.map { String(cString: $0) } ?? "")
        case PG_QUERY__NODE__NODE_LOCK_STMT:
            let lock = node.pointee.lock_stmt.pointee
            self = .lockTable(
                RelationName.all(lock.n_relations, lock.relations), mode: TableLockMode(rawValue: lock.mode)!,
                isNoWait: lock.nowait != 0)
        case PG_QUERY__NODE__NODE_TRUNCATE_STMT:
            let truncate = node.pointee.truncate_stmt.pointee
            self = .truncate(
                RelationName.all(truncate.n_relations, truncate.relations),
                restartsSequences: truncate.restart_seqs != 0,
                cascades: truncate.behavior == PG_QUERY__DROP_BEHAVIOR__DROP_CASCADE)
        case PG_QUERY__NODE__NODE_CALL_STMT: self = .call
        case PG_QUERY__NODE__NODE_DO_STMT: self = .doBlock
        default: self = Self.nested(source, range) ?? Self.maintenance(node) ?? Self.schemaChange(source, range)
        }
    }

    private static func query(_ source: SourceNode, _ range: Range<Int>) -> StatementKind {
        guard let into = firstInto(source.node.pointee.select_stmt) else { return .query }
        let created = created(into.pointee.rel, object: "table", source, range)
        guard case .temporary(var command) = created else { return created }
        guard let query = source.withoutInto(in: range) else { return .unsupported("SELECT INTO in a set operation") }
        command.object = "table as"
        command.sql = "CREATE TEMPORARY TABLE \(quotedIdentifier(command.relations[0].name)) AS \(query)\nWITH NO DATA"
        command.filling = query
        return .temporary(command)
    }

    /// SELECT INTO, which in a set operation stands in the first branch.
    private static func firstInto(
        _ select: UnsafeMutablePointer<PgQuery__SelectStmt>
    ) -> UnsafeMutablePointer<PgQuery__IntoClause>? {
        var branch = select
        while branch.pointee.into_clause == nil, let left = branch.pointee.larg { branch = left }
        return branch.pointee.into_clause
    }

    private static func variable(_ pointer: UnsafeMutablePointer<PgQuery__VariableSetStmt>) -> StatementKind {
        let set = pointer.pointee
        let setting = name(set.name) ?? ""
        switch set.kind {
        case PG_QUERY__VARIABLE_SET_KIND__VAR_RESET: return .setting(.reset(name: setting))
        case PG_QUERY__VARIABLE_SET_KIND__VAR_RESET_ALL: return .setting(.resetAll)
        case PG_QUERY__VARIABLE_SET_KIND__VAR_SET_DEFAULT:
            return .setting(.set(name: setting, values: nil, isLocal: set.is_local != 0))
        case PG_QUERY__VARIABLE_SET_KIND__VAR_SET_MULTI:
            guard setting != "TRANSACTION SNAPSHOT" else { return .transaction(.unsupported("SET \(setting)")) }
            let modes = TransactionModes(set.n_args, set.args)
            return .transaction(.setModes(modes, forSession: setting == "SESSION CHARACTERISTICS"))
        case PG_QUERY__VARIABLE_SET_KIND__VAR_SET_VALUE:
            let values = nodes(set.n_args, set.args).map(literal)
            return .setting(.set(name: setting, values: values, isLocal: set.is_local != 0))
        default: return .unsupported("SET \(setting) FROM CURRENT")
        }
    }

    private static func discarded(_ node: Node) -> String {
        switch node.pointee.discard_stmt.pointee.target {
        case PG_QUERY__DISCARD_MODE__DISCARD_PLANS: "plans"
        case PG_QUERY__DISCARD_MODE__DISCARD_SEQUENCES: "sequences"
        case PG_QUERY__DISCARD_MODE__DISCARD_TEMP: "temp"
        default: "all"
        }
    }

    /// Statements around another statement, and cursors.
    private static func nested(_ source: SourceNode, _ range: Range<Int>) -> StatementKind? {
        let node = source.node
        switch node.kind {
        case PG_QUERY__NODE__NODE_PREPARE_STMT:
            let prepare = node.pointee.prepare_stmt.pointee
            let inner = source.after(keyword: "as", in: range)
            let types = prepare.n_argtypes > 0 ? source.bracketedItems(in: range.lowerBound..<inner.lowerBound) : []
            return .prepare(name: String(cString: prepare.name), types: types, statement: inner)
        case PG_QUERY__NODE__NODE_EXECUTE_STMT:
            let name = String(cString: node.pointee.execute_stmt.pointee.name)
            return .execute(name: name, arguments: source.bracketedItems(in: range))
        case PG_QUERY__NODE__NODE_DEALLOCATE_STMT:
            return .deallocate(name: optionalName(node.pointee.deallocate_stmt.pointee.name))
        case PG_QUERY__NODE__NODE_DECLARE_CURSOR_STMT:
            let cursor = node.pointee.declare_cursor_stmt.pointee
            return .declareCursor(
                name: String(cString: cursor.portalname), query: source.after(keyword: "for", in: range),
                options: CursorOptions(rawValue: cursor.options & 0x3F))
        case PG_QUERY__NODE__NODE_FETCH_STMT:
            let fetch = node.pointee.fetch_stmt.pointee
            return .fetch(
                cursor: String(cString: fetch.portalname), FetchAmount(fetch), isMove: fetch.ismove != 0)
        case PG_QUERY__NODE__NODE_CLOSE_PORTAL_STMT:
            return .closeCursor(name: optionalName(node.pointee.close_portal_stmt.pointee.portalname))
        case PG_QUERY__NODE__NODE_EXPLAIN_STMT:
            let explain = node.pointee.explain_stmt.pointee
            return .explain(
                options: optionTexts(explain.n_options, explain.options), statement: source.explained(in: range))
        default: return nil
        }
    }

    private static func maintenance(_ node: Node) -> StatementKind? {
        switch node.kind {
        case PG_QUERY__NODE__NODE_VACUUM_STMT:
            let vacuum = node.pointee.vacuum_stmt.pointee
            let isVacuum = vacuum.is_vacuumcmd != 0
            let relations = nodes(vacuum.n_rels, vacuum.rels).compactMap { item in
                item.kind == PG_QUERY__NODE__NODE_VACUUM_RELATION
                    ? item.pointee.vacuum_relation.pointee.relation.map { RelationName($0) } : nil
            }
            return .maintenance(
                command: isVacuum ? "VACUUM" : "ANALYZE", isInTransactionBlock: !isVacuum, relations: relations)
        case PG_QUERY__NODE__NODE_CLUSTER_STMT: return .maintenance(command: "CLUSTER", isInTransactionBlock: true)
        case PG_QUERY__NODE__NODE_REINDEX_STMT: return .maintenance(command: "REINDEX", isInTransactionBlock: false)
        case PG_QUERY__NODE__NODE_CHECK_POINT_STMT:
            return .maintenance(command: "CHECKPOINT", isInTransactionBlock: true)
        default: return nil
        }
    }
}

/// ``name(_:)`` where an enum's case or an argument is called `name` too.
func optionalName(_ string: UnsafeMutablePointer<CChar>?) -> String? { name(string) }

/// A SET value or an option's argument as text.
func literal(_ node: Node) -> String {
    if let constant = node.constant {
        if let string = constant.string { return string }
        if let integer = constant.integer { return String(integer) }
        if let boolean = constant.boolean { return boolean ? "true" : "false" }
        return constant.decimal ?? ""
    }
    if let cast = node.typeCast, let argument = cast.pointee.arg { return literal(argument) }
    if let string = node.string { return string }
    if let items = node.list { return items.map(literal).joined(separator: ",") }
    switch node.kind {
    case PG_QUERY__NODE__NODE_INTEGER: return String(node.pointee.integer.pointee.ival)
    case PG_QUERY__NODE__NODE_FLOAT: return String(cString: node.pointee.float_.pointee.fval)
    case PG_QUERY__NODE__NODE_BOOLEAN: return node.pointee.boolean.pointee.boolval != 0 ? "true" : "false"
    case PG_QUERY__NODE__NODE_TYPE_NAME:
        let type = node.pointee.type_name.pointee
        return Node.names(type.n_names, type.names).joined(separator: ".")
    case PG_QUERY__NODE__NODE_A_STAR: return "*"
    default: return ""
    }
}

/// Options by lower-case name; one without an argument is `true`.
func optionTexts(_ count: Int, _ list: UnsafeMutablePointer<Node?>?) -> [String: String] {
    var texts: [String: String] = [:]
    for option in nodes(count, list).compactMap(\.defElem) {
        guard let key = name(option.pointee.defname) else { continue }
        texts[key.lowercased()] = option.pointee.arg.map(literal) ?? "true"
    }
    return texts
}

extension FetchAmount {
    init(_ fetch: PgQuery__FetchStmt) {
        let count = Int(fetch.how_many)
        switch fetch.direction {
        case PG_QUERY__FETCH_DIRECTION__FETCH_ABSOLUTE: self = .absolute(count)
        case PG_QUERY__FETCH_DIRECTION__FETCH_RELATIVE: self = .relative(count)
        case PG_QUERY__FETCH_DIRECTION__FETCH_BACKWARD: self = Self.moving(-max(count, -Int.max))
        default: self = Self.moving(max(count, -Int.max))
        }
    }

    /// So many rows ahead, or with a negative number back.
    private static func moving(_ count: Int) -> FetchAmount {
        count > 0 ? .forward(count) : count < 0 ? .backward(-count) : .relative(0)
    }
}

extension TransactionCommand {
    init(_ pointer: UnsafeMutablePointer<PgQuery__TransactionStmt>) {
        let statement = pointer.pointee
        let savepoint = name(statement.savepoint_name) ?? ""
        let chains = statement.chain != 0
        switch statement.kind {
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_BEGIN, PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_START:
            self = .begin(TransactionModes(statement.n_options, statement.options))
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_COMMIT: self = .commit(andChain: chains)
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_ROLLBACK: self = .rollback(andChain: chains)
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_SAVEPOINT: self = .savepoint(savepoint)
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_RELEASE: self = .release(savepoint)
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_ROLLBACK_TO: self = .rollbackTo(savepoint)
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_PREPARE: self = .unsupported("PREPARE TRANSACTION")
        case PG_QUERY__TRANSACTION_STMT_KIND__TRANS_STMT_COMMIT_PREPARED: self = .unsupported("COMMIT PREPARED")
        default: self = .unsupported("ROLLBACK PREPARED")
        }
    }
}

extension TransactionModes {
    init(_ count: Int, _ list: UnsafeMutablePointer<Node?>?) {
        self.init()
        for (key, value) in optionTexts(count, list) {
            switch key {
            case "transaction_isolation": isolationLevel = value
            case "transaction_read_only": isReadOnly = value != "0" && value != "false"
            case "transaction_deferrable": isDeferrable = value != "0" && value != "false"
            default: break
            }
        }
    }
}

extension CopyCommand {
    init(_ source: SourceNode, _ range: Range<Int>) {
        let copy = source.node.pointee.copy_stmt.pointee
        if let relation = copy.relation {
            self.source = .table(RelationName(relation), columns: Node.names(copy.n_attlist, copy.attlist))
        } else {
            self.source = .query(source.firstBrackets(in: range))
        }
        isFrom = copy.is_from != 0
        peer = copy.is_program != 0 || name(copy.filename) != nil ? .server : .client
        options = optionTexts(copy.n_options, copy.options)
        hasFilter = copy.where_clause != nil
    }
}

extension RelationName {
    init(_ pointer: UnsafeMutablePointer<PgQuery__RangeVar>) {
        self.init(schema: optionalName(pointer.pointee.schemaname), String(cString: pointer.pointee.relname))
    }

    static func all(_ count: Int, _ list: UnsafeMutablePointer<Node?>?) -> [RelationName] {
        nodes(count, list).compactMap { $0.rangeVar.map { RelationName($0) } }
    }

    /// A name given as a list of strings, as DROP has it.
    init?(parts: [String]) {
        guard let last = parts.last else { return nil }
        self.init(schema: parts.count > 1 ? parts[parts.count - 2] : nil, last)
    }
}
