internal import CPgQuery
import Placement

/// Takes an INSERT apart.
struct InsertPlanner {
    let source: SourceNode
    let table: TableDefinition
    private let insert: PgQuery__InsertStmt
    /// The rows of VALUES; none for DEFAULT VALUES.
    private let rows: [[Node]]
    /// The columns that the rows' items are for.
    private let columns: [ColumnDefinition]

    /// Nil when what is inserted is a query, or VALUES with ORDER BY, LIMIT or WITH.
    init?(_ source: SourceNode, _ table: TableDefinition) {
        (self.source, self.table) = (source, table)
        insert = source.node.pointee.insert_stmt.pointee
        let named = nodes(insert.n_cols, insert.cols).compactMap(\.resTarget)
        // A part of a column, as in `INSERT INTO t (a[1])`, is not the column.
        guard named.allSatisfy({ $0.pointee.n_indirection == 0 }) else { return nil }
        if let query = insert.select_stmt {
            guard let select = query.select?.pointee, select.n_values_lists > 0, select.n_sort_clause == 0,
                select.limit_count == nil, select.limit_offset == nil, select.with_clause == nil
            else { return nil }
            rows = nodes(select.n_values_lists, select.values_lists).compactMap(\.list)
        } else {
            rows = []
        }
        let names = named.compactMap { name($0.pointee.name) }
        columns = names.isEmpty ? table.columns : names.compactMap { table.column($0) }
        guard names.isEmpty || columns.count == names.count else { return nil }
    }

    private var width: Int { insert.select_stmt == nil ? 0 : rows.first?.count ?? 0 }

    /// The columns that some row leaves to their defaults.
    var defaulted: [ColumnDefinition] {
        let given = columns.prefix(width).enumerated().filter { index, _ in
            rows.allSatisfy { !isDefault($0[safe: index]) }
        }
        let names = Set(given.map(\.element.name))
        return table.columns.filter { !names.contains($0.name) }
    }

    private func isDefault(_ node: Node?) -> Bool {
        node.map { $0.kind == PG_QUERY__NODE__NODE_SET_TO_DEFAULT } ?? true
    }

    /// The plan; nil when the text isn't understood.
    func plan(_ analyzer: Analyzer, _ target: TableUse, range: Range<Int>) -> InsertPlan? {
        guard let definition = table.shardKey, let key = analyzer.shardKey(of: target),
            let pieces = InsertPieces(source, insert, rowCount: rows.count, in: range)
        else { return nil }
        let count = max(rows.count, insert.select_stmt == nil ? 1 : 0)
        let position = columns.prefix(width).firstIndex { $0.name == definition.name }
        var keys: [KeySource?] = []
        var defaults: [InsertSlot: DefaultKind] = [:]
        for row in 0..<count {
            let value = position.flatMap { rows[safe: row]?[safe: $0] }
            keys.append(
                isDefault(value) ? constantDefault(definition) : value.flatMap { analyzer.source($0, for: key) })
            for column in table.columns {
                let index = columns.prefix(width).firstIndex { $0.name == column.name }
                guard isDefault(index.flatMap { rows[safe: row]?[safe: $0] }) else { continue }
                let isClusterwide: Bool
                switch column.defaultKind {
                case .sequence, .identity: isClusterwide = true
                case .expression: isClusterwide = column.name == definition.name
                case .none, .constant, .computed: isClusterwide = false
                }
                if isClusterwide { defaults[InsertSlot(row: row, column: column.name)] = column.defaultKind }
            }
        }
        return InsertPlan(
            table: table.name, key: definition, defaults: defaults, keys: keys, head: pieces.head,
            columns: columns.prefix(width).map { quotedIdentifier($0.name) }, overriding: pieces.overriding,
            rows: insert.select_stmt == nil ? [[]] : pieces.rows, tail: pieces.tail,
            original: source.bytes.text(range), namesAllColumns: insert.n_cols > 0)
    }

