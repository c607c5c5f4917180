internal import CPgQuery
import Placement

/// Something in FROM: a table, a subquery, a function.
struct Entry {
    /// What column references call it; nil when they can't.
    var name: String?
    /// Its schema, as long as no alias hides it.
    var schema: String?
    /// Its columns as references call them; nil when they aren't known.
    var columns: [String]?
    /// For each column, the table's own name of it.
    var tableColumns: [String] = []
    var table: TableDefinition?
    /// The level of a subquery or CTE.
    var level: Level?
    /// A join's alias hides it.
    var isHidden = false
}

/// A FROM clause's shape.
indirect enum JoinTree {
    case entry(Int)
    case join(Join)

    struct Join {
        var kind: PgQuery__JoinType
        var left: JoinTree
        var right: JoinTree
        var quals: Node?
        /// Pairs of columns that USING or NATURAL equates.
        var merged: [(Column, Column)]
        /// The entries that ON can name.
        var entries: Range<Int>
        /// Where the right side's entries begin.
        var middle: Int
    }

    /// A replicated or partitioned set of rows; see ``Analyzer/spread(of:)``.
    enum Spread { case replicated, partitioned, mixed }
}

/// A name's scope: the entries of one query level, then those of the level around it.
final class Scope {
    let parent: Scope?
    var entries: [Int] = []
    var ctes: [String: CommonTable] = [:]
    /// Functions and samples in FROM.
    var expressions: [Node] = []
    /// Merged columns whose value is not the left side's: of FULL and RIGHT joins with USING.
    var opaque: Set<String> = []
    /// Merged columns of other joins, which the left side's stands for.
    var merged: Set<String> = []

    init(_ parent: Scope?) {
        self.parent = parent
    }

    func cte(_ name: String) -> CommonTable? { ctes[name] ?? parent?.cte(name) }
}

/// A common table expression.
final class CommonTable {
    let node: UnsafeMutablePointer<PgQuery__CommonTableExpr>
    /// What its query sees.
    let scope: Scope
    let isRecursive: Bool
    var references = 0
    var isVisited = false

    init(_ node: UnsafeMutablePointer<PgQuery__CommonTableExpr>, scope: Scope, isRecursive: Bool) {
        (self.node, self.scope, self.isRecursive) = (node, scope, isRecursive)
    }
}

/// One SELECT: a level of the statement.
final class Level {
    let select: UnsafeMutablePointer<PgQuery__SelectStmt>
    let scope: Scope
    var from: [JoinTree] = []
    /// The branches of a set operation.
    var branches: [Level] = []
    /// The output columns: names, and which column each of them is if it is nothing but that.
    var outputs: [(name: String?, column: Column?)]?
    /// Filters on output columns may be applied to the inner ones: all of them, or those grouped by.
    var shape = Shape.rows

    enum Shape {
        /// One output row per row of FROM.
        case rows
        /// One output row per group.
        case grouped
        /// Rows depend on one another otherwise: LIMIT, windows, one group of all.
        case whole
    }

    init(_ select: UnsafeMutablePointer<PgQuery__SelectStmt>, _ scope: Scope) {
        (self.select, self.scope) = (select, scope)
    }
}

extension Analyzer {
    /// The column that a reference means; nil when that isn't certain. `within` limits unqualified names to entries.
    func resolve(_ reference: Node, in scope: Scope, within range: Range<Int>? = nil) -> Column? {
        guard let pointer = reference.columnRef else { return nil }
        let fields = nodes(pointer.pointee.n_fields, pointer.pointee.fields)
        let names = fields.compactMap(\.string)
        guard names.count == fields.count else { return nil }
        switch names.count {
        case 1: return resolve(names[0], in: scope, within: range)
        case 2: return resolve(names[1], of: names[0], schema: nil, in: scope)
        case 3: return resolve(names[2], of: names[1], schema: names[0], in: scope)
        default: return nil
        }
    }

    private func resolve(_ name: String, in scope: Scope, within range: Range<Int>?) -> Column? {
        var scope: Scope? = scope
        var range = range
        while let current = scope {
            let visible = current.entries.filter { range?.contains($0) ?? true }
            let matches = visible.filter { entries[$0].columns?.contains(name) == true }
            if current.opaque.contains(name) { return nil }
            if matches.count == 1 || matches.count > 1 && current.merged.contains(name) {
                return entries[matches[0]].isHidden ? nil : column(name, of: matches[0])
            }
            guard matches.isEmpty, visible.allSatisfy({ entries[$0].columns != nil }) else { return nil }
            (scope, range) = (current.parent, nil)
        }
        return nil
    }

    private func resolve(_ name: String, of entry: String, schema: String?, in scope: Scope) -> Column? {
        var scope: Scope? = scope
        while let current = scope {
            let match = current.entries.first { index in
                entries[index].name == entry && !entries[index].isHidden
                    && (schema == nil || entries[index].schema == schema)
            }
            if let match {
                return entries[match].columns?.contains(name) == true ? column(name, of: match) : nil
            }
            scope = current.parent
        }
        return nil
    }

    /// The column of an entry, by the name that references use.
    func column(_ name: String, of entry: Int) -> Column? {
        guard let columns = entries[entry].columns, let index = columns.firstIndex(of: name),
            columns.lastIndex(of: name) == index
        else { return nil }
        let tableName = index < entries[entry].tableColumns.count ? entries[entry].tableColumns[index] : name
        if let table = entries[entry].table { return tableColumn(tableName, of: entry, table) }
        if let known = outputs[OutputKey(entry: entry, index: index)] { return known }
        let inner = entries[entry].level?.outputs?[index].column
        let column = Column(number: columnCount, entry: entry, name: name, type: inner?.type)
        columnCount += 1
        columnsByNumber[column.number] = column
        outputs[OutputKey(entry: entry, index: index)] = column
        return column
    }

    /// A table's column by its own name.
    func tableColumn(_ name: String, of entry: Int, _ table: TableDefinition) -> Column? {
        guard let index = table.columns.firstIndex(where: { $0.name == name }) else { return nil }
        if let known = outputs[OutputKey(entry: entry, index: index)] { return known }
        let column = Column(
            number: columnCount, entry: entry, name: name, type: table.columns[index].shardKeyType)
        columnCount += 1
        columnsByNumber[column.number] = column
        outputs[OutputKey(entry: entry, index: index)] = column
        return column
    }
}
