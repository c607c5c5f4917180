import StatementRouting
import Testing

@Suite struct StatementKindTests {
    private func kind(_ text: String) throws -> StatementKind {
        try #require(ParsedText(text).statements.first).kind
    }

    private func text(_ range: Range<Int>, of text: String) -> String {
        String(decoding: Array(text.utf8)[range], as: UTF8.self)
    }

    @Test(
        "statements are told apart",
        arguments: [
            ("VALUES (1)", StatementKind.query), ("TABLE t", .query), ("(SELECT 1)", .query),
            ("WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a", .query), ("SELECT 1 UNION SELECT 2", .query),
            ("insert into t default values", .insert), ("UPDATE t SET a = 1", .update), ("DELETE FROM t", .delete),
            ("MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE", .merge),
            ("BEGIN", .transaction(.begin(TransactionModes()))),
            (
                "START TRANSACTION ISOLATION LEVEL repeatable read, READ ONLY, NOT DEFERRABLE",
                .transaction(
                    .begin(
                        TransactionModes(
                            isolationLevel: "repeatable read", isReadOnly: true, isDeferrable: false)))
            ),
            ("BEGIN READ WRITE", .transaction(.begin(TransactionModes(isReadOnly: false)))),
            ("END", .transaction(.commit(andChain: false))),
            ("COMMIT AND CHAIN", .transaction(.commit(andChain: true))),
            ("ABORT", .transaction(.rollback(andChain: false))), ("SAVEPOINT \"A\"", .transaction(.savepoint("A"))),
            ("RELEASE a", .transaction(.release("a"))), ("ROLLBACK TO SAVEPOINT a", .transaction(.rollbackTo("a"))),
            (
                "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
                .transaction(.setModes(TransactionModes(isolationLevel: "serializable"), forSession: false))
            ),
            (
                "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                .transaction(.setModes(TransactionModes(isReadOnly: true), forSession: true))
            ),
            ("PREPARE TRANSACTION 'x'", .transaction(.unsupported("PREPARE TRANSACTION"))),
            ("COMMIT PREPARED 'x'", .transaction(.unsupported("COMMIT PREPARED"))),
            ("ROLLBACK PREPARED 'x'", .transaction(.unsupported("ROLLBACK PREPARED"))),
            ("SET TRANSACTION SNAPSHOT 'x'", .transaction(.unsupported("SET TRANSACTION SNAPSHOT"))),
        ] as [(String, StatementKind)])
    func transactions(text: String, expected: StatementKind) throws {
        #expect(try kind(text) == expected)
    }

    @Test(
        "settings are read as PostgreSQL reads them",
        arguments: [
            (
                "SET search_path TO a, \"B\"",
                SettingCommand.set(name: "search_path", values: ["a", "B"], isLocal: false)
            ),
            (
                "SET LOCAL meridian.read_staleness = 'exact 15s'",
                .set(name: "meridian.read_staleness", values: ["exact 15s"], isLocal: true)
            ),
            ("SET work_mem = -1", .set(name: "work_mem", values: ["-1"], isLocal: false)),
            ("SET x.y = 1.5", .set(name: "x.y", values: ["1.5"], isLocal: false)),
            ("SET TIME ZONE 'UTC'", .set(name: "timezone", values: ["UTC"], isLocal: false)),
            ("SET TIME ZONE DEFAULT", .set(name: "timezone", values: nil, isLocal: false)),
            ("SET enable_seqscan TO DEFAULT", .set(name: "enable_seqscan", values: nil, isLocal: false)),
            ("SET enable_seqscan TO on", .set(name: "enable_seqscan", values: ["on"], isLocal: false)),
            ("SET NAMES 'utf8'", .set(name: "client_encoding", values: ["utf8"], isLocal: false)),
            ("RESET ALL", .resetAll), ("RESET role", .reset(name: "role")), ("SHOW ALL", .show(name: "all")),
            ("SHOW TIME ZONE", .show(name: "timezone")), ("DISCARD ALL", .discard("all")),
            ("DISCARD TEMP", .discard("temp")),
        ] as [(String, SettingCommand)])
    func settings(text: String, expected: SettingCommand) throws {
        #expect(try kind(text) == .setting(expected))
    }

