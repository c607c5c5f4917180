-- Versioned tables: undo tables filled by triggers, and as-of views over them.
--
-- A row's undo entry is written by the first change that a transaction makes to it: what the row was before, or that it
-- was not there. "First" needs no order and no unique index: a row version whose xmin is the transaction's own was made
-- by the transaction, so what replaces it says nothing about the state before. That holds whatever the order in which
-- AFTER triggers fire (cascades, triggers that write the same table), and savepoints roll entries back with the rows.
--
-- A row whose xmin is older than every transaction to undo has not been changed by one of them (the later writer of a
-- row has the larger timestamp, R7). The as-of view asks that first, so an untouched row costs one comparison.
--
-- A COPY's rows come in numbers. Where begin_copy (0006) allows it, the coordinator writes their entries, many to a row
-- of the undo table with the keys in arrays, in the same transaction; the trigger's condition is false meanwhile.

CREATE TABLE meridian.versioned_table (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    relation regclass NOT NULL UNIQUE,
    undo name NOT NULL UNIQUE,
    key smallint[] NOT NULL,
    schema name NOT NULL,
    name name NOT NULL
);
COMMENT ON TABLE meridian.versioned_table IS 'the tables whose state can be read at a timestamp';
COMMENT ON COLUMN meridian.versioned_table.undo IS 'the undo table''s name in meridian_undo';
COMMENT ON COLUMN meridian.versioned_table.schema IS 'its as-of view is meridian_asof_SCHEMA.NAME';
COMMENT ON COLUMN meridian.versioned_table.key IS 'the primary key''s column numbers; empty: undone as a multiset';

