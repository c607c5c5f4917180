import Logging
import ShardBackend
import Synchronization
import TestSupport
import Testing

extension TestShard {
    func makePool(
        bound: Int, onConnect: (@Sendable (ShardConnection) async throws(ShardError) -> Void)? = nil
    ) throws -> ConnectionPool {
        var settings = try settings
        settings.connectTimeout = .seconds(30)
        settings.cancelGrace = .milliseconds(300)
        return try ConnectionPool(
            settings: settings, bound: bound, on: TestLoop.shared(), label: "\(name) test",
            logger: Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }, onConnect: onConnect)
    }
}

private func soon() -> ContinuousClock.Instant { .now + .seconds(60) }

@Suite struct ConnectionPoolTests {
    @Test("many tasks share few connections, and each has one to itself")
    func sharing() async throws {
        try await TestCluster.withShards { shards in
            let sessions = Mutex(0)
            let pool = try shards[0].makePool(bound: 4) { connection throws(ShardError) in
                _ = try await connection.run("SET application_name = 'set up'")
                sessions.withLock { $0 += 1 }
            }
            try await withThrowingTaskGroup(of: Void.self) { group in
                for number in 0..<200 {
                    group.addTask {
                        try await pool.withConnection(deadline: soon()) { connection in
                            _ = try await connection.run([
                                "BEGIN", SQLStatement("SET LOCAL meridian.number = '\(number)'"),
                            ])
                            let rows = try await connection.run([
                                "SELECT current_setting('meridian.number'), current_setting('application_name')",
                                "COMMIT",
                            ])
                            #expect(try rows[0][0].text(0) == "\(number)")
                            #expect(try rows[0][0].text(1) == "set up")
                        }
                    }
                }
                try await group.waitForAll()
            }
            let statistics = await pool.statistics
            #expect(statistics.opened <= 4 && statistics.opened == sessions.withLock { $0 })
            #expect(statistics.inUse == 0 && statistics.waiting == 0)
            await pool.close()
        }
    }

    @Test("who waits longer than its deadline, or is cancelled, gets no connection and leaks none")
    func waiting() async throws {
        try await TestCluster.withShards { shards in
            let pool = try shards[0].makePool(bound: 1)
            let connection = try await pool.lease(deadline: soon())
            await expectShardError({ $0.kind == .poolWaitTimedOut }) {
                _ = try await pool.lease(deadline: .now + .milliseconds(20))
            }
            let cancelled = Task { try await pool.lease(deadline: soon()) }
            try await waitUntil("a waiter") { await pool.statistics.waiting == 1 }
            cancelled.cancel()
            await expectShardError({ $0.kind == .cancelled }) { _ = try await cancelled.value }
            await pool.giveBack(connection)
            await pool.giveBack(try await pool.lease(deadline: soon()))
            #expect(await pool.statistics.opened == 1)
            await pool.close()
            await expectShardError({ $0.kind == .closed }) { _ = try await pool.lease(deadline: soon()) }
        }
    }

    @Test("a connection left in a transaction is not used again")
    func dirtyConnection() async throws {
        try await TestCluster.withShards { shards in
            let pool = try shards[0].makePool(bound: 1)
            let dirty = try await pool.lease(deadline: soon())
            let process = await dirty.processID
            _ = try await dirty.run("BEGIN")
            await pool.giveBack(dirty)
            let clean = try await pool.lease(deadline: soon())
            #expect(await clean.processID != process)
            #expect(await clean.transactionStatus == .idle)
            await pool.giveBack(clean)
            await pool.close()
        }
    }

    @Test("an idle connection that the server ends leaves the pool at once")
    func idleEnd() async throws {
        try await TestCluster.withShards { shards in
            let pool = try shards[0].makePool(bound: 2)
            let connection = try await pool.lease(deadline: soon())
            let process = await connection.processID
            await pool.giveBack(connection)
            #expect(await pool.statistics.idle == 1)
            try await shards[0].ask("SELECT pg_terminate_backend(\(process))")
            try await waitUntil("the pool to notice") { await pool.statistics.idle == 0 }
            await pool.giveBack(try await pool.lease(deadline: soon()))
            await pool.close()
        }
    }

    @Test("a shard that is down fails leases at once with the reason, and serves again when it is back")
    func restart() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            let pool = try shards[0].makePool(bound: 4)
            await pool.giveBack(try await pool.lease(deadline: soon()))
            await shards[0].server.kill()
            try await waitUntil("the pool to notice") { await pool.statistics.idle == 0 }
            let first = await expectShardError { _ = try await pool.lease(deadline: soon()) }
            #expect(first?.message.contains("refused") == true)
            for _ in 0..<100 {
                await expectShardError({ $0.message.hasPrefix("the shard is down") }) {
                    _ = try await pool.lease(deadline: soon())
                }
            }
            try await shards[0].server.start()
            try await waitUntil("the pool to be back") { await pool.statistics.idle == 1 }
            await pool.giveBack(try await pool.lease(deadline: soon()))
            await pool.close()
        }
    }

    @Test("a session that can't be set up is not leased, and its error is the lease's")
    func failedSetUp() async throws {
        try await TestCluster.withShards { shards in
            let isFenced = Mutex(true)
            let pool = try shards[0].makePool(bound: 1) { connection throws(ShardError) in
                let isFenced = isFenced.withLock { $0 }
                _ = try await connection.run(isFenced ? "SELECT 1 / 0" : "SELECT 1")
            }
            let error = await expectShardError { _ = try await pool.lease(deadline: soon()) }
            #expect(error?.serverFields?.message == "division by zero")
            isFenced.withLock { $0 = false }
            try await waitUntil("the retry") { await pool.statistics.idle == 1 }
            await pool.close()
        }
    }

    @Test("a frozen shard times its own leases out and leaves another shard's pool alone")
    func frozenShard() async throws {
        try await TestCluster.withPrivateShards(2) { shards in
            let (frozen, sound) = (try shards[0].makePool(bound: 2), try shards[1].makePool(bound: 2))
            shards[0].server.pause()
            let lease = Task { try await frozen.lease(deadline: soon()) }
            for _ in 0..<50 {
                let connection = try await sound.lease(deadline: soon())
                _ = try await connection.run("SELECT 1")
                await sound.giveBack(connection)
            }
            lease.cancel()
            await expectShardError({ $0.kind == .cancelled }) { _ = try await lease.value }
            await expectShardError({ $0.kind == .poolWaitTimedOut }) {
                _ = try await frozen.lease(deadline: .now + .milliseconds(50))
            }
            shards[0].server.resume()
            await frozen.close()
            await sound.close()
        }
    }
}
