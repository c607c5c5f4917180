import Placement
import Testing
import TransactionCore

@testable import StatementRouting

@Suite struct TemporaryTableTests {
    private func plan(_ text: String, searchPath: [String] = ["public"]) throws -> StatementPlan {
        let column = ColumnDefinition("id", type: 20, typeName: "bigint", isNotNull: false, defaultKind: .none)
        let tables = ["accounts", "fresh"].map { name in
            TableDefinition(
                TableName(schema: TableName.temporarySchema, name), columns: [column], primaryKey: [],
                distribution: .single(shardA), isVersioned: false)
        }
        return try ParsedText(text).plan(0, in: makeCatalog().adding(temporary: tables), searchPath: searchPath)
    }

    @Test(
        "a temporary table hides others of its name, unless the path gives it another place",
        arguments: [
            ("accounts", ["public"], "pg_temp"), ("pg_temp.accounts", ["public"], "pg_temp"),
            ("public.accounts", ["public"], "public"), ("accounts", ["public", "pg_temp"], "public"),
            ("fresh", ["public", "pg_temp"], "pg_temp"), ("orders", ["public"], "public"),
        ])
    func names(name: String, path: [String], schema: String) throws {
        let plan = try plan("SELECT * FROM \(name)", searchPath: path)
        #expect(plan.tables.map(\.table.schema) == [schema])
        #expect(plan.usesTemporaryTables == (schema == "pg_temp"))
    }

    @Test("it is on one shard, with what is there; together with others it must be filled first")
    func routes() throws {
        #expect(try plan("SELECT * FROM fresh JOIN accounts USING (id)").route.short == "single a")
        #expect(try plan("SELECT * FROM fresh, settings, countries").route.short == "single a")
        #expect(try plan("UPDATE fresh SET id = 1").changesSharedTables == false)
        #expect(try plan("UPDATE settings SET v = '' FROM fresh").changesSharedTables)
        let joined = try plan("SELECT * FROM fresh, orders")
        guard case .gather(let gather) = joined.route else { throw Mismatch() }
        #expect(gather.error.hint?.contains("temporary") == true)
    }

    private struct Mismatch: Error {}

    @Test(
        "an INSERT of rows of other shards is cut at its query",
        arguments: [
            ("INSERT INTO fresh SELECT id FROM orders", "INSERT INTO fresh ", "SELECT id FROM orders", ""),
            ("INSERT INTO orders SELECT * FROM fresh", "INSERT INTO orders ", "SELECT * FROM fresh", ""),
            ("INSERT INTO fresh (id) TABLE orders", "INSERT INTO fresh (id) ", "TABLE orders", ""),
            ("INSERT INTO fresh SELECT k FROM settings", "INSERT INTO fresh ", "SELECT k FROM settings", ""),
            (
                "INSERT INTO orders AS o (customer, id) OVERRIDING USER VALUE "
                    + "(WITH x AS (SELECT 1) SELECT * FROM fresh) "
                    + "ON CONFLICT (customer, id) DO UPDATE SET note = 'x' RETURNING o.id",
                "INSERT INTO orders AS o (customer, id) OVERRIDING USER VALUE ",
                "(WITH x AS (SELECT 1) SELECT * FROM fresh) ",
                "ON CONFLICT (customer, id) DO UPDATE SET note = 'x' RETURNING o.id"
            ),
            (
                "INSERT INTO metrics SELECT id FROM orders JOIN fresh USING (id) RETURNING v", "INSERT INTO metrics ",
                "SELECT id FROM orders JOIN fresh USING (id) ", "RETURNING v"
            ),
        ])
    func queryInserts(text: String, head: String, query: String, tail: String) throws {
        let insert = try #require(try plan(text).queryInsert)
        #expect(insert.head == head)
        #expect(insert.query.text == query)
        #expect(insert.tail == tail)
        #expect(insert.updatesOnConflict == tail.contains("DO UPDATE"))
        #expect(insert.sql(inserting: ["(1)", "(2)"]).text == "\(head)VALUES (1), (2) \(tail)")
    }

    @Test("parameters stay with their part", arguments: ["$1", "$2"])
    func parameters(first: String) throws {
        let second = first == "$1" ? "$2" : "$1"
        let text = "INSERT INTO fresh SELECT id FROM orders WHERE id > \(first) RETURNING id + \(second)"
        let insert = try #require(try plan(text).queryInsert)
        #expect(insert.query.text.hasSuffix("id > $1 "))
        #expect(insert.query.parameters == [first == "$1" ? 1 : 2])
        #expect(insert.sql(inserting: ["('$3')"]).text.hasSuffix("RETURNING id + $1"))
        #expect(insert.sql(inserting: ["('$3')"]).parameters == [first == "$1" ? 2 : 1])
    }

    @Test(
        "what runs where its tables are, or can't be cut, is not",
        arguments: [
            "INSERT INTO fresh VALUES (1)", "INSERT INTO fresh SELECT 1", "INSERT INTO fresh SELECT id FROM accounts",
            "WITH x AS (SELECT id FROM orders) INSERT INTO fresh SELECT id FROM x", "SELECT * FROM fresh, orders",
        ])
    func notCut(text: String) throws {
        #expect(try plan(text).queryInsert == nil)
    }
}
