import ShardBackend
import ShardSchema
import Testing
import TransactionCore

@Suite struct RetentionTests {
    /// The present of these tests: a retention of an hour lies before it.
    private static let now = Timestamp(rawValue: 10_000_000_000_000)

    @Test("what nobody may read any more is truncated, and nothing else")
    func truncates() async throws {
        try await withHistory { connection, _ in
            try await expectOneUndoRow(connection)
            #expect(try await connection.values("SELECT min(ts) FROM meridian.commit_log") == ["\(Self.recent)"])
            #expect(try await connection.read("SELECT v FROM t", at: Self.recent - 1) == ["1"])
            await expectRefusal(.snapshotTooOld) { _ = try await connection.read("SELECT v FROM t", at: 5000) }
            #expect(try await connection.run(ShardSchema.newestTimestamp)[0].int64(0) == Self.recent)
        }
    }

    @Test("a reader that took its snapshot before the floor rose misses nothing, however late it comes to a table")
    func olderReader() async throws {
        try await withHistory { connection, shard in
            try await shard.session { reader in
                let prologue = ShardSchema.readPrologue(at: Timestamp(rawValue: 1500), schemas: ["public"])
                _ = try await reader.run(prologue)
                for _ in 0..<3 { try await upkeep(connection) }
                #expect(try await connection.values("SELECT meridian.has_older_snapshot()") == ["t"])
                #expect(try await undoRows(connection) == "3")
                #expect(try await reader.values("SELECT v FROM t") == ["0"])
                try await reader.sql("COMMIT")
            }
            try await expectOneUndoRow(connection)
        }
    }

    @Test("a transaction that lasts, or stays prepared, keeps its undo rows until its own timestamp is forgotten")
    func longTransaction() async throws {
        try await withHistory { connection, shard in
            try await shard.session { writer in
                try await turnRing(connection, by: 1)
                try await writer.sql("BEGIN; UPDATE t SET v = 7; PREPARE TRANSACTION 'long'")
                try await turnRing(connection, by: 0)
                for _ in 0..<3 { try await upkeep(connection) }
                #expect(try await undoRows(connection) == "3")
                try await writer.sql("ROLLBACK PREPARED 'long'")

                try await turnRing(connection, by: 1)
                try await writer.commit(at: Self.now.rawValue - 1000, "UPDATE t SET v = 8")
                try await turnRing(connection, by: 0)
                for _ in 0..<3 { try await upkeep(connection) }
                #expect(try await connection.read("SELECT v FROM t", at: Self.now.rawValue - 1001) == ["2"])
            }
        }
    }

    @Test("a decision that some shard may still ask for is kept")
    func unresolved() async throws {
        try await withHistory { connection, _ in
            for _ in 0..<3 {
                try await PartitionUpkeep(connection).run(now: Self.now, unresolved: Timestamp(rawValue: 1000))
            }
            #expect(try await connection.run(ShardSchema.decision(of: .at(1000)))[0].bool(0))
            try await expectOneUndoRow(connection)
            #expect(try await connection.run(ShardSchema.decision(of: .at(1000))).isEmpty)
        }
    }

    @Test("a table in use is left to a later round, and upkeep may run several times at once")
    func busyTable() async throws {
        try await withHistory { connection, shard in
            let (blocker, other) = (try await shard.connect(), try await shard.connect())
            try await upkeep(connection)
            try await blocker.sql("BEGIN; LOCK TABLE meridian_undo.\"1_t\" IN ACCESS SHARE MODE")
            try await upkeep(connection)
            #expect(try await undoRows(connection) == "3")
            try await blocker.sql("COMMIT")
            async let one: Void = expectOneUndoRow(connection)
            async let two: Void = expectOneUndoRow(other)
            _ = try await (one, two)
            // Two nodes whose rounds fall together, while there is something to empty.
            for round in 0..<10 {
                try await turnRing(connection, by: 1)
                let present = Self.now.rawValue + Int64(round) * 10_000_000_000_000
                try await connection.commit(at: present - 9_000_000_000_000, "UPDATE t SET v = v + 1")
                try await turnRing(connection, by: 0)
                async let one: Void = PartitionUpkeep(connection).run(now: Timestamp(rawValue: present))
                async let two: Void = PartitionUpkeep(other).run(now: Timestamp(rawValue: present))
                _ = try await (one, two)
            }
            #expect(try await connection.values("SELECT v FROM t") == ["12"])
            await blocker.close()
            await other.close()
        }
    }

    @Test("the retention can be changed: the rows of the log move to their new tables, and stay unique")
    func setRetention() async throws {
        try await withHistory { connection, _ in
            try await connection.sql("CALL meridian.set_retention(86400)")
            #expect(try await connection.values("SELECT count(*) FROM meridian.commit_log") == ["3"])
            #expect(try await connection.run(ShardSchema.tombstone(for: .at(1000))).affectedRows == 0)
            #expect(try await connection.read("SELECT v FROM t", at: 1999) == ["0"])
            try await connection.commit(at: Self.now.rawValue, "UPDATE t SET v = 9")
            #expect(try await connection.read("SELECT v FROM t", at: Self.recent) == ["2"])
            for _ in 0..<3 { try await upkeep(connection) }
            #expect(try await connection.read("SELECT v FROM t", at: 1999) == ["0"])
        }
    }

    /// Within the retention before ``now``.
    private static let recent: Int64 = 8_000_000_000_000

    /// Runs a test on a table with one row, which two transactions beyond the retention and one within it have written.
    private func withHistory(_ body: (ShardConnection, SchemaShard) async throws -> Void) async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(
                    "CREATE TABLE t (id int PRIMARY KEY, v int); SELECT meridian.version_table('t')")
                // Written where the truncation begins: in the slot whose turn is next.
                try await turnRing(connection, by: 1)
                try await connection.commit(at: 1000, "INSERT INTO t VALUES (1, 0)")
                try await connection.commit(at: 2000, "UPDATE t SET v = 1")
                try await turnRing(connection, by: 0)
                try await connection.commit(at: Self.recent, "UPDATE t SET v = 2")
                try await body(connection, shard)
            }
        }
    }

    /// Has transactions from now on write their undo rows as if the clock were off by so many slots of the ring.
    private func turnRing(_ connection: ShardConnection, by slots: Int) async throws {
        try await connection.sql(
            """
            CREATE OR REPLACE FUNCTION meridian.undo_slot() RETURNS smallint LANGUAGE sql STABLE AS
                'SELECT meridian.slot(date_part(''epoch'', transaction_timestamp())::bigint + \(1800 * slots))'
            """)
    }

    private func upkeep(_ connection: ShardConnection) async throws {
        try await PartitionUpkeep(connection).run(now: Self.now)
    }

    /// Transactions of other tests on the same server, whose numbers hold truncation back, end soon.
    private func expectOneUndoRow(_ connection: ShardConnection) async throws {
        for _ in 0..<200 where try await undoRows(connection) != "1" {
            try await upkeep(connection)
            try await Task.sleep(for: .milliseconds(20))
        }
        #expect(try await undoRows(connection) == "1")
    }

    private func undoRows(_ connection: ShardConnection) async throws -> String {
        try await connection.values("SELECT count(*) FROM meridian_undo.\"1_t\"")[0]
    }
}
