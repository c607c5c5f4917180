public import Placement

/// What a statement must lock to be strictly serializable once its transaction reads under locks (DESIGN section 4).
public struct LockPlan: Hashable, Sendable {
    /// The rows that are read or changed, if their primary keys are given.
    public var rows: RowLocks?
    /// Locks on whole tables, on the shards that the statement runs on, before it runs.
    public var tables: [TableLock] = []
}

/// Locks on rows by primary key.
public struct RowLocks: Hashable, Sendable {
    /// For a SELECT: the statement itself with FOR SHARE at its end. For UPDATE and DELETE: a SELECT … FOR UPDATE of
    /// the rows with the given primary keys, to run first if the statement has other conditions too.
    public var sql: RewrittenSQL
    /// The rows that are there at most. When fewer come, some were absent, or another condition rejected them: then
    /// ``ifMissing`` must be taken, and a SELECT run again.
    public var count: Int
    /// The statement has conditions besides the primary key's, so that it may change fewer rows than it looks at.
    public var hasOtherConditions: Bool
    /// Locks that keep absent rows absent.
    public var ifMissing: [TableLock]
}

/// A lock on a whole table.
public struct TableLock: Hashable, Sendable {
    public var table: TableName
    public var mode: TableLockMode

    /// Names a lock.
    public init(table: TableName, mode: TableLockMode) {
        (self.table, self.mode) = (table, mode)
    }
}
