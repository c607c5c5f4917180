import BankWorkload
import NIOCore
import PostgresWire
import ShardBackend
import TestSupport
import Testing
import TransactionCore

@testable import TransactionEngine

/// Reads without a task: at the engine, and as clients get them.
@Suite struct PlainReadTests {
    @Test("a plain read counts only if nothing was in flight on its shard and no commit came meanwhile (R8, R10)")
    func overtaken() async throws {
        let gate = CommitGate(at: .afterPrepareBeforeDecision)
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = gate.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                // What the session is told first comes after the shard was found quiet, and before the read's snapshot.
                let slowly = ClientStatement(
                    SQLStatement("SELECT sum(balance)::bigint FROM bank.account WHERE id IN (1, 3)"), searchPath: [],
                    preparation: { _ in ["SELECT pg_sleep(1)"] })
                let shard = shards.ids[1]
                #expect(try await engine.readPlainly(slowly, on: shard).rows?[0].int64(0) == 200)

                gate.arm()
                async let overtaken = engine.readPlainly(slowly, on: shard)
                try await engine.loop.sleep(until: .now + .milliseconds(100))
                // T1 is prepared and undecided; T2 gets a later timestamp and is acknowledged. What the read is about
                // to see, T2 without T1, is the state at no timestamp.
                let first = Task { try committed(try await bank.transfer(10, from: 0, to: 1)) }
                let id = try await gate.arrival()
                #expect(try committed(try await bank.transfer(5, from: 3, to: 5)) > id.commitTimestamp)
                #expect(await overtaken.isUndone)
                #expect(await engine.readPlainly(slowly, on: shard).isUndone)
                gate.open()
                #expect(try await first.value == id.commitTimestamp)
                try await shards.waitUntilSettled()
                #expect(try await engine.readPlainly(slowly, on: shard).rows?[0].int64(0) == 205)
            }
        }
    }

    @Test("a plain read after an acknowledgement does not count before that is applied on its shard (R9)")
    func acknowledged() async throws {
        let gate = CommitGate(at: .afterAnswerBeforeApply)
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = gate.hook
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                let sums = shards.ids.map { shard in
                    (shard, ClientStatement("SELECT sum(balance)::bigint FROM bank.account", searchPath: []))
                }
                func read() async throws -> [Int64?] {
                    var read: [Int64?] = []
                    for (shard, sum) in sums {
                        read.append(try await engine.readPlainly(sum, on: shard).rows?[0].int64(0))
                    }
                    return read
                }
                let before = try await read()
                gate.arm()
                _ = try committed(try await bank.transfer(10, from: 0, to: 1))
                _ = try await gate.arrival()
                // Told to its client, and not yet to be seen on the shard that is not its home.
                let then = try await read()
                #expect(zip(then, before).allSatisfy { $0 == nil || $0 != $1 }, "\(then) after \(before)")
                gate.open()
                try await shards.waitUntilSettled()
                let after = try await read()
                #expect(after.compactMap(\.self).reduce(0, +) == before.compactMap(\.self).reduce(0, +))
                #expect(zip(after, before).count(where: { $0 != $1 }) == 2)
            }
        }
    }

    @Test("a plain read waits in line for a connection, gives its place up, and ends with its shard's session")
    func waiting() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.readersMax = 1
            } _: { engine in
                try await shards.waitUntilSettled()
                let shard = shards.ids[0]
                let sleep = ClientStatement("SELECT pg_sleep(0.3)", searchPath: [])
                let number = ClientStatement("SELECT 7::bigint", searchPath: [])
                async let first = engine.readPlainly(sleep, on: shard)
                try await engine.loop.sleep(until: .now + .milliseconds(50))
                async let second = engine.readPlainly(number, on: shard)
                let third = try await engine.beginWaiting(number, on: shard)
                #expect(await third.cancelled().isUndone)
                #expect(await first.rows != nil)
                #expect(try await second.rows?[0].int64(0) == 7)

                // An error doesn't count, and leaves the session to the next.
                #expect(
                    await engine.readPlainly(ClientStatement("SELECT 1/0", searchPath: []), on: shard).isUndone)
                let prepared = ClientStatement("SELECT 1/0", searchPath: [], preparation: { _ in ["SELECT 1"] })
                #expect(await engine.readPlainly(prepared, on: shard).isUndone)
                let long = try await engine.beginWaiting(
                    ClientStatement("SELECT pg_sleep(60)", searchPath: []), on: shard)
                try await engine.loop.sleep(until: .now + .milliseconds(50))
                #expect(await long.cancelled().isUndone)
                #expect(try await engine.readPlainly(number, on: shard).rows?[0].int64(0) == 7)
            }
        }
    }

    @Test("a long line of plain reads ends when a commit overtakes it, and by nobody's cancellation but its own")
    func line() async throws {
        let gate = CommitGate(at: .afterPrepareBeforeDecision)
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.faultHook = gate.hook
                $0.readersMax = 1
                $0.admissionTimeout = .seconds(60)
            } _: { engine in
                let bank = try await engine.makeBank()
                try await shards.waitUntilSettled()
                let shard = shards.ids[1]
                let number = ClientStatement("SELECT 7::bigint", searchPath: [])
                let sleep = ClientStatement("SELECT pg_sleep(0.5)", searchPath: [])

                // A task that has the connection is cancelled, and gives it back in its own time.
                let holder = Task { try await engine.evaluate(sleep, on: shard) }
                try await engine.loop.sleep(until: .now + .milliseconds(100))
                var reads = try await engine.beginLine(of: 10, number, on: shard)
                holder.cancel()
                for read in reads { #expect(try await read.end.rows?[0].int64(0) == 7) }

                // More than a thread's stack would hold, were each called by the one before.
                let long = ClientStatement("SELECT pg_sleep(60)", searchPath: [])
                let first = try await engine.beginWaiting(long, on: shard)
                reads = try await engine.beginLine(of: 20_000, number, on: shard)
                gate.arm()
                let transfer = Task { try await bank.transfer(10, from: 0, to: 1) }
                _ = try await gate.arrival()
                #expect(await first.cancelled().isUndone)
                for read in reads { #expect(await read.end.isUndone) }
                gate.open()
                _ = try await transfer.value
            }
        }
    }

    @Test("what waited too long is told at once, and not tried a second time")
    func tooLong() async throws {
        try await EngineShards.withShared { shards in
            try await shards.engine {
                $0.readersMax = 1
                $0.statementTimeout = .seconds(1)
                $0.admissionTimeout = .milliseconds(200)
            } _: { engine in
                try await shards.waitUntilSettled()
                let shard = shards.ids[0]
                async let slow = engine.readPlainly(ClientStatement("SELECT pg_sleep(5)", searchPath: []), on: shard)
                try await engine.loop.sleep(until: .now + .milliseconds(100))
                let waiting = await engine.readPlainly(ClientStatement("SELECT 1", searchPath: []), on: shard)
                #expect(waiting.failure?.sqlState == .tooManyConnections)
                #expect(await slow.failure?.sqlState == .queryCanceled)
            }
        }
    }

    @Test("a client's lone SELECT of a row gets rows and errors as any other statement does, however many ask")
    func clients() async throws {
        try await ServedShards.with(2) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id int PRIMARY KEY, v int, s text)")
                try await client.text("INSERT INTO t VALUES (1, 100), (2, 50), (3, 33)")
                for _ in 0..<3 {
                    #expect(try await client.text("SELECT id, v, s FROM t WHERE id = 2") == "2,50,NULL")
                    #expect(try await client.text("SELECT v FROM t WHERE id = 4") == "")
                    #expect(await client.failure("SELECT v / 0 FROM t WHERE id = 1") == "22012")
                    #expect(await client.failure("SELECT nope FROM t WHERE id = 1") == "42703")
                    #expect(try await client.text("SELECT v FROM t WHERE id = 3") == "33")
                }
                let before = await served.engine.currentStatistics().plainReads
                try await client.text("SELECT v FROM t WHERE id = 3")
                #expect(await served.engine.currentStatistics().plainReads == before + 1)
                // A change of the schema, and of settings, is seen by the next one.
                try await client.text("ALTER TABLE t RENAME COLUMN v TO w")
                #expect(await client.failure("SELECT v FROM t WHERE id = 3") == "42703")
                try await client.text("SET bytea_output = 'escape'")
                for output in ["escape", "hex", "escape"] {
                    try await client.text("SET bytea_output = '\(output)'")
                    for _ in 0..<2 {
                        #expect(
                            try await client.text("SELECT '\\001a'::bytea FROM t WHERE id = 3")
                                == (output == "hex" ? "\\x0161" : "\\001a"))
                    }
                }
            }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<40 {
                    group.addTask {
                        try await served.session { client in
                            let id = number % 3 + 1
                            for _ in 0..<20 {
                                let text = try await client.text("SELECT w FROM t WHERE id = \(id)")
                                #expect(text == "\(100 / id)")
                            }
                        }
                    }
                }
                try await group.waitForAll()
            }
        }
    }

    @Test("a prepared SELECT of a row that is bound, run and done with in one go is answered as any other, by no task")
    func executions() async throws {
        try await ServedShards.with(2) { served in
            let client = try await served.rawClient()
            await client.send(
                .query("CREATE TABLE t (id int PRIMARY KEY, v int, s text)"),
                .query("INSERT INTO t VALUES (1, 100, 'a'), (2, 50, NULL), (3, 0, 'ä')"),
                .parse(.init(statement: "row", query: "SELECT id, v, s FROM t WHERE id = $1")),
                .parse(.init(statement: "typed", query: "SELECT s FROM t WHERE id = $1", parameterTypes: [23])),
                .parse(.init(statement: "broken", query: "SELECT 1 / v FROM t WHERE id = $1")),
                .parse(.init(statement: "told", query: "SELECT v FROM t WHERE id = $1")), .describe(.statement("told")),
                .parse(.init(statement: "nothing", query: "SELECT FROM t WHERE id = $1")), .sync)
            for _ in 0..<3 { #expect(error(try await client.messagesToReady()) == nil) }

            func answers(to bind: FrontendMessage.Bind, isDescribed: Bool, isLone: Bool) async throws
                -> [BackendMessage]
            {
                let described: [FrontendMessage] = isDescribed ? [.describe(.portal(""))] : []
                // A Flush has a task answer, from the same start.
                let flush: [FrontendMessage] = isLone ? [] : [.flush]
                var bytes = ByteBuffer()
                for message in [.bind(bind)] + described + flush + [.execute(.init()), .sync] {
                    message.write(to: &bytes)
                }
                await client.send(Array(bytes.readableBytesView))
                return try await client.messagesToReady()
            }
            func compare(_ bind: FrontendMessage.Bind, plainReads: Int) async throws {
                for isDescribed in [true, false] {
                    let expected = try await answers(to: bind, isDescribed: isDescribed, isLone: false)
                    let before = await served.engine.currentStatistics().plainReads
                    let answers = try await answers(to: bind, isDescribed: isDescribed, isLone: true)
                    #expect(answers == expected, "\(bind)")
                    #expect(await served.engine.currentStatistics().plainReads == before + plainReads, "\(bind)")
                }
            }
            func bind(_ statement: String, _ value: String?, _ formats: [FormatCode] = []) -> FrontendMessage.Bind {
                .init(statement: statement, parameters: [value.map { ByteBuffer(string: $0) }], resultFormats: formats)
            }
            let binary = ByteBuffer(bytes: [0, 0, 0, 3])
            try await served.shards.waitUntilSettled()
            for (bind, isPlain) in [
                (bind("row", "1"), true), (bind("row", "2"), true), (bind("row", "4"), true), (bind("row", nil), true),
                (bind("row", "1", [.binary]), true), (bind("row", "3", [.text]), true),
                (.init(statement: "typed", parameterFormats: [.binary], parameters: [binary]), true),
                (bind("told", "1"), true), (bind("broken", "1"), true), (bind("broken", "3"), false),
                (bind("row", "1", [.text, .binary, .text]), false), (bind("row", "1", [.text, .text]), false),
                (bind("row", "x"), false), (bind("row", "\u{0}"), false), (bind("nobody", "1"), false),
                (.init(statement: "row"), false),
            ] { try await compare(bind, plainReads: isPlain ? 1 : 0) }
            // It is known too late that there are no columns.
            try await compare(bind("nothing", "1"), plainReads: 1)

            await client.send(.query("ALTER TABLE t ALTER COLUMN v TYPE bigint"))
            #expect(error(try await client.messagesToReady()) == nil)
            try await served.shards.waitUntilSettled()
            for _ in 0..<2 {
                let answers = try await answers(to: bind("told", "1"), isDescribed: true, isLone: true)
                #expect(error(answers)?[.sqlState] == "0A000")
            }
            client.hangUp()
        }
    }

    @Test("a cancel request stops a lone SELECT of a row, and a client that goes takes it along")
    func cancelled() async throws {
        try await ServedShards.with(1) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id int PRIMARY KEY, v int)")
                try await client.text("INSERT INTO t VALUES (1, 10)")
                for _ in 0..<2 { #expect(try await client.text("SELECT v FROM t WHERE id = 1") == "10") }
                let waiting = """
                    SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%FROM t WHERE%'
                    """
                try await served.shards.session(on: 0) { stranger in
                    try await stranger.text("BEGIN; LOCK TABLE t")
                    let read = Task { await client.failure("SELECT v FROM t WHERE id = 1") }
                    try await waitUntil("the read waits") { try await served.shards.plain(waiting) == ["1"] }
                    await client.cancel()
                    #expect(await read.value == "57014")
                    try await waitUntil("the shard was told") { try await served.shards.plain(waiting) == ["0"] }

                    let raw = try RawClient(port: served.port)
                    try await raw.logIn(user: "meridian", database: "meridian")
                    await raw.send(.query("SELECT v FROM t WHERE id = 1"))
                    try await waitUntil("the read waits") { try await served.shards.plain(waiting) == ["1"] }
                    raw.hangUp()
                    try await waitUntil("the shard was told") { try await served.shards.plain(waiting) == ["0"] }
                    try await stranger.text("ROLLBACK")
                }
                #expect(try await client.text("SELECT v FROM t WHERE id = 1") == "10")
            }
        }
    }
}

