internal import CPgQuery
import Placement

extension Planner {
    /// What must be locked for the statement once its transaction reads under locks.
    ///
    /// Rows by primary key where the statement gives it whole, and is one that can lock rows; else whole tables: SHARE
    /// for what is read, SHARE ROW EXCLUSIVE for what is written.
    func locks(_ plan: StatementPlan) -> LockPlan {
        var locks = LockPlan()
        let target = analyzer.uses.first { $0.isOutermost && ($0.role == .update || $0.role == .delete) }
        let rows = target.map { changedRows($0) } ?? readRows()
        locks.rows = rows
        for use in analyzer.uses {
            let isLockedByRow = rows != nil && (target == nil || use.entry == target?.entry)
            guard !isLockedByRow, let mode = Self.mode(of: use) else { continue }
            locks.add(TableLock(table: use.table.name, mode: mode))
        }
        return locks
    }

    private static func mode(of use: TableUse) -> TableLockMode? {
        switch use.role {
        // Its own row locks are enough: a read would miss no row that an INSERT did not look at.
        case .insert: nil
        case .read: .share
        case .update, .delete, .merge: .shareRowExclusive
        }
    }

    // MARK: Reads

    /// The rows of a SELECT whose tables are all read by primary key.
    private func readRows() -> RowLocks? {
        guard let level, !analyzer.uses.isEmpty, analyzer.uses.allSatisfy({ $0.role == .read && $0.isOutermost }),
            let sql = lockingText(level)
        else { return nil }
        var count = 1
        for use in analyzer.uses {
            guard let keys = primaryKey(of: use) else { return nil }
            count = keys.reduce(count) { $0.multipliedReportingOverflow(by: $1.set.sources.count).partialValue }
        }
        return RowLocks(
            sql: RewrittenSQL(renumbering: sql), count: count, hasOtherConditions: true,
            ifMissing: analyzer.uses.map { TableLock(table: $0.table.name, mode: .share) })
    }

    /// The statement with FOR SHARE at its end; nil when PostgreSQL does not allow it there, or it would not lock all
    /// that is read. A statement that locks its rows already stays as it is.
    private func lockingText(_ level: Level) -> String? {
        let select = level.select.pointee
        guard level.branches.isEmpty, level.shape == .rows, select.n_distinct_clause == 0,
            level.from.allSatisfy({ isInner($0) }), select.with_clause == nil
        else { return nil }
        let text = statement.text
        let locks = analyzer.uses.map(\.lock)
        if locks.allSatisfy({ $0.map { $0.strength >= .share && $0.waiting != .skipLocked } ?? false }) { return text }
        guard select.n_locking_clause == 0, let first = source.bytes.firstToken(in: statement.range),
            source.bytes.isWord(first, "select")
        else { return nil }
        return text + " FOR SHARE"
    }

    /// Tables and inner joins only: rows on an outer join's nullable side can't be locked, nor a subquery's.
    private func isInner(_ tree: JoinTree) -> Bool {
        switch tree {
        case .entry(let index): analyzer.entries[index].table != nil
        case .join(let join):
            join.kind == PG_QUERY__JOIN_TYPE__JOIN_INNER && isInner(join.left) && isInner(join.right)
        }
    }

    // MARK: Changes

    /// The rows that an UPDATE or DELETE by primary key looks at.
    private func changedRows(_ use: TableUse) -> RowLocks? {
        guard let keys = primaryKey(of: use) else { return nil }
        var conditions: [String] = []
        var count = 1
        for (column, set) in keys {
            let items = set.sources.compactMap { Self.text(of: $0) }
            guard items.count == set.sources.count, !items.isEmpty else { return nil }
            conditions.append("\(quotedIdentifier(column)) IN (\(items.joined(separator: ", ")))")
            count = count.multipliedReportingOverflow(by: items.count).partialValue
        }
        let sql =
            "SELECT 1 FROM \(use.table.name) WHERE " + conditions.joined(separator: " AND ")
            + " FOR \(use.role == .delete ? "UPDATE" : "NO KEY UPDATE")"
        return RowLocks(
            sql: RewrittenSQL(renumbering: sql), count: count, hasOtherConditions: hasOtherConditions(keys.count),
            ifMissing: [TableLock(table: use.table.name, mode: .shareRowExclusive)])
    }