-- Whether this transaction made the row version with that xmin, which is not its top-level id. An id that cannot be
-- resolved belongs to a row frozen long ago.
CREATE FUNCTION meridian.is_own(writer xid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    top bigint := pg_catalog.pg_current_xact_id()::text;
    ahead bigint := ((writer::text::bigint - top) % 4294967296 + 4294967296) % 4294967296;
BEGIN
    RETURN pg_catalog.pg_xact_status((top + ahead)::text::xid8) = 'in progress';
EXCEPTION WHEN invalid_parameter_value THEN
    RETURN false;
END
$$;

CREATE FUNCTION meridian.is_foreign(writer xid) RETURNS boolean LANGUAGE sql VOLATILE AS $$
    SELECT writer OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid
        AND (pg_catalog.age(writer) OPERATOR(pg_catalog.>) 0 OR NOT meridian.is_own(writer))
$$;

-- The columns of a table as the generated code needs them: name, undo column (named after the column's number, which
-- outlives renaming), the type below any domain, because an entry for an absent row leaves columns NULL, the collation
-- where it is not the type's own, the type as declared, and that of its values in an array. This one is NULL where the
-- text of a value might give another one there than in COPY (an array would become a dimension, and a value of
-- `interval hour` is read by its type alone and cut down afterwards), or unnest would give several columns.
CREATE FUNCTION meridian.column_definition(relation regclass)
RETURNS TABLE (number smallint, name name, undo name, type text, collation text, declared text, list text)
LANGUAGE sql STABLE AS $$
    SELECT a.attnum, a.attname, ('a' || a.attnum)::name, format_type(base.oid, base.typmod),
        CASE WHEN a.attcollation <> base.typcollation THEN ' COLLATE ' || a.attcollation::regcollation ELSE '' END,
        format_type(a.atttypid, a.atttypmod),
        CASE WHEN base.typarray <> 0 AND base.typdelim = ',' AND base.typtype <> 'c'
            AND (base.oid <> 'interval'::regtype OR base.typmod < 0) THEN format_type(base.oid, base.typmod) || '[]' END
    FROM pg_attribute AS a, LATERAL (
        WITH RECURSIVE below AS (
            SELECT t.*, a.atttypmod AS typmod
            FROM pg_type AS t WHERE t.oid = a.atttypid
            UNION ALL
            SELECT t.*, below.typtypmod
            FROM below JOIN pg_type AS t ON t.oid = below.typbasetype WHERE below.typtype = 'd'
        )
        SELECT * FROM below WHERE typtype <> 'd'
    ) AS base
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
$$;

CREATE FUNCTION meridian.primary_key(relation regclass) RETURNS smallint[] LANGUAGE sql STABLE AS $$
    SELECT coalesce((SELECT conkey FROM pg_constraint WHERE conrelid = $1 AND contype = 'p'), '{}')
$$;

-- The columns of a table's undo table: an old row's, and where the key allows it one for the keys of a COPY's rows.
CREATE FUNCTION meridian.undo_column(relation regclass) RETURNS TABLE (number smallint, name name, type text)
LANGUAGE sql STABLE AS $$
    SELECT c.number, c.undo, c.type || c.collation FROM meridian.column_definition($1) AS c
    UNION ALL
    SELECT c.number, ('k' || c.number)::name, c.list || c.collation
    FROM (
        SELECT d.*, bool_and(d.list IS NOT NULL) OVER () AS has_lists FROM meridian.column_definition($1) AS d
        WHERE d.number = ANY (meridian.primary_key($1))
    ) AS c
    WHERE c.has_lists
$$;

CREATE FUNCTION meridian.leaves(relation regclass) RETURNS SETOF regclass LANGUAGE sql STABLE AS $$
    SELECT relid FROM pg_partition_tree($1) WHERE isleaf
    UNION SELECT oid FROM pg_class WHERE oid = $1 AND relkind = 'r'
$$;
COMMENT ON FUNCTION meridian.leaves IS 'the tables that hold a table''s rows: itself, or its partitions';

-- Raises 0A000 for what cannot be versioned.
CREATE FUNCTION meridian.check_versionable(relation regclass) RETURNS void LANGUAGE plpgsql STABLE AS $$
DECLARE
    class pg_class;
    reason text;
BEGIN
    SELECT * INTO STRICT class FROM pg_class WHERE oid = relation;
    reason := CASE
        WHEN class.relkind NOT IN ('r', 'p') THEN 'It is not a table.'
        WHEN class.relpersistence <> 'p' THEN 'It is temporary or unlogged; after a crash its rows would be gone.'
        WHEN class.relispartition THEN 'It is a partition; version the partitioned table instead.'
        WHEN octet_length(class.relnamespace::regnamespace::text) > 49 THEN 'The name of its schema has over 49 bytes.'
        WHEN class.relrowsecurity THEN 'It has row-level security, which its as-of view would not apply.'
        WHEN class.relnamespace::regnamespace::text ~ '^(pg_|information_schema$|meridian$|meridian_)'
            THEN 'It is a system table.'
        WHEN EXISTS (SELECT FROM meridian.leaves(relation) AS leaf JOIN pg_class AS c ON c.oid = leaf
            WHERE c.relkind <> 'r' OR c.relpersistence <> 'p')
            THEN 'One of its partitions is a foreign table, or unlogged.'
        WHEN class.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits WHERE relation IN (inhrelid, inhparent))
            THEN 'It takes part in inheritance.'
        WHEN cardinality(meridian.primary_key(relation)) = 0
            AND NOT EXISTS (SELECT FROM meridian.column_definition(relation)) THEN 'It has no columns.'
        END;
    IF reason IS NOT NULL THEN
        RAISE EXCEPTION 'cannot version table %', relation USING ERRCODE = '0A000', DETAIL = reason;
    END IF;
END
$$;

-- Writes the trigger functions, the function that finds undone rows, and the as-of view of one table, from the table as
-- it is now. Function bodies run with the owner's rights, so every name and operator in them is qualified. All
-- templates take the same arguments.
CREATE FUNCTION meridian.generate_code(relation regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    versioned meridian.versioned_table;
    has_key boolean;
    arguments text[];
    undone text;
    grantee text;
    suffix text;
    body text;
    -- The condition of the insert trigger: false while begin_copy's setting names the table. Any role could make that
    -- setting, so it counts in the owner's own sessions only; if the owner is renamed, the trigger always fires.
    is_logged_body CONSTANT text := $sql$
BEGIN
    RETURN (pg_catalog.current_setting('meridian.copied', true) OPERATOR(pg_catalog.=) %20$L) IS NOT TRUE
        OR SESSION_USER OPERATOR(pg_catalog.<>) %21$L;
END
$sql$;
    insert_body CONSTANT text := $sql$
BEGIN
    INSERT INTO %1$s (slot, xid, existed, %2$s)
    VALUES (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), false, %3$s);
    RETURN NULL;
