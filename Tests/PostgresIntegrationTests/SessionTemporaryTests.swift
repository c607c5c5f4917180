import PostgresWire
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@Suite(.serialized) struct SessionTemporaryTests {
    /// Clients of three shards with accounts on each: 30 of them with 100 each.
    private static func withAccounts(_ body: (ServedShards, ShardConnection) async throws -> Void) async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL)")
                try await client.text("INSERT INTO account SELECT g, 100 FROM generate_series(1, 30) AS g")
                try await body(served, client)
            }
        }
    }

    @Test("a temporary table is its session's alone, hides others of its name, and is gone with the session")
    func isolation() async throws {
        try await Self.withAccounts { served, client in
            let count = "SELECT count(*) FROM account"
            try await served.session { other in
                try await client.text("CREATE TEMP TABLE account (id bigint, note text)")
                try await client.text("INSERT INTO account VALUES (1, 'a'), (2, 'b')")
                for _ in 1...3 {
                    #expect(try await client.text(count) == "2")
                    #expect(try await other.text(count) == "30")
                }
                #expect(try await client.text("SELECT note FROM pg_temp.account WHERE id = 2") == "b")
                #expect(try await client.text("SELECT count(*) FROM public.account") == "30")
                try await client.text("UPDATE account SET note = 'c' WHERE id = 1; DELETE FROM account WHERE id = 2")
                #expect(try await client.text("SELECT * FROM account") == "1,c")
                let bound = SQLStatement("SELECT note FROM account WHERE id = $1", [.int64(1)], resultFormat: .text)
                #expect(try await client.run(bound)[0].text(0) == "c")
                #expect(await other.failure("SELECT note FROM account") == "42703")
                #expect(await other.failure("SELECT * FROM pg_temp.account") == "42P01")
                // The session's own tables are no part of a change of the schema.
                try await client.text("CREATE TABLE like_account (LIKE account, PRIMARY KEY (id))")
                try await client.text("CREATE VIEW rich AS SELECT id FROM account WHERE balance > 1")
                #expect(try await other.text("SELECT count(balance) FROM like_account") == "0")
                #expect(await client.failure("CREATE TABLE account (id bigint PRIMARY KEY)") == "0A000")
                try await client.text("DROP TABLE account")
                #expect(try await client.text(count) == "30")
                #expect(await client.failure("SELECT note FROM account") == "42703")
            }
            _ = try await served.session { try await $0.text("CREATE TEMP TABLE gone (id int)") }
            #expect(await client.failure("SELECT * FROM gone") == "42P01")
        }
    }

    @Test("a transaction over temporary tables and all shards commits or rolls back whole")
    func transactions() async throws {
        try await Self.withAccounts { served, client in
            let change = "UPDATE account SET balance = balance + 1"
            let sum = "SELECT sum(balance) FROM account"
            // Before the shards are written, and after.
            try await client.text("BEGIN; CREATE TEMP TABLE one AS SELECT 1 AS n; \(change); COMMIT")
            try await client.text("BEGIN; \(change); CREATE TEMP TABLE two (n int); INSERT INTO two VALUES (2); COMMIT")
            #expect(try await client.text("SELECT one.n, two.n FROM one, two; \(sum)") == "1,2\n3060")
            try await client.text("BEGIN; INSERT INTO one VALUES (9); \(change); ROLLBACK")
            #expect(try await client.text("SELECT * FROM one; \(sum)") == "1\n3060")
            try await client.text("BEGIN; SAVEPOINT s; CREATE TEMP TABLE three (n int); INSERT INTO one VALUES (3)")
            try await client.text("\(change); ROLLBACK TO s; INSERT INTO two VALUES (4); \(change); COMMIT")
            #expect(await client.failure("SELECT * FROM three") == "42P01")
            #expect(try await client.text("SELECT n FROM one UNION ALL SELECT n FROM two ORDER BY n") == "1\n2\n4")
            // One shard, whichever it is; and all, that one first.
            for id in 1...6 {
                try await client.text(
                    "BEGIN; INSERT INTO two VALUES (\(100 + id)); \(change) WHERE id = \(id); COMMIT")
                try await client.text(
                    "BEGIN; \(change) WHERE id = \(id); INSERT INTO two VALUES (\(200 + id)); \(change); COMMIT")
            }
            #expect(try await client.text("SELECT count(*) FROM two WHERE n > 100; \(sum)") == "12\n3282")
            #expect(try await served.session { try await $0.text(sum) } == "3282")
            // A constraint that is looked at with the commit stops all of it.
            try await client.text("CREATE TEMP TABLE late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
            try await client.text("BEGIN; INSERT INTO late VALUES (1), (1); \(change) WHERE id IN (2, 3, 4, 5)")
            #expect(await client.failure("COMMIT") == "23505")
            #expect(try await client.text("SELECT count(*) FROM late; \(sum)") == "0\n3282")
        }
    }

    @Test("rows go from all shards into a temporary table, and from there to all shards")
    func rowsMove() async throws {
        try await Self.withAccounts { _, client in
            let made = try await client.runSimple(
                "CREATE TEMP TABLE half AS SELECT id, balance / 2.0 AS part, NULL::date AS day FROM account")[0]
            #expect(made.commandTag == "SELECT 30")
            #expect(try await client.text("SELECT sum(part), count(day) FROM half") == "1500.0000000000000000,0")
            try await client.text("SELECT id, 'x' || id AS name INTO TEMP named FROM account WHERE id <= 3")
            #expect(try await client.text("SELECT * FROM named ORDER BY id") == "1,x1\n2,x2\n3,x3")
            try await client.text("CREATE TEMP TABLE empty (a, b) AS SELECT id, balance FROM account WITH NO DATA")
            let insert = "INSERT INTO empty SELECT id, balance FROM account WHERE id > $1 AND balance = $2 RETURNING b"
            let inserted = try await client.run(
                SQLStatement(insert, [.int64(28), .int64(100)], parameterTypes: [20, 20], resultFormat: .text))
            #expect(try inserted.map { try $0.text(0) } == ["100", "100"])
            #expect(try await client.text("INSERT INTO empty SELECT id FROM account WHERE id > 99 RETURNING a") == "")

            // More than go with one statement.
            try await client.text(
                "CREATE TEMP TABLE fresh AS SELECT g::bigint AS id, g AS balance FROM generate_series(21, 2520) AS g")
            #expect(await client.failure("INSERT INTO account SELECT * FROM fresh") == "23505")
            let upsert =
                "INSERT INTO account SELECT * FROM fresh ON CONFLICT (id) DO UPDATE SET balance = excluded.balance"
            #expect(try await client.runSimple(upsert)[0].commandTag == "INSERT 0 2500")
            #expect(try await client.text("SELECT count(*), sum(balance) FROM account") == "2520,3178250")
            try await client.text("INSERT INTO fresh VALUES (21, 0)")
            #expect(await client.failure(upsert) == "21000")
            let back = "INSERT INTO account SELECT id + 5000, balance FROM fresh WHERE id < 24 RETURNING id, balance"
            #expect(
                try await client.text("DELETE FROM fresh WHERE balance = 0; \(back)") == "5021,21\n5022,22\n5023,23")
            try await client.text("TRUNCATE fresh")
            #expect(try await client.text(back) == "")

            let copied = try await client.copyIn("COPY fresh (balance, id) FROM STDIN")
            try await copied.write(Array("7\t9001\n8\t9002\n".utf8))
            _ = try await copied.finish()
            #expect(try await client.text("SELECT * FROM fresh ORDER BY id") == "9001,7\n9002,8")
        }
    }

    @Test("what a temporary table was given of others counts as read by the transaction")
    func serializable() async throws {
        try await Self.withAccounts { served, client in
            try await client.text("CREATE TEMP TABLE seen (balance bigint)")
            for overtaken in [false, true] {
                try await client.text("BEGIN; INSERT INTO seen SELECT balance FROM account WHERE id IN (1, 2, 3)")
                if overtaken {
                    _ = try await served.session {
                        try await $0.text("UPDATE account SET balance = balance + 1 WHERE id = 2")
                    }
                }
                let failure = await client.failure("UPDATE account SET balance = 0 WHERE id = 7")
                #expect(failure == (overtaken ? "40001" : nil))
                try await client.text(overtaken ? "ROLLBACK" : "COMMIT")
            }
            #expect(try await client.text("SELECT count(*) FROM seen") == "3")
        }
    }

    @Test("a read-only transaction fills temporary tables, and goes on to read at its snapshot")
    func readOnly() async throws {
        try await Self.withAccounts { served, client in
            let sum = "SELECT sum(balance) FROM account"
            try await client.text("CREATE TABLE place (id int) WITH (meridian.table = 'reference')")
            try await client.text("CREATE TEMP TABLE mine (id int)")
            try await client.text("BEGIN READ ONLY; \(sum)")
            _ = try await served.session { try await $0.text("UPDATE account SET balance = 0") }
            try await client.text("INSERT INTO mine VALUES (1); INSERT INTO mine SELECT balance FROM account")
            #expect(try await client.text("SELECT sum(id) FROM mine; \(sum)") == "3001\n3000")
            #expect(await client.failure("SELECT * FROM mine, place") == "0A000")
            for change in ["CREATE TEMP TABLE more (id int)", "DROP TABLE mine", "TRUNCATE mine"] {
                #expect(await client.failure("ROLLBACK; BEGIN READ ONLY; \(change)") == "25006", "\(change)")
            }
            try await client.text("ROLLBACK")
            #expect(try await client.text("SELECT count(*) FROM mine LEFT JOIN place USING (id)") == "0")
            #expect(await client.failure("BEGIN READ ONLY; DELETE FROM account") == "25006")
        }
    }

    @Test("a connection is kept for as long as there is a temporary table, and so many at most")
    func connections() async throws {
        try await Self.withAccounts { served, client in
            let shard = served.engine.shards[0]
            func kept() async throws -> Int { await served.engine.pinnedCount }
            try await client.text("BEGIN; CREATE TEMP TABLE t (n int) ON COMMIT DROP; INSERT INTO t VALUES (1)")
            #expect(try await kept() == 1)
            try await client.text("COMMIT")
            #expect(try await kept() == 0)
            #expect(await client.failure("SELECT * FROM t") == "42P01")
            try await client.text("CREATE TEMP TABLE t (n int) ON COMMIT DELETE ROWS")
            #expect(try await client.text("BEGIN; INSERT INTO t VALUES (1); SELECT * FROM t") == "1")
            #expect(try await client.text("COMMIT; SELECT count(*) FROM t") == "0")
            for end in ["DISCARD ALL", "DISCARD TEMP", "DROP TABLE t"] {
                #expect(try await kept() == 1)
                try await client.text(end)
                #expect(try await kept() == 0, "\(end)")
                #expect(await client.failure("SELECT * FROM t") == "42P01")
                try await client.text("CREATE TEMP TABLE t (n serial PRIMARY KEY, s text)")
            }
            var others: [ShardConnection] = []
            for _ in 1..<served.engine.configuration.pinnedMax {
                others.append(try await served.connect())
                try await others.last!.text("CREATE TEMP TABLE t (n int)")
            }
            try await served.session { one in
                #expect(await one.failure("CREATE TEMP TABLE t (n int)") == "53300")
                #expect(await one.failure("SELECT * FROM t") == "42P01")
                for other in others { try await other.text("DROP TABLE t") }
                try await one.text("CREATE TEMP TABLE t (n int)")
            }
            for other in others { await other.close() }
            // The server of a session that is lost takes its tables with it; the client is told so.
            let end =
                "SELECT pg_terminate_backend(a.pid) FROM pg_stat_activity AS a, pg_class AS c, pg_locks AS l "
                + "WHERE c.relname = 't' AND l.relation = c.oid AND l.pid = a.pid"
            try await client.text("BEGIN; INSERT INTO t (s) VALUES ('x')")
            _ = try await served.engine.inspect(SQLStatement(end), on: shard)
            // What the server said last, what is found when it is asked again: until it is known that the tables are
            // gone, no statement may mean other tables of their names.
            var told = [await client.failure("SELECT * FROM t")]
            try await client.text("ROLLBACK")
            while told.count < 5, ["57P01", "08006"].contains(told.last) {
                told.append(await client.failure("SELECT * FROM t WHERE n = 1"))
            }
            #expect(told.count > 1 && told.last == "42P01", "\(told)")
            // The session that has just hung up is done with a little later.
            try await waitUntil("no connection is kept") { try await kept() == 0 }
        }
    }

    @Test("a statement that is cancelled leaves temporary tables as they were")
    func cancels() async throws {
        try await Self.withAccounts { served, client in
            try await client.text("CREATE TEMP TABLE t AS SELECT 1 AS n")
            for begin in ["", "BEGIN; INSERT INTO t VALUES (2); "] {
                let slow = Task { await client.failure(begin + "SELECT pg_sleep(60) FROM t") }
                let isSlow = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%'"
                while try await served.shards.shards[0].psql(isSlow) == "0" {}
                await client.cancel()
                #expect(await slow.value == "57014")
                if !begin.isEmpty { try await client.text("ROLLBACK") }
                #expect(try await client.text("SELECT * FROM t") == "1")
            }
        }
    }

    @Test("psql, EXPLAIN and changes of temporary tables work as on PostgreSQL, and what can't is refused")
    func statements() async throws {
        try await Self.withAccounts { served, client in
            try await client.text("CREATE TEMP TABLE t (id serial PRIMARY KEY, name text DEFAULT 'none', n int)")
            try await client.text("CREATE INDEX t_name ON t (name); ALTER TABLE t ADD COLUMN m int; ANALYZE t")
            try await client.text("INSERT INTO t (n) VALUES (5), (6); COMMENT ON COLUMN account.id IS 'key'")
            #expect(try await client.text("SELECT * FROM t ORDER BY id") == "1,none,5,NULL\n2,none,6,NULL")
            #expect(try await client.text("INSERT INTO t (id, n) VALUES (1, 7) ON CONFLICT (id) DO NOTHING") == "")
            let upsert = "INSERT INTO t (id, n) VALUES (1, 7) ON CONFLICT (id) DO UPDATE SET n = excluded.n RETURNING n"
            #expect(try await client.text(upsert) == "7")
            #expect(try await client.text("EXPLAIN SELECT * FROM t WHERE name = 'x'").contains("on t"))
            #expect(try await client.text("EXPLAIN ANALYZE DELETE FROM t WHERE id = 2").contains("Delete on t"))
            #expect(try await client.text("BEGIN; LOCK TABLE t; SELECT count(*) FROM t; COMMIT") == "1")
            #expect(try await client.text("SELECT relpersistence FROM pg_class WHERE oid = 't'::regclass") == "t")
            #expect(try await client.text("PREPARE p AS SELECT n FROM t WHERE id = $1; EXECUTE p (1)") == "7")
            let declared = "BEGIN; DECLARE c CURSOR FOR SELECT n FROM t; FETCH ALL FROM c; COMMIT"
            #expect(try await client.text(declared) == "7")
            let described = try RunningCommand(
                ["-XAtq", "-c", "CREATE TEMP TABLE x (a int, b text)", "-c", "\\d x", served.conninfo],
                program: "/usr/bin/psql")
            await described.exitStatus()
            #expect(described.output.contains("b|text"), "\(described.output)\(described.errors)")
            for (state, text) in [
                ("0A000", "SELECT * FROM t JOIN account USING (id)"), ("0A000", "DROP TABLE t, account"),
                ("0A000", "CREATE TEMP VIEW v AS SELECT 1"), ("0A000", "CREATE TEMP SEQUENCE s"),
                ("0A000", "UPDATE account SET balance = t.n FROM t WHERE t.id = account.id"),
                ("42P07", "CREATE TEMP TABLE t (a int)"), ("42P07", "CREATE TEMP TABLE t AS SELECT id FROM account"),
                ("42P16", "CREATE TEMP TABLE k (a bigint REFERENCES account)"),
            ] {
                #expect(await client.failure(text) == state, "\(text)")
            }
            try await client.text("CREATE TEMP TABLE IF NOT EXISTS t AS SELECT id FROM account")
            #expect(try await client.text("SELECT count(*) FROM t") == "1")
        }
    }
}
