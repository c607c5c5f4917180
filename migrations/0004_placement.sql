-- Where rows are: the distribution of tables and the owners of buckets, the same on every shard.
--
-- A row of a sharded table is on the shard that owns the bucket of its shard key: the key's extended hash (seed 0) as
-- an unsigned number, modulo 4096. Every change is made on all shards by one transaction.

CREATE TABLE meridian.bucket_map (
    is_set boolean PRIMARY KEY DEFAULT true CHECK (is_set),
    version bigint NOT NULL,
    shards text[] NOT NULL,
    owners smallint[] NOT NULL CHECK (cardinality(owners) = 4096)
);
COMMENT ON TABLE meridian.bucket_map IS 'which shard owns which bucket; one row once the cluster serves clients';
COMMENT ON COLUMN meridian.bucket_map.owners IS 'by bucket, from 0: the position in shards, from 0';

CREATE TABLE meridian.distribution (
    relation regclass PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('sharded', 'reference', 'single')),
    key smallint,
    colocation text,
    shard text,
    CHECK ((kind = 'sharded') = (key IS NOT NULL) AND (kind = 'sharded') = (colocation IS NOT NULL)
        AND (kind = 'single') = (shard IS NOT NULL))
);
COMMENT ON TABLE meridian.distribution IS 'how each table that clients may use is distributed over the shards';
COMMENT ON COLUMN meridian.distribution.key IS 'the number of the shard key''s column';
COMMENT ON COLUMN meridian.distribution.colocation IS 'tables of one group have the rows of equal keys on one shard';

-- Called in the transaction that creates or re-distributes the table.
CREATE FUNCTION meridian.set_distribution(relation regclass, kind text, key name, colocation text, shard text)
RETURNS void LANGUAGE sql AS $$
    DELETE FROM meridian.distribution AS d WHERE NOT EXISTS (SELECT FROM pg_class WHERE oid = d.relation);
    INSERT INTO meridian.distribution (relation, kind, key, colocation, shard)
    SELECT $1, $2, (SELECT attnum FROM pg_attribute WHERE attrelid = $1 AND attname = $3), $4, $5
    ON CONFLICT (relation) DO UPDATE SET kind = excluded.kind, key = excluded.key, colocation = excluded.colocation,
        shard = excluded.shard
$$;

-- Everything that routing has to know, as one document: tables with columns, keys and distribution, views, functions.
CREATE FUNCTION meridian.catalog() RETURNS jsonb LANGUAGE sql STABLE AS $$
    SELECT jsonb_build_object(
        'tables', coalesce((
            SELECT jsonb_agg(jsonb_build_object(
                'schema', n.nspname, 'name', c.relname, 'kind', d.kind, 'shard', d.shard, 'colocation', d.colocation,
                'key', (SELECT a.attname FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum = d.key),
                'versioned', v.relation IS NOT NULL,
                'primaryKey', coalesce((
                    SELECT jsonb_agg(a.attname ORDER BY k.place)
                    FROM pg_constraint AS p, unnest(p.conkey) WITH ORDINALITY AS k (number, place), pg_attribute AS a
                    WHERE p.conrelid = c.oid AND p.contype = 'p' AND a.attrelid = c.oid AND a.attnum = k.number), '[]'),
                'unique', coalesce((
                    SELECT jsonb_agg(u.columns) FROM (
                        SELECT jsonb_agg(a.attname ORDER BY k.place) AS columns
                        FROM pg_index AS i, unnest(i.indkey) WITH ORDINALITY AS k (number, place), pg_attribute AS a
                        WHERE i.indrelid = c.oid AND i.indisunique AND NOT i.indisprimary
                            AND a.attrelid = c.oid AND a.attnum = k.number
                        GROUP BY i.indexrelid
                    ) AS u), '[]'),
                'columns', coalesce((
                    SELECT jsonb_agg(jsonb_build_object(
                        'name', a.attname, 'type', a.atttypid::bigint, 'typeName', format_type(a.atttypid, a.atttypmod),
                        'notNull', a.attnotnull, 'identity', nullif(a.attidentity, ''),
                        'generated', a.attgenerated <> '',
                        'sequence', pg_get_serial_sequence(format('%I.%I', n.nspname, c.relname), a.attname),
                        'default', pg_get_expr(def.adbin, def.adrelid)) ORDER BY a.attnum)
                    FROM pg_attribute AS a LEFT JOIN pg_attrdef AS def ON def.adrelid = c.oid AND def.adnum = a.attnum
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped), '[]')))
            FROM meridian.distribution AS d JOIN pg_class AS c ON c.oid = d.relation
                JOIN pg_namespace AS n ON n.oid = c.relnamespace
                LEFT JOIN meridian.versioned_table AS v ON v.relation = c.oid), '[]'),
        'views', coalesce((
            SELECT jsonb_agg(jsonb_build_object('schema', n.nspname, 'name', c.relname))
            FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('v', 'm') AND n.nspname !~ '^(pg_|information_schema$|meridian$|meridian_)'), '[]'),
        -- Of all functions of a name the worst counts. Unknown is what may read or write tables, or leaves something in
        -- the session, which the next client would find.
        'functions', coalesce((
            SELECT jsonb_object_agg(f.proname, f.trait) FROM (
                SELECT p.proname, min(CASE
                    WHEN n.nspname <> 'pg_catalog' AND (p.provolatile <> 'i' OR p.prokind = 'p') THEN 'a unknown'
                    WHEN p.proname ~ '(_to_xml|_to_xmlschema|_and_xmlschema)$'
                        OR p.proname ~ '^(ts_stat|ts_rewrite|lo_|loread|lowrite|currtid|set_config|pg_notify)'
                        OR p.proname ~ '^pg_(export_snapshot|logical_|(try_)?advisory_|read_|ls_|stat_reset)'
                        THEN 'a unknown'
                    WHEN p.prokind = 'a' THEN 'b aggregate'
                    WHEN p.prokind = 'w' THEN 'c window'
                    WHEN p.proretset THEN 'd setReturning'
                    WHEN p.provolatile = 'v' THEN 'e volatile'
                    WHEN p.provolatile = 's' THEN 'f stable'
                    ELSE 'g immutable' END) AS trait
                FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
                WHERE n.nspname !~ '^(pg_toast|pg_temp|information_schema$|meridian$|meridian_)'
                    AND p.proname NOT IN ('nextval', 'currval', 'lastval', 'setval')
                GROUP BY p.proname
            ) AS f), '{}'),
        'buckets', (SELECT jsonb_build_object('version', version, 'shards', shards, 'owners', owners)
            FROM meridian.bucket_map))
$$;
COMMENT ON FUNCTION meridian.catalog IS 'what routing has to know of this shard''s schema, which is that of all shards';
