import ShardBackend
import Synchronization
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

@Suite(.serialized) struct SessionNotificationTests {
    /// A client that remembers what it is notified of.
    private final class Listener: Sendable {
        let client: ShardConnection
        private let heard: Heard

        private final class Heard: Sendable {
            let messages = Mutex<[String]>([])
            let isClosed = Mutex(false)
        }

        init(_ served: ServedShards) async throws {
            let heard = Heard()
            self.heard = heard
            client = try await ShardConnection.connect(
                to: try ConnectionSettings(served.conninfo), on: served.shards.loop, deadline: .now + .seconds(10),
                handlers: .init(
                    notification: { message in
                        heard.messages.withLock { $0.append("\(message.channel) \(message.payload)") }
                    }, closed: { _ in heard.isClosed.withLock { $0 = true } }))
        }

        var messages: [String] { heard.messages.withLock { $0 } }

        /// Whether the last message is this one, in the end.
        func hears(_ last: String) async -> Bool { await eventually { messages.last == last } }

        var isClosed: Bool { heard.isClosed.withLock { $0 } }
    }

    private static func with(_ body: (ServedShards, Listener, ShardConnection) async throws -> Void) async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
                try await client.text("INSERT INTO t SELECT g FROM generate_series(1, 30) AS g")
                let listener = try await Listener(served)
                try await listener.client.text("LISTEN news")
                try await body(served, listener, client)
                await listener.client.close()
            }
        }
    }

    @Test("a notification comes with the commit, over any shards, in order and once for several alike")
    func commits() async throws {
        try await Self.with { _, listener, client in
            try await client.text("NOTIFY news, 'first'; NOTIFY other, 'unheard'")
            #expect(await listener.hears("news first"))
            try await client.text("BEGIN; NOTIFY news, 'a'; UPDATE t SET n = 1; NOTIFY news, 'b'; NOTIFY news, 'a'")
            try await client.text("SAVEPOINT s; NOTIFY news, 'undone'; ROLLBACK TO s; SELECT pg_notify('news', 'c')")
            // Another's comes first: it commits first.
            try await listener.client.text("NOTIFY news, 'own'")
            #expect(await listener.hears("news own"))
            try await client.text("COMMIT")
            #expect(await listener.hears("news c"))
            try await client.text("BEGIN; NOTIFY news, 'lost'; UPDATE t SET n = 2; ROLLBACK; NOTIFY news")
            #expect(await listener.hears("news "))
            #expect(
                listener.messages == ["news first", "news own", "news a", "news b", "news c", "news "])
            #expect(try await client.text("SELECT DISTINCT n FROM t") == "1")
            let bound = SQLStatement("SELECT pg_notify($1, $2)", ["news", "bound"], parameterTypes: [25, 25])
            _ = try await client.run(bound)
            #expect(await listener.hears("news bound"))
        }
    }

    @Test("what was committed with a notification is seen by who hears it")
    func seen() async throws {
        try await Self.with { _, listener, client in
            for number in 1...20 {
                // Whichever shard is written first.
                try await client.text("BEGIN; UPDATE t SET n = 0 WHERE id = \(number); NOTIFY news, '\(number)'")
                try await client.text("UPDATE t SET n = \(number); COMMIT")
                #expect(await listener.hears("news \(number)"))
                #expect(try await listener.client.text("SELECT DISTINCT n FROM t") == "\(number)")
            }
        }
    }

    @Test("within a transaction nothing is told; LISTEN and UNLISTEN take effect with the commit")
    func blocks() async throws {
        try await Self.with { served, listener, client in
            let witness = try await Listener(served)
            try await witness.client.text("LISTEN news; LISTEN more")
            try await listener.client.text("BEGIN; LISTEN more; SELECT 1")
            try await client.text("NOTIFY news, '1'; NOTIFY more, '2'")
            #expect(await witness.hears("more 2"))
            try await listener.client.text("SELECT 1")
            #expect(listener.messages == [])
            try await listener.client.text("ROLLBACK")
            #expect(await listener.hears("news 1"))
            try await listener.client.text("BEGIN; LISTEN more; UNLISTEN news; COMMIT; SELECT 1")
            try await client.text("NOTIFY news, '3'; NOTIFY more, '4'")
            #expect(await listener.hears("more 4"))
            #expect(listener.messages == ["news 1", "more 4"])
            for end in ["UNLISTEN *", "DISCARD ALL"] {
                try await listener.client.text("LISTEN news; \(end == "DISCARD ALL" ? "SELECT 1" : end)")
                if end == "DISCARD ALL" { try await listener.client.text(end) }
                try await client.text("NOTIFY news, '\(end)'")
                #expect(await witness.hears("news \(end)"))
                try await listener.client.text("SELECT 1")
                #expect(listener.messages == ["news 1", "more 4"])
            }
            await witness.client.close()
        }
    }

    @Test("all clients of a node listen by one connection; when that is lost, they are")
    func connection() async throws {
        try await Self.with { served, listener, client in
            let count =
                "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' AND datname = current_database()"
            var others: [Listener] = []
            for number in 1...20 {
                others.append(try await Listener(served))
                try await others.last!.client.text("LISTEN news; LISTEN \"Own \(number)\"")
            }
            #expect(try await served.shards.shards[0].psql(count) == "1")
            try await client.text("NOTIFY news, 'all'; NOTIFY \"Own 7\", 'one'")
            #expect(await others[6].hears("Own 7 one"))
            for other in others { #expect(await eventually { other.messages.first == "news all" }) }
            try await served.shards.shards[0].psql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %' "
                    + "AND datname = current_database()")
            for other in others + [listener] { #expect(await eventually { other.isClosed }) }
            // Who comes again is heard again.
            let again = try await Listener(served)
            try await again.client.text("LISTEN news")
            try await client.text("NOTIFY news, 'again'")
            #expect(await again.hears("news again"))
            await again.client.close()
        }
    }

    @Test("what PostgreSQL refuses is refused")
    func refused() async throws {
        try await Self.with { _, _, client in
            #expect(await client.failure("SELECT pg_notify('', 'x')") == "22023")
            #expect(await client.failure("SELECT pg_notify('news', repeat('x', 8000))") == "0A000")
            #expect(await client.failure("NOTIFY news, '\(String(repeating: "x", count: 8_000))'") == "22023")
            #expect(await client.failure("SELECT pg_notify('news', 'x') FROM t") == "0A000")
        }
    }
}
