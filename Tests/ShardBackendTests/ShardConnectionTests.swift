import Logging
import ShardBackend
import Synchronization
import TestSupport
import Testing
import TransactionCore

@Suite struct ShardConnectionTests {
    @Test("values go to the server and come back unchanged, in text and in binary format")
    func values() async throws {
        try await withConnection { connection, _ in
            for format in [SQLStatement.Format.text, .binary] {
                let statement = SQLStatement(
                    "SELECT $1::bigint, $2::text, $3::bytea, $4::float8, $5::boolean, $6::text, $7::int2, $8::oid",
                    [
                        .int64(.min), .text("Grüße, 世界 '\"\\"), .bytes([0, 1, 255, 0x5C]), 0.1, true, nil, -7,
                        4_000_000_000,
                    ], resultFormat: format)
                let row = try #require(try await connection.run(statement).first)
                #expect(try row.int64(0) == .min)
                #expect(try row.text(1) == "Grüße, 世界 '\"\\")
                #expect(try row.bytes(2) == [0, 1, 255, 0x5C])
                #expect(try row.double(3) == 0.1)
                #expect(try row.bool(4))
                #expect(try row.isNull(5))
                #expect(try row.int64(6) == -7)
                #expect(try row.int64(7) == 4_000_000_000)
            }
        }
    }

    @Test("reading a value as what it is not throws and does not trap")
    func decodingErrors() async throws {
        try await withConnection { connection, _ in
            for format in [SQLStatement.Format.text, .binary] {
                let statement = SQLStatement("SELECT 'x'::text, NULL::int, 9.5::numeric", resultFormat: format)
                let row = try #require(try await connection.run(statement).first)
                await expectShardError({ $0.kind == .decoding }) { _ = try row.int64(0) }
                await expectShardError({ $0.kind == .decoding }) { _ = try row.int64(1) }
                await expectShardError({ $0.kind == .decoding }) { _ = try row.int64(2) }
                await expectShardError({ $0.kind == .decoding }) { _ = try row.bool(0) }
                await expectShardError({ $0.kind == .decoding }) { _ = try row.text(3) }
                await expectShardError({ $0.kind == .decoding }) { _ = try row.text(-1) }
            }
        }
    }

    @Test("a pipeline returns one result per statement, in order")
    func pipeline() async throws {
        try await withConnection { connection, _ in
            let results = try await connection.run([
                "CREATE TABLE account (id int PRIMARY KEY, balance bigint)",
                SQLStatement("INSERT INTO account SELECT g, 100 FROM generate_series(1, $1::int) g", [3]),
                "SELECT id, balance FROM account WHERE id > 100",
                SQLStatement("SELECT id AS number, balance FROM account ORDER BY id"),
            ])
            #expect(results.map(\.commandTag) == ["CREATE TABLE", "INSERT 0 3", "SELECT 0", "SELECT 3"])
            #expect(results.map(\.affectedRows) == [0, 3, 0, 3])
            #expect(results[2].isEmpty)
            #expect(results[3].columnNames == ["number", "balance"])
            #expect(try results[3].map { try $0.int64(0) } == [1, 2, 3])
            #expect(await connection.transactionStatus == .idle)
        }
    }

