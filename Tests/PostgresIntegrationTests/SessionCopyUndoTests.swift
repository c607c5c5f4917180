import ShardBackend
import TestSupport
import Testing
import TransactionCore

/// The undo entries of rows that COPY brings: written by the node where it can read the keys, else by the trigger.
@Suite(.serialized) struct SessionCopyUndoTests {
    /// A client's session that remembers what a table was after each transaction.
    private struct Recorder {
        let client: ShardConnection
        let query: String
        var states: [(timestamp: Int64, rows: String)] = []

        mutating func run(_ sql: String) async throws {
            try await client.text(sql)
            try await note()
        }

        mutating func copy(_ text: String, _ rows: [String]) async throws {
            try await SessionCopyUndoTests.copy(client, text, rows)
            try await note()
        }

        mutating func note() async throws {
            let timestamp = try await client.text("SHOW meridian.commit_timestamp")
            states.append((try #require(Int64(timestamp)), try await rows()))
        }

        /// In an order of their own.
        private func rows() async throws -> String {
            try await client.text(query).split(separator: "\n").sorted().joined(separator: "\n")
        }

        /// Reads the past just before each commit and at it.
        func check() async throws {
            var before = ""
            for state in states {
                #expect(try await read(at: state.timestamp - 1) == before, "before \(state.timestamp)")
                #expect(try await read(at: state.timestamp) == state.rows, "at \(state.timestamp)")
                before = state.rows
            }
        }

        func read(at timestamp: Int64) async throws -> String {
            try await client.text("SET meridian.read_timestamp = '\(timestamp)'")
            let rows = try await rows()
            try await client.text("RESET meridian.read_timestamp")
            return rows
        }
    }

    private static func copy(_ client: ShardConnection, _ text: String, _ rows: [String]) async throws {
        let sink = try await client.copyIn(text)
        try await sink.write(Array(rows.map { $0 + "\n" }.joined().utf8))
        _ = try await sink.finish()
    }

    /// How many undo entries of absent rows the shards have: in arrays, and one by one.
    private static func entries(
        _ served: ServedShards, _ table: String, list: String = "k1"
    ) async throws -> (listed: Int64, single: Int64) {
        var counts: (listed: Int64, single: Int64) = (0, 0)
        for shard in served.engine.shards {
            let name = try await served.engine.inspect(
                SQLStatement("SELECT undo::text FROM meridian.versioned_table WHERE name = '\(table)'"), on: shard)[0]
                .text(0)
            let row = try await served.engine.inspect(
                SQLStatement(
                    """
                    SELECT coalesce(sum(cardinality(\(list))), 0)::bigint, count(*) FILTER (WHERE \(list) IS NULL) \
                    FROM meridian_undo."\(name)" WHERE NOT existed
                    """), on: shard)[0]
            counts.listed += try row.int64(0)
            counts.single += try row.int64(1)
        }
        return counts
    }

    @Test("at any timestamp a table is what it was, whatever is done to copied rows", arguments: [1, 3])
    func history(shards: Int) async throws {
        try await ServedShards.with(shards) { served in
            try await served.session { client in
                try await client.text(
                    """
                    CREATE TABLE t (id bigint PRIMARY KEY, v int);
                    CREATE TABLE p (v int, id bigint, w text DEFAULT 'w', PRIMARY KEY (id, w));
                    """)
                for table in ["t", "p"] {
                    var run = Recorder(client: client, query: "SELECT id, v FROM \(table) ORDER BY id, v")
                    func rows(_ ids: ClosedRange<Int>, _ value: Int? = nil) -> [String] {
                        ids.map { "\($0)\t\(value ?? $0 % 4)" + (table == "p" ? "\tw" : "") }
                    }
                    let copy = "COPY \(table) (id, v\(table == "p" ? ", w" : "")) FROM STDIN"
                    try await run.copy(copy, rows(1...300))
                    let entries = try await Self.entries(served, table, list: table == "t" ? "k1" : "k2")
                    #expect(entries == (300, 0), "\(table)")
                    try await run.run("UPDATE \(table) SET v = 9 WHERE id <= 20")
                    try await run.copy(copy, rows(301...400))
                    try await run.run("DELETE FROM \(table) WHERE id BETWEEN 10 AND 30 OR id > 390")
                    try await run.copy(copy, rows(391...395, 3))
                    // Rows that the transaction itself had deleted were there before it.
                    try await client.text("BEGIN; DELETE FROM \(table) WHERE id BETWEEN 40 AND 60")
                    try await Self.copy(client, copy, rows(40...50, 7) + rows(1001...1020))
                    try await run.run("COMMIT")
                    // Rows that it changes or deletes at once were not.
                    try await client.text("BEGIN")
                    try await Self.copy(client, copy, rows(2001...2020))
                    try await client.text("UPDATE \(table) SET v = 5 WHERE id BETWEEN 2001 AND 2010")
                    try await client.text("DELETE FROM \(table) WHERE id BETWEEN 2005 AND 2015")
                    try await client.text("INSERT INTO \(table) (id, v) VALUES (2015, 1), (2021, 1)")
                    try await run.run("COMMIT")
                    try await client.text("BEGIN; INSERT INTO \(table) (id, v) VALUES (3000, 1); SAVEPOINT s")
                    try await Self.copy(client, copy, rows(3001...3020))
                    try await client.text("ROLLBACK TO s; INSERT INTO \(table) (id, v) VALUES (3001, 2); SAVEPOINT s2")
                    try await Self.copy(client, copy, rows(3011...3014))
                    try await client.text("RELEASE s2; INSERT INTO \(table) (id, v) VALUES (3015, 1)")
                    try await run.run("COMMIT")
                    try await run.run("TRUNCATE \(table)")
                    try await run.copy(copy, rows(1...50, 8))
                    try await run.run("ALTER TABLE \(table) ADD COLUMN x text")
                    try await run.copy(
                        "COPY \(table) (v, id\(table == "p" ? ", w" : "")) FROM STDIN CSV",
                        (60...70).map { "1,\($0)" + (table == "p" ? ",w" : "") })
                    try await run.check()
                }
            }
        }
    }

    @Test("keys of any type come out of the undo log as they are stored", arguments: [1, 2])
    func types(shards: Int) async throws {
        let keys: [(type: String, values: [String])] = [
            ("bigint", ["1", " 2 ", "-3", "+4", "9223372036854775807"]),
            ("numeric(6,2)", ["1.5", "1.499", "2", "-0.001", "1e2"]), ("numeric", ["1.50", "NaN", "1e-3"]),
            ("char(5)", ["a", "b  ", "", "abcde", "ü\""]), ("varchar(4)", ["a", "b ", "{}", "NULL", "null"]),
            (
                "text",
                ["", " ", "a,b", "\"q\"", "a\\\\b", "tab\\there", "\\x41", "\\101b", "NULL", "{x}", "'", "é", "-"]
            ),
            ("citext", ["Ab", "cd", "C\\\\D"]), ("mood", ["sad", "ok \\\"so\\\""]),
            ("bytea", ["\\\\x00ff", "ab\\\\000"]),
            ("uuid", ["{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}", "a0eebc999c0b4ef8bb6d6bb9bd380a12"]),
            ("timestamptz", ["2/1/2024 10:00", "3/1/2024 10:00 UTC", "now", "infinity"]),
            ("timestamp(0)", ["1/2/2024 10:00:00.6", "1/2/2024"]), ("date", ["1/2/2024", "tomorrow", "2024-03-04"]),
            ("interval", ["1 02:03", "1 month"]), ("interval hour", ["1", "2"]), ("float8", ["1e3", "0.1", "-0"]),
            ("bool", ["t", "no"]), ("int[]", ["{1,2}", "{}"]), ("int4range", ["[1,3]", "empty"]), ("inet", ["10.1/16"]),
            ("bit(3)", ["101", "B010"]), ("small", ["1", "2"]), ("pair", ["(1,\"a b\")", "(2,)"]),
        ]
        try await ServedShards.with(shards) { served in
            try await served.session { client in
                try await client.text("CREATE EXTENSION citext")
                try await client.text("CREATE TYPE mood AS ENUM ('sad', 'ok \"so\"')")
                try await client.text("CREATE TYPE pair AS (a int, b text)")
                try await client.text("CREATE DOMAIN small AS int CHECK (value < 10)")
                try await client.text("SET DateStyle = 'SQL, DMY'; SET TimeZone = 'Asia/Tokyo'")
                for (number, key) in keys.enumerated() {
                    let name = "t\(number)"
                    try await client.text("CREATE TABLE \(name) (s bigint, k \(key.type), PRIMARY KEY (s, k))")
                    var run = Recorder(client: client, query: "SELECT s, k FROM \(name)")
                    try await run.copy(
                        "COPY \(name) FROM STDIN", key.values.enumerated().map { "\($0.offset)\t\($0.element)" })
                    let entries: (listed: Int64, single: Int64)
                    if ["int[]", "interval hour", "pair"].contains(key.type) {
                        entries = try await Self.entries(served, name, list: "NULL::int[]")
                        #expect(entries == (0, Int64(key.values.count)), "\(key.type)")
                    } else {
                        entries = try await Self.entries(served, name)
                        #expect(entries == (Int64(key.values.count), 0), "\(key.type)")
                    }
                    let csv = key.values.indices.map { "\($0 + 100),\"\(Self.csv(key.values[$0]))\"" }
                    try await run.copy("COPY \(name) FROM STDIN CSV", csv)
                    try await run.run("DELETE FROM \(name) WHERE s <> 1")
                    try await run.check()
                }
            }
        }
    }

    /// A field of the text format as one in quotes of a CSV.
    private static func csv(_ value: String) -> String {
        value.replacing("\\\\", with: "\u{1}").replacing("\\", with: "").replacing("\u{1}", with: "\\")
            .replacing("\"", with: "\"\"")
    }

    @Test("where the keys are not those of the data, or other rows may be written, the trigger writes the entries")
    func trigger() async throws {
        try await ServedShards.with(1) { served in
            try await served.session { client in
                try await client.text(
                    """
                    CREATE TABLE plain (id bigint PRIMARY KEY, v int);
                    CREATE TABLE keyless (id bigint NOT NULL, v int);
                    CREATE TABLE made (id bigserial PRIMARY KEY, v int);
                    CREATE TABLE selfish (id bigint PRIMARY KEY, v int REFERENCES selfish);
                    CREATE TABLE changed (id bigint PRIMARY KEY, v int);
                    CREATE TABLE echoed (id bigint PRIMARY KEY, v int);
                    CREATE TABLE checked (id bigint PRIMARY KEY, v int);
                    CREATE FUNCTION change() RETURNS trigger LANGUAGE plpgsql AS $$
                        BEGIN IF NEW.id = 3 THEN RETURN NULL; END IF; NEW.id := NEW.id + 100; RETURN NEW; END $$;
                    CREATE TRIGGER change BEFORE INSERT ON changed FOR EACH ROW EXECUTE FUNCTION change();
                    CREATE FUNCTION echo() RETURNS trigger LANGUAGE plpgsql AS $$
                        BEGIN INSERT INTO echoed SELECT 1000 + count(*) FROM echoed; RETURN NULL; END $$;
                    CREATE TRIGGER echo AFTER INSERT ON echoed FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
                        EXECUTE FUNCTION echo();
                    CREATE FUNCTION note(id bigint) RETURNS boolean LANGUAGE plpgsql AS $$
                        BEGIN IF id < 100 THEN INSERT INTO checked VALUES (id + 100); END IF; RETURN true; END $$;
                    ALTER TABLE checked ADD CHECK (note(id));
                    """)
                let rows = (1...5).map { "\($0)\t\($0)" }
                let cases: [(table: String, text: String, rows: [String], count: Int64)] = [
                    ("plain", "COPY plain FROM STDIN WHERE id > 2", rows, 3),
                    ("keyless", "COPY keyless FROM STDIN", rows, 5),
                    ("made", "COPY made (v) FROM STDIN", ["1", "2"], 2),
                    ("selfish", "COPY selfish FROM STDIN", rows, 5),
                    ("changed", "COPY changed FROM STDIN", rows, 4), ("echoed", "COPY echoed FROM STDIN", rows, 6),
                    ("checked", "COPY checked FROM STDIN", rows, 10),
                ]
                for (table, text, rows, count) in cases {
                    var run = Recorder(client: client, query: "SELECT id, v FROM \(table) ORDER BY id")
                    if table == "plain" {
                        // Nothing is said of a row that was left out.
                        try await run.run("INSERT INTO plain VALUES (1, 0)")
                    }
                    try await run.copy(text, rows)
                    let entries = try await Self.entries(served, table, list: "NULL::int[]")
                    #expect(entries.single == count + (table == "plain" ? 1 : 0), "\(table)")
                    try await run.check()
                }
                var run = Recorder(client: client, query: "SELECT id, v FROM plain ORDER BY id")
                try await run.note()
                let sink = try await client.copyIn("COPY plain FROM STDIN BINARY")
                let header = Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0]
                let row: [UInt8] = [0, 2, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 77, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF]
                try await sink.write(header + row)
                _ = try await sink.finish()
                try await run.note()
                #expect(try await run.read(at: run.states[0].timestamp) == run.states[0].rows)
            }
        }
    }