END
$sql$;
    -- One condition on the usual path: PL/pgSQL prepares each expression anew in each transaction.
    update_body CONSTANT text := $sql$
BEGIN
    IF OLD.xmin OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()::pg_catalog.xid
        AND pg_catalog.age(OLD.xmin) OPERATOR(pg_catalog.>) 0
        AND ROW(%3$s)::pg_catalog.record OPERATOR(pg_catalog.*=) ROW(%4$s)::pg_catalog.record THEN
        INSERT INTO %1$s (slot, xid, existed, %6$s)
        VALUES (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), true, %7$s);
        RETURN NULL;
    END IF;
    IF meridian.is_foreign(OLD.xmin) THEN
        INSERT INTO %1$s (slot, xid, existed, %6$s)
        VALUES (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), true, %7$s);
    END IF;
    IF ROW(%3$s)::pg_catalog.record OPERATOR(pg_catalog.*<>) ROW(%4$s)::pg_catalog.record THEN
        INSERT INTO %1$s (slot, xid, existed, %2$s)
        VALUES (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), false, %3$s);
    END IF;
    RETURN NULL;
END
$sql$;
    update_body_without_key CONSTANT text := $sql$
BEGIN
    INSERT INTO %1$s (slot, xid, existed, %6$s)
    VALUES (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), true, %7$s),
        (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), false, %3$s);
    RETURN NULL;
END
$sql$;
    delete_body CONSTANT text := $sql$
BEGIN
    IF meridian.is_foreign(OLD.xmin) THEN
        INSERT INTO %1$s (slot, xid, existed, %6$s)
        VALUES (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), true, %7$s);
    END IF;
    RETURN NULL;
END
$sql$;
    delete_body_without_key CONSTANT text := $sql$
BEGIN
    INSERT INTO %1$s (slot, xid, existed, %6$s)
    VALUES (meridian.undo_slot(), pg_catalog.pg_current_xact_id(), true, %7$s);
    RETURN NULL;
END
$sql$;
    truncate_body CONSTANT text := $sql$
BEGIN
    EXECUTE pg_catalog.format(%11$L, TG_RELID::pg_catalog.regclass);
    RETURN NULL;
END
$sql$;
    undone_body CONSTANT text := $sql$
#variable_conflict use_column
BEGIN
    RETURN QUERY SELECT DISTINCT ON (%2$s) entry.existed, %6$s
    FROM meridian.undone() AS newer CROSS JOIN LATERAL (
        SELECT undo.existed, %18$s
        FROM %1$s AS undo LEFT JOIN LATERAL %19$s ON true
        WHERE undo.xid = newer.xid AND undo.slot = newer.undo_slot OFFSET 0
    ) AS entry
    ORDER BY %2$s, newer.ts, entry.existed DESC;
END
$sql$;
    undone_body_without_key CONSTANT text := $sql$
#variable_conflict use_column
BEGIN
    RETURN QUERY WITH entry AS (
        SELECT entry.*, ROW(%6$s)::text AS image
        FROM meridian.undone() AS newer CROSS JOIN LATERAL (
            SELECT * FROM %1$s AS undo
            WHERE undo.xid = newer.xid AND undo.slot = newer.undo_slot OFFSET 0
        ) AS entry
    ), young AS (
        SELECT ROW(%8$s)::text AS image, count(*) AS copies FROM %5$s
        WHERE age(xmin) <= meridian.undone_age() GROUP BY 1
    )
    SELECT DISTINCT ON (image) coalesce(young.copies, 0) +
        sum(CASE WHEN existed THEN 1 ELSE -1 END) OVER (PARTITION BY image), image, %6$s
    FROM entry LEFT JOIN young USING (image);
