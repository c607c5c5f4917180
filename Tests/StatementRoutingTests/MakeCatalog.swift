import Placement
import StatementRouting
import TransactionCore

let (shardA, shardB, shardC) = (ShardID("a")!, ShardID("b")!, ShardID("c")!)

/// A schema with a table of every kind.
func makeCatalog(version: UInt64 = 1) -> Catalog {
    func column(_ name: String, _ type: UInt32, _ typeName: String, _ kind: DefaultKind = .none) -> ColumnDefinition {
        ColumnDefinition(name, type: type, typeName: typeName, isNotNull: true, defaultKind: kind)
    }
    func sharded(
        _ name: String, by key: String, group: String = "default", key primary: [String],
        _ columns: ColumnDefinition...
    ) -> TableDefinition {
        TableDefinition(
            TableName(name), columns: columns, primaryKey: primary, distribution: .sharded(key: key, group: group))
    }
    let sequence = DefaultKind.sequence(TableName("tickets_id_seq"))
    let tables = [
        sharded(
            "accounts", by: "id", key: ["id"], column("id", 20, "bigint"), column("owner", 25, "text"),
            column("balance", 1700, "numeric")),
        sharded(
            "orders", by: "customer", key: ["customer", "id"], column("customer", 20, "bigint"),
            column("id", 20, "bigint"), column("total", 1700, "numeric"), column("note", 25, "text")),
        sharded(
            "items", by: "customer", key: ["customer", "order_id", "n"], column("customer", 23, "integer"),
            column("order_id", 20, "bigint"), column("n", 23, "integer"), column("price", 1700, "numeric")),
        sharded("users", by: "name", key: ["name"], column("name", 25, "text"), column("email", 25, "text")),
        sharded("codes", by: "code", key: ["code"], column("code", 1042, "character(4)"), column("v", 23, "integer")),
        sharded("days", by: "day", key: ["day"], column("day", 1082, "date"), column("v", 23, "integer")),
        sharded("prices", by: "p", key: ["p"], column("p", 1700, "numeric(10,2)"), column("v", 23, "integer")),
        sharded("Mixed", by: "Id", key: ["Id"], column("Id", 23, "integer"), column("id", 23, "integer")),
        sharded(
            "metrics", by: "id", group: "other", key: ["id"], column("id", 20, "bigint"), column("v", 20, "bigint")),
        sharded(
            "tickets", by: "id", key: ["id"], column("id", 20, "bigint", sequence), column("title", 25, "text"),
            column("n", 23, "integer", .identity(TableName("tickets_n_seq"), always: true))),
        sharded(
            "events", by: "id", key: ["id"], column("id", 2950, "uuid", .expression("gen_random_uuid()")),
            column("at", 1184, "timestamp with time zone", .expression("now()"))),
        TableDefinition(
            TableName("countries"), columns: [column("code", 25, "text"), column("name", 25, "text")],
            primaryKey: ["code"], distribution: .reference),
        TableDefinition(
            TableName("kinds"), columns: [column("id", 23, "integer", sequence), column("name", 25, "text")],
            primaryKey: ["id"], distribution: .reference),
        TableDefinition(
            TableName("settings"), columns: [column("k", 25, "text"), column("v", 25, "text")], primaryKey: ["k"],
            distribution: .single(shardA)),
        TableDefinition(
            TableName("logs"), columns: [column("line", 25, "text")], primaryKey: [], distribution: .single(shardB)),
        TableDefinition(
            TableName(schema: "app", "accounts"), columns: [column("id", 20, "bigint")], primaryKey: ["id"],
            distribution: .reference),
    ]
    return Catalog(
        version: version, tables: tables, views: [TableName("rich")], functions: ["audit": .unknown],
        buckets: BucketMap(shards: [shardA, shardB, shardC]))
}

/// The plan of the only statement of a text.
func makePlan(_ text: String, searchPath: [String] = ["public"]) throws -> StatementPlan {
    try ParsedText(text).plan(0, in: makeCatalog(), searchPath: searchPath)
}

extension Route {
    /// A short form for tables of expectations: `key=1,$2` for one set of keys, `keys=1|2` for keys that must agree.
    var short: String {
        switch self {
        case .anyOne: "any"
        case .single(let shard): "single \(shard)"
        case .every: "every"
        case .everyCopy: "copy"
        case .rows: "rows"
        case .gather: "gather"
        case .keys(let sets, let mustAgree):
            (mustAgree && (sets.count > 1 || sets[0].sources.count > 1) ? "keys=" : "key=")
                + sets.map { $0.sources.map(\.short).joined(separator: ",") }.joined(separator: "|")
        }
    }
}

extension KeySource {
    var short: String {
        switch self {
        case .constant(let text): text
        case .null: "NULL"
        case .parameter(let number, 0): "$\(number)"
        case .parameter(let number, let type): "$\(number)::\(type)"
        case .elements(let number): "ANY $\(number)"
        }
    }
}
