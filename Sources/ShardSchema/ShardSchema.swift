import ShardBackend
import TransactionCore

/// The SQL that the engine sends to the schema `meridian` of a shard, ready to run.
///
/// Each statement names the R-rule of the design that it serves.
public enum ShardSchema {
    /// Records that the transaction `id` commits on this shard; the last statement before COMMIT or PREPARE
    /// TRANSACTION, in the transaction itself. On the home shard this row is the decision (R3).
    ///
    /// Fails with SQLSTATE 23505 where a tombstone says that the transaction was aborted (R4).
    ///
    /// - Parameter participants: the shards written besides the home shard.
    public static func logCommit(_ id: TransactionID, participants: [ShardID]) -> SQLStatement {
        let shards = ([id.home] + participants).map(\.rawValue).joined(separator: ",")
        return SQLStatement(
            """
            INSERT INTO meridian.commit_log (ts, xid, slot, undo_slot, participants) VALUES \
            ($1::bigint, pg_current_xact_id(), meridian.slot($1 / 1000000000), meridian.undo_slot(), $2)
            """, [.int64(id.commitTimestamp.rawValue), .text(shards)])
    }

    /// One row with one boolean, whether the transaction committed, or no row while nothing is decided (R4).
    ///
    /// Asked of the home shard this is the decision; of another one, whether the transaction has been applied there.
    ///
    /// The row is locked, which PostgreSQL logs, so that the answer waits for the synchronous standby as a COMMIT does:
    /// what a session has committed whose wait was cut short is visible before the standby has it, and gone when that
    /// is promoted.
    public static func decision(of id: TransactionID) -> SQLStatement {
        SQLStatement(
            """
            SELECT xid IS NOT NULL FROM meridian.commit_log \
            WHERE ts = $1::bigint AND slot = meridian.slot($1 / 1000000000) FOR KEY SHARE
            """, [.int64(id.commitTimestamp.rawValue)])
    }

    /// Decides abort on the home shard unless something is decided already (R4); affects one row if it did.
    ///
    /// Waits for the end of a transaction that has inserted a row of that timestamp, which a coordinator that is alive
    /// may just be committing. Fails with SQLSTATE 55000 when the log no longer reaches back to the timestamp.
    public static func tombstone(for id: TransactionID) -> SQLStatement {
        SQLStatement(
            """
            INSERT INTO meridian.commit_log (ts, slot) SELECT $1::bigint, meridian.slot($1 / 1000000000) \
            WHERE meridian.is_remembered($1) ON CONFLICT DO NOTHING
            """, [.int64(id.commitTimestamp.rawValue)])
    }

    /// What is prepared in this database, oldest first, strangers' transactions among them: gid, the local
    /// transaction's number, when it was prepared (ns since the Unix epoch, by the shard's clock), owner.
    public static let preparedTransactions = SQLStatement(
        """
        SELECT gid, transaction::text::bigint, (extract(epoch FROM prepared) * 1000000000)::bigint, owner::text \
        FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
        """)

    /// The committed transactions that the log still holds: timestamp, the shards written separated by commas (home
    /// first).
    public static let committedTransactions = SQLStatement(
        "SELECT ts, participants FROM meridian.commit_log WHERE xid IS NOT NULL")

    /// One bigint: no transaction on the shard has a commit timestamp above it.
    ///
    /// As `meridian.newest_timestamp()` has it, and planned once for each session: that takes a third of the time.
    public static let newestTimestamp = SQLStatement(
        """
        SELECT greatest((SELECT max(ts) FROM meridian.commit_log), (SELECT readable_from FROM meridian.retention))
        """)

    /// One bigint: the oldest timestamp that can be read on the shard.
    public static let oldestReadable = SQLStatement("SELECT readable_from FROM meridian.retention")