END
$sql$;
    view_body CONSTANT text := $sql$
CREATE VIEW %9$s AS SELECT %10$s FROM (
    SELECT %8$s, xmin, true FROM %5$s
    UNION ALL
    SELECT %12$s, NULL, false FROM %13$s() WHERE existed AND NOT (SELECT meridian.is_current())
) AS state (%6$s, writer, is_live)
WHERE NOT is_live OR (SELECT meridian.is_current()) OR age(writer) > (SELECT meridian.undone_age())
    OR (%2$s) NOT IN (SELECT %15$s FROM %13$s())
$sql$;
    -- What turns the current table into the state: sum and count of the state are those of the table plus these.
    diff_body CONSTANT text := $sql$
CREATE VIEW %16$s AS
SELECT -1 AS weight, %8$s FROM %5$s
WHERE (%17$s) IN (SELECT %15$s FROM %13$s() WHERE NOT (SELECT meridian.is_current()))
UNION ALL SELECT 1, %12$s FROM %13$s() WHERE existed AND NOT (SELECT meridian.is_current())
$sql$;
    view_body_without_key CONSTANT text := $sql$
CREATE VIEW %9$s AS SELECT %10$s FROM (
    SELECT %8$s, xmin, true FROM %5$s
    UNION ALL
    SELECT %12$s, NULL, false FROM %13$s() AS entry CROSS JOIN generate_series(1, entry.copies)
    WHERE NOT (SELECT meridian.is_current())
) AS state (%6$s, writer, is_live)
WHERE NOT is_live OR (SELECT meridian.is_current()) OR age(writer) > (SELECT meridian.undone_age())
    OR ROW(%6$s)::text NOT IN (SELECT image FROM %13$s())
