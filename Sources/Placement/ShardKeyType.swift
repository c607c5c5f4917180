/// A type that a shard key may have: one whose hash can be computed here as PostgreSQL computes it.
///
/// Enums are hashed by OID, which differs from shard to shard; the hash of `bytea` can't be called from SQL, so that a
/// shard could not check its rows; floating point, intervals and composite types are left
/// out because nobody shards by them.
public enum ShardKeyType: UInt32, Hashable, Sendable, CaseIterable {
    case boolean = 16
    /// `"char"`
    case char = 18
    case name = 19
    case bigint = 20
    case smallint = 21
    case integer = 23
    case text = 25
    case oid = 26
    /// `character(n)`
    case bpchar = 1042
    case varchar = 1043
    case date = 1082
    case timestamp = 1114
    case timestamptz = 1184
    case numeric = 1700
    case uuid = 2950

    /// The type with that OID in `pg_type`; nil when it can't be a shard key.
    public init?(oid: UInt32) {
        self.init(rawValue: oid)
    }

    /// Types that PostgreSQL compares with one another by one operator, and hashes alike.
    public enum Family: Hashable, Sendable {
        case integer, text, bpchar, other(ShardKeyType)
    }

    /// The family. `=` between two types of a family holds exactly for values of one hash.
    public var family: Family {
        switch self {
        case .smallint, .integer, .bigint: .integer
        case .text, .varchar: .text
        case .bpchar: .bpchar
        default: .other(self)
        }
    }

    /// The SQL function that a shard computes the same hash with.
    public var hashFunction: String {
        switch self {
        case .boolean, .char: "hashcharextended"
        case .name: "hashnameextended"
        case .bigint: "hashint8extended"
        case .smallint: "hashint2extended"
        case .integer, .date: "hashint4extended"
        case .text, .varchar: "hashtextextended"
        case .oid: "hashoidextended"
        case .bpchar: "hashbpcharextended"
        case .timestamp, .timestamptz: "timestamp_hash_extended"
        case .numeric: "hash_numeric_extended"
        case .uuid: "uuid_hash_extended"
        }
    }

    /// SQL that gives the bucket of a row whose key is the SQL expression `key`, so that a shard can check its rows.
    public func bucketExpression(_ key: String) -> String {
        let argument: String
        switch self {
        // These functions are declared for another type than the operator class applies them to.
        case .boolean: argument = "(CASE WHEN \(key) THEN 1 ELSE 0 END)::\"char\""
        case .date: argument = "(\(key) - date '2000-01-01')"
        case .timestamptz: argument = "(\(key) AT TIME ZONE 'UTC')"
        default: argument = key
        }
        return "(pg_catalog.\(hashFunction)(\(argument), 0) & \(BucketMap.bucketCount - 1))::integer"
    }
}

/// How a value is written.
public enum ValueFormat: Hashable, Sendable {
    /// PostgreSQL's text representation.
    case text
    /// PostgreSQL's binary representation (`…send`).
    case binary
}
