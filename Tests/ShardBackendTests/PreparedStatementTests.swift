import TestSupport
import Testing
import TransactionCore

@testable import ShardBackend

@Suite struct StatementCacheTests {
    @Test("a text is prepared once, and executed by name when the server has said that it parsed it")
    func preparation() {
        var cache = StatementCache(capacity: 2)
        #expect(cache.use("a") == .prepare(name: "meridian_1", evicted: nil))
        #expect(cache.use("a") == .sendUnnamed, "the pipeline that prepares it may fail before it has")
        cache.prepared("a", as: "meridian_1")
        #expect(cache.use("a") == .execute(name: "meridian_1"))
        cache.notPrepared("a", as: "meridian_7")
        #expect(cache.use("a") == .execute(name: "meridian_1"), "an answer about another name means nothing")
    }

    @Test("the least recently used statement gives way, but never one whose answer is still to come")
    func eviction() {
        var cache = StatementCache(capacity: 2)
        for (key, name) in [("a" as StatementCache.Key, "meridian_1"), ("b", "meridian_2")] {
            #expect(cache.use(key) == .prepare(name: name, evicted: nil))
        }
        #expect(cache.use("c") == .sendUnnamed)
        cache.prepared("a", as: "meridian_1")
        cache.prepared("b", as: "meridian_2")
        #expect(cache.use("a") == .execute(name: "meridian_1"))
        #expect(cache.use("c") == .prepare(name: "meridian_3", evicted: "meridian_2"))
        #expect(cache.count == 2)
    }

    @Test("a statement that could not be parsed is not thought prepared")
    func failure() {
        var cache = StatementCache(capacity: 2)
        #expect(cache.use("a") == .prepare(name: "meridian_1", evicted: nil))
        cache.notPrepared("a", as: "meridian_1")
        #expect(cache.use("a") == .prepare(name: "meridian_2", evicted: nil))
        #expect(cache.forget("a") == nil)
        cache.prepared("a", as: "meridian_2")
        #expect(cache.forget("a") == "meridian_2")
    }

    @Test("other types, other settings or other bytes make another statement")
    func keys() {
        var cache = StatementCache(capacity: 10)
        let keys: [StatementCache.Key] = [
            "a", .init("a", parameterTypes: [23]), .init("a", parameterTypes: [25]), .init("a", appliedSettings: 1),
            "\u{E9}", "e\u{301}", "",
        ]
        for (index, key) in keys.enumerated() {
            #expect(cache.use(key) == .prepare(name: "meridian_\(index + 1)", evicted: nil))
        }
        for (index, key) in keys.enumerated() {
            cache.prepared(key, as: "meridian_\(index + 1)")
            #expect(cache.use(key) == .execute(name: "meridian_\(index + 1)"))
        }
    }
}

extension StatementCache.Key: ExpressibleByStringLiteral {
    public init(stringLiteral text: String) {
        self.init(text)
    }
}

/// How many statements the server says it has prepared for a session, all or those of one text.
private func countPrepared(_ connection: ShardConnection, of text: String? = nil) async throws -> Int64 {
    let query = "SELECT count(*) FROM pg_prepared_statements WHERE statement = $1 OR $1 IS NULL"
    let statement = SQLStatement(query, [text.map { .text($0) } ?? .null], isPrepared: false)
    return try await connection.run(statement)[0].int64(0)
}

@Suite struct PreparedStatementTests {
    @Test("a statement is prepared once, whatever the types of its values")
    func once() async throws {
        try await withConnection { connection, _ in
            for value in [SQLParameter.int64(1), .text("2"), .null, .int64(-3)] {
                _ = try await connection.run(SQLStatement("SELECT $1::int", [value]))
            }
            #expect(try await countPrepared(connection) == 1)
        }
    }

    @Test("a pipeline that fails before a statement is parsed leaves it unprepared, and it works later")
    func failedBeforeParse() async throws {
        try await withConnection { (connection, _) async throws in
            let statement = SQLStatement("SELECT $1::bigint", [7])
            await expectShardError({ $0.statementIndex == 0 }) {
                _ = try await connection.run(["SELECT nonsense", statement])
            }
            await expectShardError({ $0.statementIndex == 1 }) {
                _ = try await connection.run([statement, "SELECT nonsense", "SELECT 'after'"])
            }
            #expect(try await connection.run(statement)[0].int64(0) == 7)
            #expect(try await connection.run("SELECT 'after'")[0].text(0) == "after")
            #expect(try await countPrepared(connection) == 2)
        }
    }

    @Test("a statement whose result changes with the schema is prepared again by itself, outside a transaction")
    func changedSchema() async throws {
        try await withConnection { connection, _ in
            _ = try await connection.runSimple("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
            let select = SQLStatement("SELECT * FROM t")
            #expect(try await connection.run(select).columnCount == 1)
            _ = try await connection.runSimple("ALTER TABLE t ADD b text DEFAULT 'new'")
            #expect(try await connection.run(select)[0].text(1) == "new")

            _ = try await connection.runSimple("ALTER TABLE t ADD c int DEFAULT 3")
            _ = try await connection.run("BEGIN")
            let error = await expectShardError { _ = try await connection.run(select) }
            let stale = try #require(error)
            #expect(stale.serverFields?.isStalePreparedStatement == true)
            #expect(TransactionError(stale, shard: nil).isRetryable)
            _ = try await connection.run("ROLLBACK")
            #expect(try await connection.run(select)[0].int64(2) == 3)
            #expect(try await countPrepared(connection, of: "SELECT * FROM t") == 1, "the stale one is deallocated")
        }
    }

    @Test("a statement deallocated behind the connection's back is prepared again by itself")
    func deallocated() async throws {
        try await withConnection { connection, _ in
            let statement = SQLStatement("SELECT $1::bigint", [7])
            _ = try await connection.run(statement)
            _ = try await connection.run("DEALLOCATE ALL")
            #expect(try await connection.run(statement)[0].int64(0) == 7)
        }
    }

    @Test("no more statements stay prepared than the limit says")
    func bound() async throws {
        try await TestCluster.withShards { shards in
            var settings = try shards[0].settings
            settings.preparedStatementsMax = 10
            let connection = try await ShardConnection.connect(to: settings, on: TestLoop.shared())
            for number in 0..<50 { _ = try await connection.run(SQLStatement("SELECT \(number)")) }
            _ = try await connection.run("BEGIN")
            _ = try await connection.run(SQLStatement("SELECT 50"))
            _ = try await connection.run("COMMIT")
            #expect(try await countPrepared(connection) == 10)
            await connection.close()
        }
    }
}
