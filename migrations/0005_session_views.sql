-- What a node tells its clients by SQL. The rows come from the node: it gives them to the session as a setting, in the
-- same transaction, so that any query of these views works, by any driver. Asked on a shard directly they are empty.

CREATE FUNCTION meridian.node_rows(relation text) RETURNS jsonb LANGUAGE sql STABLE AS
    'SELECT coalesce(nullif(current_setting(''meridian.'' || $1, true), '''')::jsonb, ''[]'')';
COMMENT ON FUNCTION meridian.node_rows IS 'the rows of one of the views that the node fills, as it gave them';

CREATE VIEW meridian.stat_activity AS
    SELECT process AS pid, "user" AS usename, "applicationName" AS application_name,
        CASE WHEN address ~ '^[0-9a-fA-F:.]+$' THEN address::inet END AS client_addr, port AS client_port,
        to_timestamp("connectedAt") AS backend_start, to_timestamp("blockBeganAt") AS xact_start,
        to_timestamp("queryStartedAt") AS query_start, to_timestamp("changedAt") AS state_change, state,
        "readTimestamp" AS read_timestamp, shards, query
    FROM jsonb_to_recordset(meridian.node_rows('stat_activity')) AS row (process integer, "user" name,
        "applicationName" text, address text, port integer, "connectedAt" float8, "blockBeganAt" float8,
        "queryStartedAt" float8, "changedAt" float8, state text, "readTimestamp" bigint, shards text[], query text);
COMMENT ON VIEW meridian.stat_activity IS 'the sessions of this node''s clients';
COMMENT ON COLUMN meridian.stat_activity.pid IS 'the session''s number, which pg_backend_pid of libpq says too';
COMMENT ON COLUMN meridian.stat_activity.usename IS 'the user who logged in';
COMMENT ON COLUMN meridian.stat_activity.application_name IS 'what the client calls itself';
COMMENT ON COLUMN meridian.stat_activity.client_addr IS 'where the client connects from';
COMMENT ON COLUMN meridian.stat_activity.client_port IS 'the port that it connects from';
COMMENT ON COLUMN meridian.stat_activity.backend_start IS 'when the session began';
COMMENT ON COLUMN meridian.stat_activity.xact_start IS 'when its transaction block began; NULL outside one';
COMMENT ON COLUMN meridian.stat_activity.query_start IS 'when its last statement began';
COMMENT ON COLUMN meridian.stat_activity.state_change IS 'when its state changed last';
COMMENT ON COLUMN meridian.stat_activity.state IS
    'active, idle, idle in transaction, or idle in transaction (aborted)';
COMMENT ON COLUMN meridian.stat_activity.read_timestamp IS
    'the timestamp that its transaction reads at (ns); NULL when it has read nothing at a timestamp';
COMMENT ON COLUMN meridian.stat_activity.shards IS 'the shards on which its transaction holds locks';
COMMENT ON COLUMN meridian.stat_activity.query IS 'its last statement, cut at 1024 characters';

CREATE VIEW meridian.stat_shards AS
    SELECT shard, "isReachable" AS is_reachable, failure, "serverVersion" AS server_version,
        to_timestamp("startedAt") AS server_start, "isInRecovery" AS is_in_recovery, bytes, buckets,
        prepared AS prepared_transactions, "readableFrom" AS readable_from, "newestCommit" AS newest_commit
    FROM jsonb_to_recordset(meridian.node_rows('stat_shards')) AS row (shard text, "isReachable" boolean,
        failure text, "serverVersion" text, "startedAt" float8, "isInRecovery" boolean, bytes bigint,
        buckets integer, prepared integer, "readableFrom" bigint, "newestCommit" bigint);
COMMENT ON VIEW meridian.stat_shards IS 'the shards as this node finds them';
COMMENT ON COLUMN meridian.stat_shards.shard IS 'the shard''s name';
COMMENT ON COLUMN meridian.stat_shards.is_reachable IS 'whether it answered';
COMMENT ON COLUMN meridian.stat_shards.failure IS 'why it did not answer';
COMMENT ON COLUMN meridian.stat_shards.server_version IS 'of its PostgreSQL';
COMMENT ON COLUMN meridian.stat_shards.server_start IS 'when its server started';
COMMENT ON COLUMN meridian.stat_shards.is_in_recovery IS 'whether its server is a standby';
COMMENT ON COLUMN meridian.stat_shards.bytes IS 'the size of its database';
COMMENT ON COLUMN meridian.stat_shards.buckets IS 'how many of the 4096 buckets of sharded tables it owns';
COMMENT ON COLUMN meridian.stat_shards.prepared_transactions IS 'how many transactions stand prepared on it';
COMMENT ON COLUMN meridian.stat_shards.readable_from IS 'the oldest timestamp (ns) that can be read on it';
COMMENT ON COLUMN meridian.stat_shards.newest_commit IS 'the newest commit timestamp (ns) on it';

CREATE VIEW meridian.in_doubt_transactions AS
    SELECT gid, shard, home, node, epoch, "commitTimestamp" AS commit_timestamp, to_timestamp("preparedAt") AS prepared,
        "isCoordinatedHere" AS is_coordinated_here
    FROM jsonb_to_recordset(meridian.node_rows('in_doubt_transactions')) AS row (gid text, shard text, home text,
        node integer, epoch bigint, "commitTimestamp" bigint, "preparedAt" float8, "isCoordinatedHere" boolean);
COMMENT ON VIEW meridian.in_doubt_transactions IS 'what stands prepared on the shards, one row per shard';
COMMENT ON COLUMN meridian.in_doubt_transactions.gid IS 'the transaction, for meridian.transaction_outcome';
COMMENT ON COLUMN meridian.in_doubt_transactions.shard IS 'where it stands prepared';
COMMENT ON COLUMN meridian.in_doubt_transactions.home IS 'the shard whose commit log decides';
COMMENT ON COLUMN meridian.in_doubt_transactions.node IS 'the node that coordinates it';
COMMENT ON COLUMN meridian.in_doubt_transactions.epoch IS 'that node''s epoch';
COMMENT ON COLUMN meridian.in_doubt_transactions.commit_timestamp IS 'its commit timestamp (ns), should it commit';
COMMENT ON COLUMN meridian.in_doubt_transactions.prepared IS 'when it was prepared there';
COMMENT ON COLUMN meridian.in_doubt_transactions.is_coordinated_here IS
    'this node is settling it; otherwise recovery will, within seconds of finding it';

CREATE VIEW meridian.prepared_statements AS
    SELECT name, statement, to_timestamp("preparedAt") AS prepare_time,
        (SELECT coalesce(array_agg(type::oid::regtype ORDER BY place), '{}')
            FROM jsonb_array_elements_text(types) WITH ORDINALITY AS t (type, place)) AS parameter_types,
        "isFromSQL" AS from_sql, 0::bigint AS generic_plans, 0::bigint AS custom_plans
    FROM jsonb_to_recordset(meridian.node_rows('prepared_statements')) AS row (name text, statement text,
        "preparedAt" float8, types jsonb, "isFromSQL" boolean);
COMMENT ON VIEW meridian.prepared_statements IS 'what clients see as pg_prepared_statements: those of their session';

GRANT SELECT ON meridian.stat_activity, meridian.stat_shards, meridian.in_doubt_transactions,
    meridian.prepared_statements TO PUBLIC;

-- Functions that a node carries out itself; here they say so.
CREATE FUNCTION meridian.transaction_outcome(gid text) RETURNS text LANGUAGE plpgsql STABLE AS $$
BEGIN
    RAISE EXCEPTION 'meridian.transaction_outcome is answered by a node, not by a shard' USING ERRCODE = '0A000',
        HINT = 'Connect to a node and call it by SELECT meridian.transaction_outcome(''…'').';
END
$$;
COMMENT ON FUNCTION meridian.transaction_outcome IS
    'what became of a transaction whose outcome was unknown (SQLSTATE 08007): committed, aborted, in progress';

CREATE FUNCTION meridian.shard_table(relation text, key text DEFAULT NULL) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'meridian.shard_table is carried out by a node, not by a shard' USING ERRCODE = '0A000',
        HINT = 'Connect to a node and call it by SELECT meridian.shard_table(''table'', ''column'').';
END
$$;
COMMENT ON FUNCTION meridian.shard_table IS
    'spreads the rows of a table over the shards by a column, by default the first of its primary key';

CREATE FUNCTION meridian.has_past(relation regclass) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    undo name := (SELECT v.undo FROM meridian.versioned_table AS v WHERE v.relation = $1);
    found boolean;
BEGIN
    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', $1) INTO found;
    IF NOT found AND undo IS NOT NULL THEN
        EXECUTE format('SELECT EXISTS (SELECT FROM meridian_undo.%I)', undo) INTO found;
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION meridian.has_past IS 'whether a table has rows on this shard, or had some that can still be read';

CREATE FUNCTION meridian.is_movable(relation regclass) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT NOT EXISTS (SELECT FROM pg_constraint AS c WHERE c.contype = 'f' AND c.confrelid = $1)
        AND NOT EXISTS (SELECT FROM pg_trigger AS t
            WHERE t.tgrelid = $1 AND NOT t.tgisinternal AND t.tgname NOT LIKE 'meridian\_%')
$$;
COMMENT ON FUNCTION meridian.is_movable IS 'no foreign key leads to the table, and deleting its rows sets nothing off';
