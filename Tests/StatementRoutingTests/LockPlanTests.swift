import Placement
import StatementRouting
import Testing

@Suite struct LockPlanTests {
    private func tables(_ plan: LockPlan) -> [String] { plan.tables.map { "\($0.table.name) \($0.mode)" } }

    @Test("a SELECT by primary key locks its rows, and says how many there can be")
    func rows() throws {
        let cases: [(String, String, Int)] = [
            ("SELECT * FROM accounts WHERE id = 1", "SELECT * FROM accounts WHERE id = 1 FOR SHARE", 1),
            (
                "SELECT owner FROM accounts WHERE id IN (1, $1) AND balance > 3 ORDER BY owner",
                "SELECT owner FROM accounts WHERE id IN (1, $1) AND balance > 3 ORDER BY owner FOR SHARE", 2
            ),
            (
                "SELECT * FROM orders WHERE customer = 1 AND id = 2",
                "SELECT * FROM orders WHERE customer = 1 AND id = 2 FOR SHARE", 1
            ),
            (
                "SELECT * FROM accounts a JOIN orders o ON o.customer = a.id WHERE a.id = 1 AND o.id = 2",
                "SELECT * FROM accounts a JOIN orders o ON o.customer = a.id WHERE a.id = 1 AND o.id = 2 FOR SHARE", 1
            ),
            (
                "SELECT * FROM accounts WHERE id = 1 FOR UPDATE NOWAIT",
                "SELECT * FROM accounts WHERE id = 1 FOR UPDATE NOWAIT", 1
            ),
        ]
        for (text, sql, count) in cases {
            let locks = try makePlan(text).locks
            #expect(locks.rows?.sql.text == sql, "\(text)")
            #expect(locks.rows?.count == count, "\(text)")
            #expect(locks.tables.isEmpty, "\(text)")
            #expect(locks.rows?.ifMissing.allSatisfy { $0.mode == .share } == true)
        }
    }

    @Test("any other SELECT locks its tables against writers")
    func wholeTables() throws {
        let cases: [(String, [String])] = [
            ("SELECT * FROM accounts", ["accounts SHARE"]),
            ("SELECT * FROM orders WHERE customer = 1", ["orders SHARE"]),
            ("SELECT count(*) FROM accounts WHERE id = 1", ["accounts SHARE"]),
            ("SELECT DISTINCT owner FROM accounts WHERE id = 1", ["accounts SHARE"]),
            ("SELECT owner FROM accounts WHERE id = 1 GROUP BY owner", ["accounts SHARE"]),
            ("SELECT * FROM accounts WHERE id = 1 LIMIT 1", ["accounts SHARE"]),
            ("SELECT * FROM accounts WHERE id = ANY ($1)", ["accounts SHARE"]),
            ("SELECT rank() OVER () FROM accounts WHERE id = 1", ["accounts SHARE"]),
            ("SELECT * FROM accounts WHERE id = 1 FOR UPDATE SKIP LOCKED", ["accounts SHARE"]),
            ("SELECT * FROM accounts WHERE id = 1 FOR KEY SHARE", ["accounts SHARE"]),
            (
                "SELECT * FROM accounts a LEFT JOIN orders o ON o.customer = a.id AND o.id = 1 WHERE a.id = 1",
                ["accounts SHARE", "orders SHARE"]
            ),
            (
                "SELECT * FROM accounts WHERE id = 1 AND EXISTS (SELECT 1 FROM countries)",
                ["accounts SHARE", "countries SHARE"]
            ),
            ("SELECT id FROM accounts WHERE id = 1 UNION SELECT 1", ["accounts SHARE"]),
            ("WITH a AS (SELECT * FROM accounts) SELECT * FROM a WHERE id = 1", ["accounts SHARE"]),
            ("SELECT 1", []),
        ]
        for (text, expected) in cases {
            let locks = try makePlan(text).locks
            #expect(locks.rows == nil, "\(text)")
            #expect(tables(locks) == expected, "\(text)")
        }
    }