    private func constantDefault(_ column: ColumnDefinition) -> KeySource? {
        switch column.defaultKind {
        case .none: .null
        case .constant(let text): .constant(text)
        case .sequence, .identity, .expression, .computed: nil
        }
    }
}

/// The text of an INSERT, cut at its columns and rows.
struct InsertPieces {
    var head = ""
    var overriding = ""
    var rows: [[String]] = []
    var tail = ""

    init?(_ source: SourceNode, _ insert: PgQuery__InsertStmt, rowCount: Int, in range: Range<Int>) {
        let bytes = source.bytes
        let start = Int(insert.relation.pointee.location)
        var lexer = Lexer(bytes, from: start, to: range.upperBound)
        guard let first = lexer.next() else { return nil }
        var last = first
        var token = lexer.next()
        while let dot = token, bytes.isMark(dot, "."), let part = lexer.next() {
            last = part
            token = lexer.next()
        }
        if let word = token, bytes.isWord(word, "as"), let alias = lexer.next() {
            last = alias
            token = lexer.next()
        }
        head = bytes.text(range.lowerBound..<last.end)
        if insert.n_cols > 0 {
            guard let open = token, bytes.isMark(open, "(") else { return nil }
            guard Self.skipBrackets(&lexer, bytes) != nil else { return nil }
            token = lexer.next()
        }
        if let word = token, bytes.isWord(word, "overriding"), let kind = lexer.next(), let value = lexer.next() {
            overriding = bytes.text(kind.start..<kind.end).lowercased()
            overriding = "OVERRIDING \(overriding.uppercased()) VALUE"
            guard bytes.isWord(value, "value") else { return nil }
            token = lexer.next()
        }
        if insert.select_stmt == nil {
            guard let word = token, bytes.isWord(word, "default"), let values = lexer.next() else { return nil }
            tail = Self.rest(after: values.end, lexer, bytes, range)
            return
        }
        guard let values = token, bytes.isWord(values, "values") else { return nil }
        while true {
            guard let open = lexer.next(), bytes.isMark(open, "("), let close = Self.skipBrackets(&lexer, bytes)
            else { return nil }
            rows.append(bytes.items(in: open.end..<close.start).map { bytes.text($0) })
            var ahead = lexer
            guard let comma = ahead.next(), bytes.isMark(comma, ",") else { break }
            lexer = ahead
            tail = ""
        }
        guard rows.count == rowCount else { return nil }
        tail = Self.rest(after: lexer.position, lexer, bytes, range)
    }

    /// Reads on to the bracket that closes the one just read.
    private static func skipBrackets(_ lexer: inout Lexer, _ bytes: UnsafeBufferPointer<UInt8>) -> Token? {
        var depth = 1
        while let token = lexer.next() {
            if bytes.isMark(token, "(") { depth += 1 }
            if bytes.isMark(token, ")") { depth -= 1 }
            if depth == 0 { return token }
        }
        return nil
    }

    private static func rest(
        after position: Int, _ lexer: Lexer, _ bytes: UnsafeBufferPointer<UInt8>, _ range: Range<Int>
    ) -> String {
        var ahead = Lexer(bytes, from: position, to: range.upperBound)
        guard let next = ahead.next() else { return "" }
        return bytes.text(next.start..<range.upperBound)
    }
}

extension Planner {
    /// The route of an INSERT of rows into a sharded table; nil when it is an INSERT of another kind.
    func insertRoute(_ target: TableUse, _ plan: inout StatementPlan) throws(StatementError) -> Route? {
        guard target.table.shardKey != nil, let planner = InsertPlanner(source, target.table) else { return nil }
        let others = analyzer.uses.contains { $0.entry != target.entry && $0.table.distribution != .reference }
        guard !others, let insert = planner.plan(analyzer, target, range: statement.range) else { return nil }
        plan.insert = insert
        return .rows
    }
}
