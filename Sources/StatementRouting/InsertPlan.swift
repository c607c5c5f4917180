public import Placement
public import TransactionCore

/// How an INSERT … VALUES into a sharded table is taken apart: each row goes to the shard of its key.
public struct InsertPlan: Hashable, Sendable {
    /// The table.
    public let table: TableName
    /// The shard key.
    public let key: ColumnDefinition
    /// How many rows there are; their sequence is the statement's, and RETURNING's.
    public var rowCount: Int { rows.count }
    /// Values that the statement leaves to defaults which must be the cluster's rather than a shard's: of the shard
    /// key, and of sequences. The caller makes them.
    public let defaults: [InsertSlot: DefaultKind]

    /// For each row, where its key comes from; nil for an expression or default.
    let keys: [KeySource?]
    /// The statement in pieces: up to the columns, the columns, from there to VALUES, the rows' items, the rest.
    let head: String
    let columns: [String]
    let overriding: String
    let rows: [[String]]
    let tail: String
    /// The statement as it was written.
    let original: String
    /// The statement had a column list as long as the rows.
    let namesAllColumns: Bool

    /// Which shard gets which rows, by their numbers from 0.
    public struct Split: Hashable, Sendable {
        /// The rows of each shard.
        public var rows: [ShardID: [Int]] = [:]
        /// Rows whose key takes a server to compute: run ``InsertPlan/keyExpression(ofRow:)`` and give the result.
        public var unknown: [Int] = []
    }

    /// Finds the shard of every row. `values` are the values given for defaults and for keys that were unknown, in text
    /// format; nil is NULL.
    public func split(
        _ parameters: [BoundParameter], values: [InsertSlot: String?] = [:], in buckets: BucketMap
    ) -> Split {
        var split = Split()
        guard let type = key.shardKeyType else { return split }
        for row in rows.indices {
            var set = KeySet(type: type, sources: [])
            if let value = values[InsertSlot(row: row, column: key.name)] {
                set.sources = [value.map { .constant($0) } ?? .null]
            } else if let source = keys[row], isExact(source, parameters) {
                set.sources = [source]
            } else {
                split.unknown.append(row)
                continue
            }
            guard let hashes = set.hashes(parameters) else {
                split.unknown.append(row)
                continue
            }
            // A NULL key violates NOT NULL; any shard will say so.
            split.rows[hashes.first.map { buckets.shard(forHash: $0) } ?? buckets.shards[0], default: []].append(row)
        }
        return split
    }

    /// Whether a value is stored as it is: a precision or length may round or cut it.
    private func isExact(_ source: KeySource, _ parameters: [BoundParameter]) -> Bool {
        guard key.typeName.contains("(") else { return true }
        switch key.type {
        case ShardKeyType.bpchar.rawValue: return true
        case ShardKeyType.varchar.rawValue:
            let bytes: [UInt8]?
            switch source {
            case .constant(let text): bytes = Array(text.utf8)
            case .parameter(let number, _): bytes = parameters[safe: number - 1]?.bytes
            case .null, .elements: bytes = nil
            }
            return bytes?.last != 32
        default: return false
        }
    }

    /// The SELECT that computes the key of a row whose key is an expression, as the column would store it.
    public func keyExpression(ofRow row: Int) -> RewrittenSQL? {
        guard let index = columns.firstIndex(of: quotedIdentifier(key.name)), index < rows[row].count else {
            return nil
        }
        return RewrittenSQL(renumbering: "SELECT CAST(\(rows[row][index]) AS \(key.typeName))")
    }

    /// The INSERT of some of the rows, in their sequence, with the values given in place of defaults and expressions.
    public func sql(rows chosen: [Int], values: [InsertSlot: String?] = [:]) -> RewrittenSQL {
        let isWhole = chosen.count == rows.count && values.isEmpty
        if isWhole { return RewrittenSQL(renumbering: original) }
        var names = columns
        let added = Set(values.keys.map { quotedIdentifier($0.column) }).subtracting(names).sorted()
        names += added
        let texts = chosen.map { row -> String in
            var items = rows[row]
            items += [String](repeating: "DEFAULT", count: names.count - items.count)
            for (index, name) in names.enumerated() {
                guard let slot = values.keys.first(where: { $0.row == row && quotedIdentifier($0.column) == name }),
                    let value = values[slot]
                else { continue }
                items[index] = value.map { quotedLiteral($0) } ?? "NULL"
            }
            return "(" + items.joined(separator: ", ") + ")"
        }
        let needsNames = namesAllColumns || !added.isEmpty
        let list = needsNames ? " (\(names.joined(separator: ", ")))" : ""
        let givesIdentity = values.keys.contains { slot in
            if case .identity(_, always: true) = defaults[slot] { return true }
            return false
        }
        let override = overriding.isEmpty && givesIdentity ? "OVERRIDING SYSTEM VALUE" : overriding
        return RewrittenSQL(
            renumbering: head + list + (override.isEmpty ? "" : " " + override) + " VALUES "
                + texts.joined(separator: ", ") + (tail.isEmpty ? "" : " " + tail))
    }
}

/// A value of a row that an INSERT does not give.
public struct InsertSlot: Hashable, Sendable {
    /// The row's number, from 0.
    public var row: Int
    public var column: String

    /// Names the value of `column` in a row.
    public init(row: Int, column: String) {
        (self.row, self.column) = (row, column)
    }
}

/// SQL made from a statement: its parameters are numbered anew without gaps, as the server wants them.
public struct RewrittenSQL: Hashable, Sendable {
    /// The text.
    public var text: String
    /// For `$1`, `$2` …, the number that the original statement gives the same parameter.
    public var parameters: [Int]

    /// Takes a text and the original numbers of its parameters.
    public init(text: String, parameters: [Int]) {
        (self.text, self.parameters) = (text, parameters)
    }

    /// Numbers the parameters in a text by their first occurrence. A text whose parameters have no gaps stays as it is.
    init(renumbering text: String) {
        var parameters: [Int] = []
        let renumbered = text.withBytes { bytes -> String in
            guard bytes.contains(UInt8(ascii: "$")) else { return text }
            let tokens = Lexer.tokens(bytes).filter { $0.kind == .parameter }
            let numbers = tokens.map { Int(bytes.text(($0.start + 1)..<$0.end)) ?? 0 }
            let used = Set(numbers)
            if used == Set(1...max(1, used.count)) || used.isEmpty {
                parameters = used.sorted()
                return text
            }
            parameters = used.sorted()
            var result = ""
            var position = 0
            for (token, number) in zip(tokens, numbers) {
                result += bytes.text(position..<token.start) + "$\(parameters.firstIndex(of: number)! + 1)"
                position = token.end
            }
            return result + bytes.text(position..<bytes.count)
        }
        self.text = renumbered
        self.parameters = parameters
    }
}

/// A string constant as SQL.
public func quotedLiteral(_ text: String) -> String {
    let quoted = text.split(separator: "'", omittingEmptySubsequences: false).joined(separator: "''")
    guard text.utf8.contains(UInt8(ascii: "\\")) else { return "'\(quoted)'" }
    // Means the same whatever standard_conforming_strings says.
    return "E'" + quoted.split(separator: "\\", omittingEmptySubsequences: false).joined(separator: "\\\\") + "'"
}
