import ShardBackend
import TestSupport
import Testing
import TransactionCore

/// The anomalies of Adya (Weak Consistency, 1999) as scripted sessions, each across two shards.
@Suite(.serialized) struct SessionIsolationTests {
    /// Two rows on different shards.
    private static func withAccounts(
        _ body: (ServedShards, ShardConnection, ShardConnection, _ a: Int, _ b: Int) async throws -> Void
    ) async throws {
        try await ServedShards.with { served in
            let one = try await served.connect()
            let two = try await served.connect()
            try await one.text("CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL)")
            try await one.text("INSERT INTO t SELECT 1, 0")
            try await one.text("DELETE FROM t")
            try await one.text("INSERT INTO t VALUES " + (1...20).map { "(\($0), 10)" }.joined(separator: ", "))
            var shardOf: [Int: ShardID] = [:]
            for shard in served.engine.shards {
                for row in try await served.engine.inspect("SELECT id FROM t", on: shard) {
                    shardOf[Int(try row.int64(0))] = shard
                }
            }
            let b = try #require((2...20).first { shardOf[$0] != shardOf[1] })
            try await body(served, one, two, 1, b)
            await one.close()
            await two.close()
        }
    }

    @Test("write skew (G2-item): two that read both rows and write one each do not both commit")
    func writeSkew() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            for client in [one, two] {
                try await client.text("BEGIN; SELECT n FROM t WHERE id = \(a); SELECT n FROM t WHERE id = \(b)")
            }
            try await one.text("UPDATE t SET n = n - 15 WHERE id = \(a)")
            async let second: String? = two.failure("UPDATE t SET n = n - 15 WHERE id = \(b); COMMIT")
            let first = await one.failure("COMMIT")
            let states = [first, await second].compactMap { $0 }
            #expect(states.count == 1 && ["40001", "40P01"].contains(states[0]), "\(states)")
        }
    }

    @Test("phantoms (G2): two that sum all rows and insert one each do not both commit")
    func phantoms() async throws {
        try await Self.withAccounts { _, one, two, _, _ in
            for client in [one, two] { try await client.text("BEGIN; SELECT sum(n) FROM t") }
            async let first: String? = one.failure("INSERT INTO t VALUES (101, 1); COMMIT")
            async let second: String? = two.failure("INSERT INTO t VALUES (202, 1); COMMIT")
            let states = [await first, await second].compactMap { $0 }
            #expect(!states.isEmpty && states.allSatisfy { ["40001", "40P01", "57014"].contains($0) }, "\(states)")
        }
    }

    @Test("a transaction that read its own writes goes on when it rolls them back to a savepoint")
    func rollbackOfOwnWrites() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            try await one.text("BEGIN; UPDATE t SET n = 1 WHERE id = \(a); SAVEPOINT s")
            #expect(
                try await one.text("UPDATE t SET n = n + 1 WHERE id = \(b); SELECT n FROM t WHERE id = \(b)") == "11")
            try await one.text("INSERT INTO t VALUES (300, 1)")
            #expect(try await one.text("SELECT sum(n) FROM t") == "193")
            #expect(try await one.text("ROLLBACK TO s; SELECT sum(n) FROM t") == "191")
            try await one.text("UPDATE t SET n = 2 WHERE id = \(a); COMMIT")
            #expect(try await two.text("SELECT n FROM t WHERE id IN (\(a), \(b)) ORDER BY n") == "2\n10")
        }
    }

    @Test(
        "what another changes once a rollback to a savepoint has given up its lock comes later in the order, or fails"
    )
    func rollbackLosesLock() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            for _ in 0..<8 {
                try await one.text("UPDATE t SET n = 10 WHERE id = \(b)")
                try await one.text("BEGIN; UPDATE t SET n = n + 1 WHERE id = \(a); SAVEPOINT s")
                // By what it wrote, it knows what was there: 10.
                let sum = try await one.text("UPDATE t SET n = n + 1 WHERE id = \(b); SELECT n FROM t WHERE id = \(b)")
                #expect(sum == "11")
                async let change = two.text("UPDATE t SET n = 77 WHERE id = \(b)")
                try await Task.sleep(for: .milliseconds(30))
                let failure = await one.failure("ROLLBACK TO s; COMMIT")
                _ = try await change
                if let failure {
                    #expect(failure == "40001")
                    try await one.text("ROLLBACK")
                    continue
                }
                let ours = try #require(Int64(try await one.text("SHOW meridian.commit_timestamp")))
                let theirs = try #require(Int64(try await two.text("SHOW meridian.commit_timestamp")))
                #expect(ours < theirs)
            }
        }
    }

    @Test(
        "what a write or an EXPLAIN ANALYZE found since a savepoint stays as it is after a rollback to that",
        arguments: [
            "UPDATE t SET n = 0 WHERE id = B AND n > 100", "UPDATE t SET n = 0 WHERE n > 100",
            "DELETE FROM t WHERE id = B", "DELETE FROM t WHERE id = B AND n > 100 RETURNING n",
            "INSERT INTO t VALUES (B, 1) ON CONFLICT DO NOTHING",
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT count(*) FROM t WHERE n > 100",
            "EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) UPDATE t SET n = 0 WHERE id = B AND n > 100",
        ])
    func foundSinceSavepoint(statement: String) async throws {
        try await Self.withAccounts { served, one, two, a, b in
            try await served.shards.waitUntilSettled()
            try await one.text("BEGIN; UPDATE t SET n = 1 WHERE id = \(a); SAVEPOINT s")
            try await one.text(statement.replacing("B", with: "\(b)"))
            try await one.text("ROLLBACK TO s")
            try await two.text("SET lock_timeout = '200ms'")
            #expect(await two.failure("UPDATE t SET n = 200 WHERE id = \(b)") == "55P03")
            try await one.text("COMMIT")
            try await two.text("UPDATE t SET n = 200 WHERE id = \(b)")
        }
    }

    @Test(
        "what a statement said since a savepoint, a free key or an error, stays so after a rollback to that",
        arguments: [
            ("INSERT INTO t VALUES (300, 1), (301, 1)", nil, "INSERT INTO t VALUES (300, 2)"),
            ("INSERT INTO t VALUES (B, 1)", "23505", "DELETE FROM t WHERE id = B"),
            ("UPDATE t SET n = n - 100 WHERE id = B", "23514", "UPDATE t SET n = 200 WHERE id = B"),
            ("UPDATE t SET n = 1 / (n - 10) WHERE n < 100", "22012", "UPDATE t SET n = 20 WHERE id = B"),
            ("SELECT 1 / (n - 10) FROM t WHERE id = B", "22012", "UPDATE t SET n = 20 WHERE id = B"),
            ("INSERT INTO child VALUES (B, B)", nil, "DELETE FROM t WHERE id = B"),
            ("DELETE FROM t WHERE id = B", nil, "INSERT INTO child VALUES (B, B)"),
        ] as [(String, String?, String)])
    func saidSinceSavepoint(statement: String, error: String?, change: String) async throws {
        try await Self.withAccounts { served, one, two, a, b in
            let (statement, change) = (statement.replacing("B", with: "\(b)"), change.replacing("B", with: "\(b)"))
            try await one.text("ALTER TABLE t ADD CHECK (n >= 0)")
            try await one.text("CREATE TABLE child (id bigint PRIMARY KEY REFERENCES t, n int NOT NULL)")
            try await two.text("SET lock_timeout = '200ms'")
            try await served.shards.waitUntilSettled()
            try await one.text("BEGIN; UPDATE t SET n = 1 WHERE id = \(a); SAVEPOINT s")
            #expect(await one.failure(statement) == error)
            try await one.text("ROLLBACK TO s")
            #expect(await two.failure(change) == "55P03")
            try await one.text("COMMIT")
            try await two.text(change)
        }
    }

    @Test("what was read before a savepoint and locked after it stays locked after a rollback to that")
    func readBeforeSavepoint() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            try await two.text("SET lock_timeout = '200ms'")
            try await one.text("BEGIN; SELECT n FROM t WHERE id = \(b); SAVEPOINT s")
            try await one.text("UPDATE t SET n = 1 WHERE id = \(a); ROLLBACK TO s")
            #expect(await two.failure("UPDATE t SET n = 200 WHERE id = \(b)") == "55P03")
            try await one.text("UPDATE t SET n = 1 WHERE id = \(a); COMMIT")
            try await two.text("UPDATE t SET n = 200 WHERE id = \(b)")
        }
    }

    @Test("what a failed statement said and another has changed before the rollback to a savepoint is 40001")
    func saidAndChanged() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            try await one.text("BEGIN; UPDATE t SET n = 1 WHERE id = \(a); SAVEPOINT s")
            #expect(await one.failure("INSERT INTO t VALUES (\(b), 1)") == "23505")
            try await two.text("DELETE FROM t WHERE id = \(b)")
            #expect(await one.failure("ROLLBACK TO s") == "40001")
            try await one.text("ROLLBACK")

            // At a snapshot: it shows when the transaction turns to locking.
            try await one.text("BEGIN; SAVEPOINT s")
            #expect(await one.failure("SELECT 1 / (n - 10) FROM t WHERE id = \(a)") == "22012")
            try await two.text("UPDATE t SET n = 20 WHERE id = \(a)")
            #expect(await one.failure("ROLLBACK TO s; UPDATE t SET n = 5 WHERE id = \(a)") == "40001")
            try await one.text("ROLLBACK")
        }
    }

    @Test("a 40001 is not forgotten by going back to a savepoint")
    func changedForGood() async throws {
        try await Self.withAccounts { served, one, two, a, b in
            try await one.text("BEGIN; SELECT n FROM t WHERE id = \(b); SAVEPOINT s")
            try await two.text("UPDATE t SET n = 20 WHERE id = \(b)")
            try await served.shards.waitUntilSettled()
            #expect(await one.failure("UPDATE t SET n = 1 WHERE id = \(a)") == "40001")
            for _ in 0..<2 { #expect(await one.failure("ROLLBACK TO s") == "40001") }
            #expect(await one.failure("SELECT 1") == "25P02")
            try await one.text("ROLLBACK")
        }
    }

    @Test("what another has changed since a failed statement gave the locks up is 40001")
    func changedSinceFailure() async throws {
        try await Self.withAccounts { served, one, two, a, b in
            try await one.text("BEGIN; UPDATE t SET n = 1 WHERE id = \(a); SAVEPOINT s")
            try await one.text("SELECT n FROM t WHERE id = \(b)")
            #expect(await one.failure("SELECT 1 / (n - n) FROM t WHERE id = \(b)") == "22012")
            try await two.text("UPDATE t SET n = 20 WHERE id = \(b)")
            try await served.shards.waitUntilSettled()
            #expect(await one.failure("ROLLBACK TO s") == "40001")
            try await one.text("ROLLBACK")
        }
    }

    @Test("a table that was made after a savepoint and filled can be rolled back, and another one be made")
    func schemaSinceSavepoint() async throws {
        try await Self.withAccounts { served, one, two, a, b in
            try await served.shards.waitUntilSettled()
            try await one.text("BEGIN; SAVEPOINT s; CREATE TABLE x (id bigint PRIMARY KEY); INSERT INTO x VALUES (1)")
            try await one.text("ALTER TABLE t ADD c int; UPDATE t SET c = 1 WHERE id = \(b); ROLLBACK TO s")
            try await one.text("CREATE TABLE x (id bigint PRIMARY KEY, n int); INSERT INTO x VALUES (1, 2); COMMIT")
            #expect(try await two.text("SELECT n FROM x") == "2")
            #expect(await two.failure("SELECT c FROM t") == "42703")
        }
    }

    @Test("what a statement said by reason of the rolled-back part itself does not matter while nothing else happens")
    func saidOfOwnWrites() async throws {
        try await Self.withAccounts { served, one, _, a, _ in
            try await served.shards.waitUntilSettled()
            try await one.text("BEGIN; UPDATE t SET n = 1 WHERE id = \(a); SAVEPOINT s; INSERT INTO t VALUES (300, 1)")
            #expect(await one.failure("INSERT INTO t VALUES (300, 1)") == "23505")
            try await one.text("ROLLBACK TO s; UPDATE t SET n = 2 WHERE id = \(a)")
            try await one.text("INSERT INTO t VALUES (300, 2); COMMIT")
            #expect(try await one.text("SELECT n FROM t WHERE id IN (\(a), 300)") == "2\n2")
        }
    }

    @Test("lost update: of two that read a row and write what they computed, one fails")
    func lostUpdate() async throws {
        try await Self.withAccounts { _, one, two, a, _ in
            for client in [one, two] { try await client.text("BEGIN; SELECT n FROM t WHERE id = \(a)") }
            try await one.text("UPDATE t SET n = 11 WHERE id = \(a); COMMIT")
            #expect(await two.failure("UPDATE t SET n = 11 WHERE id = \(a)") == "40001")
            try await two.text("ROLLBACK")
            #expect(try await one.text("SELECT n FROM t WHERE id = \(a)") == "11")
        }
    }

    @Test("read skew (G-single): a transaction sees all of another or nothing, on whichever shard it looks first")
    func readSkew() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            try await one.text("BEGIN; SELECT n FROM t WHERE id = \(a)")
            try await two.text("BEGIN; UPDATE t SET n = 0 WHERE id = \(a); UPDATE t SET n = 20 WHERE id = \(b); COMMIT")
            #expect(try await one.text("SELECT n FROM t WHERE id = \(b)") == "10")
            try await one.text("COMMIT")
            #expect(try await one.text("SELECT n FROM t WHERE id IN (\(a), \(b)) ORDER BY n") == "0\n20")
        }
    }

    @Test("aborted and intermediate reads (G1a, G1b): nobody sees what is not committed")
    func dirtyReads() async throws {
        try await Self.withAccounts { _, one, two, a, _ in
            try await one.text("BEGIN; UPDATE t SET n = 99 WHERE id = \(a)")
            #expect(try await two.text("SELECT n FROM t WHERE id = \(a)") == "10")
            try await one.text("UPDATE t SET n = 98 WHERE id = \(a)")
            #expect(try await two.text("SELECT max(n) FROM t") == "10")
            try await one.text("ROLLBACK")
            #expect(try await two.text("SELECT n FROM t WHERE id = \(a)") == "10")
        }
    }

    @Test("a refused condition was a read: the row it looked at stays as it was until the transaction's end (R7)")
    func writesReadToo() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            try await one.text("BEGIN")
            #expect(
                try await one.runSimple("UPDATE t SET n = n - 50 WHERE id = \(a) AND n >= 50")[0].commandTag
                    == "UPDATE 0")
            async let raised: String? = two.failure("UPDATE t SET n = 50 WHERE id = \(a)")
            try await one.text("UPDATE t SET n = 1 WHERE id = \(b); COMMIT")
            #expect(await raised == nil)
        }
    }

    @Test("a row that ON CONFLICT DO NOTHING found stays until the transaction's end (R7)")
    func conflictReads() async throws {
        try await Self.withAccounts { _, one, two, a, b in
            try await one.text("BEGIN")
            let found = try await one.runSimple("INSERT INTO t VALUES (\(a), 0) ON CONFLICT DO NOTHING")
            #expect(found[0].commandTag == "INSERT 0 0")
            try await two.text("BEGIN; SET LOCAL lock_timeout = '300ms'")
            #expect(await two.failure("DELETE FROM t WHERE id = \(a)") == "55P03")
            try await two.text("ROLLBACK")
            try await one.text("UPDATE t SET n = 1 WHERE id = \(b); COMMIT")
            try await two.text("DELETE FROM t WHERE id = \(a)")
        }
    }

    @Test("a change is described at once in a transaction that has locked its table itself")
    func describesUnderOwnLocks() async throws {
        try await Self.withAccounts { _, one, _, a, b in
            try await one.text("BEGIN; UPDATE t SET n = 11 WHERE id = \(b); SELECT sum(n) FROM t")
            // By the extended protocol, in which libpq has every portal described.
            let change = SQLStatement(
                "UPDATE t SET n = n + $1 WHERE id = $2 RETURNING n", [.text("1"), .text("\(a)")], resultFormat: .text)
            let result = try await one.run(change, deadline: .now + .seconds(8))
            #expect(try result[0].text(0) == "11")
            try await one.text("COMMIT")
        }
    }

    @Test("a deadlock that spans shards ends within seconds: the younger fails with 40P01, the other commits")
    func deadlock() async throws {
        try await Self.withAccounts { served, one, two, a, b in
            try await one.text("BEGIN; UPDATE t SET n = n + 1 WHERE id = \(a)")
            try await two.text("BEGIN; UPDATE t SET n = n + 1 WHERE id = \(b)")
            async let first: String? = one.failure("UPDATE t SET n = n + 1 WHERE id = \(b); COMMIT")
            async let second: String? = two.failure("UPDATE t SET n = n + 1 WHERE id = \(a); COMMIT")
            let states = [await first, await second]
            #expect(states == [nil, "40P01"])
            #expect(await served.engine.currentStatistics().deadlocks == 1)
            try await two.text("ROLLBACK")
            #expect(try await one.text("SELECT sum(n) FROM t WHERE id IN (\(a), \(b))") == "22")
        }
    }

    @Test("sums while clients transfer between shards are always right, and every transfer gets through by retrying")
    func sums() async throws {
        try await Self.withAccounts { served, one, _, _, _ in
            try await withThrowingTaskGroup(of: Void.self) { group in
                for client in 0..<6 {
                    group.addTask {
                        try await served.session { session in
                            for round in 0..<15 {
                                let source = (client * 5 + round) % 20 + 1
                                let target = (client + round * 3 + 7) % 20 + 1
                                guard source != target else { continue }
                                // In one order, so that none wait for each other in a circle.
                                let changes = [(source, -1), (target, 1)].sorted { $0.0 < $1.0 }
                                    .map { "UPDATE t SET n = n + \($0.1) WHERE id = \($0.0)" }
                                while let state = await session.failure(
                                    "BEGIN; \(changes.joined(separator: "; ")); COMMIT")
                                {
                                    #expect(["40001", "40P01", "57014"].contains(state))
                                    try await session.text("ROLLBACK")
                                }
                            }
                        }
                    }
                }
                for _ in 0..<40 { #expect(try await one.text("SELECT sum(n) FROM t") == "200") }
                try await group.waitForAll()
            }
            #expect(try await one.text("SELECT sum(n), count(*) FROM t") == "200,20")
        }
    }
}
