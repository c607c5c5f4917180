internal import CPgQuery

extension StatementKind {
    /// DDL, or what Meridian refuses.
    static func schemaChange(_ source: SourceNode, _ range: Range<Int>) -> StatementKind {
        let node = source.node
        switch node.kind {
        case PG_QUERY__NODE__NODE_CREATE_STMT:
            return created(node.pointee.create_stmt.pointee.relation, object: "table", source, range)
        case PG_QUERY__NODE__NODE_CREATE_TABLE_AS_STMT:
            let create = node.pointee.create_table_as_stmt.pointee
            let isView = create.objtype == PG_QUERY__OBJECT_TYPE__OBJECT_MATVIEW
            let created = created(
                create.into.pointee.rel, object: isView ? "materialized view" : "table as", source, range)
            guard case .temporary(var command) = created, create.into.pointee.skip_data == 0 else { return created }
            let query = source.withoutDataClause(in: source.after(keyword: "as", in: range))
            command.sql = source.bytes.text(range.lowerBound..<query.upperBound) + "\nWITH NO DATA"
            command.filling = source.bytes.text(query)
            return .temporary(command)
        case PG_QUERY__NODE__NODE_VIEW_STMT:
            return created(node.pointee.view_stmt.pointee.view, object: "view", source, range)
        case PG_QUERY__NODE__NODE_CREATE_SEQ_STMT:
            return created(node.pointee.create_seq_stmt.pointee.sequence, object: "sequence", source, range)
        case PG_QUERY__NODE__NODE_INDEX_STMT:
            let index = node.pointee.index_stmt.pointee
            let relation = RelationName(index.relation)
            return .ddl(
                DDLCommand(
                    object: "index", action: .create, relations: [relation], isConcurrent: index.concurrent != 0,
                    sql: source.bytes.text(range)))
        case PG_QUERY__NODE__NODE_DROP_STMT: return dropped(source, range)
        case PG_QUERY__NODE__NODE_ALTER_TABLE_STMT:
            let alter = node.pointee.alter_table_stmt.pointee
            return change(objectName(alter.objtype), .alter, alter.relation, source, range)
        case PG_QUERY__NODE__NODE_RENAME_STMT:
            let rename = node.pointee.rename_stmt.pointee
            return change(objectName(rename.rename_type), .rename, rename.relation, source, range)
        case PG_QUERY__NODE__NODE_ALTER_OBJECT_SCHEMA_STMT:
            let move = node.pointee.alter_object_schema_stmt.pointee
            return change(objectName(move.object_type), .alter, move.relation, source, range)
        case PG_QUERY__NODE__NODE_ALTER_SEQ_STMT:
            return change("sequence", .alter, node.pointee.alter_seq_stmt.pointee.sequence, source, range)
        case PG_QUERY__NODE__NODE_CREATE_TRIG_STMT:
            return change("trigger", .create, node.pointee.create_trig_stmt.pointee.relation, source, range)
        default:
            guard
                let (object, action) = plainChanges.first(where: { $0.kind == node.kind }).map({
                    ($0.object, $0.action)
                })
            else { return .unsupported(source.leadingWords(in: range)) }
            return change(object, action, nil, source, range)
        }
    }

    /// Changes without a relation of their own.
    private static let plainChanges: [(kind: PgQuery__Node__NodeCase, object: String, action: DDLCommand.Action)] = [
        (PG_QUERY__NODE__NODE_CREATE_ENUM_STMT, "type", .create),
        (PG_QUERY__NODE__NODE_COMPOSITE_TYPE_STMT, "type", .create),
        (PG_QUERY__NODE__NODE_CREATE_RANGE_STMT, "type", .create),
        (PG_QUERY__NODE__NODE_ALTER_ENUM_STMT, "type", .alter),
        (PG_QUERY__NODE__NODE_ALTER_TYPE_STMT, "type", .alter),
        (PG_QUERY__NODE__NODE_CREATE_DOMAIN_STMT, "domain", .create),
        (PG_QUERY__NODE__NODE_ALTER_DOMAIN_STMT, "domain", .alter),
        (PG_QUERY__NODE__NODE_CREATE_FUNCTION_STMT, "function", .create),
        (PG_QUERY__NODE__NODE_ALTER_FUNCTION_STMT, "function", .alter),
        (PG_QUERY__NODE__NODE_CREATE_SCHEMA_STMT, "schema", .create),
        (PG_QUERY__NODE__NODE_DEFINE_STMT, "definition", .create),
        (PG_QUERY__NODE__NODE_CREATE_EXTENSION_STMT, "extension", .create),
        (PG_QUERY__NODE__NODE_ALTER_EXTENSION_STMT, "extension", .alter),
        (PG_QUERY__NODE__NODE_CREATE_STATS_STMT, "statistics", .create),
        (PG_QUERY__NODE__NODE_ALTER_STATS_STMT, "statistics", .alter),
        (PG_QUERY__NODE__NODE_CREATE_CAST_STMT, "cast", .create),
        (PG_QUERY__NODE__NODE_CREATE_POLICY_STMT, "policy", .create),
        (PG_QUERY__NODE__NODE_ALTER_POLICY_STMT, "policy", .alter),
        (PG_QUERY__NODE__NODE_GRANT_STMT, "privileges", .other),
        (PG_QUERY__NODE__NODE_ALTER_DEFAULT_PRIVILEGES_STMT, "privileges", .other),
        (PG_QUERY__NODE__NODE_COMMENT_STMT, "comment", .other),
        (PG_QUERY__NODE__NODE_ALTER_OWNER_STMT, "owner", .alter),
        (PG_QUERY__NODE__NODE_REFRESH_MAT_VIEW_STMT, "materialized view", .other),
    ]

