import Placement
import Testing
import TransactionCore

@Suite struct CatalogTests {
    private func makeTable(_ name: TableName, key: String = "id", unique: [[String]] = []) -> TableDefinition {
        TableDefinition(
            name,
            columns: [
                ColumnDefinition("id", type: 20, typeName: "bigint", isNotNull: true),
                ColumnDefinition("a", type: 25, typeName: "text"),
                ColumnDefinition("f", type: 701, typeName: "double precision", isNotNull: true),
            ],
            primaryKey: ["id"], uniqueConstraints: unique, distribution: .sharded(key: key, group: "default"))
    }

    private func makeCatalog(_ names: TableName...) -> Catalog {
        Catalog(
            version: 1, tables: names.map { makeTable($0) }, views: [TableName("v")],
            buckets: BucketMap(shards: [ShardID("a")!]))
    }

    @Test("a name is looked up along the search path, a qualified one in its schema alone")
    func resolution() {
        let catalog = makeCatalog(TableName("t"), TableName(schema: "app", "t"), TableName(schema: "app", "u"))
        func find(_ schema: String?, _ name: String, _ path: [String]) -> TableName? {
            guard case .table(let table) = catalog.relation(schema: schema, name, searchPath: path) else { return nil }
            return table.name
        }
        #expect(find(nil, "t", ["public", "app"]) == TableName("t"))
        #expect(find(nil, "t", ["app", "public"]) == TableName(schema: "app", "t"))
        #expect(find(nil, "u", ["public", "app"]) == TableName(schema: "app", "u"))
        #expect(find(nil, "u", ["public"]) == nil)
        #expect(find("app", "t", ["public"]) == TableName(schema: "app", "t"))
        #expect(find("nowhere", "t", ["public"]) == nil)
        #expect(catalog.relation(schema: nil, "v", searchPath: ["public"]) == .view(TableName("v")))
    }

    @Test("system relations are told from unknown ones")
    func system() {
        let catalog = makeCatalog(TableName("t"))
        let pgClass = Catalog.Relation.system(TableName(schema: "pg_catalog", "pg_class"))
        #expect(catalog.relation(schema: nil, "pg_class", searchPath: ["public"]) == pgClass)
        #expect(catalog.relation(schema: "pg_catalog", "pg_class", searchPath: []) == pgClass)
        #expect(catalog.relation(schema: nil, "x", searchPath: ["public"]) == .unknown)
    }

    @Test("a table that shards can't keep consistent is refused")
    func flaws() {
        #expect(makeTable(TableName("t")).flaw == nil)
        #expect(makeTable(TableName("t"), unique: [["a", "id"]]).flaw == nil)
        #expect(makeTable(TableName("t"), key: "a").flaw == "shard key a may be null")
        #expect(makeTable(TableName("t"), key: "b").flaw == "there is no column b")
        #expect(makeTable(TableName("t"), key: "f").flaw == "type double precision can't be a shard key")
        #expect(
            makeTable(TableName("t"), unique: [["a"]]).flaw
                == "the unique constraint on (a) lacks the shard key id")
    }

    @Test(
        "identifiers are quoted when they must be",
        arguments: [
            ("a", "a"), ("a_1", "a_1"), ("A", "\"A\""), ("select", "\"select\""), ("a b", "\"a b\""),
            ("1a", "\"1a\""), ("a\"b", "\"a\"\"b\""), ("ä", "\"ä\""), ("", "\"\""),
        ])
    func quoting(name: String, sql: String) {
        #expect(quotedIdentifier(name) == sql)
    }
}