    @Test("a change by primary key locks the rows that it looks at, also those it may leave alone")
    func changes() throws {
        let cases: [(String, String, [Int], Bool, [String])] = [
            (
                "UPDATE accounts SET balance = 0 WHERE id = $2",
                "SELECT 1 FROM public.accounts WHERE id IN ($1) FOR NO KEY UPDATE",
                [2], false, []
            ),
            (
                "DELETE FROM accounts a WHERE a.id = $1::int AND balance >= 10",
                "SELECT 1 FROM public.accounts WHERE id IN ($1::pg_catalog.int4) FOR UPDATE", [1], true, []
            ),
            (
                "DELETE FROM orders WHERE customer = 1 AND id = 'a''b'",
                "SELECT 1 FROM public.orders WHERE customer IN ('1') AND id IN ('a''b') FOR UPDATE", [], false, []
            ),
            (
                "UPDATE orders o SET note = a.owner FROM accounts a WHERE a.id = o.customer AND o.customer = 1 "
                    + "AND o.id = 2",
                "SELECT 1 FROM public.orders WHERE customer IN ('1') AND id IN ('2') FOR NO KEY UPDATE", [], true,
                ["accounts SHARE"]
            ),
        ]
        for (text, sql, parameters, others, expected) in cases {
            let locks = try makePlan(text).locks
            #expect(locks.rows?.sql == RewrittenSQL(text: sql, parameters: parameters), "\(text)")
            #expect(locks.rows?.hasOtherConditions == others, "\(text)")
            #expect(locks.rows?.ifMissing.first?.mode == .shareRowExclusive)
            #expect(tables(locks) == expected, "\(text)")
        }
    }

    @Test("a change with a wider condition keeps phantoms out of its table, and writers from what it reads")
    func widerChanges() throws {
        let cases: [(String, [String])] = [
            ("UPDATE accounts SET balance = 0", ["accounts SHARE ROW EXCLUSIVE"]),
            ("DELETE FROM orders WHERE customer = 1", ["orders SHARE ROW EXCLUSIVE"]),
            (
                "DELETE FROM orders WHERE customer = 1 AND note IN (SELECT name FROM countries)",
                ["orders SHARE ROW EXCLUSIVE", "countries SHARE"]
            ),
            (
                "UPDATE accounts SET balance = (SELECT sum(total) FROM orders o WHERE o.customer = accounts.id)",
                ["accounts SHARE ROW EXCLUSIVE", "orders SHARE"]
            ),
            (
                "UPDATE accounts a SET balance = b.balance FROM accounts b WHERE a.id = b.id",
                ["accounts SHARE ROW EXCLUSIVE"]
            ),
            ("INSERT INTO accounts VALUES (1, 'x', 0)", []),
            ("INSERT INTO accounts SELECT customer, note, total FROM orders", ["orders SHARE"]),
            (
                "WITH d AS (DELETE FROM orders WHERE customer = 1 RETURNING *) SELECT count(*) FROM d",
                ["orders SHARE ROW EXCLUSIVE"]
            ),
        ]
        for (text, expected) in cases {
            let locks = try makePlan(text).locks
            #expect(locks.rows == nil, "\(text)")
            #expect(tables(locks).sorted() == expected.sorted(), "\(text)")
        }
    }

