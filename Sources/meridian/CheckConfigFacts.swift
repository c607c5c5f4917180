import TransactionCore

/// What a shard says about itself, in one query that needs no right but to connect.
struct ShardFacts: Sendable {
    /// Answers by name: settings as `pg_settings` has them, in their base units, and the expressions of ``query``.
    var answers: [String: String]
    /// What it knows of Meridian.
    var schema: SchemaFacts
    /// How many servers its conninfo names.
    var servers = 1
    /// The shard's clock less this machine's, nanoseconds, and by how much that may be wrong.
    var clockOffset: (nanoseconds: Int64, errorNanoseconds: Int64)

    /// Rows of a name and its answer.
    static let query = """
        SELECT name, setting FROM pg_settings WHERE name IN (
            'server_version', 'server_version_num', 'max_prepared_transactions', 'max_connections',
            'superuser_reserved_connections', 'fsync', 'full_page_writes', 'synchronous_commit', 'wal_level',
            'default_transaction_read_only', 'idle_in_transaction_session_timeout', 'synchronous_standby_names')
        UNION ALL SELECT 'user', current_user
        UNION ALL SELECT 'database', current_database()
        UNION ALL SELECT 'server', concat_ws('/', pg_postmaster_start_time(), current_setting('port'))
        UNION ALL SELECT 'is_standby', pg_is_in_recovery()::text
        UNION ALL SELECT 'standbys', count(*)::text FROM pg_stat_replication
        UNION ALL SELECT 'synchronous_standbys', count(*)::text FROM pg_stat_replication
            WHERE sync_state IN ('sync', 'quorum')
        UNION ALL SELECT 'schema', CASE
            WHEN to_regnamespace('meridian') IS NULL AND has_database_privilege(current_database(), 'CREATE')
                THEN 'can be made'
            WHEN to_regnamespace('meridian') IS NULL THEN 'missing'
            WHEN has_schema_privilege(to_regnamespace('meridian'), 'CREATE')
                AND has_schema_privilege(to_regnamespace('meridian'), 'USAGE') THEN 'there'
            ELSE 'closed' END
        UNION ALL SELECT 'sees_sessions', pg_has_role('pg_read_all_stats', 'USAGE')::text
        UNION ALL SELECT 'sessions', count(*)::text FROM pg_stat_activity WHERE backend_type = 'client backend'
        UNION ALL SELECT 'role_connections', rolconnlimit::text FROM pg_roles WHERE rolname = current_user
        UNION ALL SELECT 'database_connections', datconnlimit::text FROM pg_database WHERE datname = current_database()
        """

    /// A number among the answers; 0 when there is none.
    func number(_ name: String) -> Int { answers[name].flatMap { Int($0) } ?? 0 }

    /// Whether an answer is `on` or `true`.
    func isOn(_ name: String) -> Bool { ["on", "true"].contains(answers[name]) }
}

/// What a shard knows of Meridian.
enum SchemaFacts: Equatable, Sendable {
    /// These migrations are missing.
    case pending([String])
    /// The schema is up to date.
    case current(shard: String?, cluster: String?, retentionSeconds: Int64)
    /// The schema is not what this program knows, or can't be read.
    case unusable(message: String, hint: String?)
}

/// One thing that `check-config` has to say.
struct Finding: Equatable, Sendable {
    enum Severity: String, Comparable, Sendable {
        case ok, warning, refused

        static func < (lhs: Self, rhs: Self) -> Bool { lhs.rank < rhs.rank }

        private var rank: Int {
            switch self {
            case .ok: 0
            case .warning: 1
            case .refused: 2
            }
        }
    }

    var severity: Severity
    /// The shard's name, or what else it is about.
    var subject: String
    var message: String
    /// What to change.
    var hint: String?

    init(_ severity: Severity, _ subject: String, _ message: String, hint: String? = nil) {
        self.severity = severity
        self.subject = subject
        self.message = message
        self.hint = hint
    }
}
