import ShardBackend
import ShardSchema
import Testing
import TransactionCore

/// Which tables can be versioned, and how they stay so.
@Suite struct SchemaTableTests {
    @Test("what cannot be undone is refused with the reason")
    func refused() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    """
                    CREATE UNLOGGED TABLE unlogged (id int); CREATE TEMP TABLE temporary (id int);
                    CREATE VIEW looks AS SELECT 1 AS id; CREATE TABLE nothing ();
                    CREATE TABLE parent (id int); CREATE TABLE child () INHERITS (parent);
                    CREATE TABLE whole (id int) PARTITION BY LIST (id); CREATE TABLE part PARTITION OF whole DEFAULT;
                    CREATE TABLE secret (id int); ALTER TABLE secret ENABLE ROW LEVEL SECURITY;
                    CREATE TABLE twice (id int); SELECT meridian.version_table('twice')
                    """)
                for table in [
                    "unlogged", "temporary", "looks", "nothing", "parent", "child", "part", "secret",
                    "meridian.retention",
                ] {
                    await expectRefusal(.featureNotSupported) {
                        try await connection.sql("SELECT meridian.version_table('\(table)')")
                    }
                }
                await expectRefusal(SQLState(rawValue: "42" + "710")) {
                    try await connection.sql("SELECT meridian.version_table('twice')")
                }
            }
        }
    }

    @Test("columns of any type and name are read back as they were, of the table's own types")
    func types() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    #"""
                    CREATE SCHEMA "Odd"; CREATE DOMAIN positive AS int NOT NULL CHECK (value > 0);
                    CREATE TYPE mood AS ENUM ('fine', 'bad');
                    CREATE TABLE "Odd"."T $body$ 'é' %1$s" (
                        id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, gone int, "xid" text COLLATE "C",
                        "$body$ % ""x" jsonb, list int[], n positive, m mood, price numeric(10, 2),
                        slot int, existed bool, double int GENERATED ALWAYS AS (slot * 2) STORED);
                    ALTER TABLE "Odd"."T $body$ 'é' %1$s" DROP gone;
                    SELECT meridian.version_table('"Odd"."T $body$ ''é'' %1$s"');
                    INSERT INTO "Odd"."T $body$ 'é' %1$s" (xid, "$body$ % ""x", list, n, m, price, slot)
                    VALUES ('a', '{"b": 1}', '{1,2}', 3, 'bad', 4.5, 7)
                    """#)
                let change = #"""
                    UPDATE "Odd"."T $body$ 'é' %1$s" SET xid = 'z', "$body$ % ""x" = '2', list = NULL, n = 9, slot = 8
                    """#
                try await connection.commit(at: 5000, change)
                let query = "SELECT t::text FROM \"T $body$ 'é' %1$s\" AS t"
                let before = #"(1,a,"{""b"": 1}","{1,2}",3,bad,4.50,7,,14)"#
                #expect(try await connection.read(query, at: 4999, schemas: ["Odd"]) == [before])
                let types = "SELECT pg_typeof(n)::text FROM \"T $body$ 'é' %1$s\""
                #expect(try await connection.read(types, at: 4999, schemas: ["Odd", "public"]) == ["positive"])
            }
        }
    }

    @Test("a partitioned table is undone as one, and so is the TRUNCATE of one partition")
    func partitioned() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    """
                    CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);
                    CREATE TABLE low PARTITION OF p FOR VALUES FROM (0) TO (10);
                    CREATE TABLE high (v int, id int NOT NULL); ALTER TABLE p ATTACH PARTITION high DEFAULT;
                    SELECT meridian.version_table('p')
                    """)
                try await connection.commit(at: 1000, "INSERT INTO p SELECT i, i FROM generate_series(8, 11) AS i")
                try await connection.commit(at: 2000, "UPDATE p SET id = id - 2")
                try await connection.commit(at: 3000, "TRUNCATE low")
                _ = try await connection.runSimple("BEGIN; SELECT meridian.begin_copy('p', '{id}')")
                let sink = try await connection.copyIn("COPY p FROM STDIN")
                try await sink.write(Array("1\t1\n12\t12\n".utf8))
                _ = try await sink.finish()
                _ = try await connection.runSimple(
                    """
                    INSERT INTO meridian_undo."1_p" (slot, xid, existed, k1)
                    VALUES (meridian.undo_slot(), pg_current_xact_id(), false, '{1,12}'); SELECT meridian.end_copy()
                    """)
                _ = try await connection.run([ShardSchema.logCommit(.at(4000), participants: []), "COMMIT"])
                #expect(
                    try await connection.values(
                        """
                        SELECT count(*)::text FROM meridian_undo."1_p"
                        WHERE xid = (SELECT xid FROM meridian.commit_log WHERE ts = 4000)
                        """) == ["1"])
                let query = "SELECT id || ' ' || v FROM p ORDER BY id"
                #expect(try await connection.read(query, at: 4000) == ["1 1", "12 12"])
                #expect(try await connection.read(query, at: 3000) == [])
                #expect(try await connection.read(query, at: 2999) == ["6 8", "7 9", "8 10", "9 11"])
                #expect(try await connection.read(query, at: 1999) == ["8 8", "9 9", "10 10", "11 11"])
                #expect(try await connection.read(query, at: 999) == [])
            }
        }
    }

    @Test("after ALTER TABLE and a refresh the past is read in the table's new shape")
    func refresh() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    """
                    CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int); SELECT meridian.version_table('t');
                    INSERT INTO t VALUES (1, 1, 1, 1)
                    """)
                try await connection.commit(at: 1000, "UPDATE t SET a = 2, b = 2, c = 2")
                await expectRefusal(SQLState(rawValue: "2" + "BP01")) {
                    try await connection.sql("ALTER TABLE t DROP b")
                }
                try await connection.commit(
                    at: 2000,
                    """
                    SELECT meridian.drop_as_of_view('t');
                    ALTER TABLE t DROP b, ALTER c TYPE text; ALTER TABLE t ADD d int DEFAULT 7;
                    ALTER TABLE t RENAME a TO "A";
                    SELECT meridian.refresh_table('t')
                    """)
                try await connection.commit(at: 3000, "UPDATE t SET d = 8, \"A\" = 3")
                #expect(try await connection.read("SELECT t::text FROM t", at: 3000) == ["(1,3,2,8)"])
                #expect(try await connection.read("SELECT t::text FROM t", at: 2999) == ["(1,2,2,7)"])
                #expect(try await connection.read("SELECT t::text FROM t", at: 999) == ["(1,1,1,7)"])
            }
        }
    }

    @Test("a table with rows is readable from the moment it was versioned, not before")
    func versionedLate() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    "CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1); SELECT meridian.version_table('t')")
                await expectRefusal(.snapshotTooOld) { _ = try await connection.read("SELECT id FROM t", at: 5000) }
                #expect(try await connection.read("SELECT id FROM t", at: .max) == ["1"])
            }
        }
    }

    @Test("a table that was dropped leaves its name free for the next one")
    func dropped() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                for id in [1, 2] {
                    try await connection.sql(
                        """
                        CREATE TABLE t (id int PRIMARY KEY); SELECT meridian.version_table('t');
                        INSERT INTO t VALUES (\(id))
                        """)
                    #expect(try await connection.read("SELECT id FROM t", at: 5000) == ["\(id)"])
                    try await connection.sql("DROP TABLE t CASCADE")
                }
                try await connection.sql("CREATE TABLE u (id int); SELECT meridian.version_table('u')")
                try await connection.sql("SELECT meridian.unversion_table('u')")
                let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'meridian_undo'::regnamespace"
                #expect(try await connection.values(left) == ["0"])
            }
        }
    }

    @Test("a role that may only write a table leaves undo rows, and cannot forge or read them")
    func privileges() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT meridian.version_table('t')")
                try await connection.commit(at: 1000, "INSERT INTO t VALUES (1, 1)")
            }
            let role = "writer_\(shard.shard.database)"
            let rows = try await shard.shard.psql(
                """
                CREATE ROLE \(role); GRANT INSERT, UPDATE, SELECT ON t TO \(role);
                SET ROLE \(role); UPDATE t SET v = 2 WHERE id = 1; RESET ROLE;
                SELECT existed, a1, a2 FROM meridian_undo."1_t" ORDER BY xid
                """)
            #expect(rows == "f|1|\nt|1|1")
            // That a COPY's entries are being written is believed in the owner's own sessions alone.
            let inserted = try await shard.shard.psql(
                """
                SET meridian.copied = '1'; INSERT INTO t VALUES (2, 2); SET ROLE meridian; INSERT INTO t VALUES (3, 3);
                SELECT a1 FROM meridian_undo."1_t" WHERE NOT existed ORDER BY a1
                """)
            #expect(inserted == "1\n2\n3")
            for statement in [
                "SELECT * FROM meridian_undo.\"1_t\"", "DELETE FROM meridian_undo.\"1_t\"",
                "SELECT * FROM meridian_undo.\"1_t_undone\"()", "DELETE FROM meridian.commit_log",
                "UPDATE meridian.retention SET readable_from = 1", "SELECT meridian.raise_epoch(1, 5)",
                "SELECT meridian.fence(1, 5)",
            ] {
                await #expect(throws: (any Error).self) { try await shard.shard.psql("SET ROLE \(role); \(statement)") }
            }
            try await shard.shard.psql("DROP OWNED BY \(role); DROP ROLE \(role)")
        }
    }
}
