import BankWorkload
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
                #expect(await engine.readPlainly(slowly, on: shard) == nil)
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
                async let first = engine.readPlainly(sleep, on: shard)
                try await engine.loop.sleep(until: .now + .milliseconds(100))
                reads = try await engine.beginLine(of: 20_000, number, on: shard)
                gate.arm()
                let transfer = Task { try await bank.transfer(10, from: 0, to: 1) }
                _ = try await gate.arrival()
                for read in reads { #expect(await read.end.isUndone) }
                #expect(await first.isUndone)
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
    /// Nil when it would not count.
    fileprivate func readPlainly(_ statement: ClientStatement, on shard: ShardID) async -> PlainRead.Outcome? {
        await withCheckedContinuation { continuation in
            let read = beginPlainRead(statement, on: shard) { continuation.resume(returning: $0) }
            if read == nil { continuation.resume(returning: nil) }
        }
    }

    fileprivate func beginLine(
        of count: Int, _ statement: ClientStatement, on shard: ShardID
    ) throws -> [BegunRead] {
        try (0..<count).map { _ in try beginWaiting(statement, on: shard) }
    }

    fileprivate func beginWaiting(_ statement: ClientStatement, on shard: ShardID) throws -> BegunRead {
        let (ends, outcomes) = AsyncStream.makeStream(of: PlainRead.Outcome.self)
        let read = try #require(beginPlainRead(statement, on: shard) { outcomes.yield($0) })
        return BegunRead(read: read, engine: self, ends: ends)
    }
}
