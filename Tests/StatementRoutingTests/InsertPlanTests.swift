import Placement
import StatementRouting
import Testing
import TransactionCore

@Suite struct InsertPlanTests {
    private let buckets = makeCatalog().buckets

    private func insert(_ text: String) throws -> InsertPlan {
        let plan = try makePlan(text)
        #expect(plan.route == .rows)
        return try #require(plan.insert)
    }

    private func shard(_ key: Int64) -> ShardID { buckets.shard(forHash: ShardKeyHash.hash(key)) }

    @Test("each row goes to the shard of its key, and each shard's INSERT keeps the rows' sequence")
    func split() throws {
        let values = (1...6).map { "(\($0), 'o,\($0))', f($\($0)))" }
        let insert = try insert(
            "INSERT INTO accounts AS values VALUES " + values.joined(separator: " , ") + " RETURNING id")
        let split = insert.split([], in: buckets)
        #expect(split.unknown.isEmpty)
        #expect(split.rows.values.flatMap { $0 }.sorted() == Array(0..<6))
        for (shard, rows) in split.rows {
            #expect(rows == rows.sorted())
            #expect(rows.allSatisfy { self.shard(Int64($0 + 1)) == shard })
        }
        let part = insert.sql(rows: [1, 4])
        #expect(
            part.text == "INSERT INTO accounts AS values VALUES (2, 'o,2)', f($1)), (5, 'o,5)', f($2)) RETURNING id")
        #expect(part.parameters == [2, 5])
    }

    @Test("an INSERT that goes to one shard stays as it was written")
    func whole() throws {
        let text = "insert into accounts(owner,id)values('x',$1)ON CONFLICT DO NOTHING"
        let insert = try insert(text)
        let split = insert.split([BoundParameter(text: "7")], in: buckets)
        #expect(split.rows == [shard(7): [0]])
        #expect(insert.sql(rows: [0]) == RewrittenSQL(text: text, parameters: [1]))
    }

    @Test("columns, OVERRIDING and what follows the rows are kept")
    func pieces() throws {
        let insert = try insert(
            "WITH x AS (SELECT 1) INSERT INTO public . accounts (\"id\", owner) OVERRIDING USER VALUE "
                + "VALUES (1, 'a'), (2, $2) ON CONFLICT (id) DO UPDATE SET owner = $3 RETURNING id, owner")
        #expect(
            insert.sql(rows: [1]).text
                == "WITH x AS (SELECT 1) INSERT INTO public . accounts (id, owner) OVERRIDING USER VALUE "
                + "VALUES (2, $1) ON CONFLICT (id) DO UPDATE SET owner = $2 RETURNING id, owner")
        #expect(insert.sql(rows: [1]).parameters == [2, 3])
    }

    @Test("parameters in binary format and of narrower types lead to the same shard")
    func binary() throws {
        let insert = try insert("INSERT INTO accounts VALUES ($1, 'x', 0)")
        for bytes: [UInt8] in [[0, 7], [0, 0, 0, 7], [0, 0, 0, 0, 0, 0, 0, 7]] {
            let split = insert.split([BoundParameter(format: .binary, bytes)], in: buckets)
            #expect(split.rows == [shard(7): [0]])
        }
        let numeric = insert.split([BoundParameter(type: 1700, text: "7")], in: buckets)
        #expect(numeric.unknown == [0], "rounded by an assignment cast: the server's to say")
    }

    @Test("a NULL key goes to some shard, which refuses it")
    func nullKey() throws {
        #expect(try insert("INSERT INTO accounts VALUES (NULL, 'x', 0)").split([], in: buckets).rows.count == 1)
        #expect(try insert("INSERT INTO accounts (owner) VALUES ('x')").split([], in: buckets).rows.count == 1)
    }

    @Test("a key that is an expression is computed by a server, then written as its value")
    func expressions() throws {
        let insert = try insert("INSERT INTO accounts VALUES (abs($2) + 1, 'x', 0), (3, 'y', 0)")
        let split = insert.split([], in: buckets)
        #expect(split.unknown == [0])
        #expect(split.rows == [shard(3): [1]])
        let expression = try #require(insert.keyExpression(ofRow: 0))
        #expect(expression == RewrittenSQL(text: "SELECT CAST(abs($1) + 1 AS bigint)", parameters: [2]))
        let values = [InsertSlot(row: 0, column: "id"): "8" as String?]
        #expect(insert.split([], values: values, in: buckets).rows[shard(8)]?.contains(0) == true)
        #expect(insert.sql(rows: [0], values: values).text == "INSERT INTO accounts VALUES ('8', 'x', 0)")
    }

    @Test("a key that its column would round or cut is the server's to compute")
    func inexact() throws {
        #expect(try insert("INSERT INTO prices VALUES (1.005, 1)").split([], in: buckets).unknown == [0])
        #expect(try insert("INSERT INTO codes VALUES ('ab ', 1)").split([], in: buckets).unknown == [])
        #expect(try insert("INSERT INTO days VALUES ('tomorrow', 1)").split([], in: buckets).unknown == [0])
    }

    @Test("sequences and identities are the cluster's: their values are asked for, row by row")
    func defaults() throws {
        let insert = try insert("INSERT INTO tickets (title) VALUES ('a'), ('b''c')")
        #expect(
            Set(insert.defaults.keys)
                == Set([0, 1].flatMap { [InsertSlot(row: $0, column: "id"), InsertSlot(row: $0, column: "n")] }))
        #expect(insert.split([], in: buckets).unknown == [0, 1])
        var values: [InsertSlot: String?] = [:]
        for row in 0..<2 {
            values[InsertSlot(row: row, column: "id")] = "\(row + 10)"
            values[InsertSlot(row: row, column: "n")] = "\(row + 20)"
        }
        #expect(insert.split([], values: values, in: buckets).unknown.isEmpty)
        #expect(
            insert.sql(rows: [0, 1], values: values).text
                == "INSERT INTO tickets (title, id, n) OVERRIDING SYSTEM VALUE VALUES ('a', '10', '20'), "
                + "('b''c', '11', '21')"
        )
    }

    @Test("DEFAULT in a row, rows shorter than the table, and DEFAULT VALUES ask for the same")
    func defaultForms() throws {
        let id = InsertSlot(row: 0, column: "id")
        let n = InsertSlot(row: 0, column: "n")
        let values = [id: "1" as String?, n: "2" as String?]
        let cases = [
            (
                "INSERT INTO tickets VALUES (DEFAULT, 'a', DEFAULT)",
                "INSERT INTO tickets OVERRIDING SYSTEM VALUE VALUES ('1', 'a', '2')"
            ),
            (
                "INSERT INTO tickets VALUES (DEFAULT, 'a')",
                "INSERT INTO tickets (id, title, n) OVERRIDING SYSTEM VALUE VALUES ('1', 'a', '2')"
            ),
            (
                "INSERT INTO tickets DEFAULT VALUES RETURNING id",
                "INSERT INTO tickets (id, n) OVERRIDING SYSTEM VALUE VALUES ('1', '2') RETURNING id"
            ),
        ]
        for (text, expected) in cases {
            let insert = try insert(text)
            #expect(Set(insert.defaults.keys) == [id, n], "\(text)")
            #expect(insert.sql(rows: [0], values: values).text == expected, "\(text)")
        }
        let events = try insert("INSERT INTO events (at) VALUES (now())")
        #expect(events.defaults == [InsertSlot(row: 0, column: "id"): .expression("gen_random_uuid()")])
    }

    @Test("ON CONFLICT is reported, with the row that it reads")
    func conflicts() throws {
        func conflict(_ text: String) throws -> ConflictClause? {
            try makePlan("INSERT INTO accounts VALUES (1, 'x', 0) " + text).conflict
        }
        #expect(try conflict("") == nil)
        let nothing = try conflict("ON CONFLICT DO NOTHING")
        #expect(nothing?.updates == false && nothing?.columns == [])
        let update = try conflict("ON CONFLICT (id) DO UPDATE SET owner = excluded.owner WHERE accounts.balance > 0")
        #expect(update?.updates == true && update?.columns == ["id"] && update?.hasFilter == true)
        #expect(try conflict("ON CONFLICT ON CONSTRAINT k DO NOTHING")?.constraint == "k")
    }
}
