import ShardBackend
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

/// SELECT … FOR UPDATE and the like, alone.
@Suite(.serialized) struct SessionRowLockTests {
    /// Rows on different shards: `a` and `b` are free, all others are there.
    private static func withRows(
        faults: FaultHook? = nil, _ body: (ServedShards, ShardConnection, _ a: Int, _ b: Int) async throws -> Void
    ) async throws {
        try await ServedShards.with(faults: faults) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL DEFAULT 0)")
                try await client.text("INSERT INTO t (id) VALUES " + (1...20).map { "(\($0))" }.joined(separator: ", "))
                var shardOf: [Int: ShardID] = [:]
                for shard in served.engine.shards {
                    for row in try await served.engine.inspect("SELECT id FROM t", on: shard) {
                        shardOf[Int(try row.int64(0))] = shard
                    }
                }
                let b = try #require((2...20).first { shardOf[$0] != shardOf[1] })
                try await client.text("DELETE FROM t WHERE id IN (1, \(b))")
                try await served.shards.waitUntilSettled()
                try await body(served, client, 1, b)
            }
        }
    }

    @Test(
        "it sees all that a transaction has inserted that is applied on one shard and in flight on the other, or waits",
        arguments: [
            "SELECT id FROM t WHERE n = 1 FOR UPDATE", "SELECT id FROM t WHERE n = 1 ORDER BY id DESC FOR SHARE",
            "SELECT id FROM t WHERE n = 1 FOR NO KEY UPDATE NOWAIT", "SELECT id FROM t WHERE id IN (:a, :b) FOR UPDATE",
            "SELECT id FROM (SELECT * FROM t WHERE n = 1 FOR UPDATE) AS t",
        ])
    func inFlight(text: String) async throws {
        let gate = CommitGate(at: .afterAnswerBeforeApply)
        try await Self.withRows(faults: gate.hook) { served, writer, a, b in
            gate.arm()
            defer { gate.open() }
            // Acknowledged now, and not yet to be seen on one of the two shards.
            try await writer.text("INSERT INTO t VALUES (\(a), 1), (\(b), 1)")
            _ = try await gate.arrival()
            try await served.session { reader in
                let asked = text.replacing(":a", with: "\(a)").replacing(":b", with: "\(b)")
                async let found = reader.text(asked)
                try await Task.sleep(for: .milliseconds(200))
                gate.open()
                #expect(Set(try await found.split(separator: "\n")) == ["\(a)", "\(b)"], "\(asked)")
            }
        }
    }

    @Test("it waits for those who have the rows and sees what they did, or fails with NOWAIT, or passes over them")
    func waits() async throws {
        try await Self.withRows { served, writer, _, _ in
            try await writer.text("BEGIN; UPDATE t SET n = 5 WHERE id = 20")
            try await served.session { reader in
                #expect(await reader.failure("SELECT id FROM t WHERE n < 5 FOR UPDATE NOWAIT") == "55P03")
                let others = try await reader.text("SELECT id FROM t FOR UPDATE SKIP LOCKED")
                #expect(others.split(separator: "\n").count == 17)
                async let found = reader.text("SELECT n FROM t WHERE n = 5 OR id = 20 FOR UPDATE")
                try await Task.sleep(for: .milliseconds(200))
                try await writer.text("COMMIT")
                #expect(try await found == "5")
            }
        }
    }

    @Test(
        "it is in no writer's way, and none in its, who has not got its rows",
        arguments: ["", " NOWAIT", " SKIP LOCKED"])
    func locksNoTable(ending: String) async throws {
        try await Self.withRows { served, writer, a, b in
            try await writer.text("BEGIN; INSERT INTO t VALUES (\(a), 1), (\(b), 1)")
            try await served.session { reader in
                try await reader.text("SET lock_timeout = '1s'")
                let found = try await reader.text("SELECT id FROM t WHERE n < 5 FOR UPDATE\(ending)")
                #expect(found.split(separator: "\n").count == 18)
            }
            try await writer.text("COMMIT")
        }
    }

    @Test("large results come as they are read, with parameters and by the extended protocol")
    func extended() async throws {
        try await Self.withRows { served, client, _, _ in
            try await client.text("INSERT INTO t SELECT 100, 7")
            let found = try await client.run(
                SQLStatement(
                    "SELECT id, n FROM t WHERE n = $1 OR id > $2 ORDER BY id FOR UPDATE", [.int64(7), .int64(15)]))
            #expect(try found.map { try $0.int64(0) }.last == 100)
            #expect(await client.failure("BEGIN READ ONLY; SELECT id FROM t FOR UPDATE") == "25006")
            try await client.text("ROLLBACK")
        }
    }

    @Test("in blocks, those who pass over locked rows take each its own, change it, and are in nobody's way")
    func queue() async throws {
        try await Self.withJobs { served, first, second in
            let take = "SELECT id FROM job WHERE state = 'new' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
            for client in [first, second] { try await client.text("BEGIN") }
            #expect(try await first.text(take) == "1")
            #expect(try await second.text(take) == "2")
            try await served.session { other in
                try await other.text("SET lock_timeout = '5s'")
                try await other.text("INSERT INTO job VALUES (4, 'new', 1)")
                // What was told stays.
                try await other.text("SET lock_timeout = '100ms'")
                #expect(await other.failure("UPDATE job SET state = 'lost' WHERE id = 1") == "55P03")
            }
            for (client, id) in [(first, 1), (second, 2)] {
                try await client.text("UPDATE job SET state = 'done' WHERE id = \(id)")
            }
            for client in [second, first] { try await client.text("COMMIT") }
            #expect(try await first.text("SELECT id, state FROM job ORDER BY id") == "1,done\n2,done\n3,new\n4,new")
        }
    }

    @Test("what such a statement tells besides the rows that it locks whole stays until its block ends")
    func besidesLockedRows() async throws {
        try await Self.withJobs { served, client, other in
            try await other.text("SET lock_timeout = '100ms'")
            for (read, change) in [
                (
                    "SELECT state FROM job WHERE id = 1 FOR KEY SHARE SKIP LOCKED",
                    "UPDATE job SET state = 'x' WHERE id = 1"
                ),
                (
                    "SELECT j.id FROM job AS j JOIN kind AS k ON k.id = j.kind FOR UPDATE OF j SKIP LOCKED",
                    "INSERT INTO kind VALUES (2)"
                ),
                (
                    "SELECT id FROM job WHERE (SELECT count(*) FROM job) = 3 FOR UPDATE SKIP LOCKED",
                    "INSERT INTO job VALUES (5, 'new', 1)"
                ),
                (
                    "SAVEPOINT s; SELECT id FROM job ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED; ROLLBACK TO s",
                    "UPDATE job SET state = 'x' WHERE id = 1"
                ),
            ] {
                try await client.text("BEGIN; \(read)")
                #expect(await other.failure(change) == "55P03", "\(read)")
                try await client.text("ROLLBACK")
            }
        }
    }

    /// Three jobs on one shard, and two sessions that do not wait for ever.
    private static func withJobs(
        _ body: (ServedShards, ShardConnection, ShardConnection) async throws -> Void
    ) async throws {
        try await ServedShards.with { served in
            try await served.session { first in
                try await first.text(
                    """
                    CREATE TABLE job (id int PRIMARY KEY, state text, kind int) WITH (meridian.table = 'single')
                    """)
                try await first.text("CREATE TABLE kind (id int PRIMARY KEY) WITH (meridian.table = 'single')")
                try await first.text("INSERT INTO kind VALUES (1)")
                try await first.text("INSERT INTO job VALUES (1, 'new', 1), (2, 'new', 1), (3, 'new', 1)")
                try await first.text("SET lock_timeout = '5s'")
                try await served.session { second in
                    try await second.text("SET lock_timeout = '5s'")
                    try await body(served, first, second)
                }
            }
        }
    }
}