    /// Whether WHERE says more than one equation for each of the key's columns.
    private func hasOtherConditions(_ columns: Int) -> Bool {
        let filter: Node?
        switch source.node.kind {
        case PG_QUERY__NODE__NODE_UPDATE_STMT:
            let update = source.node.pointee.update_stmt.pointee
            filter = update.n_from_clause == 0 ? update.where_clause : nil
        case PG_QUERY__NODE__NODE_DELETE_STMT:
            let delete = source.node.pointee.delete_stmt.pointee
            filter = delete.n_using_clause == 0 ? delete.where_clause : nil
        default: filter = nil
        }
        guard let filter else { return true }
        guard let bool = filter.boolExpr else { return columns != 1 }
        return bool.pointee.boolop != PG_QUERY__BOOL_EXPR_TYPE__AND_EXPR || bool.pointee.n_args != columns
    }

    /// The values of every column of the primary key; nil when one may have any value.
    private func primaryKey(of use: TableUse) -> [(column: String, set: KeySet)]? {
        guard !use.table.primaryKey.isEmpty else { return nil }
        var keys: [(column: String, set: KeySet)] = []
        for name in use.table.primaryKey {
            guard let column = analyzer.tableColumn(name, of: use.entry, use.table),
                let set = use.equalities.values(of: column),
                !set.sources.contains(where: { if case .elements = $0 { true } else { false } })
            else { return nil }
            keys.append((name, set))
        }
        return keys
    }

    private static func text(of source: KeySource) -> String? {
        switch source {
        case .constant(let text): quotedLiteral(text)
        case .null: "NULL"
        case .parameter(let number, 0): "$\(number)"
        case .parameter(let number, let type):
            ShardKeyType(oid: type).map { "$\(number)::\($0.sqlName)" }
        case .elements: nil
        }
    }
}

// MARK: - Reads without row locks

extension Planner {
    /// The text of a SELECT that locks rows without its locking clauses; nil where a clause says SKIP LOCKED, and where
    /// the clauses are not found in the text as they are in the tree.
    func unlockedText() -> String? {
        guard case .query = statement.kind, analyzer.uses.contains(where: { $0.lock != nil }),
            analyzer.uses.allSatisfy({ $0.lock?.waiting != .skipLocked })
        else { return nil }
        var count = 0
        source.node.forEachDescendant { node in
            if node.lockingClause != nil { count += 1 }
            return true
        }
        let (range, bytes) = (statement.range, source.bytes)
        let tokens = Lexer.tokens(bytes, from: range.lowerBound, to: range.upperBound)
        let clauses = tokens.indices.compactMap { bytes.lockingClause(at: $0, of: tokens) }
        guard clauses.count == count else { return nil }
        var text = ""
        var position = range.lowerBound
        for clause in clauses {
            text += bytes.text(position..<clause.lowerBound)
            position = clause.upperBound
        }
        return text + bytes.text(position..<range.upperBound)
    }
}

extension UnsafeBufferPointer<UInt8> {
    /// FOR UPDATE and the like with what belongs to it, if it begins at that token.
    fileprivate func lockingClause(at start: Int, of tokens: [Token]) -> Range<Int>? {
        func word(_ word: StaticString, at index: Int) -> Bool { tokens[safe: index].map { isWord($0, word) } ?? false }
        let strengths: [[StaticString]] = [["update"], ["no", "key", "update"], ["share"], ["key", "share"]]
        guard start > 0, word("for", at: start), !word("as", at: start - 1), !isMark(tokens[start - 1], "."),
            let strength = strengths.first(where: { strength in
                strength.enumerated().allSatisfy { word($0.element, at: start + 1 + $0.offset) }
            })
        else { return nil }
        var index = start + strength.count
        if word("of", at: index + 1) {
            // Names, with commas and dots between them.
            index += 2
            while let mark = tokens[safe: index + 1], isMark(mark, ",") || isMark(mark, ".") { index += 2 }
        }
        if word("nowait", at: index + 1) { index += 1 }
        return tokens[safe: index].map { tokens[start].start..<$0.end }
    }
}

