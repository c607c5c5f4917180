import PostgresWire
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@Suite(.serialized) struct SessionCursorTests {
    private static func withRows(
        _ count: Int = 2_000, _ body: (ServedShards, ShardConnection) async throws -> Void
    ) async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
                try await client.text(
                    "INSERT INTO t (id) VALUES " + (1...count).map { "(\($0))" }.joined(separator: ", "))
                try await body(served, client)
            }
        }
    }

    private static func ids(_ text: String) -> [Int] { text.split(separator: "\n").compactMap { Int($0) } }

    @Test(
        "a cursor gives every row once, in portions of any size, before and after a write of its transaction",
        arguments: ["SELECT 1", "UPDATE t SET n = 1 WHERE id = 3"])
    func portions(before: String) async throws {
        try await Self.withRows { _, client in
            try await client.text("BEGIN")
            try await client.text(before)
            try await client.text("DECLARE c NO SCROLL CURSOR FOR SELECT id FROM t")
            var ids = Self.ids(try await client.text("FETCH c"))
            #expect(ids.count == 1)
            ids += Self.ids(try await client.text("FETCH FORWARD 900 FROM c"))
            #expect(ids.count == 901)
            let moved = try await client.runSimple("MOVE 99 IN c")[0]
            #expect(moved.commandTag == "MOVE 99")
            let rest = try await client.runSimple("FETCH ALL IN c")[0]
            #expect(rest.commandTag == "FETCH 1000" && rest.count == 1_000)
            ids += try rest.map { Int(try $0.int64(0)) }
            #expect(Set(ids).count == 1_901)
            #expect(try await client.runSimple("FETCH 5 FROM c")[0].commandTag == "FETCH 0")
            #expect(try await client.runSimple("CLOSE c")[0].commandTag == "CLOSE CURSOR")
            #expect(await client.failure("FETCH c") == "34000")
            try await client.text("ROLLBACK")
        }
    }

    @Test("a cursor sees its snapshot: not what commits later, and not what its own transaction writes later")
    func snapshot() async throws {
        try await Self.withRows { served, client in
            try await client.text("BEGIN; DECLARE c CURSOR FOR SELECT n FROM t")
            try await client.text("FETCH 3 FROM c")
            _ = try await served.session { try await $0.text("UPDATE t SET n = 5") }
            let seen = try await client.text("FETCH ALL FROM c")
            #expect(Set(seen.split(separator: "\n")) == ["0"])
            // What it returned has changed since: a write can't come after it.
            #expect(await client.failure("UPDATE t SET n = 9 WHERE id = 1") == "40001")
            try await client.text("ROLLBACK")

            try await client.text("BEGIN; UPDATE t SET n = 6 WHERE id = 1")
            try await client.text("DECLARE c CURSOR FOR SELECT n FROM t; UPDATE t SET n = 7")
            let own = try await client.text("FETCH ALL FROM c")
            #expect(Set(own.split(separator: "\n")) == ["5", "6"])
            try await client.text("COMMIT")
            #expect(try await client.text("SELECT count(*) FROM t WHERE n = 7") == "2000")
        }
    }

    @Test("a cursor declared and not fetched from counts as read, and one that nothing overtook lets its client write")
    func validated() async throws {
        try await Self.withRows { served, client in
            for changes in [false, true] {
                try await client.text("BEGIN; DECLARE c CURSOR FOR SELECT n FROM t")
                if changes { _ = try await served.session { try await $0.text("UPDATE t SET n = n + 1 WHERE id = 9") } }
                let failure = await client.failure("UPDATE t SET n = 3 WHERE id = 1")
                #expect(failure == (changes ? "40001" : nil))
                if !changes {
                    #expect(try await client.text("FETCH ALL FROM c").split(separator: "\n").count == 2_000)
                    try await client.text("COMMIT")
                } else {
                    try await client.text("ROLLBACK")
                }
            }
        }
    }

    @Test("a cursor's query may be ordered over all shards, have parameters, and be fetched in binary")
    func queries() async throws {
        try await Self.withRows { _, client in
            for write in ["", "; UPDATE t SET n = 1 WHERE id = 3"] {
                try await client.text("BEGIN\(write); DECLARE c CURSOR FOR SELECT id FROM t ORDER BY id DESC")
                #expect(try await client.text("FETCH 3 FROM c") == "2000\n1999\n1998")
                #expect(try await client.text("FETCH 1 FROM c; CLOSE c") == "1997")
                let declaration = SQLStatement(
                    "DECLARE p CURSOR FOR SELECT id FROM t WHERE id > $1", [.int64(1_990)], parameterTypes: [20],
                    isPrepared: false)
                _ = try await client.run(declaration)
                let fetched = try await client.run(SQLStatement("FETCH ALL FROM p", isPrepared: false))
                #expect(fetched.fields[0].isBinary)
                #expect(Set(try fetched.map { try $0.int64(0) }) == Set(1_991...2_000))
                try await client.text("DECLARE b BINARY CURSOR FOR SELECT id FROM t WHERE id > 0")
                #expect(try await client.runSimple("FETCH 2 FROM b")[0].fields[0].isBinary)
                try await client.text("COMMIT")
            }
        }
    }

    @Test("what a cursor can't do is refused, and its life ends with its transaction or savepoint")
    func refused() async throws {
        try await Self.withRows(10) { _, client in
            let declare = "DECLARE c CURSOR FOR SELECT id FROM t"
            #expect(await client.failure(declare) == "25P01")
            for (state, text) in [
                ("55000", "DECLARE c NO SCROLL CURSOR WITH HOLD FOR SELECT id FROM t; FETCH c; FETCH PRIOR FROM c"),
                ("42P03", "\(declare); \(declare)"),
                ("55000", "\(declare); FETCH PRIOR FROM c"), ("34000", "FETCH c"), ("34000", "CLOSE c"),
                ("42P01", "DECLARE c CURSOR FOR SELECT * FROM nowhere; FETCH c"),
            ] {
                #expect(await client.failure("BEGIN; \(text)") == state, "\(text)")
                try await client.text("ROLLBACK")
            }
            try await client.text("BEGIN; \(declare); FETCH 1 FROM c; COMMIT")
            #expect(await client.failure("BEGIN; FETCH c") == "34000")
            try await client.text("ROLLBACK")
            for write in ["", "; UPDATE t SET n = 1 WHERE id = 1"] {
                try await client.text("BEGIN\(write); \(declare); SAVEPOINT s; DECLARE d CURSOR FOR SELECT id FROM t")
                #expect(await client.failure("SELECT 1/0") == "22012")
                try await client.text("ROLLBACK TO s")
                #expect(try await client.text("FETCH ALL FROM c").split(separator: "\n").count == 10)
                #expect(await client.failure("FETCH d") == "34000")
                try await client.text("ROLLBACK")
            }
        }
    }

    @Test("a cursor goes back, to rows by their numbers and anywhere, as on PostgreSQL")
    func scrolls() async throws {
        let table = "CREATE TABLE t (id bigint PRIMARY KEY); INSERT INTO t SELECT g FROM generate_series(1, 7) AS g"
        let moves = [
            "NEXT", "PRIOR", "PRIOR", "PRIOR", "FIRST", "LAST", "NEXT", "NEXT", "PRIOR", "0", "ABSOLUTE 3", "0",
            "RELATIVE 2", "RELATIVE -4", "RELATIVE -4", "FORWARD 3", "BACKWARD 2", "BACKWARD 2", "ABSOLUTE -2",
            "ABSOLUTE -9", "FORWARD ALL", "0", "BACKWARD 3", "BACKWARD ALL", "ABSOLUTE 0", "ABSOLUTE 8", "BACKWARD 7",
            "ABSOLUTE 99", "RELATIVE -1", "FORWARD 7", "ALL", "-2", "BACKWARD -1", "FORWARD 0", "3", "4",
            "RELATIVE 2147483647", "ABSOLUTE -2147483647", "BACKWARD 2147483647",
        ]
        let declare = "DECLARE c SCROLL CURSOR FOR SELECT id FROM t ORDER BY id"
        func answers(_ client: ShardConnection) async throws -> [String] {
            try await client.text(table)
            try await client.text("BEGIN; \(declare)")
            var answers: [String] = []
            for (index, move) in moves.enumerated() {
                let result = try await client.runSimple("\(index % 5 == 4 ? "MOVE" : "FETCH") \(move) FROM c")[0]
                answers.append("\(move): \(try result.map { try $0.text(0) }) \(result.commandTag)")
            }
            try await client.text("COMMIT")
            return answers
        }
        var expected: [String] = []
        try await EngineShards.withShared(1) { shards in
            try await shards.session(on: 0) { expected = try await answers($0) }
        }
        try await ServedShards.with(3) { served in
            let found = try await served.session { try await answers($0) }
            #expect(found == expected)
        }
    }

    @Test("a cursor WITH HOLD outlives the commit and no rollback, and has the rows of its declaration")
    func held() async throws {
        try await Self.withRows(100) { _, client in
            try await client.text("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT id FROM t ORDER BY id; FETCH 2 FROM c")
            try await client.text("UPDATE t SET n = 1; COMMIT")
            try await client.text("DELETE FROM t")
            #expect(try await client.text("FETCH 2 FROM c") == "3\n4")
            #expect(try await client.text("BEGIN; FETCH c; ROLLBACK; FETCH c") == "5\n6")
            #expect(await client.failure("SELECT 1/0") == "22012")
            let rest = try await client.run(SQLStatement("FETCH ALL FROM c", isPrepared: false, resultFormat: .text))
            #expect(rest.count == 94)
            try await client.text("BEGIN; DECLARE d CURSOR WITH HOLD FOR SELECT 1; ROLLBACK")
            #expect(await client.failure("FETCH d") == "34000")
            // Outside a block too; CLOSE ALL closes it.
            try await client.text("DECLARE e SCROLL CURSOR WITH HOLD FOR VALUES (1), (2)")
            #expect(try await client.text("FETCH ALL FROM e; FETCH BACKWARD ALL FROM e") == "1\n2\n2\n1")
            try await client.text("CLOSE ALL")
            #expect(await client.failure("FETCH e") == "34000")
            let large = "DECLARE f CURSOR WITH HOLD FOR SELECT repeat('x', 1000) FROM generate_series(1, 40000)"
            #expect(await client.failure(large) == "53400")
        }
    }

    @Test("a portal under locks is not in the way of a change of its table once it is read to its end, closed or bound")
    func closedPortals() async throws {
        try await Self.withRows { served, _ in
            let named = FrontendMessage.execute(.init(portal: "p", rowsMax: 5))
            let close: [FrontendMessage] = [.close(.portal("p")), .sync]
            let rollback = FrontendMessage.query("ROLLBACK TO s")
            let cases: [(String, before: [String], [FrontendMessage], failure: String?)] = [
                ("p", [], [named, .sync], "55006"),
                ("p", [], [named, .execute(.init(portal: "p")), .sync], nil),
                ("p", [], [named] + close, nil),
                ("", [], [.execute(.init(rowsMax: 5)), .bind(.init()), .sync], nil),
                ("", [], [.execute(.init(rowsMax: 5)), .sync], nil),
                ("p", ["SAVEPOINT s"], [named] + close + [rollback], nil),
                ("p", [], [named, .sync, .query("SAVEPOINT s"), .query("SELECT 1/0")] + close + [rollback], nil),
                ("p", ["SAVEPOINT s"], [named, .sync, .query("RELEASE s; SAVEPOINT s")] + close + [rollback], nil),
            ]
            for (portal, before, messages, failure) in cases {
                let client = try await served.rawClient()
                await client.send(.query((["BEGIN; UPDATE t SET n = 1 WHERE id = 1"] + before).joined(separator: "; ")))
                let sent = [.parse(.init(query: "SELECT id FROM t")), .bind(.init(portal: portal))] + messages
                for message in sent { await client.send(message) }
                for _ in 0...sent.count(where: { $0.isAnsweredByReady }) { _ = try await client.messagesToReady() }
                await client.send(.query("TRUNCATE t"))
                #expect(error(try await client.messagesToReady())?[.sqlState] == failure, "\(messages)")
                await client.send(.query("ROLLBACK"))
                #expect(error(try await client.messagesToReady()) == nil)
                client.hangUp()
            }
        }
    }

    @Test(
        "what keeps everyone from a table refuses to wait for a cursor or portal of its own transaction's snapshot",
        arguments: ["TRUNCATE t", "ALTER TABLE t ADD COLUMN x int", "DROP TABLE t", "LOCK TABLE t"])
    func ownSnapshot(change: String) async throws {
        try await Self.withRows { served, client in
            for fetch in ["", "; FETCH 5 FROM c"] {
                try await client.text("BEGIN; DECLARE c CURSOR FOR SELECT id FROM t\(fetch)")
                #expect(await client.failure(change) == "55006", "\(fetch)")
                try await client.text("ROLLBACK")
            }
            try await client.text("BEGIN; DECLARE c CURSOR FOR SELECT id FROM t; FETCH 5 FROM c; CLOSE c; \(change)")
            try await client.text("ROLLBACK")

            let raw = try await served.rawClient()
            await raw.send(
                .query("BEGIN"), .parse(.init(query: "SELECT id FROM t")), .bind(.init(portal: "p")),
                .execute(.init(portal: "p", rowsMax: 5)), .sync, .query("SAVEPOINT s"), .query(change))
            for failure in [nil, nil, nil, "55006"] {
                #expect(error(try await raw.messagesToReady())?[.sqlState] == failure)
            }
            await raw.send(.query("ROLLBACK TO s"), .close(.portal("p")), .sync, .query(change), .query("ROLLBACK"))
            for _ in 0..<4 { #expect(error(try await raw.messagesToReady()) == nil) }
            raw.hangUp()
        }
    }

    @Test("psql fetches a large result in portions, if it is told to")
    func psql() async throws {
        try await Self.withRows { served, _ in
            let command = try RunningCommand(
                ["-XAtq", "-v", "FETCH_COUNT=100", "-c", "SELECT id FROM t", served.conninfo], program: "/usr/bin/psql")
            #expect(await command.exitStatus() == 0, "\(command.errors)")
            #expect(Set(Self.ids(command.output)) == Set(1...2_000))
        }
    }
}

extension FrontendMessage {
    fileprivate var isAnsweredByReady: Bool {
        switch self {
        case .sync, .query: true
        default: false
        }
    }
}