    @Test("statements around others say where the inner one stands")
    func nested() throws {
        let prepare = "PREPARE p (int, text) AS SELECT $1, 'as'"
        guard case .prepare("p", let types, let inner) = try kind(prepare) else { throw Mismatch() }
        #expect(types == ["int", "text"])
        #expect(text(inner, of: prepare) == "SELECT $1, 'as'")
        #expect(try kind("EXECUTE p (1, f(2, 3), 'x')") == .execute(name: "p", arguments: ["1", "f(2, 3)", "'x'"]))
        #expect(try kind("EXECUTE p") == .execute(name: "p", arguments: []))
        #expect(try kind("DEALLOCATE PREPARE p") == .deallocate(name: "p"))
        #expect(try kind("DEALLOCATE ALL") == .deallocate(name: nil))
        let declare = "DECLARE c BINARY NO SCROLL CURSOR WITH HOLD FOR SELECT 1 FOR UPDATE"
        guard case .declareCursor("c", let query, let options) = try kind(declare) else { throw Mismatch() }
        #expect(text(query, of: declare) == "SELECT 1 FOR UPDATE")
        #expect(options == [.binary, .noScroll, .hold])
        #expect(try kind("FETCH 10 FROM c") == .fetch(cursor: "c", .forward(10), isMove: false))
        #expect(try kind("FETCH c") == .fetch(cursor: "c", .forward(1), isMove: false))
        #expect(try kind("MOVE ALL IN c") == .fetch(cursor: "c", .forward(.max), isMove: true))
        for (text, amount) in [
            ("PRIOR", .backward(1)), ("-1 FROM", .backward(1)), ("ABSOLUTE 3", .absolute(3)), ("0", .relative(0)),
            ("BACKWARD ALL", .backward(.max)), ("BACKWARD -2 IN", .forward(2)), ("LAST", .absolute(-1)),
            ("FIRST", .absolute(1)), ("RELATIVE -3", .relative(-3)),
        ] as [(String, FetchAmount)] {
            #expect(try kind("FETCH \(text) c") == .fetch(cursor: "c", amount, isMove: false))
        }
        #expect(try kind("CLOSE ALL") == .closeCursor(name: nil))
        #expect(try kind("CLOSE c") == .closeCursor(name: "c"))
    }

    private struct Mismatch: Error {}

    @Test(
        "EXPLAIN gives its options and the statement explained",
        arguments: [
            ("EXPLAIN SELECT 1", [:], "SELECT 1"),
            (
                "EXPLAIN ANALYZE VERBOSE DELETE FROM t",
                ["analyze": "true", "verbose": "true"], "DELETE FROM t"
            ),
            (
                "EXPLAIN (ANALYZE, COSTS off, FORMAT JSON) SELECT 1",
                ["analyze": "true", "costs": "off", "format": "json"], "SELECT 1"
            ),
            ("EXPLAIN (SELECT 1)", [:], "(SELECT 1)"),
            ("/* x */ EXPLAIN /* y */ (VERBOSE) ((SELECT 1))", ["verbose": "true"], "((SELECT 1))"),
        ] as [(String, [String: String], String)])
    func explain(text: String, options: [String: String], inner: String) throws {
        guard case .explain(options, let range) = try kind(text) else { throw Mismatch() }
        #expect(self.text(range, of: text) == inner)
    }

