import LocalCluster
import TestSupport
import Testing

@testable import ShardBackend

@Suite struct InterruptionTests {
    @Test("at the deadline the server is told to stop, and the connection stays usable")
    func deadline() async throws {
        try await withConnection { (connection, _) async throws in
            let start = ContinuousClock.now
            let error = await expectShardError {
                _ = try await connection.run(["SELECT 1", "SELECT pg_sleep(30)"], deadline: start + .milliseconds(100))
            }
            #expect(error?.kind == .timedOut && error?.isOutcomeUnknown == false && error?.statementIndex == 1)
            #expect(ContinuousClock.now - start < .seconds(5))
            let script = await expectShardError {
                _ = try await connection.runSimple("SELECT pg_sleep(30)", deadline: .now + .milliseconds(50))
            }
            #expect(script?.kind == .timedOut && script?.isOutcomeUnknown == false)
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
        }
    }

    @Test("a cancelled task's statement is stopped on the server, and the connection stays usable")
    func taskCancellation() async throws {
        try await withConnection { connection, _ in
            let task = Task { try await connection.run("SELECT pg_sleep(30)") }
            try await waitUntil("the request to be sent") { await connection.transactionStatus == .active }
            task.cancel()
            let error = await expectShardError { _ = try await task.value }
            #expect(error?.kind == .cancelled && error?.isOutcomeUnknown == false)
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
            let explicit = Task { try await connection.run("SELECT pg_sleep(30)") }
            try await waitUntil("the request to be sent") { await connection.transactionStatus == .active }
            await connection.cancel()
            await expectShardError({ $0.kind == .cancelled }) { _ = try await explicit.value }
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
        }
    }

    @Test("a request that is given up before its turn sends nothing and disturbs nobody")
    func waitingRequest() async throws {
        try await withConnection { connection, shard in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            let blocker = try await shard.connect()
            _ = try await blocker.run("SELECT pg_advisory_lock(1)")
            let slow = Task { try await connection.runSimple("SELECT pg_advisory_lock(1)") }
            try await waitUntil("the request to be sent") { await connection.transactionStatus == .active }
            let error = await expectShardError {
                _ = try await connection.run("INSERT INTO t VALUES (1)", deadline: .now + .milliseconds(50))
            }
            #expect(error?.kind == .timedOut && error?.isOutcomeUnknown == false)
            let cancelled = Task { try await connection.run("INSERT INTO t VALUES (1)") }
            cancelled.cancel()
            await expectShardError({ $0.kind == .cancelled }) { _ = try await cancelled.value }
            await blocker.close()
            #expect(try await slow.value.count == 1)
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)
        }
    }

    @Test("cancelling a request behind another one stops the right one")
    func cancellationInLine() async throws {
        try await withConnection { connection, _ in
            let first = Task { try await connection.run("SELECT pg_sleep(0.3), 1") }
            try await Task.sleep(for: .milliseconds(20))
            let second = Task { try await connection.run("SELECT pg_sleep(30)") }
            try await Task.sleep(for: .milliseconds(20))
            second.cancel()
            #expect(try await first.value[0].int64(1) == 1)
            await expectShardError({ $0.kind == .cancelled }) { _ = try await second.value }
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
        }
    }

    @Test("many cancellations at every moment of a request never harm the request after it")
    func cancellationRaces() async throws {
        try await withConnection { connection, _ in
            for round in 0..<200 {
                let task = Task { try await connection.run(["SELECT 1", "SELECT pg_sleep(0.0005)", "SELECT 2"]) }
                try await TestLoop.shared().sleep(for: .microseconds(round * 10))
                task.cancel()
                if case .failure(let error) = await task.result {
                    #expect((error as? ShardError)?.kind == .cancelled)
                }
                #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
            }
        }
    }

    @Test("nothing is sent behind a request that is to be stopped, until it has ended")
    func heldBack() async throws {
        try await withConnection { connection, shard in
            // Not to be stopped while the lock is held: it takes every cancel request and goes on.
            _ = try await connection.runSimple(
                """
                CREATE SEQUENCE stops;
                CREATE FUNCTION stubborn() RETURNS int LANGUAGE plpgsql AS $$ DECLARE stops int := 0; BEGIN LOOP
                    BEGIN PERFORM pg_advisory_lock(1); RETURN stops;
                    EXCEPTION WHEN query_canceled THEN stops := stops + 1; PERFORM nextval('stops'); END;
                END LOOP; END $$
                """)
            let stops = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM stops"
            let blocker = try await shard.connect()
            _ = try await blocker.run("SELECT pg_advisory_lock(1)")
            let stubborn = Task { try await connection.run("SELECT stubborn()") }
            try await waitUntil("the request to be sent") { await connection.transactionStatus == .active }
            stubborn.cancel()
            try await waitUntil("the server to be told") { try await shard.ask(stops) != "0" }
            let next = Task { try await connection.run("SELECT pg_sleep(0.3), 1") }
            try await waitUntil("the server to be told again, with the next request made") {
                #expect(await connection.inFlight.count == 1, "a cancel request may hit what is sent now")
                let unsent = await connection.waiting.count
                return try await Int(shard.ask(stops) ?? "") ?? 0 > 3 && unsent == 1
            }
            await blocker.close()
            #expect(try await stubborn.value[0].int64(0) > 3, "what succeeds in spite of it is returned")
            #expect(try await next.value[0].int64(1) == 1)
        }
    }

    @Test("streams and COPY end at their deadline, even when their owner does nothing")
    func sessions() async throws {
        try await withConnection { connection, _ in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            let rows = try await connection.stream(
                "SELECT repeat('x', 1000), generate_series(1, 100000000)", deadline: .now + .milliseconds(100))
            #expect(
                try await connection.run("SELECT 1")[0].int64(0) == 1, "the next request waits for the stream's end")
            let error = await expectShardError { for try await _ in rows {} }
            #expect(error?.kind == .timedOut)
            let endless = AsyncStream<[UInt8]> { Array("1\n".utf8) }
            await expectShardError({ $0.kind == .timedOut }) {
                _ = try await connection.copyIn("COPY t FROM STDIN", from: endless, deadline: .now + .milliseconds(100))
            }
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)
            let copy = Task { try await connection.copyIn("COPY t FROM STDIN", from: endless) }
            try await Task.sleep(for: .milliseconds(50))
            copy.cancel()
            await expectShardError({ $0.kind == .cancelled }) { _ = try await copy.value }
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)
        }
    }
}

