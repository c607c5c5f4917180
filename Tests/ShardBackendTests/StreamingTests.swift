import ShardBackend
import Synchronization
import TestSupport
import Testing

@Suite struct StreamingTests {
    @Test("a stream gives every row once, and the connection is free afterwards")
    func wholeStream() async throws {
        try await withConnection { connection, _ in
            for count in [Int64(0), 1, 127, 128, 129, 100_000] {
                var last: Int64 = 0
                let statement = SQLStatement("SELECT generate_series(1, $1::bigint)", [.int64(count)])
                for try await row in try await connection.stream(statement) {
                    let number = try row.int64(0)
                    if number != last + 1 { Issue.record("\(number) after \(last)") }
                    last = number
                }
                #expect(last == count)
            }
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
        }
    }

    @Test("an error in the middle of a stream is thrown, and the connection stays usable")
    func failingStream() async throws {
        try await withConnection { (connection, _) async throws in
            let error = await expectShardError {
                let rows = try await connection.stream("SELECT 1 / (5000 - generate_series(1, 10000))")
                for try await _ in rows {}
            }
            #expect(error?.serverFields?.message == "division by zero")
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
        }
    }

    @Test("a consumer that stops reading stops the server")
    func backPressure() async throws {
        try await withConnection { connection, shard in
            let statement: SQLStatement = "SELECT generate_series(1, 20000), repeat('x', 10000)"
            let rows = try await connection.stream(statement)
            var iterator = rows.makeAsyncIterator()
            _ = try await iterator.next()
            let process = await connection.processID
            let waits = "SELECT wait_event FROM pg_stat_activity WHERE pid = \(process)"
            try await waitUntil("the server to wait for us") { try await shard.ask(waits) == "ClientWrite" }
            var count = 1
            while try await iterator.next() != nil { count += 1 }
            #expect(count == 20_000)
        }
    }

    @Test("a stream dropped early is stopped on the server, and the connection serves the next request")
    func droppedStream() async throws {
        try await withConnection { connection, _ in
            for _ in 0..<3 {
                for try await row in try await connection.stream("SELECT generate_series(1, 100000000)") {
                    if try row.int64(0) == 1000 { break }
                }
                #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
            }
        }
    }

    @Test("COPY brings in what was cut into single bytes, and takes out the same")
    func copyBothWays() async throws {
        try await withConnection { connection, _ in
            _ = try await connection.runSimple("CREATE TABLE t (a int, b text)")
            let lines = (1...300).map { "\($0)\tline \($0)\n" }
            let bytes = AsyncStream { continuation in
                for line in lines { for byte in line.utf8 { continuation.yield([byte]) } }
                continuation.finish()
            }
            #expect(try await connection.copyIn("COPY t FROM STDIN", from: bytes) == 300)
            var copied: [UInt8] = []
            for try await chunk in try await connection.copyOut("COPY (SELECT * FROM t ORDER BY a) TO STDOUT") {
                copied += chunk
            }
            #expect(copied == lines.flatMap(\.utf8))
            let none = AsyncStream<[UInt8]> { $0.finish() }
            #expect(try await connection.copyIn("COPY t FROM STDIN", from: none) == 0)
        }
    }

    @Test("COPY asks for more only when the socket has taken what it got")
    func copyBackPressure() async throws {
        try await withConnection { connection, shard in
            _ = try await connection.runSimple("CREATE TABLE t (b bytea)")
            let process = await connection.processID
            let asked = Mutex(0)
            let chunk = Array((String(repeating: "61", count: 30_000) + "\n").utf8)
            let chunks = AsyncStream<[UInt8]> {
                let count = asked.withLock {
                    $0 += 1; return $0
                }
                return count > 2000 ? nil : Array("\\\\x".utf8) + chunk
            }
            try await shard.ask(
                """
                CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql
                AS $$ BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NEW; END $$;
                CREATE TRIGGER t BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()
                """
            )
            let blocker = try await shard.connect()
            _ = try await blocker.run("SELECT pg_advisory_lock(1)")
            let copy = Task { try await connection.copyIn("COPY t FROM STDIN", from: chunks) }
            try await waitUntil("the server to be held up") {
                try await shard.ask("SELECT wait_event_type FROM pg_stat_activity WHERE pid = \(process)") == "Lock"
            }
            var before = -1
            try await waitUntil("the copy to stand still") {
                defer { before = asked.withLock { $0 } }
                try await Task.sleep(for: .milliseconds(50))
                return before == asked.withLock { $0 }
            }
            #expect(before < 500, "libpq's buffer took it all")
            await blocker.close()
            #expect(try await copy.value == 2000)
        }
    }

    @Test("COPY that fails, on either side, copies nothing and leaves the connection usable")
    func failingCopy() async throws {
        struct Broken: Error {}
        try await withConnection { connection, _ in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            let broken = AsyncThrowingStream<[UInt8], any Error> { continuation in
                continuation.yield(Array("1\n".utf8))
                continuation.finish(throwing: Broken())
            }
            await #expect(throws: Broken.self) { try await connection.copyIn("COPY t FROM STDIN", from: broken) }
            let bad = AsyncStream<[UInt8]> { continuation in
                for _ in 0..<1000 { continuation.yield(Array("no number\n".utf8)) }
                continuation.finish()
            }
            let error = await expectShardError { _ = try await connection.copyIn("COPY t FROM STDIN", from: bad) }
            #expect(error?.serverFields?.context?.hasPrefix("COPY t, line 1") == true)
            await expectShardError({ $0.kind == .invalidUse }) { _ = try await connection.copyOut("SELECT 1") }
            await expectShardError({ $0.kind == .invalidUse }) {
                _ = try await connection.copyIn("COPY t TO STDOUT", from: bad)
            }
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)
        }
    }

    @Test(
        "COPY in a pipeline costs the connection, but neither hangs nor crashes",
        arguments: ["FROM STDIN", "TO STDOUT"])
    func copyInPipeline(direction: String) async throws {
        try await withConnection { connection, _ in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            await expectShardError({ $0.kind == .connectionLost }) {
                _ = try await connection.run(["SELECT 1", SQLStatement("COPY t \(direction)")])
            }
            #expect(await !connection.isOpen)
        }
    }
}
