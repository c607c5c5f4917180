import EventLoops
import Foundation
import PostgresWire
import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

/// Results that are handed on as they arrive.
@Suite(.serialized) struct SessionStreamTests {
    private static let columns = "CREATE TABLE t (id bigint PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);"

    /// Rows 1 to `count`, of which each value has `width` characters.
    private static func fill(_ client: ShardConnection, _ count: Int, width: Int = 1) async throws {
        try await client.text(columns)
        for start in stride(from: 1, through: count, by: 5_000) {
            let rows = (start...min(start + 4_999, count)).map { "(\($0), repeat('x', \(width)))" }
            try await client.text("INSERT INTO t (id, v) VALUES \(rows.joined(separator: ", "))")
        }
    }

    private static func residentBytes() throws -> Int {
        let pages = try String(contentsOfFile: "/proc/self/statm", encoding: .utf8).split(separator: " ")
        return (Int(pages[1]) ?? 0) * 4_096
    }

    /// The rows of a stream, and the most memory that the process took meanwhile beyond what it had.
    private static func count(_ rows: SQLRowStream, pause: Duration) async throws -> (count: Int, growth: Int) {
        let before = try residentBytes()
        var count = try await rows.nextBatch()?.count ?? 0
        try await Task.sleep(for: pause)
        var growth = try residentBytes() - before
        while let batch = try await rows.nextBatch() {
            count += batch.count
            if count % 1_000 < batch.count { growth = max(growth, try residentBytes() - before) }
        }
        return (count, growth)
    }