    @Test("an error names the statement, keeps all of PostgreSQL's fields, and ends its pipeline only")
    func errorInPipeline() async throws {
        try await withConnection { connection, _ in
            _ = try await connection.run([
                "CREATE TABLE account (id int PRIMARY KEY, balance bigint CONSTRAINT no_debt CHECK (balance >= 0))"
            ])
            let good = SQLStatement("INSERT INTO account VALUES ($1, 5)", [1])
            let first = Task {
                try await connection.run([good, SQLStatement("INSERT INTO account VALUES ($1, -5)", [2]), good])
            }
            let second = Task { try await connection.run([SQLStatement("SELECT count(*) FROM account")]) }
            let error = await expectShardError { _ = try await first.value }
            #expect(error?.statementIndex == 1)
            #expect(error?.sqlState.errorClass == "23")
            let fields = try #require(error?.serverFields)
            #expect(fields.severity == "ERROR")
            #expect(fields.constraint == "no_debt")
            #expect(fields.schema == "public" && fields.table == "account")
            #expect(fields.detail == "Failing row contains (2, -5).")
            #expect(fields.routine == "ExecConstraints" && fields.file != nil && fields.line != nil)
            let letters = fields.all.map { Character(UnicodeScalar($0.field.rawValue)) }
            #expect(String(letters) == "SVCMDstnFLR", "all that was sent, in PostgreSQL's order")
            #expect(fields.all.allSatisfy { fields[$0.field] == $0.value })
            #expect(try await second.value[0][0].int64(0) == 0, "the failed pipeline was one transaction")
            let syntax = await expectShardError { _ = try await connection.run(["SELECT 1", "SELECT nonsense"]) }
            #expect(syntax?.serverFields?.position == 8)
            #expect(syntax?.statementIndex == 1)
        }
    }

