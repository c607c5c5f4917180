-- Retention: what no reader may ask for any more is truncated, a table at a time.
--
-- Steps, each committed before the next: (1) the floor of readable timestamps is raised; (2) at least one round later,
-- tables are truncated. Step 2 does nothing while a snapshot older than (1) is alive: its reader passed the old floor
-- and may still come to a table that would be empty by then (TRUNCATE, like DROP, looks through snapshots). Every later
-- snapshot sees the new floor.

CREATE FUNCTION meridian.has_older_snapshot() RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT EXISTS (
        SELECT FROM pg_stat_activity AS session, meridian.retention
        WHERE session.pid <> pg_backend_pid() AND age(session.backend_xmin) >= age(retention.raised_by::xid)
            AND (session.datname = current_database() OR session.datname IS NULL))
$$;
COMMENT ON FUNCTION meridian.has_older_snapshot IS
    'whether a snapshot is older than the floor of readable timestamps; a standby''s counts with hot_standby_feedback';

-- A transaction that a reader may have to undo has a timestamp above the floor, or is in progress or prepared.
CREATE FUNCTION meridian.oldest_needed_xid(floor bigint) RETURNS xid8 LANGUAGE sql STABLE AS $$
    SELECT least(pg_snapshot_xmin(pg_current_snapshot()), min(log.xid))
    FROM meridian.commit_log AS log WHERE log.ts > floor
$$;

-- Truncates a table when the newest row by `column` is below `bound`. Whoever wants the table meanwhile waits for 100
-- ms at most; a reader or a prepared transaction that has it leaves it to the next round.
CREATE FUNCTION meridian.truncate_below(target regclass, "column" name, bound text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    is_below boolean;
    query CONSTANT text := format('SELECT max(%I) < %L FROM ONLY %s', "column", bound, target);
BEGIN
    -- Two that had looked into the same table would each wait for the other to let go of it.
    IF NOT pg_try_advisory_xact_lock(hashtext('meridian.truncate')) THEN
        RETURN;
    END IF;
    EXECUTE query INTO is_below;
    IF is_below THEN
        SET LOCAL lock_timeout = '100ms';
        EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', target);
        EXECUTE query INTO is_below;
        IF is_below THEN
            EXECUTE format('TRUNCATE ONLY %s', target);
        END IF;
    END IF;
EXCEPTION WHEN lock_not_available THEN
    NULL;
END
$$;

-- Any number of these may run at once: the bounds only rise, and are compared again under the table's lock.
CREATE PROCEDURE meridian.truncate_expired(unresolved bigint) LANGUAGE plpgsql AS $$
DECLARE
    floor bigint;
    needed xid8;
    current CONSTANT integer := meridian.undo_slot();
    target regclass;
    is_filled boolean;
BEGIN
    -- One statement: a floor that is raised after the snapshots were looked at must not be taken for theirs.
    SELECT least(readable_from, unresolved) INTO floor FROM meridian.retention WHERE NOT meridian.has_older_snapshot();
    IF floor IS NULL THEN
        RETURN;
    END IF;
    FOR slot IN 0..4 LOOP
        PERFORM meridian.truncate_below(format('meridian.commit_log_%s', slot)::regclass, 'ts', floor::text);
        COMMIT;
    END LOOP;
    -- The slots of the past two retentions are left alone: that they cannot be emptied yet need not be found out.
    FOR target IN
        SELECT to_regclass(format('meridian_undo.%I', versioned.undo || '_' || (current + age) % 5))
        FROM meridian.versioned_table AS versioned, generate_series(1, 2) AS age
    LOOP
        CONTINUE WHEN target IS NULL;
        EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s)', target) INTO is_filled;
        CONTINUE WHEN NOT is_filled;
        needed := coalesce(needed, meridian.oldest_needed_xid(floor));
        PERFORM meridian.truncate_below(target, 'xid', needed::text);
        COMMIT;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE meridian.truncate_expired IS
    'empties what nobody may read; unresolved: the oldest timestamp whose decision some shard may still ask for (R4)';

CREATE FUNCTION meridian.expire(now bigint) RETURNS void LANGUAGE sql AS $$
    SELECT meridian.raise_readable_from(now - seconds * 1000000000::bigint) FROM meridian.retention
$$;
COMMENT ON FUNCTION meridian.expire IS 'makes what is older than one retention before that moment (ns) unreadable';

CREATE PROCEDURE meridian.set_retention(seconds integer) LANGUAGE plpgsql AS $$
DECLARE
    undo name;
BEGIN
    -- No transaction may write its undo rows by the old rule and its commit-log row by the new one. The order of locks
    -- is the writers' own.
    FOR undo IN SELECT versioned.undo FROM meridian.versioned_table AS versioned ORDER BY versioned.id LOOP
        EXECUTE format('LOCK TABLE meridian_undo.%I IN SHARE MODE', undo);
    END LOOP;
    LOCK TABLE meridian.commit_log IN ACCESS EXCLUSIVE MODE;
    UPDATE meridian.retention AS r SET seconds = $1;
    EXECUTE format('CREATE OR REPLACE FUNCTION meridian.slot(epoch_seconds bigint) RETURNS smallint LANGUAGE sql '
        'IMMUTABLE PARALLEL SAFE AS %L', format('SELECT (epoch_seconds / %s %% 5)::smallint', $1 / 2));
    UPDATE meridian.commit_log SET slot = meridian.slot(ts / 1000000000)
    WHERE slot <> meridian.slot(ts / 1000000000);
END
$$;
COMMENT ON PROCEDURE meridian.set_retention IS
    'sets how long the past stays readable (seconds, at least 2); waits for the writers and stops them meanwhile';
