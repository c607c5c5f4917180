import Placement
import ShardBackend
import StatementRouting
import TestSupport
import Testing
import TransactionCore

/// Statements run on one PostgreSQL, and in parts on three schemas that stand for shards, must give the same result.
@Suite struct MergePlanServerTests {
    private static let shards = ["a", "b", "c"].map { ShardID($0)! }

    private static let catalog: Catalog = {
        func column(_ name: String, _ type: UInt32, _ typeName: String) -> ColumnDefinition {
            ColumnDefinition(name, type: type, typeName: typeName, isNotNull: true)
        }
        let accounts = [
            column("id", 20, "bigint"), column("owner", 25, "text"), column("balance", 1700, "numeric"),
            column("n", 23, "integer"), column("f", 701, "double precision"),
        ]
        let orders = [column("customer", 23, "integer"), column("id", 20, "bigint"), column("note", 25, "text")]
        return Catalog(
            version: 1,
            tables: [
                TableDefinition(
                    TableName("accounts"), columns: accounts, primaryKey: ["id"],
                    distribution: .sharded(key: "id", group: "default")),
                TableDefinition(
                    TableName("orders"), columns: orders, primaryKey: ["customer", "id"],
                    distribution: .sharded(key: "customer", group: "default")),
                TableDefinition(
                    TableName("countries"), columns: [column("code", 25, "text"), column("name", 25, "text")],
                    primaryKey: ["code"], distribution: .reference),
            ], buckets: BucketMap(shards: shards))
    }()

    /// A schema with everything, and one for each shard with its part, chosen by the bucket expression.
    private static let schema: String = {
        let parts = shards.map { shard in
            let buckets = catalog.buckets.buckets(of: shard)
            func isHere(_ key: String, _ type: ShardKeyType) -> String {
                "\(type.bucketExpression(key)) BETWEEN \(buckets[0]) AND \(buckets[buckets.count - 1])"
            }
            return """
                CREATE SCHEMA \(shard);
                CREATE TABLE \(shard).accounts AS SELECT * FROM one.accounts WHERE \(isHere("id", .bigint));
                CREATE TABLE \(shard).orders AS SELECT * FROM one.orders WHERE \(isHere("customer", .integer));
                CREATE TABLE \(shard).countries AS SELECT * FROM one.countries;
                """
        }
        return """
            CREATE SCHEMA one;
            CREATE TABLE one.accounts AS SELECT i::bigint AS id, CASE WHEN i % 7 > 0 THEN 'o' || i % 5 END AS owner,
                round((i * 37 % 101)::numeric / 3, i % 3) AS balance, nullif(i % 11, 3) AS n, (i % 8)::float8 AS f
            FROM generate_series(1, 60) AS i;
            CREATE TABLE one.orders AS SELECT i % 40 + 1 AS customer, i::bigint AS id, 'o' || i % 4 AS note
            FROM generate_series(1, 90) AS i;
            CREATE TABLE one.countries AS SELECT 'o' || i AS code, 'name' || i % 2 AS name
            FROM generate_series(1, 6) AS i;
            """ + parts.joined()
    }()

    /// Those with ORDER BY at the top have one sequence only.
    private static let queries = [
        "SELECT * FROM accounts", "SELECT id, owner FROM accounts ORDER BY owner, id DESC LIMIT 7",
        "SELECT id FROM accounts ORDER BY n DESC NULLS LAST, lower(owner) NULLS FIRST, id LIMIT 10 OFFSET 5",
        "SELECT owner o, id FROM accounts ORDER BY o DESC, balance, id OFFSET 50", "SELECT count(*) FROM accounts",
        "SELECT count(n), sum(n), sum(id), sum(balance), sum(f), avg(n), avg(id), avg(balance), avg(f) FROM accounts",
        "SELECT min(owner), max(balance), bool_and(n > 0), bool_or(n > 9), every(id > 0) FROM accounts",
        "SELECT owner, count(*), sum(n), avg(n), max(owner) FROM accounts GROUP BY owner ORDER BY owner",
        "SELECT n % 3 AS k, sum(balance) FILTER (WHERE id > 20) FROM accounts GROUP BY k ORDER BY k NULLS FIRST",
        "SELECT n % 3, count(*) FROM accounts GROUP BY 1 HAVING count(*) > 15 ORDER BY 2 DESC, 1",
        "SELECT upper(owner) || count(*) FROM accounts GROUP BY owner ORDER BY sum(n) / count(*), owner LIMIT 2",
        "SELECT count(*) FROM accounts WHERE false", "SELECT sum(n), avg(n) FROM accounts WHERE false",
        "SELECT owner, avg(n) FROM accounts WHERE false GROUP BY owner",
        "SELECT count(*) FROM accounts HAVING count(*) > 1000", "SELECT count(DISTINCT id), count(*) FROM accounts",
        "SELECT DISTINCT owner FROM accounts", "SELECT DISTINCT owner, n FROM accounts ORDER BY n DESC, owner LIMIT 4",
        "SELECT DISTINCT count(*) FROM accounts GROUP BY owner", "SELECT DISTINCT id FROM accounts ORDER BY id LIMIT 3",
        "SELECT a.id, o.note FROM accounts a JOIN orders o ON a.id = o.customer ORDER BY 1, 2, o.id LIMIT 9",
        "SELECT a.id, count(o.id) FROM accounts a LEFT JOIN orders o ON a.id = o.customer GROUP BY a.id",
        "SELECT a.id, o.id FROM accounts a LEFT JOIN orders o ON a.id = o.customer AND o.note = 'o1' ORDER BY 1, 2",
        "SELECT a.id FROM accounts a WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.customer = a.id)",
        "SELECT id FROM accounts WHERE id IN (SELECT customer FROM orders WHERE note = 'o2')",
        "SELECT id, (SELECT max(o.id) FROM orders o WHERE o.customer = a.id) FROM accounts a ORDER BY 2 NULLS FIRST, 1",
        "SELECT c.name, sum(balance) FROM accounts JOIN countries c ON c.code = owner GROUP BY c.name ORDER BY 1",
        "SELECT a.id, c.name FROM accounts a LEFT JOIN countries c ON c.code = a.owner",
        "SELECT s.x, count(*) FROM (SELECT customer AS x, note FROM orders) s GROUP BY s.x ORDER BY 1 LIMIT 5",
        "SELECT * FROM (SELECT customer, count(*) AS k FROM orders GROUP BY customer) s WHERE k > 2",
        "WITH o AS (SELECT * FROM orders WHERE note <> 'o0') SELECT a.id, o.id FROM accounts a JOIN o ON "
            + "customer = a.id",
        "SELECT customer, array_agg(id ORDER BY id) FROM orders GROUP BY customer ORDER BY customer DESC LIMIT 4",
        "SELECT sum(a.n * 2) + 1, count(*) FROM accounts a JOIN orders o ON o.customer = a.id WHERE a.f > 2",
        "SELECT f, bit_or(n), bit_and(n) FROM accounts GROUP BY accounts.f HAVING min(f) < 5 ORDER BY -f",
        "SELECT a.id, o.id FROM accounts a LEFT JOIN orders o ON a.id = o.customer WHERE o.customer IS NULL ORDER BY 1",
        "SELECT o.customer, count(*) FROM accounts a LEFT JOIN orders o ON a.id = o.customer GROUP BY o.customer",
        "SELECT DISTINCT o.customer FROM accounts a LEFT JOIN orders o ON a.id = o.customer",
        "SELECT a.id, count(*) FROM orders o RIGHT JOIN accounts a ON a.id = o.customer GROUP BY a.id ORDER BY 2, 1",
        "SELECT o.customer, c.name, i.id FROM orders o LEFT JOIN countries c ON c.code = o.note "
            + "LEFT JOIN accounts i ON i.id = o.customer AND i.n > 4 ORDER BY 1, 2, o.id",
    ]