    @Test("locking clauses are reported with the tables that they cover")
    func lockingClauses() throws {
        func locks(_ text: String) throws -> [String] {
            try makePlan(text).tables.map { access in
                "\(access.table.name) " + (access.lock.map { "\($0.strength) \($0.waiting)" } ?? "-")
            }
        }
        #expect(try locks("SELECT * FROM accounts FOR UPDATE") == ["accounts update wait"])
        #expect(
            try locks("SELECT * FROM accounts a, orders o FOR SHARE OF o SKIP LOCKED")
                == ["accounts -", "orders share skipLocked"])
        #expect(
            try locks("SELECT * FROM (SELECT * FROM accounts) s FOR NO KEY UPDATE NOWAIT")
                == ["accounts noKeyUpdate noWait"])
        #expect(
            try locks("SELECT * FROM accounts WHERE EXISTS (SELECT 1 FROM orders) FOR KEY SHARE")
                == ["accounts keyShare wait", "orders -"])
    }

    @Test("what a statement reads, writes and calls is all reported, wherever it stands")
    func accesses() throws {
        let plan = try makePlan(
            "WITH d AS (DELETE FROM items WHERE customer = 1 RETURNING *) "
                + "INSERT INTO accounts SELECT $3, (SELECT max(v) FROM settings), nextval('s') FROM orders, "
                + "rich, pg_class "
                + "WHERE customer = 1 AND audit(now(), current_user) RETURNING lower(owner)")
        #expect(
            Set(plan.tables.map { "\($0.table.name) \($0.role)" })
                == ["items delete", "accounts insert", "settings read", "orders read"])
        #expect(plan.views.map(\.name) == ["rich"])
        #expect(plan.otherRelations.map(\.name) == ["pg_class"])
        #expect(plan.isWrite)
        #expect(plan.parameterCount == 3)
        let traits = Dictionary(uniqueKeysWithValues: plan.functions.map { ($0.name.name, $0.trait) })
        #expect(
            traits == [
                "max": .aggregate, "nextval": .sequence, "audit": .unknown, "now": .stable, "current_user": .stable,
                "lower": .immutable,
            ])
    }

    @Test("qualified names lead to as-of views in reads at a timestamp, unqualified ones by search_path")
    func asOf() throws {
        let cases: [(String, String?)] = [
            ("SELECT * FROM accounts", nil), ("SELECT * FROM pg_catalog.pg_class", nil),
            (
                "SELECT public.accounts.id, 'public.accounts' FROM public.accounts -- public.accounts",
                "SELECT meridian_asof_public.accounts.id, 'public.accounts' FROM meridian_asof_public.accounts"
            ),
            (
                "SELECT public.accounts.* FROM \"public\".accounts, (SELECT 1 FROM app . accounts) x, nowhere.t",
                "SELECT meridian_asof_public.accounts.* FROM meridian_asof_public.accounts, "
                    + "(SELECT 1 FROM meridian_asof_app . accounts) x, nowhere.t"
            ),
            ("UPDATE public.accounts SET balance = 0", nil),
        ]
        for (text, expected) in cases { #expect(try makePlan(text).asOfSQL == expected, "\(text)") }
        let parts = try makePlan("SELECT avg(balance) + 1 FROM public.accounts")
        #expect(parts.partsAsOfSQL?.hasSuffix("FROM meridian_asof_public.accounts") == true, "\(parts)")
        let sorted = try makePlan("SELECT id FROM public.accounts ORDER BY public.accounts.id LIMIT 3")
        #expect(
            sorted.partsAsOfSQL
                == "SELECT id, meridian_asof_public.accounts.id FROM meridian_asof_public.accounts "
                + "ORDER BY meridian_asof_public.accounts.id LIMIT 3")
    }

    @Test("a SELECT that locks rows has a text without its locks, unless it skips what is locked or they are not found")
    func unlocked() throws {
        let cases: [(String, String?)] = [
            ("SELECT * FROM accounts FOR UPDATE", "SELECT * FROM accounts "),
            ("SELECT * FROM accounts a FOR KEY SHARE OF a NOWAIT LIMIT 3", "SELECT * FROM accounts a  LIMIT 3"),
            (
                "SELECT * FROM accounts a, orders o FOR NO KEY UPDATE OF a, o FOR SHARE OF o",
                "SELECT * FROM accounts a, orders o  "
            ),
            ("SELECT * FROM (SELECT * FROM accounts FOR UPDATE) s", "SELECT * FROM (SELECT * FROM accounts ) s"),
            ("SELECT substring(owner FOR share) FROM accounts FOR /* all */ UPDATE", nil),
            ("SELECT * FROM accounts FOR UPDATE SKIP LOCKED", nil), ("SELECT * FROM accounts", nil),
            ("SELECT ' FOR UPDATE' FROM accounts -- FOR UPDATE", nil),
        ]
        for (text, expected) in cases { #expect(try makePlan(text).unlockedText == expected, "\(text)") }
    }
}