    @Test("COPY tells table, columns, direction, options and whether the server's files are meant")
    func copy() throws {
        let from = CopyCommand(
            source: .table(RelationName(schema: "s", "T"), columns: ["a", "b"]), isFrom: true, peer: .client,
            options: ["format": "csv", "header": "true", "force_not_null": "a"], hasFilter: false)
        #expect(
            try kind("COPY s.\"T\" (a, b) FROM STDIN WITH (FORMAT csv, HEADER true, FORCE_NOT_NULL (a))") == .copy(from)
        )
        let query = "COPY (SELECT (1), 'x)' FROM t) TO STDOUT"
        guard case .copy(let out) = try kind(query), case .query(let range) = out.source else { throw Mismatch() }
        #expect(text(range, of: query) == "SELECT (1), 'x)' FROM t")
        #expect(!out.isFrom)
        for text in ["COPY t FROM '/tmp/x'", "COPY t TO PROGRAM 'cat'"] {
            guard case .copy(let command) = try kind(text) else { throw Mismatch() }
            #expect(command.peer == .server)
        }
        guard case .copy(let filtered) = try kind("COPY t FROM STDIN WHERE a > 1") else { throw Mismatch() }
        #expect(filtered.hasFilter)
    }

    @Test(
        "a schema change tells what it does to what",
        arguments: [
            ("CREATE TABLE IF NOT EXISTS s.t (a int)", "table", DDLCommand.Action.create, ["s.t"], false),
            ("ALTER TABLE t ADD COLUMN b int", "table", .alter, ["t"], false),
            ("DROP TABLE a, s.\"B\" CASCADE", "table", .drop, ["a", "s.\"B\""], false),
            ("CREATE UNIQUE INDEX CONCURRENTLY i ON t (a)", "index", .create, ["t"], true),
            ("DROP INDEX CONCURRENTLY i", "index", .drop, ["i"], true),
            ("ALTER TABLE t RENAME COLUMN a TO b", "column", .rename, ["t"], false),
            ("CREATE VIEW v AS SELECT 1", "view", .create, ["v"], false),
            ("CREATE MATERIALIZED VIEW v AS SELECT 1", "materialized view", .create, ["v"], false),
            ("CREATE TABLE t AS SELECT 1", "table as", .create, ["t"], false),
            ("CREATE SEQUENCE q", "sequence", .create, ["q"], false), ("CREATE SCHEMA s", "schema", .create, [], false),
            ("DROP SCHEMA s", "schema", .drop, [], false), ("CREATE TYPE e AS ENUM ('a')", "type", .create, [], false),
            ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function", .create, [], false),
            ("SELECT 1 AS a INTO t", "table", .create, ["t"], false),
            ("GRANT SELECT ON t TO u", "privileges", .other, [], false),
        ] as [(String, String, DDLCommand.Action, [String], Bool)])
    func ddl(text: String, object: String, action: DDLCommand.Action, relations: [String], concurrent: Bool) throws {
        guard case .ddl(let command) = try kind(text) else { throw Mismatch() }
        #expect(command.object == object)
        #expect(command.action == action)
        #expect(command.relations.map(\.description) == relations)
        #expect(command.isConcurrent == concurrent)
        #expect(command.sql == text)
    }

    @Test(
        "Meridian's options of CREATE TABLE are read and kept from the shards",
        arguments: [
            (
                "CREATE TABLE t (a int CHECK (a > 0)) WITH (meridian.shard_key = 'a')",
                "CREATE TABLE t (a int CHECK (a > 0)) ", "a", nil
            ),
            (
                "CREATE TABLE t (a int) WITH (fillfactor=70, meridian.table = 'reference') TABLESPACE x",
                "CREATE TABLE t (a int) WITH (fillfactor=70) TABLESPACE x", nil, "reference"
            ),
            (
                "CREATE TABLE t (a int) WITH (MERIDIAN.TABLE = single, Meridian.Shard_Key = a, autovacuum_enabled)",
                "CREATE TABLE t (a int) WITH (autovacuum_enabled)", "a", "single"
            ),
            (
                "CREATE TABLE t WITH (meridian.shard_key = 'a') AS SELECT 1 AS a",
                "CREATE TABLE t  AS SELECT 1 AS a", "a", nil
            ),
        ] as [(String, String, String?, String?)])
    func distribution(text: String, sql: String, key: String?, table: String?) throws {
        guard case .ddl(let command) = try kind(text) else { throw Mismatch() }
        #expect(command.sql == sql)
        #expect(command.distribution?.shardKey == key)
        #expect(command.distribution?.table == table)
    }

    @Test(
        "a temporary table is told from others, and the query that fills it from what makes it",
        arguments: [
            ("CREATE TEMP TABLE t (a int)", "CREATE TEMP TABLE t (a int)", nil),
            ("CREATE TABLE pg_temp.t (a int)", "CREATE TABLE pg_temp.t (a int)", nil),
            ("CREATE TEMP TABLE t AS SELECT 1", "CREATE TEMP TABLE t AS SELECT 1\nWITH NO DATA", "SELECT 1"),
            (
                "CREATE LOCAL TEMPORARY TABLE t (a) ON COMMIT DROP AS (SELECT 1 AS \"as\") WITH DATA",
                "CREATE LOCAL TEMPORARY TABLE t (a) ON COMMIT DROP AS (SELECT 1 AS \"as\")\nWITH NO DATA",
                "(SELECT 1 AS \"as\")"
            ),
            ("CREATE TEMP TABLE t AS SELECT 1 WITH NO DATA", "CREATE TEMP TABLE t AS SELECT 1 WITH NO DATA", nil),
            (
                "SELECT a, (b) INTO TEMP t FROM c WHERE d",
                "CREATE TEMPORARY TABLE t AS SELECT a, (b)  FROM c WHERE d\n"
                    + "WITH NO DATA", "SELECT a, (b)  FROM c WHERE d"
            ),
            (
                "SELECT 1 INTO TEMPORARY TABLE pg_temp.t UNION SELECT 2",
                "CREATE TEMPORARY TABLE t AS SELECT 1  UNION SELECT 2\nWITH NO DATA", "SELECT 1  UNION SELECT 2"
            ),
        ] as [(String, String, String?)])
    func temporary(text: String, sql: String, filling: String?) throws {
        guard case .temporary(let command) = try kind(text) else { throw Mismatch() }
        #expect(command.sql == sql)
        #expect(command.filling == filling)
        #expect(command.relations.map(\.name) == ["t"])
    }

    @Test(
        "the rest",
        arguments: [
            ("LISTEN x", StatementKind.listen(channel: "x")), ("NOTIFY \"X\"", .notify(channel: "X", payload: "")),
            ("NOTIFY x, 'y'", .notify(channel: "x", payload: "y")), ("UNLISTEN *", .unlisten(channel: nil)),
            ("UNLISTEN x", .unlisten(channel: "x")),
            (
                "LOCK a, b.c IN SHARE MODE NOWAIT",
                .lockTable([RelationName("a"), RelationName(schema: "b", "c")], mode: .share, isNoWait: true)
            ),
            ("LOCK TABLE a", .lockTable([RelationName("a")], mode: .accessExclusive, isNoWait: false)),
            (
                "TRUNCATE a RESTART IDENTITY CASCADE",
                .truncate([RelationName("a")], restartsSequences: true, cascades: true)
            ),
            (
                "VACUUM FULL t",
                .maintenance(command: "VACUUM", isInTransactionBlock: false, relations: [RelationName("t")])
            ),
            ("ANALYZE", .maintenance(command: "ANALYZE", isInTransactionBlock: true)),
            (
                "ANALYZE a, b.c (d)",
                .maintenance(
                    command: "ANALYZE", isInTransactionBlock: true,
                    relations: [RelationName("a"), RelationName(schema: "b", "c")])
            ),
            ("SET CONSTRAINTS ALL IMMEDIATE", .setConstraints),
            ("CALL p(1)", .call), ("DO $$BEGIN END$$", .doBlock),
            ("CREATE DATABASE d", .unsupported("CREATE DATABASE")),
            ("ALTER SYSTEM SET a = 1", .unsupported("ALTER SYSTEM")), ("LOAD 'x'", .unsupported("LOAD")),
            ("CREATE TABLESPACE x LOCATION '/x'", .unsupported("CREATE TABLESPACE")),
        ] as [(String, StatementKind)])
    func others(text: String, expected: StatementKind) throws {
        #expect(try kind(text) == expected)
    }
}
