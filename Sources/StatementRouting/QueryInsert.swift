internal import CPgQuery
public import Placement

/// An INSERT of a query's rows where these are not on the shards that they go to: cut so that the query can be run by
/// itself, and its rows be inserted as values.
public struct QueryInsert: Hashable, Sendable {
    /// Where the rows go.
    public var table: TableName
    /// The query.
    public var query: RewrittenSQL
    /// What stands before the query, and after it.
    public var head: String
    public var tail: String
    /// ON CONFLICT DO UPDATE, which changes no row twice.
    public var updatesOnConflict: Bool

    /// The INSERT of some rows, each with its brackets.
    public func sql(inserting rows: [String]) -> RewrittenSQL {
        RewrittenSQL(renumbering: head + "VALUES " + rows.joined(separator: ", ") + " " + tail)
    }
}

extension Planner {
    /// Takes an INSERT of a query apart; nil for another statement, and where the query can't stand by itself.
    func queryInsert() -> QueryInsert? {
        guard case .insert = statement.kind,
            let target = analyzer.uses.first(where: { $0.role == .insert && $0.isOutermost })
        else { return nil }
        let insert = source.node.pointee.insert_stmt.pointee
        guard insert.with_clause == nil, insert.select_stmt?.select?.pointee.n_values_lists == 0,
            let query = queryRange(of: insert)
        else { return nil }
        let bytes = source.bytes
        let action = insert.on_conflict_clause?.pointee.action
        return QueryInsert(
            table: target.table.name, query: RewrittenSQL(renumbering: bytes.text(query)),
            head: bytes.text(statement.range.lowerBound..<query.lowerBound),
            tail: bytes.text(query.upperBound..<statement.range.upperBound),
            updatesOnConflict: action == PG_QUERY__ON_CONFLICT_ACTION__ONCONFLICT_UPDATE)
    }

    private func queryRange(of insert: PgQuery__InsertStmt) -> Range<Int>? {
        let bytes = source.bytes
        let tokens = Lexer.tokens(bytes, from: Int(insert.relation.pointee.location), to: statement.range.upperBound)
        var depth = 0
        var start: Int?
        for (index, token) in tokens.enumerated() {
            if depth == 0, start == nil, beginsQuery(tokens[index...].drop { bytes.isMark($0, "(") }.first) {
                start = token.start
            }
            if bytes.isMark(token, "(") { depth += 1 }
            if bytes.isMark(token, ")") { depth -= 1 }
            guard let start, depth == 0 else { continue }
            let isEnd =
                insert.on_conflict_clause.map { token.start == Int($0.pointee.location) }
                ?? (insert.n_returning_list > 0 && bytes.isWord(token, "returning"))
            if isEnd { return start..<token.start }
        }
        return start.map { $0..<statement.range.upperBound }
    }

    private func beginsQuery(_ token: Token?) -> Bool {
        guard let token else { return false }
        let bytes = source.bytes
        return bytes.isWord(token, "select") || bytes.isWord(token, "with") || bytes.isWord(token, "table")
    }
}