    /// What begins a read at `timestamp` (R8, R10), to be sent in one pipeline with the query and COMMIT.
    ///
    /// The last statement takes the snapshot; the shard's safe time must have reached `timestamp` before. Fails with
    /// SQLSTATE 72000 when the timestamp is older than what the shard keeps.
    ///
    /// A prepared statement is planned for the `search_path` it was parsed under, so keep sessions that read at
    /// timestamps apart from those that don't: one that changes is planned anew each time.
    ///
    /// Sums and counts of a whole table are cheaper than through the as-of view when they are taken of the table as it
    /// is and of the view `meridian_diff_SCHEMA.TABLE`, whose rows have a `weight` of 1 or -1 and turn the table into
    /// what it was: `SELECT (SELECT sum(x) FROM s.t) + (SELECT coalesce(sum(weight * x), 0) FROM meridian_diff_s.t)`.
    ///
    /// - Parameters:
    ///   - schemas: the `search_path` of the query; each schema's versioned tables appear as they were.
    ///   - tables: what the query reads, as it stands in SQL. They are locked before the snapshot is taken: a snapshot
    ///     from before a TRUNCATE that then waits for its lock would find the table empty, and no undo rows either
    ///     (PostgreSQL's manual, "Caveats" of MVCC).
    public static func readPrologue(
        at timestamp: Timestamp, schemas: [String], tables: [String] = []
    ) -> [SQLStatement] {
        let path = schemas.flatMap { ["meridian_asof_\($0)", $0] }
            .map { "\"\($0.replacing("\"", with: "\"\""))\"" }.joined(separator: ", ")
        let locks = tables.isEmpty ? [] : ["LOCK TABLE \(tables.joined(separator: ", ")) IN ACCESS SHARE MODE"]
        return ["BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"] + locks.map { SQLStatement($0) } + [
            SQLStatement("SELECT meridian.begin_read($1, $2)", [.int64(timestamp.rawValue), .text(path)])
        ]
    }

    /// The first statement of a node's session; fails with SQLSTATE 55000 when the shard was told of a newer epoch, or
    /// that this one is over (R6).
    ///
    /// The session's `application_name` must be `meridian node N epoch E`, so that ``endSessions(of:upTo:)`` finds it.
    public static func openSession(node: NodeID, epoch: Epoch) -> SQLStatement {
        SQLStatement("SELECT meridian.open_session($1, $2)", parameters(node, epoch), isPrepared: false)
    }

    /// The newest epoch of each node that the shard was told of, begun or fenced: the node's number, the epoch.
    public static let newestEpochs = SQLStatement(
        "SELECT node::bigint, greatest(epoch, fenced) FROM meridian.node_epoch", isPrepared: false)

    /// Tells the shard that `node` has begun in `epoch`: sessions of its earlier ones cannot open any more (R6).
    public static func raiseEpoch(of node: NodeID, to epoch: Epoch) -> SQLStatement {
        SQLStatement("SELECT meridian.raise_epoch($1, $2)", parameters(node, epoch), isPrepared: false)
    }

    /// Tells the shard that the epochs of `node` up to `epoch` are over: their sessions cannot open any more (R6).
    public static func fence(_ node: NodeID, upTo epoch: Epoch) -> SQLStatement {
        SQLStatement("SELECT meridian.fence($1, $2)", parameters(node, epoch), isPrepared: false)
    }

    /// Ends the sessions of `node` of epochs up to `epoch`, that of its lock among them (R6). Waits up to five seconds
    /// until they are gone, and fails with SQLSTATE 55006 when some are not.
    ///
    /// ``fence(_:upTo:)`` must have been committed before, or another session may open behind this one's back.
    public static func endSessions(of node: NodeID, upTo epoch: Epoch) -> SQLStatement {
        SQLStatement("SELECT meridian.end_sessions($1, $2)", parameters(node, epoch), isPrepared: false)
    }

    private static func parameters(_ node: NodeID, _ epoch: Epoch) -> [SQLParameter] {
        [.int64(Int64(node.rawValue)), .int64(epoch.rawValue)]
    }

    /// One bigint: the timeline on which the server writes, which rises by each promotion of a standby. Fails on a
    /// standby.
    public static let timeline = SQLStatement(
        "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint", isPrepared: false)

    /// The newest timelines of the shards that this one was told of: name, bigint.
    public static let knownTimelines = SQLStatement("SELECT shard, timeline FROM meridian.shard_timeline")

    /// Tells the shard that `shard` has come to `timeline`, and that no older one is its primary.
    public static func recordTimeline(_ timeline: Int64, of shard: ShardID) -> SQLStatement {
        SQLStatement(
            "SELECT meridian.record_timeline($1, $2)", [.text(shard.rawValue), .int64(timeline)], isPrepared: false)
    }

    /// One boolean: the server has standbys, and a commit waits for none of them.
    public static let mayLoseCommits = SQLStatement(
        """
        SELECT (current_setting('synchronous_standby_names') = '' \
        OR current_setting('synchronous_commit') IN ('off', 'local')) AND EXISTS (SELECT FROM pg_stat_replication)
        """, isPrepared: false)

    /// Which session of a node waits for a lock of which other one: two process numbers, waiter and blocker.
    public static let waits = SQLStatement(
        """
        SELECT pid::bigint, unnest(pg_blocking_pids(pid))::bigint FROM pg_stat_activity \
        WHERE wait_event_type = 'Lock' AND datname = current_database() AND application_name LIKE 'meridian node%'
        """)

    /// The name of the shard that this database is; no row before ``Migrator`` gave it one.
    public static let shardName = SQLStatement("SELECT shard FROM meridian.identity")
}
