internal import CPgQuery

typealias Node = UnsafeMutablePointer<PgQuery__Node>

/// A node of the parse tree with the text that it was read from.
struct SourceNode {
    let node: Node
    let bytes: UnsafeBufferPointer<UInt8>

    init(_ node: Node, _ bytes: UnsafeBufferPointer<UInt8>) {
        (self.node, self.bytes) = (node, bytes)
    }
}

/// The nodes of a list in the tree.
func nodes(_ count: Int, _ list: UnsafeMutablePointer<Node?>?) -> [Node] {
    (0..<count).compactMap { list?[$0] }
}

/// A string of the tree; nil for the empty one, which protobuf does not tell from none.
func name(_ string: UnsafeMutablePointer<CChar>?) -> String? {
    guard let string, string.pointee != 0 else { return nil }
    return String(cString: string)
}

extension Node {
    var kind: PgQuery__Node__NodeCase { pointee.node_case }

    private func `if`<Value>(_ kind: PgQuery__Node__NodeCase, _ value: @autoclosure () -> Value?) -> Value? {
        self.kind == kind ? value() : nil
    }

    var select: UnsafeMutablePointer<PgQuery__SelectStmt>? {
        `if`(PG_QUERY__NODE__NODE_SELECT_STMT, pointee.select_stmt)
    }
    var rangeVar: UnsafeMutablePointer<PgQuery__RangeVar>? { `if`(PG_QUERY__NODE__NODE_RANGE_VAR, pointee.range_var) }
    var joinExpr: UnsafeMutablePointer<PgQuery__JoinExpr>? { `if`(PG_QUERY__NODE__NODE_JOIN_EXPR, pointee.join_expr) }
    var rangeSubselect: UnsafeMutablePointer<PgQuery__RangeSubselect>? {
        `if`(PG_QUERY__NODE__NODE_RANGE_SUBSELECT, pointee.range_subselect)
    }
    var boolExpr: UnsafeMutablePointer<PgQuery__BoolExpr>? { `if`(PG_QUERY__NODE__NODE_BOOL_EXPR, pointee.bool_expr) }
    var aExpr: UnsafeMutablePointer<PgQuery__AExpr>? { `if`(PG_QUERY__NODE__NODE_A_EXPR, pointee.a_expr) }
    var columnRef: UnsafeMutablePointer<PgQuery__ColumnRef>? {
        `if`(PG_QUERY__NODE__NODE_COLUMN_REF, pointee.column_ref)
    }
    var paramRef: UnsafeMutablePointer<PgQuery__ParamRef>? { `if`(PG_QUERY__NODE__NODE_PARAM_REF, pointee.param_ref) }
    var constant: UnsafeMutablePointer<PgQuery__AConst>? { `if`(PG_QUERY__NODE__NODE_A_CONST, pointee.a_const) }
    var typeCast: UnsafeMutablePointer<PgQuery__TypeCast>? { `if`(PG_QUERY__NODE__NODE_TYPE_CAST, pointee.type_cast) }
    var funcCall: UnsafeMutablePointer<PgQuery__FuncCall>? { `if`(PG_QUERY__NODE__NODE_FUNC_CALL, pointee.func_call) }
    var subLink: UnsafeMutablePointer<PgQuery__SubLink>? { `if`(PG_QUERY__NODE__NODE_SUB_LINK, pointee.sub_link) }
    var rowExpr: UnsafeMutablePointer<PgQuery__RowExpr>? { `if`(PG_QUERY__NODE__NODE_ROW_EXPR, pointee.row_expr) }
    var arrayExpr: UnsafeMutablePointer<PgQuery__AArrayExpr>? {
        `if`(PG_QUERY__NODE__NODE_A_ARRAY_EXPR, pointee.a_array_expr)
    }
    var resTarget: UnsafeMutablePointer<PgQuery__ResTarget>? {
        `if`(PG_QUERY__NODE__NODE_RES_TARGET, pointee.res_target)
    }
    var sortBy: UnsafeMutablePointer<PgQuery__SortBy>? { `if`(PG_QUERY__NODE__NODE_SORT_BY, pointee.sort_by) }
    var cte: UnsafeMutablePointer<PgQuery__CommonTableExpr>? {
        `if`(PG_QUERY__NODE__NODE_COMMON_TABLE_EXPR, pointee.common_table_expr)
    }
    var lockingClause: UnsafeMutablePointer<PgQuery__LockingClause>? {
        `if`(PG_QUERY__NODE__NODE_LOCKING_CLAUSE, pointee.locking_clause)
    }
    var defElem: UnsafeMutablePointer<PgQuery__DefElem>? { `if`(PG_QUERY__NODE__NODE_DEF_ELEM, pointee.def_elem) }
    var list: [Node]? {
        `if`(PG_QUERY__NODE__NODE_LIST, nodes(pointee.list.pointee.n_items, pointee.list.pointee.items))
    }
    /// What a string node says, an empty string too.
    var string: String? {
        `if`(PG_QUERY__NODE__NODE_STRING, String(cString: pointee.string.pointee.sval))
    }
    var isStar: Bool { kind == PG_QUERY__NODE__NODE_A_STAR }

