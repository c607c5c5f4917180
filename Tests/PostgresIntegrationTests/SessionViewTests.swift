import ShardBackend
import TestSupport
import Testing
import TransactionCore

/// What a node tells its clients by SQL.
@Suite(.serialized) struct SessionViewTests {
    @Test("stat_activity has every session: who, in which state, with which statement, holding locks on which shards")
    func activity() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id bigint PRIMARY KEY, n int)")
                try await client.text("INSERT INTO t VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0)")
                let other = try await served.connect()
                try await other.text("SET application_name = 'ledger'; BEGIN; UPDATE t SET n = 1")
                let query = """
                    SELECT application_name, state, query, usename, client_addr::text, array_to_string(shards, ' '),
                    xact_start BETWEEN now() - interval '1 minute' AND now() + interval '1 minute'
                    FROM meridian.stat_activity WHERE application_name = 'ledger'
                    """
                #expect(
                    try await client.text(query)
                        == "ledger,idle in transaction,SET application_name = 'ledger'; BEGIN; UPDATE t SET n = 1,"
                        + "meridian,127.0.0.1/32,shard1 shard2 shard3,t")
                _ = await other.failure("SELECT 1/0")
                let state = "SELECT state, xact_start IS NULL FROM meridian.stat_activity ORDER BY backend_start"
                #expect(try await client.text(state) == "active,t\nidle in transaction (aborted),f")
                try await other.text("ROLLBACK")
                #expect(try await client.text(state) == "active,t\nidle,t")
                try await other.text("BEGIN; SELECT count(*) FROM t")
                let timestamp = "SELECT max(read_timestamp) FROM meridian.stat_activity"
                #expect(try await other.text(timestamp) == (try await other.text("SHOW meridian.read_timestamp")))
                await other.close()
                try await waitUntil("the other session is gone") {
                    try await client.text("SELECT count(*) FROM meridian.stat_activity") == "1"
                }
            }
        }
    }

    @Test("stat_shards has every shard, also as a driver reads it: described, in binary, with parameters")
    func shards() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                let query = "SELECT shard, is_reachable, buckets, prepared_transactions FROM meridian.stat_shards"
                #expect(
                    try await client.text(query + " ORDER BY 1")
                        == "shard1,t,1366,0\nshard2,t,1365,0\nshard3,t,1365,0")
                let statement = SQLStatement(
                    "SELECT buckets, bytes, server_version FROM meridian.stat_shards WHERE shard = $1",
                    [.text("shard2")])
                let description = try await client.describe(statement)
                #expect(description.fields.map(\.typeOID) == [23, 20, 25] && description.parameterTypes == [25])
                let result = try await client.run(statement)
                #expect(try result[0].int64(0) == 1365)
                #expect(try result[0].int64(1) > 1_000_000 && result[0].text(2).hasPrefix("1"))
                #expect(await client.failure("SELECT * FROM meridian.stat_shards, meridian.nothing") == "42P01")
                try await client.text("CREATE TABLE t (id int PRIMARY KEY)")
                #expect(await client.failure("SELECT * FROM t, meridian.stat_shards") == "0A000")
                let described = try await served.psql("\\d+ meridian.stat_shards")
                #expect(described.contains("buckets|integer|"))
                let comments = try await client.text(
                    """
                    SELECT count(*) FROM pg_attribute WHERE attrelid IN ('meridian.stat_activity'::regclass,
                    'meridian.stat_shards'::regclass, 'meridian.in_doubt_transactions'::regclass) AND attnum > 0
                    AND col_description(attrelid, attnum) IS NULL
                    """)
                #expect(comments == "0", "columns without a comment")
            }
        }
    }

    @Test("shard_table spreads a table by another column, with its rows, and its past can't be read any more")
    func shardTable() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(
                    """
                    CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY, owner text NOT NULL, note json, big numeric,
                        bytes bytea, twice bigint GENERATED ALWAYS AS (id * 2) STORED, PRIMARY KEY (id, owner));
                    SELECT meridian.shard_table('t', 'owner')
                    """)
                for number in 1...40 {
                    try await client.text(
                        """
                        INSERT INTO t (owner, note, big, bytes)
                        VALUES ('owner \(number % 7)', '{"a":  \(number)}', 1.50, '\\x00ff')
                        """)
                }
                let rows = "SELECT id, owner, note, big, bytes, twice FROM t ORDER BY id"
                let before = try await client.text(rows)
                #expect(try await client.text("EXPLAIN SELECT * FROM t WHERE owner = 'owner 3'").contains("1 of 3"))
                let timestamp = try await client.text("SHOW meridian.commit_timestamp")
                #expect(await client.failure("BEGIN; SELECT meridian.shard_table('public.t'); SELECT 1/0") == "22012")
                try await client.text("ROLLBACK")
                #expect(try await client.text(rows) == before)
                try await client.text("SELECT meridian.shard_table('public.t')")
                #expect(try await client.text(rows) == before)
                #expect(try await client.text("EXPLAIN SELECT * FROM t WHERE id = 3").contains("1 of 3"))
                for id in 1...40 { #expect(try await client.text("SELECT count(*) FROM t WHERE id = \(id)") == "1") }
                var counts: [Int64] = []
                for shard in served.engine.shards {
                    counts.append(try await served.engine.inspect("SELECT count(*) FROM t", on: shard)[0].int64(0))
                }
                #expect(counts.reduce(0, +) == 40 && counts.allSatisfy { $0 > 3 }, "\(counts)")
                try await client.text("INSERT INTO t (owner) VALUES ('new'); UPDATE t SET note = NULL WHERE id = 41")
                try await client.text("SET meridian.read_timestamp = '\(timestamp)'")
                #expect(await client.failure("SELECT count(*) FROM t") == "72000")
                try await client.text("RESET meridian.read_timestamp")
                #expect(await client.failure("SELECT meridian.shard_table('t', 'big')") == "0A000")
                #expect(await client.failure("SELECT meridian.shard_table('t', 'nothing')") == "42703")
                #expect(await client.failure("SELECT meridian.shard_table('nowhere')") == "42P01")
                #expect(await client.failure("BEGIN READ ONLY; SELECT meridian.shard_table('t')") == "25006")
            }
        }
    }

    @Test("shard_table takes rows from a single and a reference table too, each once")
    func shardOtherTables() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                for kind in ["single", "reference"] {
                    try await client.text(
                        "CREATE TABLE \(kind) (id int PRIMARY KEY, n int) WITH (meridian.table = '\(kind)')")
                    let rows = (1...50).map { "(\($0), \($0 * 3))" }.joined(separator: ", ")
                    try await client.text("INSERT INTO \(kind) VALUES \(rows)")
                    let call = SQLStatement("SELECT meridian.shard_table($1, $2)", [.text(kind), .text("id")])
                    #expect(try await client.run(call).count == 1)
                    #expect(try await client.text("SELECT count(*), sum(n) FROM \(kind)") == "50,3825")
                    #expect(try await client.text("SELECT n FROM \(kind) WHERE id = 17") == "51")
                }
                try await client.text(
                    """
                    CREATE TABLE a (id int PRIMARY KEY, b int NOT NULL);
                    CREATE TABLE c (id int PRIMARY KEY REFERENCES a); INSERT INTO a VALUES (1, 1)
                    """)
                #expect(await client.failure("SELECT meridian.shard_table('a')") == "0A000")
            }
        }
    }

    @Test("what stands prepared is in in_doubt_transactions, and transaction_outcome tells what becomes of it")
    func inDoubt() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id bigint PRIMARY KEY)")
                #expect(try await client.text("SELECT count(*) FROM meridian.in_doubt_transactions") == "0")
                // Of a later epoch, so that this node leaves it alone.
                let later = TransactionID(
                    home: served.engine.shards[0], epoch: Epoch(rawValue: served.engine.epoch.rawValue + 1),
                    commitTimestamp: Timestamp(rawValue: 1_700_000_000_000_000_001))
                let shard = try await ShardConnection.connect(
                    to: try ConnectionSettings(served.engine.configuration.shards[1].conninfo), on: served.engine.loop,
                    deadline: .now + .seconds(10))
                try await shard.text("BEGIN; INSERT INTO t VALUES (77)")
                try await shard.text("PREPARE TRANSACTION '\(later)'")
                let row = try await client.text(
                    """
                    SELECT gid, shard, home, node, commit_timestamp, is_coordinated_here,
                    prepared > now() - interval '1 min'
                    FROM meridian.in_doubt_transactions
                    """)
                #expect(row == "\(later),shard2,shard1,1,1700000000000000001,f,t")
                #expect(
                    try await client.text("SELECT prepared_transactions FROM meridian.stat_shards ORDER BY 1") == "0\n1"
                )
                try await shard.text("ROLLBACK PREPARED '\(later)'")
                await shard.close()
                let committed = try await client.text("SELECT meridian.transaction_outcome(NULL)")
                #expect(committed == "NULL")
                #expect(await client.failure("SELECT meridian.transaction_outcome('nonsense')") == "22023")
                // A transaction of this node's own that nobody knows of: asking decides that it is aborted.
                let timestamp = try await served.engine.snapshot().timestamp
                let id = TransactionID(
                    home: served.engine.shards[0], epoch: served.engine.epoch,
                    commitTimestamp: Timestamp(rawValue: (timestamp.rawValue - 1_000_000_000) & ~1023 | 1))
                #expect(try await client.text("SELECT meridian.transaction_outcome('\(id)')") == "aborted")
                let bound = SQLStatement("SELECT * FROM meridian.transaction_outcome($1)", [.text("\(id)")])
                #expect(try await client.run(bound)[0].text(0) == "aborted")
                try await client.text("INSERT INTO t VALUES (1), (2), (3), (4), (5)")
                let written = try #require(
                    Int64(try await client.text("SHOW meridian.commit_timestamp")).map(Timestamp.init(rawValue:)))
                var outcomes: Set<String> = []
                for home in served.engine.shards {
                    let own = TransactionID(home: home, epoch: served.engine.epoch, commitTimestamp: written)
                    outcomes.insert(try await client.text("SELECT meridian.transaction_outcome('\(own)')"))
                }
                #expect(outcomes.contains("committed"), "\(outcomes)")
                #expect(await client.failure("SELECT meridian.transaction_outcome('a') FROM t") == "0A000")
            }
        }
    }
}
