import Foundation
import NIOCore
import PostgresWire
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@Suite(.serialized) struct SessionCopyTests {
    private static let table = "CREATE TABLE t (id bigint PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);"

    /// Sends data by COPY; returns how many rows were copied.
    @discardableResult
    private static func copy(_ client: ShardConnection, _ text: String, _ data: String) async throws -> Int {
        let sink = try await client.copyIn(text)
        try await sink.write(Array(data.utf8))
        return try await sink.finish().affectedRows
    }

    /// The SQLSTATE that a COPY fails with.
    private static func failure(_ client: ShardConnection, _ text: String, _ data: String) async -> String? {
        do {
            try await copy(client, text, data)
            return nil
        } catch {
            return (error as? ShardError)?.sqlState.rawValue ?? "\(error)"
        }
    }

    private static func copied(_ client: ShardConnection, _ text: String) async throws -> String {
        var bytes: [UInt8] = []
        for try await chunk in try await client.copyOut(text) { bytes += chunk }
        return String(decoding: bytes, as: UTF8.self)
    }

    /// Lines in an order that does not depend on the shards.
    private static func sorted(_ text: String) -> [Substring] { text.split(separator: "\n").sorted() }

    @Test("rows copied in are on the shards of their keys, whatever the format, and come out as they went in")
    func roundTrip() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table)
                let text = (1...500).map { "\($0)\tline\\n\($0)\t\($0 % 7)" }.joined(separator: "\n") + "\n"
                #expect(try await Self.copy(client, "COPY t FROM STDIN", text) == 500)
                #expect(try await client.text("SELECT count(*), sum(n) FROM t") == "500,1497")
                for id in [1, 77, 500] {
                    #expect(try await client.text("SELECT v FROM t WHERE id = \(id)") == "line\n\(id)")
                }
                #expect(Self.sorted(try await Self.copied(client, "COPY t TO STDOUT")) == Self.sorted(text))
                let csv = try await Self.copied(
                    client, "COPY t (n, id, v) TO STDOUT WITH (FORMAT csv, HEADER, NULL '-')")
                #expect(csv.hasPrefix("n,id,v\n") && csv.components(separatedBy: "n,id,v").count == 2)
                let binary = try await client.copyOut("COPY t TO STDOUT (FORMAT binary)")
                #expect(binary.format.isBinary && binary.format.columnFormats.count == 3)
                var bytes: [UInt8] = []
                for try await chunk in binary { bytes += chunk }
                for (options, data) in [
                    ("(n, id, v) FROM STDIN (FORMAT csv, HEADER match, NULL '-')", Array(csv.utf8)),
                    ("FROM STDIN BINARY", bytes),
                ] {
                    try await client.text("TRUNCATE t")
                    let sink = try await client.copyIn("COPY t \(options)")
                    for start in stride(from: 0, to: data.count, by: 1_000) {
                        try await sink.write(Array(data[start..<min(start + 1_000, data.count)]))
                    }
                    #expect(try await sink.finish().commandTag == "COPY 500")
                    #expect(Self.sorted(try await Self.copied(client, "COPY t TO STDOUT")) == Self.sorted(text))
                    #expect(try await client.text("SELECT v FROM t WHERE id = 77") == "line\n77")
                }
            }
            for shard in served.engine.shards {
                #expect(try await served.engine.inspect("SELECT count(*) FROM t", on: shard)[0].int64(0) > 100)
            }
        }
    }

    @Test("a COPY is on all shards or on none: an error, CopyFail and a client's death leave nothing")
    func atomic() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table)
                let rows = (1...200).map { "\($0)\tx\t1\n" }.joined()
                for (state, bad) in [
                    ("22P02", "abc\tx\t1\n"), ("22P04", "201\n"), ("22P04", "201\tx\t1\textra\n"),
                    ("23505", "100\tx\t1\n"), ("23502", "201\tx\t\\N\n"), ("23502", "\\N\tx\t1\n"),
                    ("22P04", "201\tx\t1\r\n"), ("22003", "99999999999999999999\tx\t1\n"), ("22P02", "201\tx\tn\n"),
                ] {
                    #expect(await Self.failure(client, "COPY t FROM STDIN", rows + bad) == state, "\(bad)")
                    #expect(try await client.text("SELECT count(*) FROM t") == "0")
                }
                let sink = try await client.copyIn("COPY t FROM STDIN")
                try await sink.write(Array(rows.utf8))
                let failure = await sink.fail("enough")
                #expect(failure.sqlState == .queryCanceled)
                #expect(failure.serverFields?.message == "COPY from stdin failed: enough")

                let dying = try await served.connect()
                let cutOff = try await dying.copyIn("COPY t FROM STDIN")
                try await cutOff.write(Array(rows.utf8))
                await dying.close()
                try await client.text("INSERT INTO t VALUES (1, 'after', 1)")
                #expect(try await client.text("SELECT * FROM t") == "1,after,1")

                try await client.text("BEGIN")
                try await Self.copy(client, "COPY t FROM STDIN", "7\tx\t1\n8\tx\t1\n9\tx\t1\n")
                #expect(try await client.text("SELECT count(*) FROM t") == "4")
                try await client.text("ROLLBACK")
                #expect(try await client.text("SELECT count(*) FROM t") == "1")
            }
        }
    }

    @Test("binary rows of users' types name types by the numbers of the shard that they go to or the client knows")
    func typeNumbers() async throws {
        try await ServedShards.with(3) { served in
            // From here on no two shards give a type the same number.
            for (count, shard) in served.shards.shards.enumerated() {
                for number in 0..<(count * 3) { try await shard.psql("CREATE TYPE unlike\(number) AS (a int)") }
            }
            try await served.session { client in
                for text in [
                    "CREATE TYPE mood AS ENUM ('fine', 'bad')", "CREATE TYPE place AS (m mood, n int)",
                    "CREATE DOMAIN moods AS mood[]",
                    "CREATE TABLE t (id bigint PRIMARY KEY, v mood[], p place, ps place[], d moods, m mood, i int[])",
                    "CREATE TABLE r (id bigint PRIMARY KEY, v mood[]) WITH (meridian.table = 'reference')",
                ] { try await client.text(text) }
                let inserted = (1...20).map {
                    "(\($0), '{fine,NULL,bad}', '(bad,\($0))', '{\"(fine,1)\",NULL}', '{bad}', 'fine', '{1,2}')"
                }
                try await client.text("INSERT INTO t VALUES \(inserted.joined(separator: ", "))")
                try await client.text("INSERT INTO t (id) VALUES (21)")
                let text = try await client.text("SELECT * FROM t ORDER BY id")

                // The third word of an array is the type of its elements, the second of a composite value its column's.
                let row = try await client.run("SELECT v, p FROM t WHERE id = 1")
                func known(_ column: Int, at place: Int) -> [UInt8] {
                    row.withBytes(row: 0, column: column) { $0.map { Array($0.dropFirst(place).prefix(4)) } ?? [] }
                }
                var rows = 0
                for try await row in try await client.copyOut("COPY (SELECT v, p FROM t) TO STDOUT (FORMAT binary)") {
                    // A message is a row, the first one with the header; the last one ends the data.
                    let fields = row.dropFirst(rows == 0 ? 19 : 0)
                    guard fields.count > 10 else { continue }
                    rows += 1
                    let list = fields.dropFirst(6)
                    #expect(Array(list.dropFirst(8).prefix(4)) == known(0, at: 8))
                    let place = list.dropFirst(Int(fields[fields.startIndex + 5]) + 4)
                    #expect(Array(place.dropFirst(4).prefix(4)) == known(1, at: 4))
                }
                #expect(rows == 20)

                var all: [[UInt8]] = []
                for try await chunk in try await client.copyOut("COPY t TO STDOUT (FORMAT binary)") {
                    all.append(chunk)
                }
                try await client.text("DELETE FROM t")
                let sink = try await client.copyIn("COPY t FROM STDIN (FORMAT binary)")
                for chunk in all { try await sink.write(chunk) }
                #expect(try await sink.finish().commandTag == "COPY 21")
                #expect(try await client.text("SELECT * FROM t ORDER BY id") == text)
                #expect(await client.failure("COPY r FROM STDIN (FORMAT binary)") == "0A000")
            }
        }
    }

    @Test("statements that can't be COPYs are refused as by PostgreSQL, and the session goes on")
    func refused() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await client.text(Self.table + "CREATE VIEW w AS SELECT 1 AS one")
                try await client.text("CREATE TABLE serial (id bigserial PRIMARY KEY, v text)")
                for (state, text) in [
                    ("42P01", "COPY nowhere FROM STDIN"), ("42P01", "COPY nowhere TO STDOUT"),
                    ("42703", "COPY t (nothing) FROM STDIN"), ("42703", "COPY t (nothing) TO STDOUT"),
                    ("42809", "COPY w TO STDOUT"), ("0A000", "COPY t FROM '/etc/passwd'"),
                    ("0A000", "COPY t TO PROGRAM 'cat'"), ("0A000", "COPY serial (v) FROM STDIN"),
                    ("0A000", "COPY t FROM STDIN (DELIMITER 'ab')"), ("22023", "COPY t FROM STDIN (FORMAT nothing)"),
                ] {
                    #expect(await client.failure(text) == state, "\(text)")
                    #expect(try await client.text("SELECT 1") == "1")
                }
                #expect(await Self.failure(client, "COPY t FROM STDIN (FREEZE)", "1\tx\t1\n") == "55000")
                #expect(await client.failure("BEGIN READ ONLY; COPY t FROM STDIN") == "25006")
            }
        }
    }

    @Test("reference tables are copied into on every shard, single ones on theirs, and counted once")
    func otherTables() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE r (n int PRIMARY KEY, w text) WITH (meridian.table = 'reference')")
                try await client.text("CREATE TABLE s (n int, w text)")
                for table in ["r", "s"] {
                    #expect(try await Self.copy(client, "COPY \(table) FROM STDIN", "1\ta\n2\tb\n") == 2)
                    #expect(try await Self.copied(client, "COPY \(table) TO STDOUT") == "1\ta\n2\tb\n")
                }
                for shard in served.engine.shards {
                    #expect(try await served.engine.inspect("SELECT count(*) FROM r", on: shard)[0].int64(0) == 2)
                }
            }
        }
    }

    @Test("queries are copied out, those too whose rows must be put together from the shards")
    func queries() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table)
                let rows = (1...30).map { "\($0)\tv,\($0)\t\($0 % 3)\n" }.joined()
                try await Self.copy(client, "COPY t FROM STDIN", rows)
                #expect(try await Self.copied(client, "COPY (SELECT * FROM t ORDER BY id) TO STDOUT") == rows)
                #expect(
                    try await Self.copied(
                        client, "COPY (SELECT n, count(*) AS c FROM t GROUP BY n ORDER BY n) TO STDOUT CSV HEADER")
                        == "n,c\n0,10\n1,10\n2,10\n")
                #expect(
                    try await Self.copied(
                        client,
                        "COPY (SELECT id, v FROM t ORDER BY id LIMIT 2) TO STDOUT (FORMAT csv, FORCE_QUOTE (id))")
                        == "\"1\",\"v,1\"\n\"2\",\"v,2\"\n")
                #expect(
                    Self.sorted(try await Self.copied(client, "COPY (SELECT id FROM t WHERE n = 0) TO STDOUT"))
                        == Self.sorted((1...10).map { "\($0 * 3)" }.joined(separator: "\n")))
                #expect(
                    try await Self.copied(client, "COPY (UPDATE t SET n = 9 WHERE id = 4 RETURNING id, n) TO STDOUT")
                        == "4\t9\n")
                #expect(try await client.text("SELECT n FROM t WHERE id = 4") == "9")
            }
        }
    }

    @Test("a COPY reads what its transaction reads: its snapshot, its own rows under locks, the past")
    func snapshots() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.table)
                try await Self.copy(client, "COPY t FROM STDIN", (1...9).map { "\($0)\tx\t1\n" }.joined())
                let query = "COPY (SELECT n FROM t) TO STDOUT"
                let (ones, twos) = (String(repeating: "1\n", count: 9), String(repeating: "2\n", count: 9))
                try await client.text("INSERT INTO t VALUES (100, 'x', 1); DELETE FROM t WHERE id = 100")
                let timestamp = try await client.text("SHOW meridian.commit_timestamp")
                try await served.session { other in
                    try await client.text("BEGIN")
                    #expect(try await Self.copied(client, query) == ones)
                    try await other.text("UPDATE t SET n = 2")
                    #expect(try await Self.copied(client, query) == ones)
                    // What was copied out was read: a write must not come after a change of it.
                    #expect(await client.failure("UPDATE t SET n = 3 WHERE id = 1") == "40001")
                    try await client.text("ROLLBACK; BEGIN; UPDATE t SET v = 'mine' WHERE id = 1")
                    #expect(try await Self.copied(client, query) == twos)
                    async let blocked: String? = other.failure("UPDATE t SET n = 5 WHERE id = 7")
                    try await client.text("COMMIT")
                    #expect(await blocked == nil)
                }
                try await client.text("SET meridian.read_timestamp = '\(timestamp)'")
                #expect(try await Self.copied(client, query) == ones)
                #expect(try await Self.copied(client, "COPY public.t (n) TO STDOUT") == ones)
            }
        }
    }

    @Test("a client that neither sends nor reads on makes memory grow by little")
    func backPressure() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await client.text(Self.table)
                let before = try Self.residentBytes()
                let sink = try await client.copyIn("COPY t FROM STDIN")
                let value = String(repeating: "x", count: 5_000)
                var growth = 0
                for start in stride(from: 0, to: 20_000, by: 100) {
                    let rows = (start..<(start + 100)).map { "\($0)\t\(value)\t0\n" }.joined()
                    try await sink.write(Array(rows.utf8))
                    growth = max(growth, try Self.residentBytes() - before)
                }
                #expect(try await sink.finish().affectedRows == 20_000)
                #expect(growth < 40 << 20, "\(growth >> 20) MiB")
                let stream = try await client.copyOut("COPY t TO STDOUT")
                var count = try await stream.nextBatch()?.count ?? 0
                try await Task.sleep(for: .seconds(1))
                growth = try Self.residentBytes() - before
                while let batch = try await stream.nextBatch() { count += batch.count }
                #expect(count == 20_000)
                #expect(growth < 40 << 20, "\(growth >> 20) MiB")
            }
        }
    }

    private static func residentBytes() throws -> Int {
        let pages = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8).split(separator: " ")
        return (Int(pages[1]) ?? 0) * 4_096
    }

    @Test("COPY by the extended protocol, with its Sync sent ahead, and what must not be sent within it")
    func extended() async throws {
        try await ServedShards.with(2) { served in
            _ = try await served.session { try await $0.text(Self.table) }
            let client = try await served.rawClient()
            await client.send(
                .parse(.init(query: "COPY t FROM STDIN")), .bind(.init()), .describe(.portal("")), .execute(.init()),
                .sync)
            let begun = try await client.messages { if case .copyInResponse = $0 { true } else { false } }
            #expect(begun.contains(.noData) && error(begun) == nil)
            await client.send(
                .copyData(ByteBuffer(string: "1\ta\t1\n2\tb")), .flush, .copyData(ByteBuffer(string: "\t2\n")),
                .copyDone,
                .sync)
            let done = try await client.messagesToReady()
            #expect(done == [.commandComplete("COPY 2"), .readyForQuery(.idle)])

            await client.send(.query("COPY t TO STDOUT; SELECT 1"))
            let out = try await client.messagesToReady()
            #expect(out.contains(.copyDone) && out.contains(.commandComplete("COPY 2")) && rows(out) == ["1"])

            // Data of a COPY that has failed is passed over.
            await client.send(.query("COPY t FROM STDIN"))
            _ = try await client.messages { if case .copyInResponse = $0 { true } else { false } }
            await client.send(
                .copyData(ByteBuffer(string: "nonsense\n")), .copyData(ByteBuffer(string: "3\tx\t1\n")), .copyDone,
                .query("SELECT count(*) FROM t"))
            #expect(error(try await client.messagesToReady())?[.sqlState] == "22P02")
            #expect(rows(try await client.messagesToReady()) == ["2"])

            for unexpected in [FrontendMessage.query("SELECT 1"), .terminate] {
                let client = try await served.rawClient()
                await client.send(.query("COPY t FROM STDIN"), .copyData(ByteBuffer(string: "4\tx\t1\n")), unexpected)
                var end: [BackendMessage] = []
                while let message = try await client.nextMessage() { end.append(message) }
                #expect(end.suffix(2).map { error([$0])?[.sqlState] } == ["08P01", "08P01"], "\(unexpected)")
            }
            await client.send(.query("SELECT count(*) FROM t"))
            #expect(rows(try await client.messagesToReady()) == ["2"])
            client.hangUp()
        }
    }

    @Test("psql's \\copy works both ways")
    func psql() async throws {
        try await ServedShards.with(3) { served in
            let directory = try TemporaryDirectory()
            let file = "\(directory.path)/rows.csv"
            try (1...50).map { "\($0),\"a \"\"b\"\"\n\($0)\",\($0)\n" }.joined()
                .write(toFile: file, atomically: true, encoding: .utf8)
            let command = try RunningCommand(
                [
                    "-XAt", "-c", Self.table, "-c", "\\copy t from '\(file)' csv",
                    "-c", "\\copy (select v, n from t where id = 7) to stdout csv",
                    "-c", "\\copy t to '\(directory.path)/out.csv' csv", served.conninfo,
                ], program: "/usr/bin/psql")
            #expect(await command.exitStatus() == 0, "\(command.errors)")
            #expect(command.output == "CREATE TABLE\nCOPY 50\n\"a \"\"b\"\"\n7\",7\nCOPY 50\n")
            let out = try String(contentsOfFile: "\(directory.path)/out.csv", encoding: .utf8)
            let rows = try String(contentsOfFile: file, encoding: .utf8)
            #expect(Self.sorted(out) == Self.sorted(rows))
        }
    }
}
