public import Placement
public import TransactionCore

/// Where a statement runs, what it touches and what must be locked for it: a value, made once per text and catalog.
public struct StatementPlan: Sendable {
    /// The statement.
    public let statement: Statement
    /// Where it runs.
    public var route: Route
    /// How rows of several shards become one result; ``MergePlan/concatenate`` unless it is a SELECT. On a single shard
    /// the statement's own text gives the result.
    public var merge: MergePlan = .concatenate
    /// For ``Route/rows``: which row goes where.
    public var insert: InsertPlan?
    /// For ``Route/gather(_:)``, an INSERT whose rows can be fetched and then inserted.
    public var queryInsert: QueryInsert?
    /// Every use of a table.
    public var tables: [TableAccess] = []
    /// Views: what they read is not in ``tables``.
    public var views: [TableName] = []
    /// System relations and names that the catalog doesn't know.
    public var otherRelations: [RelationName] = []
    /// Every function called, once.
    public var functions: [FunctionUse] = []
    /// An INSERT's ON CONFLICT, which reads the row that is in its way.
    public var conflict: ConflictClause?
    /// What must be locked, once the transaction reads under locks.
    public var locks = LockPlan()
    /// The text of a SELECT that locks its rows without the locks, where that can be said; nil with SKIP LOCKED.
    public var unlockedText: String?
    /// The text for a read at a timestamp where it differs: qualified names of versioned tables lead to their as-of
    /// views.
    public var asOfSQL: String?
    /// The same for ``MergePlan/shardSQL``, which is another text.
    public var partsAsOfSQL: String?
    /// What a query asks of its session or the node; nothing for all others.
    public var session = SessionUse()
    /// The highest parameter number.
    public var parameterCount = 0

    /// A plan of a statement that touches nothing, as far as is known.
    public init(statement: Statement, route: Route) {
        (self.statement, self.route) = (statement, route)
    }

    /// It is UPDATE, INSERT, DELETE or MERGE, or has one in a CTE.
    public var isWrite: Bool { tables.contains { $0.role.isWrite } }

    /// It changes tables that others see.
    public var changesSharedTables: Bool { tables.contains { $0.role.isWrite && !$0.table.isTemporary } }

    /// It uses temporary tables of its session.
    public var usesTemporaryTables: Bool { tables.contains { $0.table.isTemporary } }
}

/// ON CONFLICT of an INSERT.
public struct ConflictClause: Hashable, Sendable {
    /// DO UPDATE, which locks the row that it finds; DO NOTHING does not.
    public var updates: Bool
    /// The columns that say which row is in the way; none for a constraint's name, an expression, or nothing.
    public var columns: [String]
    /// ON CONSTRAINT.
    public var constraint: String?
    /// DO UPDATE … WHERE: a row found may stay as it is.
    public var hasFilter: Bool
}

/// A table that a statement uses.
public struct TableAccess: Hashable, Sendable {
    public var table: TableName
    public var role: TableRole
    /// A locking clause that covers it.
    public var lock: RowLockClause?
}

/// Where a statement runs.
public enum Route: Hashable, Sendable {
    /// On any one shard: every shard would give the same answer.
    case anyOne
    /// On the shard that has the tables.
    case single(ShardID)
    /// On the shards of these keys. With `mustAgree`, all of them must lead to one and the same shard, else the
    /// statement can't run as it is; see ``shards(for:in:)``.
    case keys([KeySet], mustAgree: Bool)
    /// On every shard, each giving its part.
    case every
    /// On every shard, each doing the same: a write of a reference table. The command tag is one shard's.
    case everyCopy
    /// An INSERT split by rows; see ``StatementPlan/insert``.
    case rows
    /// Nowhere as it is: the rows that it needs lie on several shards, and must be gathered first.
    case gather(Gather)

    /// The shards to run on, and whether that is known to be enough.
    public enum Destination: Hashable, Sendable {
        case shards([ShardID])
        /// A key's value takes a server to read, so every shard may have its rows.
        case every
        /// Keys lead to different shards.
        case apart
    }

    /// Finds the shards of ``keys(_:mustAgree:)`` with the bound parameters; every shard for what holds on every shard.
    public func shards(for parameters: [BoundParameter], in buckets: BucketMap) -> Destination {
        switch self {
        case .anyOne: return .shards([buckets.shards[0]])
        case .single(let shard): return .shards([shard])
        case .every, .everyCopy, .rows, .gather: return .every
        case .keys(let sets, let mustAgree):
            // As a rule it is one value.
            if sets.count == 1, let hashes = sets[0].hashes(parameters), hashes.count == 1 {
                return .shards([buckets.shard(forHash: hashes[0])])
            }
            var found: [Set<ShardID>] = []
            for set in sets {
                guard let hashes = set.hashes(parameters) else { return mustAgree ? .apart : .every }
                found.append(Set(hashes.map { buckets.shard(forHash: $0) }))
            }
            // No key, no rows: any shard says so.
            let needed = found.filter { !$0.isEmpty }
            guard let first = needed.first else { return .shards([buckets.shards[0]]) }
            guard mustAgree || sets.count > 1 else { return .shards(first.sorted()) }
            return first.count == 1 && needed.allSatisfy { $0 == first } ? .shards(first.sorted()) : .apart
        }
    }
}

/// Why a statement can't run on the shards as it is, and what it would take.
public struct Gather: Hashable, Sendable {
    /// The reason, for DETAIL.
    public var reason: String
    /// The tables whose rows are needed on one server.
    public var relations: [GatheredRelation]

    /// The error for as long as nobody gathers.
    public var error: StatementError {
        .unsupported(
            "this statement needs rows of several shards at once",
            hint: relations.contains { $0.table.isTemporary }
                ? "copy the rows that it needs of other tables into a temporary one, by INSERT INTO ... SELECT"
                : "give the shard key of every table a value, or join tables of one group on their shard keys",
            detail: reason)
    }
}

/// A table of a statement that is to be gathered.
public struct GatheredRelation: Hashable, Sendable {
    public var table: TableName
    /// What is known of the shard key there; nil when every shard may have rows.
    public var keys: KeySet?
}