@Suite struct LostConnectionTests {
    @Test("a server process that dies leaves the outcome unknown; what is asked later was never sent")
    func killedBackend() async throws {
        try await withConnection { connection, shard in
            let task = Task { try await connection.run("SELECT pg_sleep(30)") }
            try await waitUntil("the request to be sent") { await connection.transactionStatus == .active }
            let process = await connection.processID
            try await shard.ask("SELECT pg_terminate_backend(\(process))")
            let refused = await expectShardError { _ = try await task.value }
            #expect(refused?.sqlState == .adminShutdown && refused?.isOutcomeUnknown == false)
            try await waitUntil("the connection to end") { await !connection.isOpen }
            let later = await expectShardError { _ = try await connection.run("SELECT 1") }
            #expect(later?.kind == .closed && later?.isOutcomeUnknown == false)
        }
    }

    @Test("an idle connection notices at once that the server ended it")
    func idleEnd() async throws {
        try await withConnection { connection, shard in
            let process = await connection.processID
            try await shard.ask("SELECT pg_terminate_backend(\(process))")
            try await waitUntil("the connection to end") { await !connection.isOpen }
        }
    }

    @Test("closing a connection fails what is under way, with an unknown outcome")
    func closing() async throws {
        try await withConnection { connection, _ in
            let task = Task { try await connection.run("SELECT pg_sleep(30)") }
            try await waitUntil("the request to be sent") { await connection.transactionStatus == .active }
            await connection.close()
            let error = await expectShardError { _ = try await task.value }
            #expect(error?.kind == .connectionLost && error?.isOutcomeUnknown == true)
        }
    }

    @Test("a frozen shard holds up its callers until they give up, and other shards not at all")
    func frozenShard() async throws {
        try await TestCluster.withPrivateShards(2) { shards in
            var settings = try shards[0].settings
            settings.cancelGrace = .milliseconds(300)
            let loop = try TestLoop.shared()
            let frozen = try await ShardConnection.connect(to: settings, on: loop)
            let sound = try await shards[1].connect()
            shards[0].server.pause()
            let deadline = ContinuousClock.now + .milliseconds(200)
            let task = Task { try await frozen.run("SELECT 1") }
            let connecting = Task { try await ShardConnection.connect(to: settings, on: loop, deadline: deadline) }
            for _ in 0..<100 { _ = try await sound.run("SELECT 1") }
            await expectShardError({ $0.kind == .timedOut }) { _ = try await connecting.value }
            await expectShardError({ $0.kind == .timedOut && !$0.isOutcomeUnknown }) {
                _ = try await frozen.runSimple("SELECT 'behind it'", deadline: .now + .milliseconds(50))
            }
            #expect(await frozen.isOpen)
            task.cancel()
            let error = await expectShardError { _ = try await task.value }
            #expect(error?.kind == .cancelled && error?.isOutcomeUnknown == true)
            #expect(await !frozen.isOpen)
            #expect(try await sound.run("SELECT 1")[0].int64(0) == 1)
            shards[0].server.resume()
            await sound.close()
        }
    }

    @Test("a server that is killed and started again loses its sessions and takes new ones")
    func restart() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            let connection = try await shards[0].connect()
            let task = Task { try await connection.run("SELECT pg_sleep(30)") }
            try await waitUntil("the request to be sent") { await connection.transactionStatus == .active }
            await shards[0].server.kill()
            let error = await expectShardError { _ = try await task.value }
            #expect(error?.kind == .connectionLost && error?.isOutcomeUnknown == true)
            let refused = await expectShardError { _ = try await shards[0].connect() }
            #expect(refused?.kind == .notConnected(nil))
            try await shards[0].server.start()
            let again = try await shards[0].connect()
            #expect(try await again.run("SELECT 1")[0].int64(0) == 1)
            await again.close()
        }
    }
}
