internal import Placement

/// What a statement does, as far as a session must tell statements apart.
public enum StatementKind: Hashable, Sendable {
    /// SELECT, VALUES or TABLE, also behind WITH. A data-modifying CTE makes it a write; see ``StatementPlan/isWrite``.
    case query
    case insert
    case update
    case delete
    case merge
    case transaction(TransactionCommand)
    case setting(SettingCommand)
    /// PREPARE name (types) AS …; the types as they were written, and the inner statement's bytes in the whole text.
    case prepare(name: String, types: [String], statement: Range<Int>)
    /// EXECUTE name (…); the arguments' expressions.
    case execute(name: String, arguments: [String])
    /// DEALLOCATE; nil for ALL.
    case deallocate(name: String?)
    /// DECLARE CURSOR; the query's bytes in the whole text.
    case declareCursor(name: String, query: Range<Int>, options: CursorOptions)
    /// FETCH or MOVE.
    case fetch(cursor: String, FetchAmount, isMove: Bool)
    /// CLOSE; nil for ALL.
    case closeCursor(name: String?)
    case copy(CopyCommand)
    /// EXPLAIN; the options in lower case, and the explained statement's bytes in the whole text.
    case explain(options: [String: String], statement: Range<Int>)
    case listen(channel: String)
    /// UNLISTEN; nil for all channels.
    case unlisten(channel: String?)
    case notify(channel: String, payload: String)
    case lockTable([RelationName], mode: TableLockMode, isNoWait: Bool)
    case truncate([RelationName], restartsSequences: Bool, cascades: Bool)
    case ddl(DDLCommand)
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT: on every shard, most of them outside a transaction.
    /// The relations, if VACUUM or ANALYZE names some.
    case maintenance(command: String, isInTransactionBlock: Bool, relations: [RelationName] = [])
    /// SET CONSTRAINTS.
    case setConstraints
    /// CREATE TEMP TABLE, CREATE TEMP VIEW and the like: the session keeps to one shard.
    case temporary(DDLCommand)
    case call
    /// DO: a block of code whose reads and writes can't be seen.
    case doBlock
    /// What Meridian refuses; the words of the command.
    case unsupported(String)
}

/// A relation's name as it was written.
public struct RelationName: Hashable, Sendable, CustomStringConvertible {
    /// The schema, if the statement names one.
    public var schema: String?
    /// The name, folded as PostgreSQL folds it.
    public var name: String

    /// Makes a name.
    public init(schema: String? = nil, _ name: String) {
        (self.schema, self.name) = (schema, name)
    }

    public var description: String {
        (schema.map { quotedIdentifier($0) + "." } ?? "") + quotedIdentifier(name)
    }
}

/// BEGIN, COMMIT and their kin.
public enum TransactionCommand: Hashable, Sendable {
    case begin(TransactionModes)
    case commit(andChain: Bool)
    case rollback(andChain: Bool)
    case savepoint(String)
    case release(String)
    case rollbackTo(String)
    /// SET TRANSACTION and, with `forSession`, SET SESSION CHARACTERISTICS.
    case setModes(TransactionModes, forSession: Bool)
    /// SET TRANSACTION SNAPSHOT, PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED: refused.
    case unsupported(String)
}

/// The modes that BEGIN or SET TRANSACTION names.
public struct TransactionModes: Hashable, Sendable {
    /// For example `serializable`, as it was written.
    public var isolationLevel: String?
    public var isReadOnly: Bool?
    public var isDeferrable: Bool?

    /// Makes modes; none named by default.
    public init(isolationLevel: String? = nil, isReadOnly: Bool? = nil, isDeferrable: Bool? = nil) {
        (self.isolationLevel, self.isReadOnly, self.isDeferrable) = (isolationLevel, isReadOnly, isDeferrable)
    }
}

/// SET, RESET, SHOW, DISCARD.
public enum SettingCommand: Hashable, Sendable {
    /// SET; the values as PostgreSQL would read them, nil for DEFAULT.
    case set(name: String, values: [String]?, isLocal: Bool)
    case reset(name: String)
    case resetAll
    /// SHOW; `all` for ALL.
    case show(name: String)
    /// DISCARD with the lower-case target.
    case discard(String)
}

