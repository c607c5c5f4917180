-- Fencing node by node (R6): several nodes coordinate at once, so what ends one node's epochs leaves the others alone.

ALTER TABLE meridian.node_epoch ADD fenced bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN meridian.node_epoch.epoch IS 'the newest epoch in which the node has begun';
COMMENT ON COLUMN meridian.node_epoch.fenced IS 'the node''s epochs up to this one are over';

CREATE OR REPLACE FUNCTION meridian.raise_epoch(node integer, epoch bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO meridian.node_epoch AS known (node, epoch) VALUES ($1, $2)
    ON CONFLICT (node) DO UPDATE SET epoch = greatest(known.epoch, excluded.epoch)
$$;
COMMENT ON FUNCTION meridian.raise_epoch IS 'the node begins in that epoch: its earlier ones open no session any more';

CREATE FUNCTION meridian.fence(node integer, epoch bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO meridian.node_epoch AS known (node, epoch, fenced) VALUES ($1, 0, $2)
    ON CONFLICT (node) DO UPDATE SET fenced = greatest(known.fenced, excluded.fenced)
$$;
COMMENT ON FUNCTION meridian.fence IS 'the node''s epochs up to that one open no session any more';

CREATE OR REPLACE FUNCTION meridian.open_session(node integer, epoch bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    known meridian.node_epoch;
BEGIN
    SELECT * INTO known FROM meridian.node_epoch AS stored WHERE stored.node = $1;
    IF known.epoch > $2 OR known.fenced >= $2 THEN
        RAISE EXCEPTION 'node % is fenced', $1 USING ERRCODE = '55000',
            DETAIL = CASE WHEN known.epoch > $2
                THEN format('It came with epoch %s; this shard knows epoch %s.', $2, known.epoch)
                ELSE format('It came with epoch %s; other nodes have ended its epochs up to %s.', $2, known.fenced) END,
            HINT = 'Restart the node: it takes up work in a new epoch.';
    END IF;
END
$$;

-- A program that would fence all nodes at once must not believe that it did.
DROP FUNCTION meridian.end_sessions(bigint, double precision);

-- Sessions say who they are by application_name, which the server knows before it serves them. That of the
-- coordinator's lock is among them: the node learns by its end that it is fenced, and the lock is free.
CREATE FUNCTION meridian.end_sessions(node integer, epoch bigint, wait_seconds double precision DEFAULT 5)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    deadline CONSTANT timestamptz := clock_timestamp() + make_interval(secs => wait_seconds);
    survivors integer[];
BEGIN
    LOOP
        PERFORM pg_stat_clear_snapshot();
        survivors := ARRAY(
            SELECT session.pid
            FROM pg_stat_activity AS session,
                regexp_match(session.application_name, '^meridian (?:coordinator, )?node (\d+) epoch (\d+)$') AS name
            WHERE session.datname = current_database() AND name[1]::numeric = $1 AND name[2]::numeric <= $2);
        EXIT WHEN cardinality(survivors) = 0;
        IF clock_timestamp() > deadline THEN
            RAISE EXCEPTION 'sessions of node % do not end', $1 USING ERRCODE = '55006',
                DETAIL = format('They are of epochs up to %s; their processes are %s.',
                    $2, array_to_string(survivors, ', ')),
                HINT = 'End them by hand: see pg_stat_activity for application_name LIKE ''meridian%''.';
        END IF;
        PERFORM pg_terminate_backend(pid) FROM unnest(survivors) AS pid;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
COMMENT ON FUNCTION meridian.end_sessions IS
    'ends the node''s sessions of epochs up to that one, raises 55006 when some stay; after fence was committed';