    private static func change(
        _ object: String, _ action: DDLCommand.Action, _ relation: UnsafeMutablePointer<PgQuery__RangeVar>?,
        _ source: SourceNode, _ range: Range<Int>
    ) -> StatementKind {
        let relations = relation.map { [RelationName($0)] } ?? []
        return .ddl(
            DDLCommand(object: object, action: action, relations: relations, sql: source.bytes.text(range)))
    }

    /// CREATE of a relation, which may be temporary, and of a table, which may be distributed.
    static func created(
        _ relation: UnsafeMutablePointer<PgQuery__RangeVar>, object: String, _ source: SourceNode, _ range: Range<Int>
    ) -> StatementKind {
        let relationName = RelationName(relation)
        let isTemporary = name(relation.pointee.relpersistence) == "t" || relationName.schema == "pg_temp"
        guard !isTemporary else {
            return .temporary(
                DDLCommand(
                    object: object, action: .create, relations: [relationName], sql: source.bytes.text(range)))
        }
        let (request, sql) = source.withoutOwnOptions(in: range)
        return .ddl(
            DDLCommand(
                object: object, action: .create, relations: [relationName], distribution: request, sql: sql))
    }

    private static func dropped(_ source: SourceNode, _ range: Range<Int>) -> StatementKind {
        let drop = source.node.pointee.drop_stmt.pointee
        let object = objectName(drop.remove_type)
        let isRelation = ["table", "view", "materialized view", "index", "sequence"].contains(object)
        let names = nodes(drop.n_objects, drop.objects).compactMap { item in
            item.list.flatMap { RelationName(parts: $0.compactMap(\.string)) }
        }
        return .ddl(
            DDLCommand(
                object: object, action: .drop, relations: isRelation ? names : [],
                isConcurrent: drop.concurrent != 0, sql: source.bytes.text(range)))
    }

    private static func objectName(_ type: PgQuery__ObjectType) -> String {
        switch type {
        case PG_QUERY__OBJECT_TYPE__OBJECT_TABLE: "table"
        case PG_QUERY__OBJECT_TYPE__OBJECT_COLUMN: "column"
        case PG_QUERY__OBJECT_TYPE__OBJECT_TABCONSTRAINT: "constraint"
        case PG_QUERY__OBJECT_TYPE__OBJECT_INDEX: "index"
        case PG_QUERY__OBJECT_TYPE__OBJECT_VIEW: "view"
        case PG_QUERY__OBJECT_TYPE__OBJECT_MATVIEW: "materialized view"
        case PG_QUERY__OBJECT_TYPE__OBJECT_SEQUENCE: "sequence"
        case PG_QUERY__OBJECT_TYPE__OBJECT_SCHEMA: "schema"
        case PG_QUERY__OBJECT_TYPE__OBJECT_TYPE: "type"
        case PG_QUERY__OBJECT_TYPE__OBJECT_DOMAIN: "domain"
        case PG_QUERY__OBJECT_TYPE__OBJECT_FUNCTION, PG_QUERY__OBJECT_TYPE__OBJECT_PROCEDURE,
            PG_QUERY__OBJECT_TYPE__OBJECT_ROUTINE:
            "function"
        case PG_QUERY__OBJECT_TYPE__OBJECT_TRIGGER: "trigger"
        case PG_QUERY__OBJECT_TYPE__OBJECT_EXTENSION: "extension"
        default: "object"
        }
    }
}