    /// The names that a list of string nodes makes up, as in a qualified name.
    static func names(_ count: Int, _ list: UnsafeMutablePointer<Node?>?) -> [String] {
        nodes(count, list).compactMap(\.string)
    }
}

extension UnsafeMutablePointer<PgQuery__AConst> {
    /// An integer constant's value.
    var integer: Int32? {
        guard pointee.isnull == 0 else { return nil }
        return pointee.val_case == PG_QUERY__A__CONST__VAL_IVAL ? pointee.ival.pointee.ival : nil
    }
    /// The digits of a constant that does not fit 32 bits or has a point.
    var decimal: String? {
        pointee.val_case == PG_QUERY__A__CONST__VAL_FVAL ? String(cString: pointee.fval.pointee.fval) : nil
    }
    /// A string constant's value.
    var string: String? {
        pointee.val_case == PG_QUERY__A__CONST__VAL_SVAL ? String(cString: pointee.sval.pointee.sval) : nil
    }
    var boolean: Bool? {
        pointee.val_case == PG_QUERY__A__CONST__VAL_BOOLVAL ? pointee.boolval.pointee.boolval != 0 : nil
    }
    var isNull: Bool { pointee.isnull != 0 }
}

extension Node {
    /// Visits the nodes right below this one, in the tree's sequence.
    func forEachChild(_ body: (Node) -> Void) {
        guard kind != PG_QUERY__NODE__NODE__NOT_SET, let descriptor = pointee.base.descriptor else { return }
        // A node is a choice of one of some 250 messages, all in one place. Every message knows its own description, so
        // a node's is the one to recognize other nodes by.
        let place = UnsafeMutableRawPointer(self) + Int(descriptor.pointee.fields.pointee.offset)
        place.load(as: UnsafeMutableRawPointer?.self)?.visitMessages(below: descriptor, body)
    }

    /// Visits this node and every one below it for which `enters` says so.
    func forEachDescendant(_ enters: (Node) -> Bool) {
        guard enters(self) else { return }
        forEachChild { $0.forEachDescendant(enters) }
    }
}

extension UnsafeMutableRawPointer {
    /// Goes by protobuf's own description of the message, so that no kind of node is forgotten.
    fileprivate func visitMessages(below node: UnsafePointer<ProtobufCMessageDescriptor>, _ body: (Node) -> Void) {
        let descriptor = assumingMemoryBound(to: ProtobufCMessage.self).pointee.descriptor!
        for index in 0..<Int(descriptor.pointee.n_fields) {
            let field = descriptor.pointee.fields + index
            guard field.pointee.type == PROTOBUF_C_TYPE_MESSAGE else { continue }
            let place = self + Int(field.pointee.offset)
            let quantifier = self + Int(field.pointee.quantifier_offset)
            if field.pointee.label == PROTOBUF_C_LABEL_REPEATED {
                guard let items = place.load(as: UnsafeMutablePointer<UnsafeMutableRawPointer?>?.self) else { continue }
                for item in 0..<quantifier.load(as: Int.self) { items[item]?.visit(node, body) }
            } else {
                let isOneOf = field.pointee.flags & UInt32(PROTOBUF_C_FIELD_FLAG_ONEOF.rawValue) != 0
                if isOneOf, quantifier.load(as: UInt32.self) != field.pointee.id { continue }
                place.load(as: UnsafeMutableRawPointer?.self)?.visit(node, body)
            }
        }
    }

    private func visit(_ node: UnsafePointer<ProtobufCMessageDescriptor>, _ body: (Node) -> Void) {
        if assumingMemoryBound(to: ProtobufCMessage.self).pointee.descriptor == node {
            body(assumingMemoryBound(to: PgQuery__Node.self))
        } else {
            visitMessages(below: node, body)
        }
    }
}
