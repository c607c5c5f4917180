import ShardBackend
import ShardSchema
import Testing
import TransactionCore

/// Cases that random histories seldom meet, and what a read at a timestamp costs.
@Suite struct AsOfTests {
    @Test("a row is undone to what it was before its transaction, whatever the order in which triggers fire")
    func nestedTriggers() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(Self.tree)
                try await connection.commit(at: 1000, "INSERT INTO tree VALUES (1, NULL, 0), (2, 1, 0), (3, 2, 0)")
                // Cascades change rows whose own event, from the same statement, has not fired yet.
                try await connection.commit(at: 2000, "UPDATE tree SET id = id + 10")
                // A trigger on the first row changes the second one, which the statement has inserted as well.
                try await connection.commit(at: 3000, "INSERT INTO tree VALUES (21, NULL, 0), (22, NULL, 0)")
                try await connection.commit(at: 4000, "DELETE FROM tree WHERE id = 11")
                let query = "SELECT concat_ws(' ', id, parent, touched) FROM tree ORDER BY id"
                #expect(try await connection.read(query, at: 999) == [])
                #expect(try await connection.read(query, at: 1999) == Self.inserted)
                #expect(try await connection.read(query, at: 2999) == ["11 0", "12 11 1", "13 12 1"])
                #expect(try await connection.read(query, at: 3999) == ["11 0", "12 11 1", "13 12 1", "21 0", "22 1"])
                #expect(try await connection.read(query, at: 4000) == ["21 0", "22 1"])
            }
        }
    }

    /// After an insert with the trigger below: every later row of the statement was touched by the one before it.
    private static let inserted = ["1 0", "2 1 1", "3 2 1"]

    private static let tree = """
        CREATE TABLE tree (
            id int PRIMARY KEY, parent int REFERENCES tree ON UPDATE CASCADE ON DELETE CASCADE, touched int);
        CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            UPDATE tree SET touched = touched + 1 WHERE id = NEW.id + 1;
            RETURN NULL;
        END $$;
        CREATE TRIGGER aa AFTER INSERT ON tree FOR EACH ROW EXECUTE FUNCTION touch();
        SELECT meridian.version_table('tree')
        """

    @Test("MERGE, upserts that do nothing, and writes by one CTE after another are undone")
    func statements() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT meridian.version_table('t')")
                try await connection.commit(at: 1000, "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
                let merge = """
                    MERGE INTO t USING (VALUES (1, 9), (2, 0), (4, 4)) AS new (id, v) ON t.id = new.id
                    WHEN MATCHED AND new.v = 0 THEN DELETE WHEN MATCHED THEN UPDATE SET v = new.v
                    WHEN NOT MATCHED THEN INSERT VALUES (new.id, new.v)
                    """
                try await connection.commit(at: 2000, merge)
                try await connection.commit(at: 3000, "INSERT INTO t VALUES (1, 5), (5, 5) ON CONFLICT DO NOTHING")
                let replace =
                    "WITH old AS (DELETE FROM t WHERE id = 3 RETURNING *) INSERT INTO t SELECT id, 33 FROM old"
                try await connection.commit(at: 4000, replace)
                try await connection.commit(at: 5000, "DELETE FROM t")
                let query = "SELECT id || ' ' || v FROM t ORDER BY id"
                #expect(try await connection.read(query, at: 1000) == ["1 1", "2 2", "3 3"])
                #expect(try await connection.read(query, at: 2000) == ["1 9", "3 3", "4 4"])
                #expect(try await connection.read(query, at: 3000) == ["1 9", "3 3", "4 4", "5 5"])
                #expect(try await connection.read(query, at: 4000) == ["1 9", "3 33", "4 4", "5 5"])
            }
        }
    }

    @Test("a write behind Meridian's back stays, and is not doubled by what is undone around it")
    func stranger() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT meridian.version_table('t')")
                try await connection.commit(at: 1000, "INSERT INTO t VALUES (1, 1)")
                try await connection.sql("INSERT INTO t VALUES (2, 2)")
                try await connection.commit(at: 2000, "UPDATE t SET v = 3 WHERE id = 1")
                try await connection.sql("UPDATE t SET v = 4")
                let query = "SELECT id || ' ' || v FROM t ORDER BY id"
                #expect(try await connection.read(query, at: 1500) == ["1 1", "2 4"])
            }
        }
    }

    @Test("a read with two snapshots, without a timestamp, or of a timestamp that is gone is refused")
    func refused() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql("CREATE TABLE t (id int); SELECT meridian.version_table('t')")
                await expectRefusal(SQLState(rawValue: "25" + "001")) {
                    try await connection.sql("SELECT meridian.begin_read(5, 'public')")
                }
                await expectRefusal(.objectNotInPrerequisiteState) {
                    try await connection.sql("SELECT * FROM meridian_asof_public.t")
                }
                _ = try await connection.read("SELECT id FROM t", at: 5000)
                await expectRefusal(.objectNotInPrerequisiteState) {
                    try await connection.sql("SELECT * FROM meridian_asof_public.t")
                }
                try await connection.sql("SELECT meridian.raise_readable_from(9000)")
                let error = await expectRefusal(.snapshotTooOld) {
                    _ = try await connection.read("SELECT id FROM t", at: 8999)
                }
                #expect(error?.serverFields?.detail == "The oldest readable timestamp on this shard is 9000.")
                #expect(try await connection.read("SELECT id FROM t", at: 9000) == [])
            }
        }
    }

    @Test("a point read by primary key is an index lookup, and its plan outlives a change of the timestamp")
    func pointRead() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    """
                    CREATE TABLE t (id int PRIMARY KEY, v int); SELECT meridian.version_table('t');
                    INSERT INTO t SELECT i, 0 FROM generate_series(1, 10000) AS i; ANALYZE t
                    """)
                try await connection.commit(at: 1000, "UPDATE t SET v = 1 WHERE id <= 3")
                try await connection.commit(at: 2000, "UPDATE t SET v = 2 WHERE id <= 2")
                let plan = try await connection.read("EXPLAIN (COSTS off) SELECT v FROM t WHERE id = 7", at: 999)
                #expect(plan.contains { $0.contains("Index Scan using t_pkey on t") })
                #expect(!plan.contains { $0.contains("Seq Scan") || $0.contains("meridian_undo.") })
                for (timestamp, value) in [(999, "0"), (1000, "1"), (2000, "2"), (999, "0")] as [(Int64, String)] {
                    #expect(try await connection.read("SELECT v FROM t WHERE id = 1", at: timestamp) == [value])
                }
                let plans = """
                    SELECT generic_plans || ' ' || custom_plans FROM pg_prepared_statements
                    WHERE statement = 'SELECT v FROM t WHERE id = 1'
                    """
                #expect(try await connection.values(plans) == ["4 0"])
            }
        }
    }
}