$sql$;
BEGIN
    SELECT * INTO STRICT versioned FROM meridian.versioned_table AS v WHERE v.relation = $1;
    has_key := cardinality(versioned.key) > 0;
    undone := format('meridian_undo.%I', versioned.undo || '_undone');
    SELECT ARRAY[
        format('meridian_undo.%I', versioned.undo),                                         --  1 undo table
        string_agg(quote_ident(c.undo), ', ') FILTER (WHERE is_key),                        --  2 a1
        string_agg('NEW.' || quote_ident(c.name), ', ') FILTER (WHERE is_key),              --  3 NEW.id
        string_agg('OLD.' || quote_ident(c.name), ', ') FILTER (WHERE is_key),              --  4 OLD.id
        format('%I.%I', n.nspname, r.relname),                                              --  5 table
        string_agg(quote_ident(c.undo), ', '),                                              --  6 a1, a2
        string_agg('OLD.' || quote_ident(c.name), ', '),                                    --  7 OLD.id, OLD.balance
        string_agg(quote_ident(c.name), ', '),                                              --  8 id, balance
        format('%I.%I', 'meridian_asof_' || versioned.schema, versioned.name),              --  9 view
        string_agg(format('%I AS %I', c.undo, c.name), ', '),                               -- 10 a1 AS id
        format('INSERT INTO meridian_undo.%I (slot, xid, existed, %s) SELECT meridian.undo_slot(), '
            'pg_catalog.pg_current_xact_id(), true, %s FROM ONLY ', versioned.undo,
            string_agg(quote_ident(c.undo), ', '), replace(string_agg(quote_ident(c.name), ', '), '%', '%%'))
            || '%s' || CASE WHEN has_key THEN ' WHERE meridian.is_foreign(xmin)' ELSE '' END, -- 11 undo a TRUNCATE
        string_agg(format('%I::%s%s', c.undo, c.declared, c.collation), ', '),              -- 12 a1::bigint
        undone,                                                                             -- 13
        string_agg(format('%I %s', c.undo, c.type), ', '),                                  -- 14 a1 bigint
        string_agg(format('%I%s', c.undo, c.collation), ', ') FILTER (WHERE is_key),        -- 15 a1
        format('%I.%I', 'meridian_diff_' || versioned.schema, versioned.name),              -- 16 differences
        string_agg(quote_ident(c.name), ', ') FILTER (WHERE is_key),                        -- 17 id
        string_agg(CASE WHEN c.list_name IS NULL THEN 'undo.' || quote_ident(c.undo)
            ELSE format('coalesce(copied.%I, undo.%I) AS %2$I', c.list_name, c.undo) END, ', '), -- 18 undo.a1
        CASE WHEN count(c.list_name) = 0 THEN '(SELECT) AS copied'
            ELSE format('unnest(%s) AS copied (%s)', string_agg('undo.' || quote_ident(c.list_name), ', '),
                string_agg(quote_ident(c.list_name), ', ')) END,                            -- 19 unnest(undo.k1)
        versioned.id::text,                                                                 -- 20
        current_user::text                                                                  -- 21 owner
    ] INTO arguments
    FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace,
        LATERAL (
            SELECT d.*, NOT has_key OR d.number = ANY (versioned.key) AS is_key, l.name AS list_name
            FROM meridian.column_definition($1) AS d
                LEFT JOIN meridian.undo_column($1) AS l ON l.number = d.number AND l.name <> d.undo
        ) AS c
    WHERE r.oid = $1 GROUP BY n.nspname, r.relname;

    EXECUTE format('DROP FUNCTION IF EXISTS %s()', undone);
    FOR suffix, body IN VALUES
        ('truncate', truncate_body), ('insert', insert_body),
        ('update', CASE WHEN has_key THEN update_body ELSE update_body_without_key END),
        ('delete', CASE WHEN has_key THEN delete_body ELSE delete_body_without_key END)
    LOOP
        EXECUTE format('CREATE OR REPLACE FUNCTION meridian_undo.%I() RETURNS trigger LANGUAGE plpgsql '
            'SECURITY DEFINER AS %L', versioned.undo || '_' || suffix, format(body, VARIADIC arguments));
    END LOOP;
    EXECUTE format('CREATE OR REPLACE FUNCTION meridian_undo.%I() RETURNS boolean LANGUAGE plpgsql STABLE AS %L',
        versioned.undo || '_is_logged', format(is_logged_body, VARIADIC arguments));
    EXECUTE format('CREATE FUNCTION %s() RETURNS TABLE (%s, %s) LANGUAGE plpgsql STABLE SECURITY DEFINER ROWS 20 '
        'SET search_path = pg_catalog SET enable_seqscan = %s SET enable_bitmapscan = off AS %L',
        undone, CASE WHEN has_key THEN 'existed boolean' ELSE 'copies bigint, image text' END, arguments[14],
        CASE WHEN has_key THEN 'off' ELSE 'on' END,
        format(CASE WHEN has_key THEN undone_body ELSE undone_body_without_key END, VARIADIC arguments));
    EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', 'meridian_asof_' || versioned.schema);
    EXECUTE format(CASE WHEN has_key THEN view_body ELSE view_body_without_key END, VARIADIC arguments);
    IF has_key THEN
        EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', 'meridian_diff_' || versioned.schema);
        EXECUTE format(diff_body, VARIADIC arguments);
    END IF;

    -- Whoever may read the table may read its past.
    EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', undone);
    FOR grantee IN
        SELECT CASE acl.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(acl.grantee::regrole::text) END
        FROM pg_class AS r, aclexplode(r.relacl) AS acl
        WHERE r.oid = $1 AND acl.privilege_type = 'SELECT' AND acl.grantee <> r.relowner
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', 'meridian_asof_' || versioned.schema, grantee);
        EXECUTE format('GRANT SELECT ON %s TO %s', arguments[9], grantee);
        IF has_key THEN
            EXECUTE format('GRANT USAGE ON SCHEMA %I TO %s', 'meridian_diff_' || versioned.schema, grantee);
            EXECUTE format('GRANT SELECT ON %s TO %s', arguments[16], grantee);
        END IF;
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s() TO %s', undone, grantee);
    END LOOP;
END
$$;

CREATE FUNCTION meridian.drop_triggers(relation regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    event text;
    leaf regclass;
BEGIN
    FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete'] LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', 'meridian_' || event, relation);
    END LOOP;
    FOR leaf IN SELECT meridian.leaves(relation) LOOP
        EXECUTE format('DROP TRIGGER IF EXISTS meridian_truncate ON %s', leaf);
    END LOOP;
