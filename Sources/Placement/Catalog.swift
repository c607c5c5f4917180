/// What routing knows of the schema at one moment: an immutable value, replaced as a whole by a newer version.
public struct Catalog: Sendable {
    /// Grows with every change of the schema; plans of another version are void.
    public let version: UInt64
    /// The tables by name.
    public private(set) var tables: [TableName: TableDefinition]
    /// Views, which read tables that a statement does not name.
    public let views: Set<TableName>
    /// What is known of functions, by bare name: all that have it, in whatever schema, are what the worst of them is.
    public let functions: [String: FunctionTrait]
    /// Where the buckets are.
    public let buckets: BucketMap
    /// Some of ``tables`` are one session's temporary ones.
    private var hasTemporaryTables = false

    /// Makes a catalog. `functions` come on top of ``FunctionTrait/builtIn``.
    public init(
        version: UInt64, tables: [TableDefinition], views: Set<TableName> = [],
        functions: [String: FunctionTrait] = [:],
        buckets: BucketMap
    ) {
        self.version = version
        self.tables = Dictionary(tables.map { ($0.name, $0) }, uniquingKeysWith: { $1 })
        self.views = views
        self.functions = FunctionTrait.builtIn.merging(functions) { $1 }.merging(FunctionTrait.harmless) { $1 }
        self.buckets = buckets
    }

    /// The catalog as a session sees it that has temporary tables: they hide others of their names.
    public func adding(temporary tables: [TableDefinition]) -> Catalog {
        var catalog = self
        for table in tables { catalog.tables[table.name] = table }
        catalog.hasTemporaryTables = !tables.isEmpty
        return catalog
    }

    /// What a relation's name means.
    public enum Relation: Hashable, Sendable {
        case table(TableDefinition)
        case view(TableName)
        /// Of `pg_catalog`, `information_schema` or Meridian's own schemas.
        case system(TableName)
        /// Not known here; the shards will say that it isn't there.
        case unknown
    }

    /// Looks a name up as PostgreSQL does: in `schema`, or in `pg_catalog` and along `searchPath`.
    public func relation(schema: String?, _ name: String, searchPath: [String]) -> Relation {
        if let schema { return relation(TableName(schema: schema, name)) }
        // First of all, unless the path gives them another place.
        if hasTemporaryTables, !searchPath.contains(TableName.temporarySchema),
            let table = tables[TableName(schema: TableName.temporarySchema, name)]
        {
            return .table(table)
        }
        for schema in searchPath {
            let found = relation(TableName(schema: schema, name))
            if case .table = found { return found }
            // Names with pg_ are the system's, unless a table of that name is known.
            if found != .unknown, !isSystem(schema) || name.hasPrefix("pg_") { return found }
        }
        return name.hasPrefix("pg_") ? .system(TableName(schema: "pg_catalog", name)) : .unknown
    }

    private func relation(_ name: TableName) -> Relation {
        if let table = tables[name] { return .table(table) }
        if views.contains(name) { return .view(name) }
        return isSystem(name.schema) ? .system(name) : .unknown
    }

    private func isSystem(_ schema: String) -> Bool {
        schema == "information_schema" || schema == "meridian" || schema.hasPrefix("pg_")
            || schema.hasPrefix("meridian_")
    }

    /// What is known of a function.
    public func function(_ name: String) -> FunctionTrait { functions[name] ?? .unknown }
}

/// What calling a function may do.
public enum FunctionTrait: Hashable, Sendable {
    /// Computes its result from its arguments alone.
    case immutable
    /// The same within a statement: time zones, settings, the time of the transaction.
    case stable
    /// Differs from call to call, but reads and writes no table: `random()`, `clock_timestamp()`.
    case volatile
    /// `nextval` and its kin.
    case sequence
    case aggregate
    case window
    /// Returns several rows.
    case setReturning
    /// May read tables, write them, or do anything else.
    case unknown

    /// Functions that do nothing through Meridian, whatever they do elsewhere: a session that can't have advisory locks
    /// has none to give up. Pools call this one for every connection that comes back.
    static let harmless: [String: FunctionTrait] = ["pg_advisory_unlock_all": .volatile]

    /// The functions of PostgreSQL that statements call most. Whoever loads a catalog adds the rest from `pg_proc`.
    public static let builtIn: [String: FunctionTrait] = {
        let names: [(FunctionTrait, String)] = [
            (
                .immutable,
                """
                abs array_append array_cat array_length array_position array_prepend array_remove array_replace \
                array_to_string ascii btrim cardinality ceil ceiling char_length character_length chr concat_ws \
                date_bin decode degrees div encode exp floor gcd initcap isfinite json_array_length \
                jsonb_array_length jsonb_build_array jsonb_build_object jsonb_extract_path jsonb_extract_path_text \
                jsonb_set jsonb_strip_nulls lcm left length ln log lower lpad ltrim make_date make_interval md5 mod \
                nullif octet_length overlay position power radians regexp_match regexp_replace repeat replace reverse \
                right round rpad rtrim scale sha256 sign split_part sqrt starts_with strpos substr substring \
                translate trim trunc upper width_bucket
                """
            ),
            (
                .stable,
                """
                age concat current_database current_schema current_setting date_part date_trunc extract format \
                now pg_typeof statement_timestamp timezone to_char to_date to_json to_jsonb to_number \
                to_timestamp transaction_timestamp
                """
            ),
            (.volatile, "clock_timestamp gen_random_uuid pg_sleep random setseed timeofday uuid_generate_v4"),
            (.sequence, "currval lastval nextval setval"),
            (
                .aggregate,
                """
                any_value array_agg avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp every \
                json_agg json_object_agg jsonb_agg jsonb_object_agg max min mode percentile_cont percentile_disc \
                range_agg range_intersect_agg regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope \
                regr_sxx regr_sxy regr_syy stddev stddev_pop stddev_samp string_agg sum var_pop var_samp variance \
                xmlagg
                """
            ),
            (
                .window,
                """
                cume_dist dense_rank first_value lag last_value lead nth_value ntile percent_rank rank row_number
                """
            ),
            (
                .setReturning,
                """
                generate_series generate_subscripts json_array_elements json_array_elements_text json_each \
                jsonb_array_elements jsonb_array_elements_text jsonb_each jsonb_each_text jsonb_object_keys \
                regexp_matches regexp_split_to_table string_to_table unnest
                """
            ),
        ]
        return Dictionary(
            names.flatMap { trait, list in list.split(separator: " ").map { (String($0), trait) } },
            uniquingKeysWith: { first, _ in first })
    }()
}