    @Test(
        "a large result takes little memory, whether its client reads on or not",
        arguments: ["SELECT id, v FROM t", "BEGIN; UPDATE t SET n = 1 WHERE id = 1; SELECT id, v FROM t"])
    func flatMemory(script: String) async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await Self.fill(client, 20_000, width: 5_000)
                let statements = script.split(separator: "; ").map(String.init)
                for statement in statements.dropLast() { try await client.text(statement) }
                let rows = try await client.stream(SQLStatement(statements.last!), patience: .seconds(20))
                let (count, growth) = try await Self.count(rows, pause: .seconds(1))
                #expect(count == 20_000)
                // The whole is 100 MB.
                #expect(growth < 32 << 20, "\(growth >> 20) MiB")
            }
        }
    }

    @Test("rows that are on their way are those of the snapshot, whatever commits meanwhile, on every shard")
    func oneSnapshot() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await Self.fill(client, 30_000, width: 500)
                let rows = try await client.stream("SELECT n FROM t")
                var sum = try await rows.nextBatch()?.reduce(0) { $0 + (try $1.int64(0)) }
                _ = try await served.session { try await $0.text("UPDATE t SET n = 1") }
                while let batch = try await rows.nextBatch() {
                    sum = try batch.reduce(sum ?? 0) { $0 + (try $1.int64(0)) }
                }
                #expect(sum == 0)
                #expect(try await client.text("SELECT sum(n) FROM t") == "30000")
            }
        }
    }

    @Test(
        "a stream that a commit overtook before its snapshot is read at its timestamp, COPY's too (R10)",
        arguments: [false, true])
    func overtakenStream(isCopy: Bool) async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine { engine in
                _ = try await engine.makeBank()
                try await shards.waitUntilSettled()
                let shard = shards.ids[0]
                var read = ClientStatement(
                    SQLStatement("SELECT balance FROM account WHERE id = 0"), searchPath: ["bank"],
                    preparation: { _ in ["SELECT set_config('search_path', 'bank', false)"] })
                let snapshot = try await engine.snapshot()
                func balance(_ read: ClientStatement) async throws -> Int64? {
                    if isCopy {
                        let copy = try await snapshot.copiesOut(of: read, on: [shard]) { query, _ in
                            "COPY (\(query)) TO STDOUT"
                        }[0]
                        var lines: [String] = []
                        while let batch = try await copy.next() {
                            lines += (0..<batch.count).map {
                                batch.withBytes($0) { String(decoding: $0, as: UTF8.self) }
                            }
                        }
                        return lines.first.flatMap { Int64($0.dropLast()) }
                    }
                    let stream = try await snapshot.streams(of: read, on: [shard])[0]
                    var balances: [Int64] = []
                    while let batch = try await stream.next() { balances += try batch.map { try $0.int64(0) } }
                    return balances.first
                }
                let before = try #require(try await balance(read))
                #expect(await engine.currentStatistics().readsOfThePast == 0)

                let writer = try await engine.begin()
                _ = try await writer.execute("UPDATE bank.account SET balance = balance - 10 WHERE id = 0", on: shard)
                // The server's process that reads stands still until the commit, and takes its snapshot then.
                let found = try await shards.shards[0].psql(
                    """
                    SELECT pid FROM pg_stat_activity WHERE datname = current_database()
                        AND query LIKE '%SELECT balance FROM account%' AND pid <> pg_backend_pid()
                    """)
                let process = try #require(pid_t(found))
                // The session knows its settings already: nothing is sent before it is looked whether all is quiet.
                read.preparation = nil
                kill(process, SIGSTOP)
                defer { kill(process, SIGCONT) }
                async let overtaken = balance(read)
                try await engine.loop.sleep(until: .now + .milliseconds(200))
                _ = try await writer.commit()
                kill(process, SIGCONT)
                #expect(try await overtaken == before)
                #expect(await engine.currentStatistics().readsOfThePast == 1)
            }
        }
    }

    @Test("rows read in part count as read: a write after them fails if any of the result has changed")
    func partlyRead() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await Self.fill(client, 2_000)
                for changes in [false, true] {
                    let reader = try await served.rawClient()
                    await reader.send(
                        .query("BEGIN"), .parse(.init(query: "SELECT id, n FROM t")), .bind(.init()),
                        .execute(.init(rowsMax: 5)), .flush)
                    let started = try await reader.messages { $0 == .portalSuspended }
                    #expect(rows(started).count == 5)
                    if changes { try await client.text("UPDATE t SET n = n + 1 WHERE id = 1999") }
                    await reader.send(
                        .parse(.init(statement: "w", query: "UPDATE t SET n = 7 WHERE id = 2")),
                        .bind(.init(portal: "w", statement: "w")), .execute(.init(portal: "w")), .sync)
                    let written = try await reader.messagesToReady()
                    #expect(error(written)?[.sqlState] == (changes ? "40001" : nil))
                    await reader.send(.query(changes ? "ROLLBACK" : "COMMIT"))
                    #expect(error(try await reader.messagesToReady()) == nil)
                    reader.hangUp()
                }
                #expect(try await client.text("SELECT n FROM t WHERE id = 2") == "7")
            }
        }
    }

    @Test(
        "a portal gives its rows in portions, before and after a write of its transaction",
        arguments: [[], ["UPDATE t SET n = 1 WHERE id = 1"]])
    func portions(before: [String]) async throws {
        try await ServedShards.with(3) { served in
            try await served.session { try await Self.fill($0, 1_000) }
            let client = try await served.rawClient()
            await client.send(.query((["BEGIN"] + before).joined(separator: "; ")))
            #expect(error(try await client.messagesToReady()) == nil)
            await client.send(.parse(.init(query: "SELECT id FROM t")), .bind(.init(portal: "p")), .flush)
            var ids: [String] = []
            for portion in 0..<4 {
                await client.send(.execute(.init(portal: "p", rowsMax: 300)), .flush)
                let messages = try await client.messages { message in
                    if case .commandComplete(let tag) = message { return tag == "SELECT 100" }
                    return message == .portalSuspended
                }
                ids += rows(messages)
                #expect(ids.count == min(1_000, (portion + 1) * 300), "\(messages.suffix(1))")
            }
            #expect(Set(ids).count == 1_000)
            await client.send(
                .execute(.init(portal: "p", rowsMax: 300)), .close(.portal("p")), .sync, .query("COMMIT"))
            let end = try await client.messagesToReady()
            #expect(end.contains(.commandComplete("SELECT 0")) && error(end) == nil)
            #expect(error(try await client.messagesToReady()) == nil)
            client.hangUp()
        }
    }

    @Test("an error after rows have been sent is told behind them, and the session goes on")
    func lateError() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await Self.fill(client, 5_000, width: 100)
                let raw = try await served.rawClient()
                await raw.send(.query("SELECT id, v, 1 / (id - 4999) FROM t"))
                let messages = try await raw.messagesToReady()
                #expect(error(messages)?[.sqlState] == "22012")
                #expect(rows(messages).count > 100)
                await raw.send(.query("SELECT count(*) FROM t"))
                #expect(rows(try await raw.messagesToReady()) == ["5000"])
                raw.hangUp()
            }
        }
    }

    @Test(
        "a result that breaks off within a savepoint counts as read; going back lets the transaction go on",
        arguments: [[], ["UPDATE t SET n = 1 WHERE id = 1"]])
    func brokenOff(before: [String]) async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await Self.fill(client, 5_000, width: 100)
                let broken = "SELECT id, v, 1 / (id - 4999) FROM t"
                try await client.text((["BEGIN"] + before + ["SAVEPOINT s"]).joined(separator: "; "))
                #expect(await client.failure(broken) == "22012")
                try await client.text("ROLLBACK TO s")
                let failure = await client.failure("UPDATE t SET n = 2 WHERE id = 2; COMMIT")
                // At the snapshot, nobody can tell whether what was sent is still so.
                #expect(failure == (before.isEmpty ? "40001" : nil))
                if failure != nil { try await client.text("ROLLBACK") }
                #expect(try await client.text("SELECT sum(n) FROM t") == (before.isEmpty ? "0" : "3"))
            }
        }
    }

    @Test(
        "a result that is given up before it was read fails its part of the transaction, and not what comes after that")
    func givenUp() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { try await Self.fill($0, 2_000) }
            let client = try await served.rawClient()
            await client.send(
                .parse(.init(statement: "s", query: "SELECT * FROM t")), .describe(.statement("s")), .sync)
            _ = try await client.messagesToReady()
            await client.send(.query("BEGIN"), .query("ALTER TABLE t ADD COLUMN more int"), .query("SAVEPOINT s"))
            for _ in 0..<3 { #expect(error(try await client.messagesToReady()) == nil) }
            // It has other columns now than the client was told, which is seen when its rows are on their way.
            await client.send(
                .bind(.init(statement: "s")), .execute(.init()), .sync, .query("ROLLBACK TO s"),
                .query("SELECT count(*) FROM t"), .query("COMMIT"))
            #expect(error(try await client.messagesToReady())?[.sqlState] == "0A000")
            #expect(error(try await client.messagesToReady()) == nil)
            #expect(rows(try await client.messagesToReady()) == ["2000"])
            #expect(error(try await client.messagesToReady()) == nil)
            client.hangUp()
        }
    }

    @Test("a read on several shards that waits for one who waits for it is found within a second, and waits in line")
    func deadlock() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                // More than there is room for on the way: the read keeps its locks until its client has taken the rows.
                try await Self.fill(client, 20_000, width: 1_000)
                try await served.shards.waitUntilSettled()
                let writer = try await served.engine.begin()
                let lock = SQLStatement("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
                // The first shard is asked what the columns are.
                _ = try await writer.execute(lock, on: served.engine.shards[1])
                async let count = Self.count(try await client.stream("SELECT id, v FROM t"), pause: .zero).count
                try await Task.sleep(for: .milliseconds(300))
                let start = ContinuousClock.now
                _ = try await writer.execute(lock, on: served.engine.shards[0])
                #expect(ContinuousClock.now - start < .seconds(3))
                _ = try await writer.commit()
                #expect(try await count == 20_000)
                #expect(await served.engine.currentStatistics().deadlocks == 1)
            }
        }
    }

    @Test("clients that leave in the middle of results leave no session of a shard taken")
    func abandoned() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await Self.fill(client, 10_000, width: 1_000)
                // More than there are connections for streams.
                for _ in 0..<40 {
                    let raw = try await served.rawClient()
                    await raw.send(.query("SELECT id, v FROM t"))
                    _ = try await raw.receive()
                    raw.hangUp()
                }
                #expect(try await client.text("SELECT id FROM t WHERE v > ''").split(separator: "\n").count == 10_000)
            }
        }
    }

    @Test("a cancel request ends a result that its client does not read")
    func cancelled() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await Self.fill(client, 20_000, width: 1_000)
                let rows = try await client.stream("SELECT id, v FROM t")
                _ = try await rows.nextBatch()
                try await Task.sleep(for: .milliseconds(300))
                await client.cancel()
                await #expect(throws: ShardError.self) { while try await rows.nextBatch() != nil {} }
                #expect(try await client.text("SELECT count(*) FROM t") == "20000")
            }
        }
    }
}

extension ServedShards {
    /// A client that speaks the protocol message by message, logged in.
    func rawClient() async throws -> RawClient {
        let client = try RawClient(port: port)
        try await client.logIn(user: "meridian", database: "meridian")
        return client
    }
}

extension RawClient {
    /// Messages up to the first that is `last`, an error or ReadyForQuery.
    func messages(upTo isLast: (BackendMessage) -> Bool) async throws -> [BackendMessage] {
        var messages: [BackendMessage] = []
        while let message = try await nextMessage() {
            messages.append(message)
            if isLast(message) { break }
            if case .errorResponse = message { break }
        }
        return messages
    }
}
