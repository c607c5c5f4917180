import PostgresWire
import ShardBackend
import TestSupport
import Testing

/// The wire protocol, message by message; what is expected is what PostgreSQL 15 answers.
@Suite(.serialized) struct SessionProtocolTests {
    @Test("what comes before Terminate is answered and done, as on PostgreSQL")
    func goodbye() async throws {
        try await ServedShards.with { served in
            _ = try await served.session { try await $0.text("CREATE TABLE t (id int PRIMARY KEY)") }
            for isBlock in [false, true] {
                let client = try await served.rawClient()
                if isBlock { await client.send(.query("BEGIN")) }
                await client.send(
                    .query("INSERT INTO t VALUES (1)"), .query("SELECT pg_sleep(0.2)"), .query("SELECT id FROM t"),
                    .terminate)
                var messages: [BackendMessage] = []
                while let message = try await client.nextMessage() { messages.append(message) }
                #expect(rows(messages).last == "1" && messages.last == .readyForQuery(isBlock ? .inTransaction : .idle))
                #expect(
                    try await served.session { try await $0.text("DELETE FROM t RETURNING id") } == (isBlock ? "" : "1")
                )
            }
        }
    }

    @Test(
        "a client that is sent away in the midst of its commit is told that the outcome is not known",
        arguments: [
            ["INSERT INTO t VALUES (1), (2), (3), (4)"],
            ["BEGIN", "INSERT INTO t VALUES (1), (2), (3), (4)", "COMMIT"],
        ])
    func sentAwayInCommit(texts: [String]) async throws {
        let gate = CommitGate(at: .duringDecision)
        try await ServedShards.with(faults: gate.hook) { served in
            _ = try await served.session { try await $0.text("CREATE TABLE t (id int PRIMARY KEY)") }
            let client = try await served.rawClient()
            let idle = try await served.rawClient()
            await idle.send(.query("BEGIN"))
            _ = try await idle.messagesToReady()
            for text in texts.dropLast() {
                await client.send(.query(text))
                _ = try await client.messagesToReady()
            }
            gate.arm()
            await client.send(.query(texts.last!))
            _ = try await gate.arrival()
            await served.gateway.shutdown(grace: .zero)
            #expect(error(try await client.messagesToReady())?[.sqlState] == "08007")
            #expect(error(try await idle.messagesToReady())?[.sqlState] == "57P01")
            gate.open()
        }
    }

    @Test("rows without a column are rows, however they are read and put together", arguments: [1, 3])
    func noColumns(shards: Int) async throws {
        try await ServedShards.with(shards) { served in
            _ = try await served.session {
                try await $0.text("CREATE TABLE t (id int PRIMARY KEY, n int)")
                try await $0.text("INSERT INTO t VALUES (1, 1), (2, 1), (3, 1), (4, 1)")
            }
            let client = try await served.rawClient()
            for (query, count) in [
                ("SELECT FROM t WHERE id = 1", 1), ("SELECT FROM t WHERE id = 9", 0), ("SELECT FROM t WHERE n = 1", 4),
                ("SELECT FROM t LIMIT 3", 3), ("SELECT FROM t OFFSET 1", 3), ("SELECT FROM t LIMIT 0", 0),
                ("SELECT", 1),
            ] {
                let rows = Array(repeating: BackendMessage.dataRow([]), count: count)
                let answer =
                    [.rowDescription([])] + rows + [.commandComplete("SELECT \(count)"), .readyForQuery(.idle)]
                for _ in 0..<2 {
                    await client.send(.query(query))
                    #expect(try await client.messagesToReady() == answer, "\(query)")
                }
                await client.send(.query("BEGIN; UPDATE t SET n = 1; \(query)"))
                #expect(
                    try await client.messagesToReady().suffix(count + 3).dropLast() == answer.dropLast(), "\(query)")
                await client.send(.query("COMMIT"))
                #expect(error(try await client.messagesToReady()) == nil)
                await client.send(
                    .parse(.init(query: query)), .bind(.init()), .describe(.portal("")), .execute(.init()), .sync)
                #expect(try await client.messagesToReady() == [.parseComplete, .bindComplete] + answer, "\(query)")
            }
            client.hangUp()
        }
    }

    @Test("in a failed block nothing is parsed, bound or run but what ends it, as on PostgreSQL")
    func failedBlock() async throws {
        try await ServedShards.with { served in
            let client = try await served.rawClient()
            await client.send(
                .parse(.init(statement: "one", query: "SELECT 1")), .parse(.init(statement: "end", query: "ROLLBACK")),
                .sync, .query("BEGIN"), .bind(.init(portal: "p", statement: "one")), .execute(.init(portal: "p")),
                .sync, .query("SELECT 1/0"))
            for failure in [nil, nil, nil, "22012"] {
                #expect(error(try await client.messagesToReady())?[.sqlState] == failure)
            }
            for message in [
                FrontendMessage.parse(.init(query: "SELECT 2")), .bind(.init(statement: "one")),
                .execute(.init(portal: "p")), .describe(.statement("one")),
            ] {
                await client.send(message, .sync)
                #expect(error(try await client.messagesToReady())?[.sqlState] == "25P02", "\(message)")
            }
            await client.send(.bind(.init(statement: "end")), .execute(.init()), .sync)
            #expect(try await client.messagesToReady().last == .readyForQuery(.idle))
            client.hangUp()
        }
    }

    @Test("the extended protocol is held to its rules as on PostgreSQL")
    func extendedProtocol() async throws {
        try await ServedShards.with { served in
            _ = try await served.session { try await $0.text("CREATE TABLE t (id int PRIMARY KEY, n int)") }
            let two: [FormatCode] = [.text, .binary]
            let execute: [FrontendMessage] = [.execute(.init()), .flush, .sync]
            let declare = "DECLARE c CURSOR FOR SELECT id FROM t"
            func run(_ query: String, _ formats: [FormatCode] = []) -> [FrontendMessage] {
                [.parse(.init(query: query)), .bind(.init(resultFormats: formats))] + execute
            }
            let described: [FrontendMessage] = [
                .parse(.init(statement: "d", query: "SELECT 1, 2, 3")), .describe(.statement("d")),
                .bind(.init(statement: "d", resultFormats: two)),
            ]
            // As many as libpq lets a server describe are fewer than may be bound.
            let many = "SELECT " + (1...8_000).map { "$\($0)::int" }.joined(separator: ", ")
            let cases: [([FrontendMessage], failure: String?)] = [
                ([.parse(.init(statement: "m", query: many)), .describe(.statement("m")), .sync], "0A000"),
                (run(declare), "25P01"), (run("LOCK TABLE t"), "25P01"),
                ([.query("\(declare); FETCH c")], nil), ([.query("LOCK TABLE t; SELECT 1")], nil),
                (run("SELECT id, n, 1 FROM t", two), "08P01"), (described + execute, "08P01"),
                (run("UPDATE t SET n = 1 RETURNING n", two), "08P01"), (run("SHOW TimeZone", two), "08P01"),
                (run("SHOW ALL", two), "08P01"), (run("EXPLAIN SELECT 1", two), "08P01"),
                ([.query("SELECT 1; VACUUM t")], "25001"), ([.query("SELECT 1; DISCARD ALL")], "25001"),
                ([.query("INSERT INTO t VALUES (9, 9); COMMIT; SELECT $0")], "42P02"),
                ([.query("INSERT INTO t VALUES (9, 9)")], "23505"), ([.query("SET LOCAL nope = 1")], "42704"),
                ([.query("RESET nope")], "42704"),
                (run("SELECT id, n FROM t", two), nil), (run("UPDATE t SET n = 1", two), nil), (run("", two), nil),
                ([.parse(.init(query: "SET work_mem = '5MB'")), .bind(.init()), .execute(.init())] + execute, "55000"),
                ([.query("BEGIN READ ONLY; COPY nowhere FROM STDIN")], "42P01"), ([.query("ROLLBACK")], nil),
            ]
            let client = try await served.rawClient()
            for (messages, failure) in cases {
                for message in messages { await client.send(message) }
                #expect(error(try await client.messagesToReady())?[.sqlState] == failure, "\(messages)")
            }
            client.hangUp()
        }
    }
}