    @Test("a large copy is told to the undo log in parts, with its line of names for each", arguments: [1, 2])
    func large(shards: Int) async throws {
        try await ServedShards.with(shards) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (a bigint, k text, PRIMARY KEY (a, k))")
                var run = Recorder(
                    client: client, query: "SELECT count(*), sum(a), min(length(k)), max(length(k)) FROM t")
                let key = String(repeating: "k", count: 500)
                try await run.copy(
                    "COPY t (k, a) FROM STDIN (FORMAT csv, HEADER match)",
                    ["k,a"] + (1...12_000).map { "\(key),\($0)" })
                #expect(try await client.text(run.query) == "12000,72006000,500,500")
                let entries = try await Self.entries(served, "t")
                #expect(entries == (12_000, 0))
                try await run.run("UPDATE t SET k = k || 'x' WHERE a % 2 = 0")
                #expect(try await run.read(at: run.states[0].timestamp) == run.states[0].rows)
                #expect(try await run.read(at: run.states[0].timestamp - 1) == "0,NULL,NULL,NULL")
            }
        }
    }

    @Test("the undo log of each shard is told of the rows of a table that all have, which are counted once")
    func reference() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (k text PRIMARY KEY, n int) WITH (meridian.table = 'reference')")
                var run = Recorder(client: client, query: "SELECT count(*), sum(n) FROM t")
                let key = String(repeating: "k", count: 500)
                let copy = try await client.copyIn("COPY t FROM STDIN")
                for first in stride(from: 1, through: 5_000, by: 500) {
                    let rows = (first..<(first + 500)).map { "\(key)\($0)\t\($0)\n" }.joined()
                    try await copy.write(Array(rows.utf8))
                }
                #expect(try await copy.finish().affectedRows == 5_000)
                try await run.note()
                #expect(run.states[0].rows == "5000,12502500")
                #expect(try await Self.entries(served, "t") == (15_000, 0))
                for shard in served.engine.shards {
                    let rows = try await served.engine.inspect("SELECT count(*), sum(n) FROM t", on: shard)
                    #expect(try rows[0].int64(0) == 5_000 && rows[0].int64(1) == 12_502_500)
                }
                #expect(try await run.read(at: run.states[0].timestamp - 1) == "0,NULL")
            }
        }
    }

    @Test("a shard that is killed amid a COPY leaves nothing of it on any, and the past is as it was")
    func killedShard() async throws {
        try await ServedShards.with(2, isPrivate: true) { served in
            let rows = (1...12_000).map { "\($0)\t\(String(repeating: "k", count: 500))" }
            var before: Int64 = 0
            try await served.session { client in
                try await client.text("CREATE TABLE t (a bigint, k text, PRIMARY KEY (a, k))")
                try await client.text("INSERT INTO t VALUES (0, '')")
                before = try #require(Int64(try await client.text("SHOW meridian.commit_timestamp")))
                let copy = try await client.copyIn("COPY t FROM STDIN")
                // More than is kept of the keys: both shards have entries for some of the rows.
                try await copy.write(Array(rows.map { $0 + "\n" }.joined().utf8))
                let server = served.shards.shards[1].server
                await server.kill()
                await #expect(throws: ShardError.self) { try await copy.finish() }
                try await server.start()
            }
            try await served.session { client in
                try await waitUntil("the shard is served again") {
                    let entries = try? await Self.entries(served, "t")
                    guard let entries, (try? await client.text("SELECT count(*) FROM t")) == "1" else { return false }
                    #expect(entries == (0, 1))
                    return true
                }
                try await Self.copy(client, "COPY t FROM STDIN", rows)
                #expect(try await Self.entries(served, "t") == (12_000, 1))
                #expect(try await client.text("SELECT count(*) FROM t") == "12001")
                try await client.text("SET meridian.read_timestamp = '\(before)'")
                #expect(try await client.text("SELECT count(*) FROM t") == "1")
            }
        }
    }

    @Test("no client can say that the undo entries are written by the node")
    func setting() async throws {
        try await ServedShards.with(1) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id bigint PRIMARY KEY)")
                for text in [
                    "SET meridian.copied = '1'", "SET LOCAL \"MERIDIAN\".copied = '1'",
                    "SELECT set_config('Meridian.copied', '1', false)",
                    "SELECT pg_catalog.set_config('meridian.copied', '1', false) AS x, 1",
                    "ALTER ROLE meridian SET meridian.copied = '1'",
                    "ALTER DATABASE meridian SET meridian.copied = '1'",
                    "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET meridian.copied = '1' AS 'SELECT 1'",
                    "DO $$ BEGIN PERFORM set_config('meridian.copied', '1', false); END $$",
                ] {
                    #expect(await client.failure("BEGIN; " + text) != nil, "\(text)")
                    try await client.text("ROLLBACK")
                }
                // Some of these are run, and leave nothing behind.
                for text in [
                    "SELECT set_config('meri' || 'dian.copied', '1', false)",
                    "SELECT * FROM set_config('meridian.copied', '1', false)",
                    "SELECT 1 WHERE set_config('meridian.copied', '1', false) = '1'",
                    "SELECT set_config('meridian.copied', '1', false) FROM t",
                    "INSERT INTO t SELECT 7 WHERE set_config('meridian.copied', '1', false) = '1'",
                    "DELETE FROM t WHERE set_config('meridian.copied', '1', false) = '1'",
                ] {
                    try await client.text("BEGIN; SAVEPOINT s")
                    _ = await client.failure(text)
                    try await client.text("ROLLBACK TO s; INSERT INTO t VALUES (1)")
                    try await client.text("SAVEPOINT s")
                    _ = await client.failure(text)
                    try await client.text("ROLLBACK TO s")
                    let value = try await client.text("SELECT current_setting('meridian.copied', true) FROM t")
                    #expect(value == "" || value == "NULL", "\(text)")
                    try await client.text("ROLLBACK")
                }
            }
            let command = try RunningCommand(
                ["-XAtq", "-c", "INSERT INTO t VALUES (2)", served.conninfo + " options='-c meridian.copied=1'"],
                program: "/usr/bin/psql")
            await command.exitStatus()
            let entries = try await Self.entries(served, "t", list: "NULL::int[]")
            #expect(entries.single == 1, "\(command.errors)")
        }
    }
}
