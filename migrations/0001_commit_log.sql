-- What every shard keeps about transactions: who it is, which node epochs it knows, and the commit log.
--
-- Retention works on rings of five tables. A row goes to the table (slot) that its time selects, half a retention per
-- slot, so that two to three slots back nothing is needed any more and that table is truncated before its turn comes
-- again. No partition is ever created or dropped: a late upkeep costs space, never a write.

CREATE SCHEMA IF NOT EXISTS meridian;
CREATE SCHEMA meridian_undo;
COMMENT ON SCHEMA meridian IS 'Meridian: commit log, retention, identity and epochs of this shard';
COMMENT ON SCHEMA meridian_undo IS 'Meridian: undo tables of the versioned tables, and their trigger functions';

-- The names in these two schemas may be resolved by everyone; each object in them has its own privileges.
GRANT USAGE ON SCHEMA meridian, meridian_undo TO PUBLIC;

-- A role named like our schema would create its tables in it, by the default search_path "$user", public.
DO $$
BEGIN
    IF current_user = 'meridian' THEN
        EXECUTE format('ALTER ROLE meridian IN DATABASE %I SET search_path = public', current_database());
    END IF;
END
$$;

CREATE TABLE meridian.identity (
    is_set boolean PRIMARY KEY DEFAULT true CHECK (is_set),
    cluster uuid NOT NULL,
    shard text NOT NULL
);
COMMENT ON TABLE meridian.identity IS 'which shard of which cluster this database is; one row';

