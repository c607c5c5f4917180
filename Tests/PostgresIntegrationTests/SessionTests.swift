import ShardBackend
import TestSupport
import Testing

@Suite(.serialized) struct SessionTests {
    private static let table = "CREATE TABLE t (id bigint PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);"
    private static let rows = "INSERT INTO t VALUES (1,'a',10),(2,'b',20),(3,'c',30),(4,'d',40),(5,'e',50);"

    @Test("psql creates a table, and reads and changes rows on all shards as on one PostgreSQL")
    func psql() async throws {
        try await ServedShards.with(3) { served in
            #expect(try await served.psql(Self.table + Self.rows) == "")
            let whole = try await served.psql(
                "SELECT * FROM t ORDER BY id DESC LIMIT 2; SELECT count(*), sum(n) FROM t")
            #expect(whole == "5|e|50\n4|d|40\n5|150\n")
            #expect(
                try await served.psql("UPDATE t SET n = n + 1 WHERE id = 3 RETURNING n; SELECT avg(n) FROM t")
                    == "31\n30.2000000000000000\n")
            #expect(
                try await served.psql("DELETE FROM t WHERE n > 45; SELECT id FROM t WHERE id IN (5, 3, 1) ORDER BY 1")
                    == "1\n3\n")
            #expect(try await served.psql("INSERT INTO t VALUES (1, 'x')") == "ERROR:  23505\n")
            #expect(try await served.psql("SELECT * FROM nowhere") == "ERROR:  42P01\n")
            #expect(try await served.psql("SELEC 1") == "ERROR:  42601\n")
            #expect(try await served.psql("UPDATE t SET id = 7 WHERE id = 1") == "ERROR:  0A000\n")
            #expect(try await served.psql("\\d t").contains("id|bigint||not null|"))
            #expect(try await served.psql("\\dt").contains("public|t|table|meridian"))
        }
    }

    @Test("rows of every shard key are on the shard that the key's hash says, and on no other")
    func placement() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table)
                for id in 0..<60 { try await client.text("INSERT INTO t (id) VALUES (\(id * 7919))") }
                #expect(try await client.text("SELECT count(*) FROM t") == "60")
                for id in 0..<60 {
                    #expect(try await client.text("SELECT id FROM t WHERE id = \(id * 7919)") == "\(id * 7919)")
                }
            }
            var counts: [Int] = []
            for shard in served.engine.shards {
                counts.append(Int(try await served.engine.inspect("SELECT count(*) FROM t", on: shard)[0].int64(0)))
            }
            #expect(counts.reduce(0, +) == 60 && counts.allSatisfy { $0 > 5 }, "\(counts)")
        }
    }

    @Test("parameters lead to the shard of their key, in text and in binary")
    func parameters() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table + Self.rows)
                for id in Int64(1)...5 {
                    let statement = SQLStatement("SELECT n FROM t WHERE id = $1", [.int64(id)])
                    #expect(try await client.run(statement)[0].int64(0) == id * 10)
                    let bytes = SQLParameter.bytes(withUnsafeBytes(of: id.bigEndian, Array.init))
                    let binary = SQLStatement("SELECT n FROM t WHERE id = $1::bigint", [bytes], parameterTypes: [20])
                    #expect(try await client.run(binary)[0].int64(0) == id * 10)
                }
                let update = SQLStatement("UPDATE t SET n = n + $2 WHERE id = $1", [.int64(2), .int64(5)])
                #expect(try await client.run(update).affectedRows == 1)
                #expect(try await client.run(SQLStatement("SELECT sum(n) FROM t"))[0].int64(0) == 155)
            }
        }
    }

    @Test("a failed transaction block takes nothing but its end, and leaves nothing behind")
    func failedBlock() async throws {
        try await ServedShards.with { served in
            try await served.session { client in
                try await client.text(Self.table + Self.rows)
                try await client.text("BEGIN; UPDATE t SET n = 0 WHERE id = 1; UPDATE t SET n = 0 WHERE id = 2")
                #expect(await client.failure("SELECT 1/0") == "22012")
                #expect(await client.failure("SELECT 1") == "25P02")
                let end = try await client.runSimple("COMMIT")
                #expect(end[0].commandTag == "ROLLBACK")
                #expect(try await client.text("SELECT n FROM t WHERE id < 3 ORDER BY id") == "10\n20")
            }
        }
    }

    @Test("statements in one string are one transaction, and so are those before a Sync")
    func implicitTransaction() async throws {
        try await ServedShards.with { served in
            try await served.session { client in
                try await client.text(Self.table + Self.rows)
                #expect(await client.failure("UPDATE t SET n = 0 WHERE id = 1; SELECT 1/0") == "22012")
                #expect(try await client.text("SELECT n FROM t WHERE id = 1") == "10")
                let pipeline: [SQLStatement] = ["UPDATE t SET n = 0 WHERE id = 1", "SELECT 1/0"]
                await #expect(throws: ShardError.self) { try await client.run(pipeline) }
                #expect(try await client.text("SELECT n FROM t WHERE id = 1") == "10")
            }
        }
    }

    @Test("ROLLBACK TO undoes on every shard, also after an error, and the rest commits")
    func savepoints() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table + Self.rows)
                try await client.text("BEGIN; UPDATE t SET n = 1 WHERE id = 1; SAVEPOINT s")
                try await client.text("UPDATE t SET n = 2 WHERE id IN (1, 2, 3, 4)")
                #expect(await client.failure("INSERT INTO t VALUES (5)") == "23505")
                try await client.text("ROLLBACK TO s; UPDATE t SET n = 3 WHERE id = 4; COMMIT")
                #expect(try await client.text("SELECT n FROM t ORDER BY id") == "1\n20\n30\n3\n50")
            }
        }
    }

    @Test("what a client sets is its own, and a rollback gives it back")
    func settings() async throws {
        try await ServedShards.with { served in
            let one = try await served.connect()
            let other = try await served.connect()
            try await one.text("SET TimeZone = 'Asia/Tokyo'")
            for _ in 0..<4 {
                #expect(
                    try await one.text("SHOW TimeZone; SELECT current_setting('TimeZone')") == "Asia/Tokyo\nAsia/Tokyo")
                #expect(try await other.text("SELECT current_setting('TimeZone')") != "Asia/Tokyo")
            }
            // A literal is read when the statement is parsed: sessions of other settings don't share what was prepared.
            let literal = SQLStatement(
                "SELECT extract(epoch FROM timestamptz '2026-01-01 00:00')::bigint + $1::bigint", [.int64(0)])
            let utc = try await other.run(literal)[0].int64(0)
            for _ in 0..<3 {
                #expect(try await one.run(literal)[0].int64(0) == utc - 9 * 3600)
                #expect(try await other.run(literal)[0].int64(0) == utc)
            }
            try await one.text("BEGIN; SET TimeZone = 'Asia/Kolkata'; ROLLBACK")
            #expect(try await one.text("SHOW TimeZone") == "Asia/Tokyo")
            try await one.text("BEGIN; SET LOCAL TimeZone = 'Asia/Kolkata'; COMMIT")
            #expect(try await one.text("SELECT current_setting('TimeZone')") == "Asia/Tokyo")
            #expect(await one.failure("SET TimeZone = 'Nowhere/City'") == "22023")
            await one.close()
            await other.close()
        }
    }

    @Test("a client that dies has its transaction rolled back, and lets go of its locks")
    func deadClient() async throws {
        try await ServedShards.with { served in
            try await served.session { client in
                try await client.text(Self.table + Self.rows)
                let dying = try await served.connect()
                try await dying.text("BEGIN; UPDATE t SET n = 0 WHERE id = 1")
                await dying.close()
                try await client.text("UPDATE t SET n = n + 1 WHERE id = 1")
                #expect(try await client.text("SELECT n FROM t WHERE id = 1") == "11")
            }
        }
    }

    @Test("a change of the schema is on all shards or on none, and statements know it at once")
    func schemaChanges() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(
                    "BEGIN; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1), (2), (3); ROLLBACK")
                #expect(await client.failure("SELECT * FROM a") == "42P01")
                try await client.text(
                    "BEGIN; CREATE TABLE a (id int PRIMARY KEY); INSERT INTO a VALUES (1), (2), (3); COMMIT")
                try await client.text("ALTER TABLE a ADD COLUMN note text DEFAULT 'x'; CREATE INDEX ON a (note)")
                #expect(try await client.text("SELECT * FROM a ORDER BY id") == "1,x\n2,x\n3,x")
                try await client.text("TRUNCATE a")
                #expect(await client.failure("CREATE UNIQUE INDEX ON a (note)") == "0A000")
                #expect(try await client.text("SELECT count(*) FROM a") == "0")
                try await client.text("DROP TABLE a")
                #expect(await client.failure("SELECT * FROM a") == "42P01")
                for shard in served.engine.shards {
                    let left = try await served.engine.inspect("SELECT to_regclass('public.a') IS NULL", on: shard)
                    #expect(try left[0].bool(0))
                }
            }
        }
    }

    @Test("reference tables are on every shard, and joined with on each")
    func referenceTable() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table + Self.rows)
                try await client.text(
                    "CREATE TABLE r (n int PRIMARY KEY, word text) WITH (meridian.table = 'reference')")
                #expect(
                    try await client.runSimple("INSERT INTO r VALUES (10, 'ten'), (30, 'thirty')")[0].commandTag
                        == "INSERT 0 2")
                let joined = "SELECT id, word FROM t JOIN r ON t.n = r.n ORDER BY id"
                #expect(try await client.text(joined) == "1,ten\n3,thirty")
            }
        }
    }

    @Test("reads see the past that their session asks for, and don't write")
    func staleReads() async throws {
        try await ServedShards.with { served in
            try await served.session { client in
                try await client.text(Self.table + Self.rows)
                let before = try await client.text("UPDATE t SET n = 1 WHERE id = 1; SHOW meridian.commit_timestamp")
                let timestamp = try await client.text("SHOW meridian.commit_timestamp")
                #expect(before.isEmpty || Int64(before) != nil)
                try await client.text("UPDATE t SET n = 2 WHERE id = 1")
                try await client.text("SET meridian.read_timestamp = '\(timestamp)'")
                #expect(try await client.text("SELECT n FROM t WHERE id = 1") == "1")
                #expect(try await client.text("SELECT n FROM public.t WHERE id = 1") == "1")
                // Parts of several shards, put together.
                let sums = "SELECT sum(n), count(*) FROM "
                #expect(try await client.text(sums + "public.t") == (try await client.text(sums + "t")))
                #expect(try await client.text("SELECT n FROM public.t ORDER BY id LIMIT 1") == "1")
                #expect(await client.failure("EXPLAIN ANALYZE " + sums + "public.t") == nil)
                #expect(await client.failure("UPDATE t SET n = 3 WHERE id = 1") == "25006")
                try await client.text("RESET meridian.read_timestamp")
                #expect(try await client.text("SELECT n FROM t WHERE id = 1") == "2")
                #expect(await client.failure("SET meridian.read_staleness = 'old'") == "22023")
            }
        }
    }

    @Test("a read of the past that waits for a TRUNCATE sees the rows that were there")
    func truncateUnderRead() async throws {
        try await ServedShards.with { served in
            let one = try await served.connect()
            let other = try await served.connect()
            try await one.text(Self.table + Self.rows)
            try await one.text("UPDATE t SET n = 7 WHERE id = 1")
            let timestamp = try await one.text("SHOW meridian.commit_timestamp")
            // What is newer than the timestamp sends the read through the as-of views.
            try await one.text("UPDATE t SET n = 8 WHERE id = 1; UPDATE t SET n = 9 WHERE id = 1")
            try await other.text("SET meridian.read_timestamp = '\(timestamp)'")
            let query = SQLStatement("SELECT count(*)::text, sum(n)::text FROM t WHERE n > $1", [.int64(0)])
            // Prepared by now, it is its execution that takes locks.
            for _ in 0..<3 { #expect(try await other.run(query)[0].text(1) == "147") }
            try await one.text("BEGIN; TRUNCATE t")
            async let rows = other.run(query, deadline: .now + .seconds(15))
            try await Task.sleep(for: .milliseconds(200))
            try await one.text("COMMIT")
            let row = try await rows[0]
            #expect(try row.text(0) == "5" && row.text(1) == "147")
            #expect(try await one.text("SELECT count(*) FROM t") == "0")
            await one.close()
            await other.close()
        }
    }

    @Test("what the shards notice reaches the client, once for all of them")
    func notices() async throws {
        try await ServedShards.with(3) { served in
            let psql = try RunningCommand(
                ["-XAtq", "-c", "DROP TABLE IF EXISTS nothing", served.conninfo], program: "/usr/bin/psql")
            #expect(await psql.exitStatus() == 0)
            #expect(psql.errors == "NOTICE:  table \"nothing\" does not exist, skipping\n")
        }
    }
}