extension PlainRead.Outcome? {
    fileprivate var rows: SQLResult? { if case .rows(let rows) = self { rows } else { nil } }
    fileprivate var isUndone: Bool { if case .undone = self { true } else { false } }
    fileprivate var failure: TransactionError? { if case .failed(let error) = self { error } else { nil } }
}

/// A plain read that was begun, and its end.
private struct BegunRead: Sendable {
    let read: PlainRead
    let engine: TransactionEngine
    let ends: AsyncStream<PlainRead.Outcome>

    var end: PlainRead.Outcome? {
        get async {
            for await outcome in ends { return outcome }
            return nil
        }
    }

    func cancelled() async -> PlainRead.Outcome? {
        engine.loop.execute { read.cancel() }
        return await end
    }
}

extension TransactionEngine {
    private func plainRead(
        _ statement: ClientStatement, on shard: ShardID, _ completion: @escaping @Sendable (PlainRead.Outcome) -> Void
    ) throws -> PlainRead {
        let preparation = statement.preparation ?? { _ in [] }
        return try #require(
            plainRead(of: statement.statement, on: shard, preparing: preparation, completion: completion))
    }

    fileprivate func readPlainly(_ statement: ClientStatement, on shard: ShardID) async -> PlainRead.Outcome? {
        await withCheckedContinuation { continuation in
            let read = try? plainRead(statement, on: shard) { continuation.resume(returning: $0) }
            if let read { read.begin() } else { continuation.resume(returning: nil) }
        }
    }

    fileprivate func beginLine(
        of count: Int, _ statement: ClientStatement, on shard: ShardID
    ) throws -> [BegunRead] {
        try (0..<count).map { _ in try beginWaiting(statement, on: shard) }
    }

    fileprivate func beginWaiting(_ statement: ClientStatement, on shard: ShardID) throws -> BegunRead {
        let (ends, outcomes) = AsyncStream.makeStream(of: PlainRead.Outcome.self)
        let read = try plainRead(statement, on: shard) { outcomes.yield($0) }
        read.begin()
        return BegunRead(read: read, engine: self, ends: ends)
    }
}
