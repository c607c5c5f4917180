import StatementRouting
import Testing

@Suite struct MergePlanTests {
    private func merge(_ text: String) throws -> RowMerge {
        guard case .merge(let merge) = try makePlan(text).merge else { throw Mismatch() }
        return merge
    }

    private func combination(_ text: String) throws -> RowCombination {
        guard case .combine(let combination) = try makePlan(text).merge else { throw Mismatch() }
        return combination
    }

    private struct Mismatch: Error {}

    @Test(
        "rows whose sequence is free are put one behind the other",
        arguments: [
            "SELECT * FROM accounts", "SELECT DISTINCT id, owner FROM accounts",
            "SELECT id + 1 FROM accounts WHERE owner = 'x'",
            "SELECT customer, sum(total) FROM orders GROUP BY customer HAVING count(*) > 1",
            "SELECT o.customer, string_agg(i.price::text, ',') FROM orders o JOIN items i USING (customer) "
                + "GROUP BY o.customer",
            "WITH a AS (SELECT * FROM accounts) SELECT * FROM a", "SELECT * FROM accounts FOR UPDATE",
        ])
    func concatenated(text: String) throws {
        #expect(try makePlan(text).merge == .concatenate)
        #expect(try makePlan(text).route == .every)
    }

    @Test("sorted rows are merged, and each shard sends as many as could be needed")
    func limits() throws {
        let cases = [
            ("SELECT id FROM accounts ORDER BY id LIMIT 5", "SELECT id FROM accounts ORDER BY id LIMIT 5"),
            ("SELECT id FROM accounts ORDER BY id LIMIT 5 OFFSET 10", "SELECT id FROM accounts ORDER BY id LIMIT 15"),
            ("SELECT id FROM accounts ORDER BY id OFFSET 10", "SELECT id FROM accounts ORDER BY id "),
            ("SELECT id FROM accounts LIMIT ALL", "SELECT id FROM accounts "),
            (
                "SELECT id FROM accounts ORDER BY 1 OFFSET 2 ROWS FETCH FIRST 3 ROWS ONLY",
                "SELECT id FROM accounts ORDER BY 1 LIMIT 5"
            ),
            ("SELECT id FROM accounts LIMIT 9223372036854775807 OFFSET 1", "SELECT id FROM accounts "),
            (
                "SELECT id FROM accounts LIMIT $1 OFFSET $2",
                "SELECT id FROM accounts LIMIT least($1::bigint::numeric + coalesce($2::bigint::numeric, 0), "
                    + "9223372036854775807)::bigint"
            ),
        ]
        for (text, expected) in cases { #expect(try merge(text).shardSQL.text == expected, "\(text)") }
        let both = try merge("SELECT id FROM accounts ORDER BY id LIMIT $1 OFFSET 3")
        #expect(both.limit == .parameter(1))
        #expect(both.offset == .constant(3))
    }

    @Test("sort keys are output columns, or hidden ones at the end")
    func sortKeys() throws {
        func key(_ column: Int, hidden: Bool = false, descending: Bool = false, nullsFirst: Bool = false) -> SortKey {
            SortKey(column: column, isHidden: hidden, isDescending: descending, nullsFirst: nullsFirst)
        }
        let cases: [(String, [SortKey], String?)] = [
            (
                "SELECT id, owner FROM accounts ORDER BY owner DESC, 1",
                [key(1, descending: true, nullsFirst: true), key(0)], nil
            ),
            (
                "SELECT id AS owner, owner AS x FROM accounts ORDER BY owner NULLS FIRST", [key(0, nullsFirst: true)],
                nil
            ),
            ("SELECT * FROM accounts ORDER BY balance DESC NULLS LAST", [key(2, descending: true)], nil),
            (
                "SELECT id FROM accounts ORDER BY lower(owner) ASC, balance",
                [key(0, hidden: true), key(1, hidden: true)],
                "SELECT id, lower(owner), balance FROM accounts ORDER BY lower(owner) ASC, balance"
            ),
            (
                "SELECT accounts.* FROM accounts ORDER BY accounts.owner", [key(0, hidden: true)],
                "SELECT accounts.*, accounts.owner FROM accounts ORDER BY accounts.owner"
            ),
            (
                "SELECT id IS DISTINCT FROM 1 AS from FROM accounts ORDER BY balance", [key(0, hidden: true)],
                "SELECT id IS DISTINCT FROM 1 AS from, balance FROM accounts ORDER BY balance"
            ),
        ]
        for (text, keys, sql) in cases {
            let merge = try merge(text)
            #expect(merge.keys == keys, "\(text)")
            #expect(merge.hiddenColumns == keys.filter(\.isHidden).count, "\(text)")
            #expect(merge.shardSQL.text == sql ?? text, "\(text)")
        }
    }

    @Test("aggregates are computed in parts, and combined by one query")
    func aggregates() throws {
        let cases: [(String, String, String)] = [
            (
                "SELECT count(*) FROM accounts", "SELECT count(*) AS c1 FROM accounts",
                "SELECT coalesce(sum(c1), 0)::bigint AS count FROM r"
            ),
            (
                "SELECT sum(balance), avg(balance) FILTER (WHERE id > 0) AS x FROM accounts WHERE owner = $2",
                "SELECT sum(balance) AS c1, sum(balance) FILTER (WHERE id > 0) AS c2, "
                    + "count(balance) FILTER (WHERE id > 0) AS c3 FROM accounts WHERE owner = $1",
                "SELECT sum(c1)::bigint AS sum, (sum(c2)::numeric / nullif(sum(c3), 0)) AS x FROM r"
            ),
            (
                "SELECT owner, max(balance) - min(balance) FROM accounts GROUP BY owner",
                "SELECT owner AS c1, max(balance) AS c2, min(balance) AS c3 FROM accounts GROUP BY 1",
                "SELECT c1 AS owner, max(c2) - min(c3) FROM r GROUP BY c1"
            ),
            (
                "SELECT lower(owner) AS o, count(*) n FROM accounts GROUP BY o HAVING count(*) > $1 ORDER BY n "
                    + "DESC, o LIMIT 3",
                "SELECT lower(owner) AS c1, count(*) AS c2 FROM accounts GROUP BY 1",
                "SELECT c1 AS o, coalesce(sum(c2), 0)::bigint AS n FROM r GROUP BY c1 "
                    + "HAVING coalesce(sum(c2), 0)::bigint > $1 ORDER BY 2 DESC, 1 LIMIT 3"
            ),
            (
                "SELECT upper(a.owner) FROM accounts a GROUP BY owner ORDER BY bool_and(a.id > 0)",
                "SELECT owner AS c1, bool_and(a.id > 0) AS c2 FROM accounts a GROUP BY 1",
                "SELECT upper(c1) AS upper FROM r GROUP BY c1 ORDER BY bool_and(c2)"
            ),
            (
                "SELECT count(DISTINCT id), 1 + 2 FROM accounts", "SELECT count(DISTINCT id) AS c1 FROM accounts",
                "SELECT coalesce(sum(c1), 0)::bigint AS count, 1 + 2 FROM r"
            ),
            (
                "SELECT count(*) FROM orders GROUP BY total, 1 + 1",
                "SELECT total AS c1, 1 + 1 AS c2, count(*) AS c3 "
                    + "FROM orders GROUP BY 1, 2", "SELECT coalesce(sum(c3), 0)::bigint AS count FROM r GROUP BY c1, c2"
            ),
            (
                "SELECT DISTINCT owner FROM accounts ORDER BY owner DESC LIMIT 2",
                "SELECT DISTINCT owner FROM accounts ORDER BY owner DESC ",
                "SELECT DISTINCT * FROM r ORDER BY 1 DESC LIMIT 2"
            ),
        ]
        for (text, shard, combined) in cases {
            let combination = try combination(text)
            #expect(combination.shardSQL.text == shard, "\(text)")
            #expect(try combination.sql(over: "r", columnTypes: [20, 20, 20]).text == combined, "\(text)")
        }
        let counted = try combination("SELECT count(*), sum(id), min(id), max(id) FROM accounts")
        #expect(counted.columns == [.count, .sum, .min, .max])
        #expect(try combination("SELECT count(*) + 1 FROM accounts").columns == nil)
    }

    @Test("an average of real numbers would be rounded, and is refused")
    func realAverage() throws {
        let combination = try combination("SELECT avg(balance) FROM accounts")
        #expect(throws: StatementError.self) { try combination.sql(over: "r", columnTypes: [700, 20]) }
        #expect(try combination.sql(over: "r", columnTypes: [701, 20]).text.contains("::float8"))
    }

    @Test(
        "what can't be put together asks for one shard",
        arguments: [
            "SELECT row_number() OVER (ORDER BY id) FROM accounts", "SELECT DISTINCT ON (owner) * FROM accounts",
            "SELECT owner, count(*) FROM accounts GROUP BY ROLLUP (owner)",
            "SELECT string_agg(owner, ',') FROM accounts",
            "SELECT count(DISTINCT owner) FROM accounts", "SELECT array_agg(id ORDER BY id) FROM accounts",
            "SELECT mystery(id) FROM accounts GROUP BY owner", "SELECT audit(id) FROM accounts",
            "SELECT id FROM accounts ORDER BY id FETCH FIRST 1 ROW WITH TIES", "SELECT id FROM accounts LIMIT 1 + 1",
            "SELECT id FROM accounts ORDER BY id USING >", "SELECT owner, id FROM accounts GROUP BY owner",
            "SELECT (SELECT 1), count(*) FROM accounts", "SELECT id FROM accounts LIMIT 1 FOR UPDATE",
            "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY balance) FROM accounts",
            "SELECT count(*) FROM accounts UNION SELECT 1",
            "SELECT * FROM countries c LEFT JOIN accounts a ON a.owner = c.code",
            "SELECT DISTINCT owner FROM accounts ORDER BY lower(owner)",
            "(SELECT id FROM accounts) ORDER BY 1 LIMIT 1 OFFSET 1 + 1",
        ])
    func gathered(text: String) throws {
        let plan = try makePlan(text)
        guard case .gather(let gather) = plan.route else {
            Issue.record("\(text): \(plan.route.short)")
            return
        }
        #expect(gather.relations.contains { $0.table.name == "accounts" })
        #expect(gather.error.hint != nil)
        let bound = text.contains("WHERE") ? text : nil
        #expect(bound == nil)
    }

    @Test("rows that an outer join extends with nulls lie on every shard, so their group does too")
    func nullExtended() throws {
        let join = "FROM accounts a LEFT JOIN orders o ON a.id = o.customer"
        #expect(try combination("SELECT o.customer, count(*) \(join) GROUP BY o.customer").columns == nil)
        #expect(try combination("SELECT DISTINCT o.customer \(join)").columns == nil)
        #expect(try makePlan("SELECT a.id, count(*) \(join) GROUP BY a.id").merge == .concatenate)
    }

    @Test("with one key value, everything runs on its shard")
    func pushedWhole() throws {
        for text in [
            "SELECT row_number() OVER (ORDER BY id) FROM orders WHERE customer = $1",
            "SELECT string_agg(note, ',') FROM orders WHERE customer = $1",
            "SELECT count(DISTINCT note) FROM orders WHERE customer = $1",
        ] {
            guard case .keys(let sets, mustAgree: true) = try makePlan(text).route else { throw Mismatch() }
            #expect(sets.count == 1)
        }
    }
}