    @Test("pipelines of several tasks are under way together on one connection, and each gets its own answer")
    func concurrentPipelines() async throws {
        try await withConnection { connection, _ in
            try await withThrowingTaskGroup(of: Bool.self) { group in
                for number in 0..<200 {
                    group.addTask {
                        let statement = SQLStatement(
                            "SELECT $1::bigint / ($2::bigint)", [.int64(Int64(number)), .int64(Int64(number % 7))])
                        do {
                            return try await connection.run([statement])[0][0].int64(0) == number / (number % 7)
                        } catch let error as ShardError {
                            return number % 7 == 0 && error.serverFields != nil
                        }
                    }
                }
                for try await isRight in group { #expect(isRight) }
            }
        }
    }

    @Test("a thousand statements in one pipeline are answered")
    func longPipeline() async throws {
        try await withConnection { connection, _ in
            let statements = (0..<1000).map { SQLStatement("SELECT $1::bigint", [.int64($0)]) }
            let results = try await connection.run(statements)
            #expect(try results.map { try $0[0].int64(0) } == Array(0..<1000))
        }
    }

    @Test("a pipeline larger than the sockets' buffers in both directions does not lock up")
    func largePipeline() async throws {
        try await withConnection { connection, _ in
            let megabyte = [UInt8](repeating: 7, count: 1 << 20)
            let statements = (0..<30).map { _ in SQLStatement("SELECT $1::bytea", [.bytes(megabyte)]) }
            let results = try await connection.run(statements, deadline: .now + .seconds(30))
            #expect(try results.allSatisfy { try $0[0].bytes(0) == megabyte })
        }
    }

    @Test("a value of ten megabytes survives the way there and back")
    func largeValue() async throws {
        try await withConnection { connection, _ in
            let text = String(repeating: "0123456789", count: 1_000_000)
            let result = try await connection.run(SQLStatement("SELECT $1::text, length($1)", [.text(text)]))
            #expect(try result[0].text(0) == text)
            #expect(try result[0].int64(1) == 10_000_000)
        }
    }

    @Test("what libpq would cut off at a NUL is refused")
    func nulCharacters() async throws {
        try await withConnection { connection, _ in
            await expectShardError({ $0.kind == .invalidUse && $0.statementIndex == 1 }) {
                _ = try await connection.run(["SELECT 1", SQLStatement("SELECT $1::text", ["a\0b"])])
            }
            await expectShardError({ $0.kind == .invalidUse }) {
                _ = try await connection.run("SELECT 1\0; DROP TABLE account")
            }
        }
    }

    @Test("an empty pipeline and an empty statement are answered")
    func nothing() async throws {
        try await withConnection { connection, _ in
            let (none, empty) = (try await connection.run([]), try await connection.run(""))
            #expect(none.isEmpty && empty.isEmpty)
            let script = try await connection.runSimple("")
            #expect(script.reduce(0) { $0 + $1.count } == 0)
        }
    }

    @Test("a script runs as one transaction and names the statement that failed")
    func scripts() async throws {
        try await withConnection { connection, _ in
            let results = try await connection.runSimple(
                "CREATE TABLE a (i int); INSERT INTO a VALUES (1), (2); SELECT sum(i) FROM a")
            #expect(results.map(\.commandTag) == ["CREATE TABLE", "INSERT 0 2", "SELECT 1"])
            #expect(try results[2][0].int64(0) == 3)
            let error = await expectShardError {
                _ = try await connection.runSimple("DELETE FROM a; SELECT 1 / 0; DELETE FROM a")
            }
            #expect(error?.statementIndex == 1)
            await expectShardError({ $0.kind == .invalidUse }) {
                _ = try await connection.runSimple("COPY a FROM STDIN; SELECT 1")
            }
            await expectShardError({ $0.kind == .invalidUse }) {
                _ = try await connection.runSimple("COPY a TO STDOUT; SELECT 1")
            }
            #expect(try await connection.run("SELECT count(*) FROM a")[0].int64(0) == 2)
        }
    }

    @Test("transaction status follows the session")
    func transactionStatus() async throws {
        try await withConnection { connection, _ in
            _ = try await connection.run("BEGIN")
            #expect(await connection.transactionStatus == .inTransaction)
            await expectShardError { _ = try await connection.run("SELECT 1 / 0") }
            #expect(await connection.transactionStatus == .inFailedTransaction)
            #expect(try await connection.run("COMMIT").commandTag == "ROLLBACK")
            #expect(await connection.transactionStatus == .idle)
        }
    }

    @Test("notices and notifications reach their handlers")
    func unaskedMessages() async throws {
        try await TestCluster.withShards { shards in
            let received = RecordingHandlers()
            let connection = try await shards[0].connect(handlers: received.handlers)
            _ = try await connection.run(["DO $$ BEGIN RAISE NOTICE 'seen'; END $$", "LISTEN news"])
            #expect(received.notices.withLock { $0 } == ["seen"])
            try await shards[0].ask("NOTIFY news, 'idle'")
            try await waitUntil("a notification") { !received.notifications.withLock { $0.isEmpty } }
            let notification = try #require(received.notifications.withLock { $0.first })
            #expect(notification.channel == "news" && notification.payload == "idle")
            await connection.close()
        }
    }
}

@Suite struct NoticeTests {
    @Test("notices go where the holder of a connection wants them, and elsewhere when it is given back")
    func handler() async throws {
        try await TestCluster.withShards { shards in
            let loop = try TestLoop.shared()
            let pool = try ConnectionPool(
                settings: shards[0].settings, bound: 1, on: loop, label: "test", logger: Logger(label: "test"))
            let received = Mutex<[PostgresErrorFields]>([])
            let raise = SQLStatement(
                "DO $$ BEGIN RAISE WARNING 'seen' USING DETAIL = 'all', HINT = 'of it', ERRCODE = '01ABC'; END $$")
            for round in 1...3 {
                let connection = try await pool.lease(deadline: .now + .seconds(30))
                if round != 2 {
                    await connection.setNoticeHandler { fields in received.withLock { $0.append(fields) } }
                }
                _ = try await connection.run(raise)
                #expect(received.withLock { $0.count } == (round + 1) / 2)
                await pool.giveBack(connection)
            }
            let fields = try #require(received.withLock { $0.first })
            #expect(fields.severity == "WARNING" && fields[.localizedSeverity] == "WARNING")
            #expect(fields.message == "seen" && fields.detail == "all" && fields.hint == "of it")
            #expect(fields.sqlState.rawValue == "01ABC" && fields.context?.isEmpty == false)
            await pool.close()
        }
    }
}

/// Remembers what the server sent without being asked.
private final class RecordingHandlers: Sendable {
    let notices = Mutex<[String]>([])
    let notifications = Mutex<[ShardConnection.Notification]>([])

    var handlers: ShardConnection.Handlers {
        .init(
            notice: { fields in self.notices.withLock { $0.append(fields.message) } },
            notification: { notification in self.notifications.withLock { $0.append(notification) } })
    }
}
