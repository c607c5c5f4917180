public import TransactionCore

/// What Meridian knows of a table.
public struct TableDefinition: Hashable, Sendable {
    /// Its name.
    public var name: TableName
    /// Its columns, in the table's sequence.
    public var columns: [ColumnDefinition]
    /// The primary key's columns; none for a table without one.
    public var primaryKey: [String]
    /// The columns of each unique constraint or index besides the primary key.
    public var uniqueConstraints: [[String]]
    /// Where its rows are.
    public var distribution: Distribution
    /// Reads at a timestamp go through an as-of view.
    public var isVersioned: Bool

    /// Describes a table.
    public init(
        _ name: TableName, columns: [ColumnDefinition], primaryKey: [String], uniqueConstraints: [[String]] = [],
        distribution: Distribution, isVersioned: Bool = true
    ) {
        (self.name, self.columns, self.primaryKey) = (name, columns, primaryKey)
        (self.uniqueConstraints, self.distribution, self.isVersioned) = (uniqueConstraints, distribution, isVersioned)
    }

    /// The column of that name.
    public func column(_ name: String) -> ColumnDefinition? { columns.first { $0.name == name } }

    /// The column whose value decides a row's shard; nil for a table that isn't sharded.
    public var shardKey: ColumnDefinition? {
        guard case .sharded(let key, _) = distribution else { return nil }
        return column(key)
    }

    /// Why the table can't be distributed as it says; nil when it can.
    ///
    /// A shard key must be NOT NULL and of a type that can be hashed. Every unique constraint of a sharded table must
    /// hold the shard key, since a shard can only keep its own rows apart.
    public var flaw: String? {
        guard case .sharded(let key, _) = distribution else { return nil }
        guard let column = column(key) else { return "there is no column \(quotedIdentifier(key))" }
        guard column.isNotNull else { return "shard key \(quotedIdentifier(key)) may be null" }
        guard column.shardKeyType != nil else { return "type \(column.typeName) can't be a shard key" }
        let constraints = (primaryKey.isEmpty ? [] : [primaryKey]) + uniqueConstraints
        guard let other = constraints.first(where: { !$0.contains(key) }) else { return nil }
        let columns = other.map { quotedIdentifier($0) }.joined(separator: ", ")
        return "the unique constraint on (\(columns)) lacks the shard key \(quotedIdentifier(key))"
    }
}

/// A column of a table.
public struct ColumnDefinition: Hashable, Sendable {
    /// Its name.
    public var name: String
    /// Its type's OID in `pg_type`.
    public var type: UInt32
    /// Its type as SQL (`format_type`).
    public var typeName: String
    public var isNotNull: Bool
    public var defaultKind: DefaultKind

    /// Describes a column.
    public init(
        _ name: String, type: UInt32, typeName: String, isNotNull: Bool = false, defaultKind: DefaultKind = .none
    ) {
        (self.name, self.type, self.typeName) = (name, type, typeName)
        (self.isNotNull, self.defaultKind) = (isNotNull, defaultKind)
    }

    /// How its values are hashed; nil when they can't be. A text column must have a deterministic collation.
    public var shardKeyType: ShardKeyType? { ShardKeyType(oid: type) }
}

/// What a column gets when an INSERT does not name it.
public enum DefaultKind: Hashable, Sendable {
    /// NULL.
    case none
    /// The same value everywhere and always.
    case constant(String)
    /// `nextval` of a sequence: serial.
    case sequence(TableName)
    /// GENERATED … AS IDENTITY; `always` refuses values of the client's.
    case identity(TableName, always: Bool)
    /// An expression that may differ from one evaluation to the next: `now()`, `gen_random_uuid()`.
    case expression(String)
    /// GENERATED ALWAYS AS (…) STORED.
    case computed
}

/// Where a table's rows are.
public enum Distribution: Hashable, Sendable {
    /// By the hash of the key column. Tables of one group are distributed by one bucket map and hash alike.
    case sharded(key: String, group: String)
    /// All rows on every shard.
    case reference
    /// All rows on one shard.
    case single(ShardID)
}
