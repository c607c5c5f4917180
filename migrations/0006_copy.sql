-- COPY in bulk: who copies rows in and has all their keys writes the undo entries himself, many to a row of the undo
-- table, and the insert trigger does not fire.

CREATE FUNCTION meridian.begin_copy(relation regclass, key name[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    versioned meridian.versioned_table;
    tables regclass[];
    statement text;
BEGIN
    -- What is found out here holds until the transaction's end.
    EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', $1);
    SELECT * INTO versioned FROM meridian.versioned_table AS v WHERE v.relation = $1;
    tables := ARRAY(SELECT $1 UNION SELECT relid FROM pg_partition_tree($1));
    SELECT format('INSERT INTO meridian_undo.%I (slot, xid, existed, %s) '
        'VALUES (meridian.undo_slot(), pg_current_xact_id(), false, %s)', versioned.undo,
        string_agg(quote_ident(l.name), ', ' ORDER BY place),
        string_agg(format('$%s::%s', place, d.list), ', ' ORDER BY place)) INTO statement
    FROM unnest($2) WITH ORDINALITY AS k (name, place)
        JOIN meridian.column_definition($1) AS d USING (name)
        JOIN meridian.undo_column($1) AS l ON l.number = d.number AND l.name <> d.undo
    HAVING count(*) > 0 AND count(*) = cardinality(versioned.key);
    IF statement IS NULL
        -- A trigger may change or drop a row, and write others into the table.
        OR EXISTS (SELECT FROM pg_trigger AS t JOIN pg_proc AS p ON p.oid = t.tgfoid
            WHERE t.tgrelid = ANY (tables) AND t.tgtype & 4 > 0 AND NOT t.tgisinternal
                AND p.pronamespace <> 'meridian_undo'::regnamespace)
        -- A function that a default, a check, a domain or an index calls may write rows, too.
        OR EXISTS (SELECT FROM pg_depend AS d
            WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass)
                AND (d.classid, d.objid) IN (
                    SELECT 'pg_constraint'::regclass, oid FROM pg_constraint
                    WHERE conrelid = ANY (tables) OR contypid <> 0
                    UNION ALL SELECT 'pg_attrdef'::regclass, oid FROM pg_attrdef WHERE adrelid = ANY (tables)
                    UNION ALL SELECT 'pg_class'::regclass, indexrelid FROM pg_index WHERE indrelid = ANY (tables)))
        -- A row may refer to one that comes later, which a COPY in several parts would not have yet.
        OR EXISTS (SELECT FROM pg_constraint
            WHERE contype = 'f' AND conrelid = ANY (tables) AND confrelid = ANY (tables))
    THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('meridian.copied', versioned.id::text, true);
    RETURN statement;
END
$$;
COMMENT ON FUNCTION meridian.begin_copy IS
    'lets the caller write the undo entries of the rows it copies in, until end_copy: returns the statement for it, '
    'whose parameters are arrays of the values of `key`; NULL if the trigger writes them, as ever';

CREATE FUNCTION meridian.end_copy() RETURNS void LANGUAGE sql AS $$
    SELECT set_config('meridian.copied', '', true)
$$;
COMMENT ON FUNCTION meridian.end_copy IS 'from here on the trigger writes all entries again';