END
$$;

-- Row triggers of a partitioned table are its partitions' too; TRUNCATE triggers are not, and fire on the leaves.
--
-- A condition in WHEN spares a row more than one in the trigger does: no event is queued. It is read anew for each
-- statement, so it is the call of a function without arguments, which is quickly read.
CREATE FUNCTION meridian.create_triggers(relation regclass, undo name) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    event text;
    leaf regclass;
BEGIN
    FOREACH event IN ARRAY ARRAY['insert', 'update', 'delete'] LOOP
        EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH ROW %s EXECUTE FUNCTION meridian_undo.%I()',
            'meridian_' || event, event, relation,
            CASE event WHEN 'insert' THEN format('WHEN (meridian_undo.%I())', undo || '_is_logged') ELSE '' END,
            undo || '_' || event);
    END LOOP;
    FOR leaf IN SELECT meridian.leaves(relation) LOOP
        EXECUTE format('CREATE TRIGGER meridian_truncate BEFORE TRUNCATE ON %s '
            'FOR EACH STATEMENT EXECUTE FUNCTION meridian_undo.%I()', leaf, undo || '_truncate');
    END LOOP;
END
$$;

CREATE FUNCTION meridian.drop_as_of_view(relation regclass) RETURNS void LANGUAGE plpgsql
SET client_min_messages = warning AS $$
DECLARE
    versioned meridian.versioned_table;
BEGIN
    SELECT * INTO versioned FROM meridian.versioned_table AS v WHERE v.relation = $1;
    IF versioned IS NULL THEN
        RAISE EXCEPTION 'table % is not versioned', relation USING ERRCODE = '42704';
    END IF;
    EXECUTE format('DROP VIEW IF EXISTS %I.%I', 'meridian_asof_' || versioned.schema, versioned.name);
    EXECUTE format('DROP VIEW IF EXISTS %I.%I', 'meridian_diff_' || versioned.schema, versioned.name);
END
$$;
COMMENT ON FUNCTION meridian.drop_as_of_view IS
    'frees a table for ALTER TABLE, which the as-of view would forbid; refresh_table makes the view again';

CREATE FUNCTION meridian.refresh_table(relation regclass) RETURNS void LANGUAGE plpgsql
SET client_min_messages = warning AS $$
DECLARE
    versioned meridian.versioned_table;
    undo_table regclass;
    change text;
    new_key CONSTANT smallint[] := meridian.primary_key($1);
BEGIN
    PERFORM meridian.check_versionable($1), meridian.drop_as_of_view($1);
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', $1);
    UPDATE meridian.versioned_table AS v SET schema = n.nspname, name = r.relname
    FROM pg_class AS r JOIN pg_namespace AS n ON n.oid = r.relnamespace
    WHERE v.relation = $1 AND r.oid = $1 RETURNING v.* INTO STRICT versioned;
    undo_table := format('meridian_undo.%I', versioned.undo)::regclass;

    FOR change IN
        SELECT format('DROP COLUMN %I', u.attname) FROM pg_attribute AS u
        WHERE u.attrelid = undo_table AND u.attname ~ '^[ak]\d+$' AND NOT u.attisdropped
            AND u.attname NOT IN (SELECT c.name FROM meridian.undo_column($1) AS c)
        UNION ALL
        SELECT CASE WHEN u.name IS NULL
            -- Older rows show in an added column what the table shows in its older rows.
            THEN format('ADD COLUMN %I %s', c.name, c.type)
                || CASE WHEN t.atthasmissing AND c.name ~ '^a'
                    THEN format(' DEFAULT %L', (t.attmissingval::text::text[])[1]) ELSE '' END
            ELSE format('ALTER COLUMN %1$I TYPE %2$s USING %1$I::%3$s', c.name, c.type,
                split_part(c.type, ' COLLATE ', 1)) END
        FROM meridian.undo_column($1) AS c
            JOIN pg_attribute AS t ON t.attrelid = $1 AND t.attnum = c.number
            LEFT JOIN meridian.column_definition(undo_table) AS u ON u.name = c.name
        WHERE u.name IS NULL OR u.type || u.collation <> c.type
    LOOP
        EXECUTE format('ALTER TABLE %s %s', undo_table, change);
    END LOOP;

    IF new_key <> versioned.key THEN
        -- Entries of another key cannot be matched with rows any more.
        UPDATE meridian.versioned_table AS v SET key = new_key WHERE v.relation = $1;
        PERFORM meridian.forget_past();
    END IF;
    PERFORM meridian.drop_triggers($1), meridian.generate_code($1), meridian.create_triggers($1, versioned.undo);
