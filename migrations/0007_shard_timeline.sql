-- Where each shard's primary has come to. PostgreSQL raises a server's timeline when it is promoted; what has an older
-- one than the shard is known to have is a former primary that came back, and lacks what was committed since.

CREATE TABLE meridian.shard_timeline (
    shard text PRIMARY KEY,
    timeline bigint NOT NULL
);
COMMENT ON TABLE meridian.shard_timeline IS 'the newest timeline of each shard''s primary that this shard was told of';

CREATE FUNCTION meridian.record_timeline(shard text, timeline bigint) RETURNS void LANGUAGE sql AS $$
    INSERT INTO meridian.shard_timeline AS known (shard, timeline) VALUES ($1, $2)
    ON CONFLICT (shard) DO UPDATE SET timeline = greatest(known.timeline, excluded.timeline)
$$;
COMMENT ON FUNCTION meridian.record_timeline IS 'the primary of that shard writes on that timeline; none older is one';