CREATE FUNCTION meridian.claim(cluster uuid, shard text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    known meridian.identity;
BEGIN
    INSERT INTO meridian.identity (cluster, shard) VALUES (coalesce($1, gen_random_uuid()), $2)
    ON CONFLICT (is_set) DO NOTHING;
    SELECT * INTO known FROM meridian.identity;
    IF known.cluster <> $1 OR known.shard <> $2 THEN
        RAISE EXCEPTION 'this database is another shard' USING ERRCODE = '55000',
            DETAIL = format('It is shard "%s" of cluster %s, not shard "%s" of cluster %s.',
                known.shard, known.cluster, $2, coalesce($1, known.cluster)),
            HINT = 'See whether the conninfo of the shard names the right server and database.';
    END IF;
    RETURN known.cluster;
END
$$;
COMMENT ON FUNCTION meridian.claim IS
    'makes this database that shard of that cluster (NULL: its own or a new one); raises 55000 when it is another';

-- Fencing (R6) ---------------------------------------------------------------------------------------------------

CREATE TABLE meridian.node_epoch (
    node smallint PRIMARY KEY CHECK (node BETWEEN 0 AND 1023),
    epoch bigint NOT NULL
);
COMMENT ON TABLE meridian.node_epoch IS 'the newest epoch of each node that this shard was told of';

CREATE FUNCTION meridian.raise_epoch(node integer, epoch bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO meridian.node_epoch AS known (node, epoch)
    SELECT every.node, $2 FROM (SELECT node FROM meridian.node_epoch UNION SELECT $1) AS every (node)
    ON CONFLICT (node) DO UPDATE SET epoch = greatest(known.epoch, excluded.epoch)
$$;
COMMENT ON FUNCTION meridian.raise_epoch IS
    'the node coordinates alone, in that epoch: sessions of earlier epochs, whichever node''s, cannot open any more';

CREATE FUNCTION meridian.open_session(node integer, epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    newest bigint := (SELECT known.epoch FROM meridian.node_epoch AS known WHERE known.node = $1);
BEGIN
    IF newest > $2 THEN
        RAISE EXCEPTION 'node % is fenced', $1 USING ERRCODE = '55000',
            DETAIL = format('It came with epoch %s; this shard knows epoch %s.', $2, newest),
            HINT = 'Restart the node: it takes up work in a new epoch.';
    END IF;
END
$$;
COMMENT ON FUNCTION meridian.open_session IS 'first statement of a node''s session: raises 55000 when its epoch is old';

-- Sessions say who they are by application_name, which the server knows before it serves them.
CREATE FUNCTION meridian.end_sessions(before_epoch bigint, wait_seconds double precision DEFAULT 5)
RETURNS SETOF integer LANGUAGE plpgsql AS $$
DECLARE
    deadline CONSTANT timestamptz := clock_timestamp() + make_interval(secs => wait_seconds);
    survivors integer[];
BEGIN
    LOOP
        PERFORM pg_stat_clear_snapshot();
        survivors := ARRAY(
            SELECT session.pid
            FROM pg_stat_activity AS session,
                regexp_match(session.application_name, '^meridian node \d+ epoch (\d+)$') AS name
            WHERE session.datname = current_database() AND name[1]::bigint < before_epoch);
        EXIT WHEN cardinality(survivors) = 0 OR clock_timestamp() > deadline;
        PERFORM pg_terminate_backend(pid) FROM unnest(survivors) AS pid;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN QUERY SELECT unnest(survivors);
END
$$;
COMMENT ON FUNCTION meridian.end_sessions IS
    'ends the sessions of epochs before that one and returns those that are still there; after raise_epoch committed';

-- The commit log (R3, R4) ----------------------------------------------------------------------------------------

-- One row; readers compare with it, upkeep raises it.
CREATE TABLE meridian.retention (
    is_set boolean PRIMARY KEY DEFAULT true CHECK (is_set),
    seconds integer NOT NULL CHECK (seconds >= 2),
    readable_from bigint NOT NULL,
    raised_by xid8 NOT NULL
);
COMMENT ON COLUMN meridian.retention.readable_from IS 'the oldest readable timestamp (ns)';
COMMENT ON COLUMN meridian.retention.raised_by IS 'the transaction that raised it last';
INSERT INTO meridian.retention (seconds, readable_from, raised_by) VALUES (3600, 0, pg_current_xact_id());

GRANT SELECT ON meridian.retention TO PUBLIC;

CREATE FUNCTION meridian.raise_readable_from(ts bigint) RETURNS void LANGUAGE sql AS $$
    UPDATE meridian.retention SET readable_from = $1, raised_by = pg_current_xact_id() WHERE readable_from < $1
$$;
COMMENT ON FUNCTION meridian.raise_readable_from IS 'from when this commits no timestamp below that one is read';

-- The retention of one hour is written into this function; set_retention replaces it.
CREATE FUNCTION meridian.slot(epoch_seconds bigint) RETURNS smallint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS
    'SELECT (epoch_seconds / 1800 % 5)::smallint';
COMMENT ON FUNCTION meridian.slot IS 'the ring slot of a moment, 0 to 4';

CREATE FUNCTION meridian.undo_slot() RETURNS smallint LANGUAGE sql STABLE PARALLEL SAFE AS
    'SELECT meridian.slot(pg_catalog.date_part(''epoch'', pg_catalog.transaction_timestamp())::bigint)';
COMMENT ON FUNCTION meridian.undo_slot IS 'the ring slot of this transaction''s undo rows';

-- `slot` is always meridian.slot(ts / 1000000000), so the index makes `ts` unique: that is what a tombstone conflicts
-- with. A CHECK would cost as much as the rest of the insert, since it is planned anew for each statement.
CREATE TABLE meridian.commit_log (
    ts bigint NOT NULL,
    xid xid8,
    slot smallint NOT NULL,
    undo_slot smallint,
    participants text,
    PRIMARY KEY (ts, slot)
) PARTITION BY LIST (slot);
COMMENT ON TABLE meridian.commit_log IS 'commit timestamps of the transactions that wrote this shard, and tombstones';
COMMENT ON COLUMN meridian.commit_log.ts IS 'commit timestamp: ns since the Unix epoch, node number in the low 10 bits';
COMMENT ON COLUMN meridian.commit_log.xid IS 'the local transaction; NULL in a tombstone: the one with that ts aborted';
COMMENT ON COLUMN meridian.commit_log.undo_slot IS 'where its undo rows are';
COMMENT ON COLUMN meridian.commit_log.participants IS 'the shards written, home first, separated by commas';

-- Rows are never updated or deleted, and plans do not depend on statistics: autovacuum would only cost.
CREATE TABLE meridian.commit_log_0 PARTITION OF meridian.commit_log FOR VALUES IN (0) WITH (autovacuum_enabled = off);
CREATE TABLE meridian.commit_log_1 PARTITION OF meridian.commit_log FOR VALUES IN (1) WITH (autovacuum_enabled = off);
CREATE TABLE meridian.commit_log_2 PARTITION OF meridian.commit_log FOR VALUES IN (2) WITH (autovacuum_enabled = off);
CREATE TABLE meridian.commit_log_3 PARTITION OF meridian.commit_log FOR VALUES IN (3) WITH (autovacuum_enabled = off);
CREATE TABLE meridian.commit_log_4 PARTITION OF meridian.commit_log FOR VALUES IN (4) WITH (autovacuum_enabled = off);

-- Called within the statement that inserts a tombstone, so that the floor is read at the insert's own snapshot, which
-- holds truncation back: the row that decided `ts` cannot vanish between this check and the insert.
CREATE FUNCTION meridian.is_remembered(ts bigint) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
DECLARE
    oldest bigint := (SELECT readable_from FROM meridian.retention);
BEGIN
    IF ts < oldest THEN
        RAISE EXCEPTION 'the outcome of transaction % is forgotten', ts USING ERRCODE = '55000',
            DETAIL = format('The commit log of this shard begins at %s.', oldest),
            HINT = 'Compare the shards'' data by hand, then COMMIT PREPARED or ROLLBACK PREPARED.';
    END IF;
    RETURN true;
END
$$;
COMMENT ON FUNCTION meridian.is_remembered IS 'raises 55000 when the commit log does not reach back to that timestamp';

CREATE FUNCTION meridian.newest_timestamp() RETURNS bigint LANGUAGE sql STABLE AS $$
    SELECT greatest((SELECT max(ts) FROM meridian.commit_log), (SELECT readable_from FROM meridian.retention))
$$;
COMMENT ON FUNCTION meridian.newest_timestamp IS 'no transaction on this shard has a commit timestamp above this one';

CREATE FUNCTION meridian.forget_past() RETURNS void LANGUAGE sql AS $$
    SELECT meridian.raise_readable_from(
        greatest(meridian.newest_timestamp(), (date_part('epoch', clock_timestamp()) * 1e9)::bigint))
$$;
COMMENT ON FUNCTION meridian.forget_past IS 'makes every timestamp up to now unreadable on this shard';

-- Reading at a timestamp -----------------------------------------------------------------------------------------

-- PL/pgSQL and ROWS keep the planner from guessing: whatever the statistics say, undo rows are fetched by index. The
-- query is planned once a session; a search_path of its own keeps the plan when the caller's changes.
CREATE FUNCTION meridian.undone() RETURNS TABLE (xid xid8, ts bigint, undo_slot smallint)
LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 10
SET search_path = pg_catalog SET enable_seqscan = off SET enable_bitmapscan = off AS $$
BEGIN
    RETURN QUERY SELECT log.xid, log.ts, log.undo_slot FROM meridian.commit_log AS log
        WHERE log.ts > current_setting('meridian.read_timestamp')::bigint AND log.xid IS NOT NULL;
END
$$;
COMMENT ON FUNCTION meridian.undone IS 'the transactions in the snapshot that are newer than the read timestamp';

CREATE FUNCTION meridian.begin_read(ts bigint, path text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    oldest bigint := (SELECT readable_from FROM meridian.retention);
BEGIN
    IF ts < oldest THEN
        RAISE EXCEPTION 'timestamp % is too old to be read', ts USING ERRCODE = '72000',
            DETAIL = format('The oldest readable timestamp on this shard is %s.', oldest),
            HINT = 'Read at a newer timestamp, or raise the retention with meridian.set_retention.';
    END IF;
    IF current_setting('transaction_isolation') = 'read committed' THEN
        RAISE EXCEPTION 'a read at a timestamp needs one snapshot' USING ERRCODE = '25001',
            HINT = 'Use BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY.';
    END IF;
    PERFORM set_config('meridian.read_timestamp', ts::text, true);
    PERFORM set_config('meridian.undone_age', coalesce(max(age(undone.xid::xid))::text, 'none'), true),
        set_config('search_path', path, true)
    FROM meridian.undone();
END
$$;
COMMENT ON FUNCTION meridian.begin_read IS
    'makes this REPEATABLE READ transaction read at a timestamp (ns) through the as-of schemas of that search_path';

-- A row version of a transaction to undo is at most that old (its xmin may be a subtransaction's, which is younger).
CREATE FUNCTION meridian.undone_age() RETURNS integer LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
    age text := current_setting('meridian.undone_age', true);
BEGIN
    IF coalesce(age, '') = '' THEN
        RAISE EXCEPTION 'this transaction has no read timestamp' USING ERRCODE = '55000',
            HINT = 'Call meridian.begin_read first.';
    END IF;
    RETURN nullif(age, 'none');
END
$$;
COMMENT ON FUNCTION meridian.undone_age IS 'the age() of the oldest transaction to undo; NULL when there is none';

CREATE FUNCTION meridian.is_current() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE AS
    'SELECT meridian.undone_age() IS NULL';
COMMENT ON FUNCTION meridian.is_current IS 'whether the plain tables are the state at the read timestamp';