END
$$;
COMMENT ON FUNCTION meridian.refresh_table IS
    'brings undo table, triggers and as-of view of a table in step with it after ALTER TABLE, in the same transaction';

CREATE FUNCTION meridian.version_table(relation regclass) RETURNS void LANGUAGE plpgsql
SET client_min_messages = warning AS $$
DECLARE
    class pg_class;
    undo name;
    is_filled boolean;
BEGIN
    PERFORM meridian.check_versionable($1);
    PERFORM meridian.unversion_table(v.relation) FROM meridian.versioned_table AS v
    WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = v.relation);
    IF EXISTS (SELECT FROM meridian.versioned_table AS v WHERE v.relation = $1) THEN
        RAISE EXCEPTION 'table % is versioned already', $1 USING ERRCODE = '42710';
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', $1);
    SELECT * INTO STRICT class FROM pg_class WHERE oid = $1;

    -- Names stay below 63 bytes with the longest suffix: at most 10 digits and 9 four-byte characters.
    INSERT INTO meridian.versioned_table AS v (relation, undo, key, schema, name)
    VALUES ($1, '', meridian.primary_key($1), '', class.relname);
    UPDATE meridian.versioned_table AS v SET undo = v.id || '_' || left(class.relname, 9)
    WHERE v.relation = $1 RETURNING v.undo INTO undo;

    EXECUTE format('CREATE TABLE meridian_undo.%I '
        '(slot smallint NOT NULL, xid xid8 NOT NULL, existed boolean NOT NULL) PARTITION BY LIST (slot)', undo);
    FOR slot IN 0..4 LOOP
        EXECUTE format('CREATE TABLE meridian_undo.%I PARTITION OF meridian_undo.%I FOR VALUES IN (%s) '
            'WITH (autovacuum_enabled = off)', undo || '_' || slot, undo, slot);
    END LOOP;
    EXECUTE format('CREATE INDEX ON meridian_undo.%I (xid)', undo);
    PERFORM meridian.refresh_table($1);

    EXECUTE format('SELECT EXISTS (SELECT FROM %s)', $1) INTO is_filled;
    IF is_filled THEN
        PERFORM meridian.forget_past();
    END IF;
END
$$;
COMMENT ON FUNCTION meridian.version_table IS
    'makes the state of a table readable at timestamps from now on; raises 0A000 for a table that cannot be';

CREATE FUNCTION meridian.unversion_table(relation regclass) RETURNS void LANGUAGE plpgsql
SET client_min_messages = warning AS $$
DECLARE
    versioned meridian.versioned_table;
    suffix text;
BEGIN
    PERFORM meridian.drop_as_of_view($1);
    DELETE FROM meridian.versioned_table AS v WHERE v.relation = $1 RETURNING * INTO versioned;
    IF EXISTS (SELECT FROM pg_class WHERE oid = $1) THEN
        PERFORM meridian.drop_triggers($1);
    END IF;
    FOREACH suffix IN ARRAY ARRAY['insert', 'is_logged', 'update', 'delete', 'truncate', 'undone'] LOOP
        EXECUTE format('DROP FUNCTION meridian_undo.%I()', versioned.undo || '_' || suffix);
    END LOOP;
    EXECUTE format('DROP TABLE meridian_undo.%I', versioned.undo);
END
$$;
COMMENT ON FUNCTION meridian.unversion_table IS 'forgets the past of a table, also of one that was dropped';
