import Foundation
import ShardBackend
import TestSupport
import Testing

/// Statements about other statements, about the session, and its timeouts.
@Suite(.serialized) struct SessionStatementTests {
    private static let table = "CREATE TABLE t (id bigint PRIMARY KEY, v text, n int NOT NULL DEFAULT 0);"
    private static let rows = "INSERT INTO t VALUES (1,'a',10),(2,'b',20),(3,'c',30),(4,'d',40),(5,'e',50);"

    /// A session of three shards that has the table.
    private static func withTable(_ body: (ServedShards, ShardConnection) async throws -> Void) async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(table + rows)
                try await body(served, client)
            }
        }
    }

    // MARK: PREPARE and EXECUTE

    @Test("what PREPARE made EXECUTE runs on the shards of its arguments, with values of the declared types")
    func prepare() async throws {
        try await Self.withTable { _, client in
            try await client.text("PREPARE one (bigint) AS SELECT n FROM t WHERE id = $1")
            for id in 1...5 { #expect(try await client.text("EXECUTE one (\(id - 1) + 1)") == "\(id * 10)") }
            try await client.text("PREPARE put AS INSERT INTO t VALUES ($1, $2, $3) RETURNING id")
            #expect(try await client.text("EXECUTE put (6, 'it''s', length('abc'))") == "6")
            #expect(try await client.text("SELECT v, n FROM t WHERE id = 6") == "it's,3")
            #expect(try await client.runSimple("EXECUTE put (7, NULL, 0)")[0].commandTag == "INSERT 0 1")
            #expect(try await client.text("PREPARE all_of AS SELECT sum(n) FROM t; EXECUTE all_of") == "153")
            #expect(await client.failure("EXECUTE one") == "42601")
            #expect(await client.failure("EXECUTE one ('x')") == "22P02")
            #expect(await client.failure("EXECUTE one ((SELECT 1 FROM t LIMIT 1))") == "0A000")
            #expect(await client.failure("EXECUTE nothing (1)") == "26000")
            #expect(await client.failure("PREPARE one AS SELECT 1") == "42P05")
            #expect(await client.failure("PREPARE wrong AS SELECT nothing FROM t") == "42703")
            #expect(await client.failure("PREPARE wrong (nosuchtype) AS SELECT $1") == "42704")
        }
    }

    @Test("statements of PREPARE and of the protocol are the same ones, and each session has its own")
    func namesOfStatements() async throws {
        try await Self.withTable { served, client in
            try await client.text("PREPARE p (int, text) AS SELECT $1, $2")
            let names = "SELECT name, statement, parameter_types::text, from_sql FROM pg_prepared_statements"
            #expect(
                try await client.text(names) == "p,PREPARE p (int, text) AS SELECT $1, $2,{integer,text},t")
            #expect(try await client.text("SELECT p.name FROM pg_catalog.pg_prepared_statements AS p") == "p")
            #expect(
                try await client.text("SELECT pg_prepared_statements.name FROM pg_prepared_statements WHERE true")
                    == "p")
            let others = try await served.session { try await $0.text(names) }
            #expect(others == "")
            #expect(
                try await served.psql("PREPARE q AS SELECT 5; EXECUTE q; DEALLOCATE q; EXECUTE q").contains("26000"))
            try await client.text("DEALLOCATE p")
            #expect(await client.failure("DEALLOCATE p") == "26000")
            try await client.text("PREPARE p AS SELECT 1; DEALLOCATE ALL")
            #expect(try await client.text(names) == "")
        }
    }

    @Test("DISCARD ALL makes the session as new, and is refused in a block")
    func discard() async throws {
        try await Self.withTable { _, client in
            try await client.text("PREPARE p AS SELECT 1; SET TimeZone = 'Asia/Tokyo'; SET lock_timeout = '5s'")
            #expect(await client.failure("BEGIN; DISCARD ALL") == "25001")
            try await client.text("ROLLBACK; DISCARD PLANS")
            try await client.text("DISCARD ALL")
            #expect(await client.failure("EXECUTE p") == "26000")
            #expect(try await client.text("SHOW lock_timeout") == "0")
            #expect(try await client.text("SELECT current_setting('TimeZone')") != "Asia/Tokyo")
        }
    }

    // MARK: EXPLAIN

    @Test("EXPLAIN shows the route and each shard's plan, of EXECUTE and with parameters too, and runs nothing")
    func explain() async throws {
        try await Self.withTable { _, client in
            let one = try await client.text("EXPLAIN (COSTS OFF) SELECT * FROM t WHERE id = 3").split(separator: "\n")
            #expect(one[0].hasPrefix("Route: by shard key: 1 of 3 shards (shard"))
            #expect(one.count(where: { $0.hasPrefix("Shard shard") }) == 1)
            #expect(one.contains { $0.contains("Index Cond: (id = ") }, "\(one)")
            let all = try await client.text("EXPLAIN SELECT sum(n) FROM t").split(separator: "\n")
            #expect(all[0] == "Route: all 3 shards, the rows put together")
            #expect(all.count(where: { $0.hasPrefix("Shard shard") }) == 3)
            #expect(all.contains { $0.contains("Aggregate") })
            try await client.text("EXPLAIN DELETE FROM t; EXPLAIN INSERT INTO t VALUES (8, 'x', 0), (9, 'y', 0)")
            #expect(try await client.text("SELECT count(*) FROM t") == "5")
            try await client.text("PREPARE p (bigint) AS SELECT * FROM t WHERE id = $1")
            #expect(try await client.text("EXPLAIN EXECUTE p (4)").contains("1 of 3 shards"))
            let bound = SQLStatement("EXPLAIN SELECT * FROM t WHERE id = $1", [.int64(2)], resultFormat: .text)
            #expect(try await client.run(bound)[0].text(0).contains("1 of 3 shards"))
            #expect(await client.failure("EXPLAIN SELECT nothing FROM t") == "42703")
            #expect(await client.failure("EXPLAIN (FORMAT YAML) SELECT 1") == "0A000")
        }
    }

    @Test("EXPLAIN in JSON is one plan with the shards' plans in it")
    func explainJSON() async throws {
        try await Self.withTable { _, client in
            let text = try await client.text("EXPLAIN (ANALYZE, FORMAT JSON) SELECT * FROM t")
            let document = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]]
            let top = try #require(document?.first?["Plan"] as? [String: Any])
            let plans = try #require(top["Plans"] as? [[String: Any]])
            #expect(plans.compactMap { $0["Shard"] as? String } == ["shard1", "shard2", "shard3"])
            let rows = plans.compactMap { $0["Actual Rows"] as? Int }
            #expect(rows.count == 3 && rows.reduce(0, +) == 5, "\(rows)")
        }
    }

    @Test("EXPLAIN ANALYZE runs the statement: a write is written in its transaction, once, and rolled back with it")
    func explainAnalyze() async throws {
        try await Self.withTable { _, client in
            let read = try await client.text("EXPLAIN ANALYZE SELECT * FROM t WHERE n > 15")
            #expect(read.contains("actual time"))
            try await client.text("EXPLAIN ANALYZE UPDATE t SET n = n + 1 WHERE id = 2")
            #expect(try await client.text("SELECT n FROM t WHERE id = 2") == "21")
            try await client.text("EXPLAIN ANALYZE UPDATE t SET n = n + 1")
            #expect(try await client.text("SELECT sum(n) FROM t") == "156")
            try await client.text("EXPLAIN ANALYZE INSERT INTO t VALUES (8, 'x', 1), (9, 'y', 1), (10, 'z', 1)")
            #expect(try await client.text("SELECT count(*) FROM t") == "8")
            try await client.text("BEGIN; EXPLAIN ANALYZE DELETE FROM t")
            #expect(try await client.text("SELECT count(*) FROM t") == "0")
            try await client.text("ROLLBACK")
            #expect(try await client.text("SELECT count(*) FROM t") == "8")
            #expect(await client.failure("BEGIN READ ONLY; EXPLAIN ANALYZE DELETE FROM t") == "25006")
            try await client.text("ROLLBACK")
        }
    }

    @Test("what EXPLAIN ANALYZE counted in a transaction stays true until it ends")
    func explainLocks() async throws {
        try await Self.withTable { served, client in
            try await client.text("BEGIN; EXPLAIN ANALYZE SELECT count(*) FROM t")
            try await served.session { other in
                #expect(await other.failure("SET lock_timeout = '300ms'; INSERT INTO t VALUES (20)") == "55P03")
            }
            try await client.text("COMMIT")
        }
    }

    // MARK: Modes and timeouts

    @Test("DEFERRABLE is taken, shown, and changes nothing of what may be written")
    func deferrable() async throws {
        try await Self.withTable { _, client in
            try await client.text("BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE")
            #expect(try await client.text("SHOW transaction_deferrable; SELECT count(*) FROM t") == "on\n5")
            #expect(await client.failure("DELETE FROM t") == "25006")
            try await client.text("ROLLBACK")
            #expect(try await client.text("SHOW transaction_deferrable") == "off")
            try await client.text("SET SESSION CHARACTERISTICS AS TRANSACTION DEFERRABLE; BEGIN")
            #expect(try await client.text("SHOW transaction_deferrable") == "on")
            try await client.text("UPDATE t SET n = 0 WHERE id = 1; COMMIT")
        }
    }

    @Test("a client that leaves a transaction open for too long is sent away, and its locks are free")
    func idleInTransaction() async throws {
        try await Self.withTable { served, client in
            for opening in ["UPDATE t SET n = 1 WHERE id = 1", "SELECT 1/0"] {
                let idle = try await served.connect()
                try await idle.text("SET idle_in_transaction_session_timeout = '200ms'; SELECT 1")
                #expect(try await idle.text("SHOW idle_in_transaction_session_timeout") == "200ms")
                _ = try? await idle.text("BEGIN; \(opening)")
                try await waitUntil("the session is gone") {
                    try await client.text("SELECT count(*) FROM meridian.stat_activity") == "1"
                }
                #expect(await idle.failure("SELECT 1") == "08006")
                #expect(await client.failure("SET lock_timeout = '2s'; UPDATE t SET n = 2 WHERE id = 1") == nil)
                await idle.close()
            }
        }
    }

    @Test("a client that is idle for too long outside a transaction is sent away, one that works is not")
    func idle() async throws {
        try await Self.withTable { served, client in
            let idle = try await served.connect()
            try await idle.text("SET idle_session_timeout = '400ms'")
            for _ in 0..<6 {
                try await Task.sleep(for: .milliseconds(100))
                try await idle.text("SELECT count(*) FROM t")
            }
            try await waitUntil("the session is gone") {
                try await client.text("SELECT count(*) FROM meridian.stat_activity") == "1"
            }
            #expect(await idle.failure("SELECT 1") == "08006")
            await idle.close()
            // Nor were the pooled sessions told that they may go.
            try await Task.sleep(for: .milliseconds(500))
            #expect(try await client.text("SELECT count(*) FROM t") == "5")
        }
    }

    @Test(
        "statement_timeout ends a statement on one shard, on all, and where it waits for a lock; the session lives on")
    func statementTimeout() async throws {
        try await Self.withTable { served, client in
            try await client.text("BEGIN; UPDATE t SET n = 0 WHERE id = 1")
            try await served.session { other in
                try await other.text("SET statement_timeout = '200ms'")
                for statement in [
                    "SELECT pg_sleep(20)", "SELECT id, pg_sleep(20) FROM t", "UPDATE t SET n = 1 WHERE id = 1",
                ] {
                    let begun = ContinuousClock.now
                    #expect(await other.failure(statement) == "57014", "\(statement)")
                    #expect(.now - begun < .seconds(8), "\(statement)")
                }
                #expect(try await other.text("SELECT count(*) FROM t") == "5")
            }
            try await client.text("ROLLBACK")
        }
    }

    // MARK: set_config

    @Test("set_config sets what SET sets, with parameters too, and a local value ends with the transaction")
    func setConfig() async throws {
        try await Self.withTable { _, client in
            #expect(try await client.text("SELECT set_config('TimeZone', 'Asia/Tokyo', false)") == "Asia/Tokyo")
            #expect(
                try await client.text("SHOW TimeZone; SELECT current_setting('TimeZone')") == "Asia/Tokyo\nAsia/Tokyo")
            let call = SQLStatement(
                "SELECT set_config($1, $2, $3), 7", [.text("app.tenant"), .text("five"), .text("false")])
            #expect(try await client.run(call)[0].text(0) == "five")
            #expect(try await client.text("SELECT current_setting('app.tenant')") == "five")
            try await client.text("BEGIN; SELECT set_config('app.tenant', 'six', true)")
            #expect(try await client.text("SELECT current_setting('app.tenant')") == "six")
            try await client.text("UPDATE t SET n = n WHERE id = 1")
            #expect(try await client.text("SELECT current_setting('app.tenant')") == "six")
            try await client.text("COMMIT")
            #expect(try await client.text("SELECT current_setting('app.tenant')") == "five")
            #expect(await client.failure("SELECT set_config('TimeZone', 'Nowhere/City', false)") == "22023")
            #expect(await client.failure("SELECT lower(set_config('TimeZone', 'UTC', false))") == "0A000")
            #expect(await client.failure("SET meridian.nothing = '1'") == "42704")
            #expect(await client.failure("SET ROLE someone") == "0A000")
        }
    }

    @Test("a parameter without a value in DECLARE's or COPY's query is refused, and COMMIT outside a block commits")
    func innerParameters() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2)")
                #expect(await client.failure("COPY (SELECT count(*) FROM t WHERE v = $1) TO STDOUT") == "42P02")
                #expect(await client.failure("EXPLAIN SELECT v FROM t ORDER BY v LIMIT $1") == "42P02")
                let declare = "BEGIN; DECLARE c CURSOR FOR SELECT v FROM t ORDER BY v LIMIT $1; FETCH c"
                #expect(await client.failure(declare) == "42P02")
                try await client.text("ROLLBACK")
                #expect(await client.failure("INSERT INTO t VALUES (3, 3); COMMIT; SELECT 1/0") == "22012")
                #expect(try await client.text("SELECT count(*) FROM t") == "3")
            }
            // What the protocol prepares may be an EXECUTE of itself.
            let raw = try await served.rawClient()
            await raw.send(
                .parse(.init(statement: "a", query: "EXECUTE a")), .bind(.init(statement: "a")), .execute(.init()),
                .sync)
            let messages = try await raw.messages { if case .readyForQuery = $0 { true } else { false } }
            guard case .errorResponse(let fields) = messages.last else {
                Issue.record("\(messages)")
                return
            }
            #expect(fields[.sqlState] == "0A000")
        }
    }

    @Test("a row that was locked since a savepoint is looked at again after going back to it")
    func lockedSinceSavepoint() async throws {
        try await ServedShards.with(2) { served in
            let one = try await served.connect()
            let two = try await served.connect()
            try await one.text(
                "CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 1), (2, 2), (3, 3)")
            try await one.text("BEGIN; UPDATE t SET v = 0 WHERE id = 3; SAVEPOINT s")
            #expect(try await one.text("SELECT v FROM t WHERE id = 1 FOR UPDATE") == "1")
            async let change = two.text("UPDATE t SET v = 9 WHERE id = 1")
            try await Task.sleep(for: .milliseconds(100))
            let failure = await one.failure("ROLLBACK TO s; UPDATE t SET v = 5 WHERE id = 2; COMMIT")
            _ = try await change
            if failure == nil {
                let ours = try #require(Int64(try await one.text("SHOW meridian.commit_timestamp")))
                #expect(try ours < #require(Int64(try await two.text("SHOW meridian.commit_timestamp"))))
            } else {
                #expect(failure == "40001")
            }
            await one.close()
            await two.close()
        }
    }
}