extension LockPlan {
    /// Adds a lock, or makes the one on its table stronger.
    fileprivate mutating func add(_ lock: TableLock) {
        guard let index = tables.firstIndex(where: { $0.table == lock.table }) else { return tables.append(lock) }
        if tables[index].mode.rawValue < lock.mode.rawValue { tables[index].mode = lock.mode }
    }
}

extension UnsafeBufferPointer<UInt8> {
    func firstToken(in range: Range<Int>) -> Token? {
        var lexer = Lexer(self, from: range.lowerBound, to: range.upperBound)
        return lexer.next()
    }
}

extension ShardKeyType {
    /// The type's name in `pg_catalog`.
    fileprivate var sqlName: String {
        switch self {
        case .boolean: "pg_catalog.bool"
        case .char: "pg_catalog.\"char\""
        case .name: "pg_catalog.name"
        case .bigint: "pg_catalog.int8"
        case .smallint: "pg_catalog.int2"
        case .integer: "pg_catalog.int4"
        case .text: "pg_catalog.text"
        case .oid: "pg_catalog.oid"
        case .bpchar: "pg_catalog.bpchar"
        case .varchar: "pg_catalog.varchar"
        case .date: "pg_catalog.date"
        case .timestamp: "pg_catalog.timestamp"
        case .timestamptz: "pg_catalog.timestamptz"
        case .numeric: "pg_catalog.numeric"
        case .uuid: "pg_catalog.uuid"
        }
    }
}

// MARK: - Reads at a timestamp

extension Planner {
    /// The text with each qualified name of a versioned table led to its as-of view; nil when there is none, so that
    /// `search_path` does it all.
    ///
    /// References that repeat the schema (`public.t.id`) are led along.
    func asOfSQL() -> String? {
        guard case .query = statement.kind else { return nil }
        return asOfSQL(source, statement.range)
    }

    /// The same for what each shard runs, which is another text.
    func asOfSQL(ofParts merge: MergePlan) -> String? {
        guard let sql = merge.shardSQL?.text, let parsed = try? ParsedText(sql), parsed.statements.count == 1,
            let node = parsed.tree.pointee.stmts[0]!.pointee.stmt
        else { return nil }
        return parsed.text.withBytes { asOfSQL(SourceNode(node, $0), parsed.statements[0].range) }
    }

    private func asOfSQL(_ source: SourceNode, _ range: Range<Int>) -> String? {
        var places: [Int: String] = [:]
        let bytes = source.bytes
        source.node.forEachDescendant { node in
            if let relation = node.rangeVar, let schema = name(relation.pointee.schemaname),
                isVersioned(schema, String(cString: relation.pointee.relname))
            {
                places[Int(relation.pointee.location)] = schema
            }
            if let reference = node.columnRef, reference.pointee.n_fields == 3 {
                let names = nodes(3, reference.pointee.fields)
                if let schema = names[0].string, let table = names[1].string, isVersioned(schema, table) {
                    places[Int(reference.pointee.location)] = schema
                }
            }
            return true
        }
        guard !places.isEmpty else { return nil }
        var text = ""
        var position = range.lowerBound
        for (start, schema) in places.sorted(by: { $0.key < $1.key }) {
            guard let token = bytes.firstToken(in: start..<range.upperBound) else { continue }
            text += bytes.text(position..<token.start) + quotedIdentifier("meridian_asof_" + schema)
            position = token.end
        }
        return text + bytes.text(position..<range.upperBound)
    }

    private func isVersioned(_ schema: String, _ table: String) -> Bool {
        analyzer.catalog.tables[TableName(schema: schema, table)]?.isVersioned == true
    }
}
