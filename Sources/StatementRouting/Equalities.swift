import Placement

/// What is known to hold for every row that matters: columns that equal one another, and the values they can have.
///
/// A value type: what holds inside a subquery is a copy with more in it.
struct Equalities {
    /// Union-find over column numbers; a column beyond its end is a class of its own.
    private var parents: [Int32] = []
    /// The values of a column, at most the ones named.
    private(set) var values: [(column: Int, set: KeySet)] = []
    /// Range table entries that an equality is about: their columns are not null in any row that matters.
    private(set) var touched: Set<Int> = []

    func root(_ column: Int) -> Int {
        var column = column
        while column < parents.count, parents[column] != column { column = Int(parents[column]) }
        return column
    }

    func same(_ one: Int, _ other: Int) -> Bool { root(one) == root(other) }

    /// Two columns are equal in every row that matters.
    mutating func unite(_ one: Column, _ other: Column) {
        touched.insert(one.entry)
        touched.insert(other.entry)
        guard let family = one.type?.family, family == other.type?.family else { return }
        let (first, second) = (root(one.number), root(other.number))
        while parents.count <= max(first, second) { parents.append(Int32(parents.count)) }
        parents[max(first, second)] = Int32(min(first, second))
    }

    /// An output column is nothing but an inner column.
    mutating func identify(_ output: Column, _ inner: Column) {
        let wasTouched = touched
        unite(output, inner)
        // It may be null all the same.
        touched = wasTouched
    }

    /// A column has one of these values in every row that matters; nil when it is not known which, but it is not null.
    mutating func bind(_ column: Column, _ set: KeySet?) {
        touched.insert(column.entry)
        if let set { values.append((column.number, set)) }
    }

    /// The shortest list of values that a column of this type can have; nil when any value may occur.
    func values(of column: Column) -> KeySet? {
        let root = root(column.number)
        var best: KeySet?
        for (other, set) in values where self.root(other) == root && set.type.family == column.type?.family {
            if best.map({ set.sources.count < $0.sources.count }) ?? true { best = set }
        }
        // One type for all of a family, so that equal sets are recognized as such.
        switch column.type?.family {
        case .integer: best?.type = .bigint
        case .text: best?.type = .text
        default: break
        }
        return best
    }
}

/// A column of a range table entry.
struct Column {
    /// Its number in the statement.
    var number: Int
    /// The entry it belongs to.
    var entry: Int
    var name: String
    /// How its values are hashed, if they can be.
    var type: ShardKeyType?
}