/// How far FETCH or MOVE goes, and where.
public enum FetchAmount: Hashable, Sendable {
    /// So many rows ahead, at least one; `Int.max` for all.
    case forward(Int)
    /// So many rows back, at least one; `Int.max` for all.
    case backward(Int)
    /// The row of that number, from 1; from -1 on counted from the end; 0 is before the first.
    case absolute(Int)
    /// The row so many ahead, or with a negative number back; 0 is the one where it is.
    case relative(Int)
}

/// How a cursor was declared.
public struct CursorOptions: OptionSet, Hashable, Sendable {
    public let rawValue: Int32
    /// Makes a set of PostgreSQL's own bits (`CURSOR_OPT_…`).
    public init(rawValue: Int32) { self.rawValue = rawValue }
    public static let binary = CursorOptions(rawValue: 0x1)
    public static let scroll = CursorOptions(rawValue: 0x2)
    public static let noScroll = CursorOptions(rawValue: 0x4)
    public static let insensitive = CursorOptions(rawValue: 0x8)
    public static let asensitive = CursorOptions(rawValue: 0x10)
    public static let hold = CursorOptions(rawValue: 0x20)
}

/// COPY.
public struct CopyCommand: Hashable, Sendable {
    /// Where the rows go or come from.
    public enum Peer: Hashable, Sendable {
        /// STDIN or STDOUT.
        case client
        /// A file or program on the server: refused.
        case server
    }

    /// What is copied.
    public enum Source: Hashable, Sendable {
        case table(RelationName, columns: [String])
        /// The query's bytes in the whole text, without brackets.
        case query(Range<Int>)
    }

    public var source: Source
    /// COPY FROM.
    public var isFrom: Bool
    public var peer: Peer
    /// Options by lower-case name; lists are joined by commas.
    public var options: [String: String]
    /// COPY FROM … WHERE.
    public var hasFilter: Bool

    /// Describes a COPY.
    public init(
        source: Source, isFrom: Bool, peer: Peer = .client, options: [String: String] = [:], hasFilter: Bool = false
    ) {
        (self.source, self.isFrom, self.peer) = (source, isFrom, peer)
        (self.options, self.hasFilter) = (options, hasFilter)
    }
}

/// The eight table lock modes, from the weakest on.
public enum TableLockMode: Int32, Hashable, Sendable, CaseIterable, CustomStringConvertible {
    case accessShare = 1
    case rowShare, rowExclusive, shareUpdateExclusive, share, shareRowExclusive, exclusive, accessExclusive

    /// As in `LOCK TABLE … IN … MODE`.
    public var description: String {
        switch self {
        case .accessShare: "ACCESS SHARE"
        case .rowShare: "ROW SHARE"
        case .rowExclusive: "ROW EXCLUSIVE"
        case .shareUpdateExclusive: "SHARE UPDATE EXCLUSIVE"
        case .share: "SHARE"
        case .shareRowExclusive: "SHARE ROW EXCLUSIVE"
        case .exclusive: "EXCLUSIVE"
        case .accessExclusive: "ACCESS EXCLUSIVE"
        }
    }
}

/// A change of the schema, for every shard.
public struct DDLCommand: Hashable, Sendable {
    /// What becomes of the object.
    public enum Action: Hashable, Sendable {
        case create, alter, drop, rename, other
    }

    /// What kind of object it is, in lower case: `table`, `index`, `view`, `function`, `schema`, `sequence`, `type` …
    public var object: String
    public var action: Action
    /// The names concerned, as far as they are relation names; for an index, the table.
    public var relations: [RelationName]
    /// CREATE or DROP INDEX CONCURRENTLY and the like: outside a transaction only.
    public var isConcurrent = false
    /// How CREATE TABLE distributes the table; nil without such options.
    public var distribution: DistributionRequest?
    /// What goes to the shards: the statement's text without Meridian's own options.
    public var sql: String
    /// The query whose rows a temporary table begins with; ``sql`` makes the table without them.
    public var filling: String?
}

/// `WITH (meridian.shard_key = '…', meridian.table = '…')`.
public struct DistributionRequest: Hashable, Sendable {
    /// The column that `meridian.shard_key` names.
    public var shardKey: String?
    /// `reference`, `single` or `sharded`, as `meridian.table` says.
    public var table: String?
}