    @Test("a statement's parts, put together, are what one PostgreSQL answers")
    func sameResults() async throws {
        try await SchemaShard.with { shard in
            try await shard.session { connection in
                try await connection.sql(Self.schema)
                for query in Self.queries { try await Self.check(query, connection) }
            }
        }
    }

    private static func check(_ query: String, _ connection: ShardConnection) async throws {
        let plan = try ParsedText(query).plan(0, in: catalog)
        #expect(plan.route == .every, "\(query)")
        try await connection.sql("SET search_path = one")
        let whole = try await connection.runSimple(query)[0]
        var expected = try rows(whole)
        var found = try await rows(together(plan, whole.columnCount, connection))
        if !query.contains(" ORDER BY ") || query.hasPrefix("SELECT a.id, c") {
            (expected, found) = (expected.sorted(), found.sorted())
        }
        #expect(found == expected, "\(query)")
    }

    private static func rows(_ result: SQLResult) throws -> [String] {
        try result.map { row in
            try (0..<row.columnCount).map { try row.isNull($0) ? "NULL" : try row.text($0) }.joined(separator: "|")
        }
    }

    /// Gathers every shard's part into one table and asks for the result there.
    private static func together(
        _ plan: StatementPlan, _ width: Int, _ connection: ShardConnection
    ) async throws -> SQLResult {
        func names(_ count: Int) -> String { (1...count).map { "c\($0)" }.joined(separator: ", ") }
        let columns =
            "SELECT atttypid FROM pg_attribute WHERE attrelid = 'parts'::regclass AND attnum > 0 "
            + "ORDER BY attnum"
        switch plan.merge {
        case .concatenate:
            try await gather(plan.statement.text, names(width), connection)
            return try await connection.runSimple("SELECT * FROM parts")[0]
        case .merge(let merge):
            try await gather(merge.shardSQL.text, names(width + merge.hiddenColumns), connection)
            let keys = merge.keys.map { key in
                "c\(key.column + 1 + (key.isHidden ? width : 0)) \(key.isDescending ? "DESC" : "ASC") "
                    + "NULLS \(key.nullsFirst ? "FIRST" : "LAST")"
            }
            var tail = keys.isEmpty ? "" : " ORDER BY " + keys.joined(separator: ", ")
            if case .constant(let limit)? = merge.limit { tail += " LIMIT \(limit)" }
            if case .constant(let offset)? = merge.offset { tail += " OFFSET \(offset)" }
            return try await connection.runSimple("SELECT \(names(width)) FROM parts\(tail)")[0]
        case .combine(let combination):
            let isDistinct = combination.shardSQL.text.hasPrefix("SELECT DISTINCT")
            let count = combination.shardSQL.text.matches(of: /\ AS c\d+/).count
            try await gather(combination.shardSQL.text, names(isDistinct ? width : count), connection)
            let types = try await connection.runSimple(columns)[0].map { UInt32(try $0.text(0)) ?? 0 }
            return try await connection.runSimple(combination.sql(over: "parts", columnTypes: types).text)[0]
        case .gather(let gather):
            throw gather.error
        }
    }

    private static func gather(_ sql: String, _ names: String, _ connection: ShardConnection) async throws {
        try await connection.sql("DROP TABLE IF EXISTS pg_temp.parts")
        for (index, shard) in shards.enumerated() {
            try await connection.sql("SET search_path = \(shard)")
            let head = index == 0 ? "CREATE TEMP TABLE parts (\(names)) AS " : "INSERT INTO parts "
            try await connection.sql(head + sql)
        }
    }
}
