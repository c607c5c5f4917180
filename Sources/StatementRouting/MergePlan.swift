/// How the rows of several shards become the statement's result.
public enum MergePlan: Hashable, Sendable {
    /// One shard's rows after another's. Counts of changed rows are added up.
    case concatenate
    case merge(RowMerge)
    case combine(RowCombination)
    /// Not by putting parts together; only a single shard can run the statement.
    case gather(Gather)

    /// What each shard runs; nil: the statement as it is.
    public var shardSQL: RewrittenSQL? {
        switch self {
        case .merge(let merge): merge.shardSQL
        case .combine(let combination): combination.shardSQL
        case .concatenate, .gather: nil
        }
    }
}

/// Rows in each shard's sequence, merged.
public struct RowMerge: Hashable, Sendable {
    /// What each shard runs.
    public var shardSQL: RewrittenSQL
    /// By what the shards' rows are sorted; empty when any sequence will do.
    public var keys: [SortKey]
    /// Columns at the end of each row that are there for sorting only.
    public var hiddenColumns: Int
    /// How many rows are skipped, then how many are taken; nil for none and all.
    public var offset: RowCount?
    public var limit: RowCount?
}

/// A column to sort by.
public struct SortKey: Hashable, Sendable {
    /// Its number from 0; of hidden columns, counted from the first hidden one.
    public var column: Int
    public var isHidden: Bool
    public var isDescending: Bool
    public var nullsFirst: Bool

    /// Describes a sort key.
    public init(column: Int, isHidden: Bool, isDescending: Bool, nullsFirst: Bool) {
        (self.column, self.isHidden, self.isDescending) = (column, isHidden, isDescending)
        self.nullsFirst = nullsFirst
    }
}

/// LIMIT's or OFFSET's value.
public enum RowCount: Hashable, Sendable {
    case constant(Int64)
    /// `$n`; NULL means all rows, or none to skip.
    case parameter(Int)
}

/// Partial rows of the shards, made the result by one query on one PostgreSQL.
public struct RowCombination: Hashable, Sendable {
    /// What each shard runs. Its columns are called `c1`, `c2` … where the rows are gathered.
    public var shardSQL: RewrittenSQL
    /// The query, with ``relationPlaceholder`` for the relation that has the rows, in pieces.
    var pieces: [Piece]
    /// For a single row of sums, counts, minima and maxima alone: how each column is combined.
    public var columns: [ColumnCombination]?

    enum Piece: Hashable, Sendable {
        case text(String)
        case relation
        /// `sum` of a partial column.
        case sum(Int)
        /// `avg` of a partial sum and a partial count.
        case average(sum: Int, count: Int)
    }

    /// The query over `relation` that makes the result. `columnTypes` are the OIDs of the shards' columns, which decide
    /// what a sum is summed up as.
    ///
    /// Throws 0A000 for an average of `real`, whose partial sums would be rounded.
    public func sql(over relation: String, columnTypes: [UInt32]) throws(StatementError) -> RewrittenSQL {
        var text = ""
        for piece in pieces {
            switch piece {
            case .text(let part): text += part
            case .relation: text += relation
            case .sum(let column):
                // A sum of integers is a bigint, and the sum of bigints would be numeric.
                text += columnTypes[safe: column - 1] == 20 ? "sum(c\(column))::bigint" : "sum(c\(column))"
            case .average(let sum, let count): text += try Self.average(sum, count, columnTypes[safe: sum - 1])
            }
        }
        return RewrittenSQL(renumbering: text)
    }

    private static func average(_ sum: Int, _ count: Int, _ type: UInt32?) throws(StatementError) -> String {
        switch type {
        // int8, numeric
        case 20, 1700: "(sum(c\(sum))::numeric / nullif(sum(c\(count)), 0))"
        // float8, interval
        case 701, 1186: "(sum(c\(sum)) / nullif(sum(c\(count)), 0)::float8)"
        default:
            throw .unsupported(
                "an average over several shards of this type is not supported", hint: "cast to double precision first")
        }
    }
}

/// How partial values of one column become one value.
public enum ColumnCombination: Hashable, Sendable {
    /// Counts: added up.
    case count
    /// NULLs are passed over.
    case sum, min, max
}
