import Placement
import StatementRouting
import Testing
import TransactionCore

@Suite struct RouteTests {
    private func check(_ cases: [(String, String)], _ location: SourceLocation = #_sourceLocation) {
        for (text, expected) in cases {
            do {
                let route = try makePlan(text).route.short
                #expect(route == expected, "\(text)", sourceLocation: location)
            } catch {
                Issue.record("\(text): \(error)", sourceLocation: location)
            }
        }
    }

    @Test("the shard key's value leads to a shard, however it is written")
    func values() {
        check([
            ("SELECT * FROM accounts WHERE id = 1", "key=1"),
            ("SELECT * FROM accounts WHERE 1 = id", "key=1"),
            ("SELECT * FROM accounts WHERE id = -1", "key=-1"),
            ("SELECT * FROM accounts WHERE id = - 1", "key=-1"),
            ("SELECT * FROM accounts WHERE id = 99999999999", "key=99999999999"),
            ("SELECT * FROM accounts WHERE id = -99999999999", "key=-99999999999"),
            ("SELECT * FROM accounts WHERE id = '5'", "key=5"),
            ("SELECT * FROM accounts WHERE id = '5'::bigint", "key=5"),
            ("SELECT * FROM accounts WHERE id = bigint '5'", "key=5"),
            ("SELECT * FROM accounts WHERE id = CAST(5 AS smallint)", "key=5"),
            ("SELECT * FROM accounts WHERE id = $1", "key=$1"),
            ("SELECT * FROM accounts WHERE id = $1::int", "key=$1::23"),
            ("SELECT * FROM accounts WHERE id OPERATOR(pg_catalog.=) 7", "key=7"),
            ("SELECT * FROM accounts a WHERE a.id = 1", "key=1"),
            ("SELECT * FROM accounts AS a (x, y) WHERE x = 1", "key=1"),
            ("SELECT * FROM public.accounts WHERE public.accounts.id = 1", "key=1"),
            ("SELECT * FROM ONLY accounts WHERE accounts.id = 1", "key=1"),
            ("SELECT * FROM accounts WHERE id = 1 AND owner = 'x' AND balance > 3", "key=1"),
            ("SELECT * FROM accounts WHERE (id, owner) = (1, 'x')", "key=1"),
            ("SELECT * FROM accounts WHERE ROW(owner, id) = ROW('x', $2)", "key=$2"),
            ("SELECT * FROM accounts WHERE id IN (1)", "key=1"),
            ("SELECT * FROM accounts WHERE id IN (1, $1, '3')", "key=1,$1,3"),
            ("SELECT * FROM accounts WHERE id IN (1, NULL)", "key=1,NULL"),
            ("SELECT * FROM accounts WHERE (id, owner) IN ((1, 'a'), (2, 'b'))", "key=1,2"),
            ("SELECT * FROM accounts WHERE id = ANY ('{1,2,NULL}')", "key=1,2,NULL"),
            ("SELECT * FROM accounts WHERE id = ANY ('{1,2}'::bigint[])", "key=1,2"),
            ("SELECT * FROM accounts WHERE id = ANY (ARRAY[1, $1])", "key=1,$1"),
            ("SELECT * FROM accounts WHERE id = ANY ($1)", "key=ANY $1"),
            ("SELECT * FROM accounts WHERE id = ANY ($1::int[])", "key=ANY $1"),
            ("SELECT * FROM accounts WHERE id = ANY ('{}')", "key="),
            ("SELECT * FROM accounts WHERE id = 1 OR id = 2", "key=1,2"),
            ("SELECT * FROM accounts WHERE (id = 1 AND owner = 'a') OR (id IN (2, 3) AND owner = 'b')", "key=1,2,3"),
            ("SELECT * FROM accounts WHERE id IN (1, 2) AND id = 2", "key=2"),
            ("SELECT * FROM accounts WHERE id = NULL", "key=NULL"),
            ("SELECT * FROM users WHERE name = 'x'", "key=x"),
            ("SELECT * FROM users WHERE name = 'x'::varchar", "key=x"),
            ("SELECT * FROM users WHERE name = E'a\\'b'", "key=a'b"),
            ("SELECT * FROM users WHERE name = $$x$$", "key=x"),
            ("SELECT * FROM users WHERE name = U&'\\0061'", "key=a"),
            ("SELECT * FROM codes WHERE code = 'ab  '", "key=ab  "),
            ("SELECT * FROM days WHERE day = '2023-01-02'", "key=2023-01-02"),
            ("SELECT * FROM days WHERE day = date '2023-01-02'", "key=2023-01-02"),
            ("SELECT * FROM prices WHERE p = 5", "key=5"),
            ("SELECT * FROM \"Mixed\" WHERE \"Id\" = 1", "key=1"),
            ("SELECT * FROM ACCOUNTS WHERE ID = 1", "key=1"),
            ("TABLE accounts", "every"),
            ("UPDATE accounts SET balance = balance + 1 WHERE id = 1", "key=1"),
            ("UPDATE accounts AS a SET balance = 0 WHERE a.id = $1 AND balance > $2", "key=$1"),
            ("DELETE FROM accounts WHERE id = 1 RETURNING *", "key=1"),
            ("DELETE FROM accounts", "every"), ("UPDATE accounts SET owner = 'x'", "every"),
        ])
    }

    @Test("a condition that does not bind the shard key binds nothing")
    func unbound() {
        check([
            ("SELECT * FROM accounts", "every"),
            ("SELECT * FROM accounts WHERE id <> 1", "every"), ("SELECT * FROM accounts WHERE id > 1", "every"),
            ("SELECT * FROM accounts WHERE NOT id = 1", "every"),
            ("SELECT * FROM accounts WHERE NOT (id = 1 OR id = 2)", "every"),
            ("SELECT * FROM accounts WHERE id NOT IN (1, 2)", "every"),
            ("SELECT * FROM accounts WHERE id <> ALL ('{1}')", "every"),
            ("SELECT * FROM accounts WHERE id = ALL ('{1}')", "every"),
            ("SELECT * FROM accounts WHERE id = 1 OR owner = 'x'", "every"),
            ("SELECT * FROM accounts WHERE id = 1 OR true", "every"),
            ("SELECT * FROM accounts WHERE (id = 1) IS NOT TRUE", "every"),
            ("SELECT * FROM accounts WHERE id IS NOT DISTINCT FROM 1", "every"),
            ("SELECT * FROM accounts WHERE id IS NULL", "every"),
            ("SELECT * FROM accounts WHERE id + 0 = 1", "every"),
            ("SELECT * FROM accounts WHERE id = 1 + 1", "every"),
            ("SELECT * FROM accounts WHERE id = $1 + 1", "every"),
            ("SELECT * FROM accounts WHERE id = abs($1)", "every"),
            ("SELECT * FROM accounts WHERE id = balance", "every"),
            ("SELECT * FROM accounts WHERE id IN (1, balance)", "every"),
            ("SELECT * FROM accounts WHERE id::text = '1'", "every"),
            ("SELECT * FROM accounts WHERE id = 1::numeric", "every"),
            ("SELECT * FROM accounts WHERE id = $1::numeric", "every"),
            ("SELECT * FROM accounts WHERE id = '5'::text::bigint", "every"),
            ("SELECT * FROM accounts WHERE id BETWEEN 1 AND 1", "every"),
            ("SELECT * FROM accounts WHERE CASE WHEN id = 1 THEN true ELSE owner = 'x' END", "every"),
            ("SELECT * FROM accounts WHERE balance = 1", "every"),
            ("SELECT * FROM accounts HAVING accounts.id = 1", "gather"),
            ("SELECT id = 1 FROM accounts", "every"),
            ("SELECT * FROM accounts WHERE id OPERATOR(mine.=) 1", "every"),
            ("SELECT * FROM users WHERE name = 'x' COLLATE \"C\"", "every"),
            ("SELECT * FROM users WHERE name = 'x'::char(3)", "every"),
            ("SELECT * FROM users WHERE name = 'x'::varchar(3)", "every"),
            ("SELECT * FROM users WHERE name = 'x'::name", "every"),
            ("SELECT * FROM users WHERE lower(name) = 'x'", "every"),
            ("SELECT * FROM users WHERE name LIKE 'x'", "every"),
            ("SELECT * FROM users WHERE name = 5", "every"),
            ("SELECT * FROM codes WHERE code = 'ab'::text", "every"),
            ("SELECT * FROM days WHERE day = timestamp '2023-01-02'", "every"),
            ("SELECT * FROM days WHERE day = current_date", "every"),
            ("SELECT * FROM \"Mixed\" WHERE id = 1", "every"), ("SELECT * FROM \"Mixed\" WHERE Id = 1", "every"),
        ])
    }

    @Test("joins of one group on their shard keys stay on a shard, and a value of one key is a value of all")
    func joins() {
        check([
            ("SELECT * FROM accounts a JOIN orders o ON a.id = o.customer WHERE a.id = 1", "key=1"),
            ("SELECT * FROM accounts a JOIN orders o ON a.id = o.customer WHERE o.customer = $1", "key=$1"),
            ("SELECT * FROM accounts a, orders o WHERE a.id = o.customer AND 1 = a.id", "key=1"),
            ("SELECT * FROM accounts a, orders o WHERE a.id = 1 AND o.customer = 1", "key=1"),
            ("SELECT * FROM accounts a, orders o WHERE a.id = 1 AND o.customer = 2", "keys=1|2"),
            ("SELECT * FROM orders o JOIN items i USING (customer) WHERE customer = 1", "key=1"),
            ("SELECT * FROM orders NATURAL JOIN items WHERE customer = 1", "key=1"),
            ("SELECT * FROM orders o JOIN items i USING (customer)", "every"),
            ("SELECT * FROM orders o JOIN items i ON (o.customer, o.id) = (i.customer, i.order_id)", "every"),
            (
                "SELECT * FROM accounts a JOIN orders o ON a.id = o.customer JOIN items i ON i.customer = o.customer",
                "every"
            ),
            ("SELECT * FROM accounts a JOIN orders o ON a.id = o.id", "gather"),
            ("SELECT * FROM accounts a, orders o", "gather"),
            ("SELECT * FROM accounts a JOIN orders o ON a.id = o.id WHERE a.id = 1", "gather"),
            ("SELECT * FROM accounts a JOIN metrics m ON a.id = m.id", "gather"),
            ("SELECT * FROM accounts a JOIN metrics m ON a.id = m.id WHERE m.id = 3", "key=3"),
            ("SELECT * FROM accounts a JOIN users u ON a.owner = u.name", "gather"),
            ("SELECT * FROM accounts JOIN countries ON owner = code", "every"),
            ("SELECT * FROM accounts JOIN countries ON owner = code WHERE id = 1", "key=1"),
            ("SELECT * FROM accounts a JOIN accounts b ON a.id = b.id", "every"),
            ("SELECT * FROM accounts a JOIN accounts b ON a.id = b.balance WHERE a.id = 1", "gather"),
            (
                "SELECT * FROM accounts a WHERE a.id IN (1, 2) AND EXISTS (SELECT 1 FROM orders o WHERE "
                    + "o.customer IN (1, 2))",
                "keys=1,2"
            ),
            ("UPDATE orders o SET note = '' FROM accounts a WHERE a.id = o.customer AND a.id = 1", "key=1"),
            ("UPDATE orders o SET note = '' FROM accounts a WHERE a.id = o.customer", "every"),
            ("UPDATE orders o SET note = '' FROM accounts a WHERE a.id = o.id", "gather"),
            ("DELETE FROM orders o USING accounts a WHERE a.id = o.customer AND a.balance = 0", "every"),
            ("DELETE FROM orders o USING countries c WHERE c.code = o.note", "every"),
            ("UPDATE accounts SET balance = (SELECT sum(total) FROM orders WHERE customer = accounts.id)", "every"),
            ("UPDATE accounts SET balance = (SELECT sum(total) FROM orders)", "gather"),
        ])
    }

    @Test("an outer join binds its nullable side by ON, and its other side by WHERE alone")
    func outerJoins() {
        check([
            ("SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer WHERE a.id = 1", "key=1"),
            ("SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer", "every"),
            ("SELECT * FROM orders o RIGHT JOIN accounts a ON a.id = o.customer WHERE a.id = 1", "key=1"),
            ("SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer AND a.id = 1", "every"),
            ("SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer AND o.customer = 1", "every"),
            ("SELECT * FROM accounts a LEFT JOIN orders o ON o.customer = 1 WHERE a.id = 1", "key=1"),
            ("SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer WHERE o.customer = 1", "key=1"),
            ("SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer WHERE o.note = 'x'", "every"),
            ("SELECT * FROM accounts a LEFT JOIN orders o ON true WHERE a.id = 1", "gather"),
            (
                "SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer LEFT JOIN items i "
                    + "ON i.customer = o.customer AND i.order_id = o.id WHERE a.id = 1", "key=1"
            ),
            (
                "SELECT * FROM accounts a LEFT JOIN orders o ON a.id = o.customer LEFT JOIN items i "
                    + "ON i.customer = o.customer", "every"
            ),
            // The middle join's ON holds only where it found a match, and the last one does not ask for a match.
            (
                "SELECT * FROM accounts a LEFT JOIN countries c ON a.balance = a.id AND c.code = a.owner "
                    + "LEFT JOIN orders o ON o.customer = a.balance WHERE a.id = 1", "gather"
            ),
            ("SELECT * FROM countries c LEFT JOIN accounts a ON a.owner = c.code", "gather"),
            ("SELECT * FROM countries c LEFT JOIN accounts a ON a.owner = c.code AND a.id = 1", "key=1"),
            (
                "SELECT * FROM accounts a JOIN (SELECT code FROM countries LIMIT 1) c ON c.code = a.owner", "gather"
            ),
            ("SELECT * FROM accounts a FULL JOIN orders o ON a.id = o.customer", "gather"),
            ("SELECT * FROM accounts a FULL JOIN orders o ON a.id = o.customer WHERE a.id = 1", "gather"),
            ("SELECT * FROM orders FULL JOIN items USING (customer) WHERE customer = 1", "gather"),
            (
                "SELECT * FROM accounts a LEFT JOIN (orders o JOIN items i ON o.customer = i.customer) "
                    + "ON a.id = o.customer WHERE a.id = 1", "key=1"
            ),
        ])
    }

    @Test("subqueries must stay on the shard too")
    func subqueries() {
        check([
            ("SELECT (SELECT count(*) FROM orders o WHERE o.customer = a.id) FROM accounts a WHERE a.id = 1", "key=1"),
            ("SELECT (SELECT count(*) FROM orders o WHERE o.customer = a.id) FROM accounts a", "every"),
            ("SELECT (SELECT count(*) FROM orders o) FROM accounts a WHERE a.id = 1", "gather"),
            ("SELECT (SELECT count(*) FROM orders o WHERE customer = 1) FROM accounts WHERE id = 1", "key=1"),
            ("SELECT (SELECT count(*) FROM countries) FROM accounts", "every"),
            ("SELECT 1 WHERE EXISTS (SELECT 1 FROM accounts WHERE id = 1)", "key=1"),
            ("SELECT 1 WHERE EXISTS (SELECT 1 FROM accounts)", "gather"),
            ("SELECT * FROM accounts a WHERE EXISTS (SELECT 1 FROM orders WHERE customer = a.id)", "every"),
            ("SELECT * FROM accounts a WHERE NOT EXISTS (SELECT 1 FROM orders WHERE customer = a.id)", "every"),
            ("SELECT * FROM accounts WHERE id IN (SELECT customer FROM orders)", "every"),
            ("SELECT * FROM accounts WHERE id IN (SELECT customer FROM orders) AND id = 1", "key=1"),
            ("SELECT * FROM accounts WHERE id = ANY (SELECT customer FROM orders WHERE total > 5)", "every"),
            ("SELECT * FROM accounts WHERE id NOT IN (SELECT customer FROM orders)", "gather"),
            ("SELECT * FROM accounts WHERE id IN (SELECT id FROM orders)", "gather"),
            ("SELECT * FROM accounts WHERE id IN (SELECT customer FROM orders LIMIT 5)", "gather"),
            ("SELECT * FROM accounts WHERE id IN (SELECT customer FROM orders) OR balance = 1", "gather"),
            (
                "SELECT * FROM accounts WHERE id IN (SELECT customer FROM orders GROUP BY customer HAVING "
                    + "count(*) > 1)",
                "every"
            ),
            ("SELECT * FROM (SELECT * FROM accounts) s WHERE s.id = 1", "key=1"),
            ("SELECT * FROM (SELECT id AS x, owner AS id FROM accounts) s WHERE x = 1", "key=1"),
            ("SELECT * FROM (SELECT id AS x, owner AS id FROM accounts) s WHERE id = '1'", "every"),
            ("SELECT * FROM (SELECT * FROM accounts LIMIT 5) s WHERE s.id = 1", "gather"),
            ("SELECT * FROM (SELECT * FROM accounts WHERE id = 1 LIMIT 5) s", "key=1"),
            ("SELECT * FROM (SELECT id, count(*) FROM accounts GROUP BY id) s WHERE id = 1", "key=1"),
            ("SELECT * FROM (SELECT owner, count(*) AS id FROM accounts GROUP BY owner) s WHERE id = 1", "gather"),
            ("SELECT * FROM (SELECT max(id) AS id FROM accounts) s WHERE id = 1", "gather"),
            ("SELECT * FROM (SELECT id, row_number() OVER () FROM accounts) s WHERE id = 1", "gather"),
            ("SELECT * FROM (SELECT DISTINCT ON (owner) id FROM accounts ORDER BY owner) s WHERE id = 1", "gather"),
            ("SELECT * FROM (SELECT DISTINCT id FROM accounts) s WHERE id = 1", "key=1"),
            ("SELECT * FROM (SELECT id FROM accounts UNION SELECT customer FROM orders) s WHERE id = 1", "gather"),
            (
                "SELECT * FROM accounts a, LATERAL (SELECT * FROM orders o WHERE o.customer = a.id LIMIT 1) s "
                    + "WHERE a.id = 1",
                "key=1"
            ),
            // Not LATERAL, so `id` is the subquery's own and names no column of the sibling's.
            ("SELECT * FROM accounts a JOIN (SELECT * FROM orders WHERE id = 1) s ON a.id = s.customer", "every"),
            ("SELECT * FROM (SELECT * FROM accounts WHERE id = 7) s JOIN orders o ON o.customer = s.id", "key=7"),
            (
                "SELECT * FROM accounts a LEFT JOIN (SELECT * FROM orders WHERE customer = 1) s ON s.customer = a.id",
                "every"
            ),
            // One row comes out of the subquery whatever its WHERE says of the outer row.
            ("SELECT * FROM accounts a, LATERAL (SELECT count(*) FROM countries WHERE a.id = 5) s", "every"),
        ])
    }

    @Test("set operations run where all of their branches are")
    func setOperations() {
        check([
            ("SELECT id FROM accounts WHERE id = 1 UNION SELECT customer FROM orders WHERE customer = 1", "key=1"),
            ("SELECT id FROM accounts WHERE id = 1 UNION ALL SELECT id FROM accounts WHERE id = 2", "keys=1|2"),
            ("SELECT id FROM accounts UNION ALL SELECT customer FROM orders", "gather"),
            ("SELECT id FROM accounts WHERE id = 1 EXCEPT SELECT customer FROM orders", "gather"),
            ("SELECT code FROM countries UNION SELECT name FROM kinds", "any"),
            ("(SELECT id FROM accounts WHERE id = $1 ORDER BY 1) INTERSECT VALUES (1)", "key=$1"),
        ])
    }

    @Test("CTEs hide tables, and are followed where they are read")
    func ctes() {
        check([
            ("WITH accounts AS (SELECT 1 AS id) SELECT * FROM accounts", "any"),
            ("WITH accounts AS (SELECT 1 AS id) SELECT * FROM public.accounts WHERE id = 1", "key=1"),
            ("WITH a AS (SELECT * FROM accounts) SELECT * FROM a WHERE id = 1", "key=1"),
            ("WITH a (x) AS (SELECT id FROM accounts) SELECT * FROM a WHERE x = 1", "key=1"),
            (
                "WITH a AS (SELECT * FROM accounts WHERE id = $1) SELECT * FROM a JOIN orders o ON o.customer = a.id",
                "key=$1"
            ),
            ("WITH a AS (SELECT * FROM accounts) SELECT * FROM a x JOIN a y ON x.id = y.id WHERE x.id = 1", "key=1"),
            ("WITH a AS (SELECT * FROM accounts) SELECT * FROM a x, a y WHERE x.id = 1", "gather"),
            ("WITH a AS (SELECT * FROM accounts) SELECT 1", "gather"),
            ("WITH accounts AS (SELECT * FROM accounts) SELECT * FROM accounts WHERE id = 1", "key=1"),
            (
                "WITH RECURSIVE r AS (SELECT id FROM accounts WHERE id = 1 UNION ALL SELECT id + 1 FROM r WHERE "
                    + "id < 9) "
                    + "SELECT * FROM r", "key=1"
            ),
            ("WITH RECURSIVE r AS (SELECT id FROM accounts UNION SELECT id + 1 FROM r) SELECT * FROM r", "gather"),
            ("WITH d AS (DELETE FROM orders WHERE customer = 1 RETURNING *) SELECT count(*) FROM d", "key=1"),
            ("WITH d AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM d", "gather"),
            (
                "WITH d AS (DELETE FROM orders WHERE customer = 1 RETURNING *) INSERT INTO accounts SELECT 1, 'x', 2",
                "key=1"
            ),
            (
                "WITH i AS (INSERT INTO accounts VALUES (1, 'x', 2)) UPDATE orders SET note = '' WHERE customer = 1",
                "key=1"
            ),
            (
                "WITH i AS (INSERT INTO accounts VALUES (1, 'x', 2)) UPDATE orders SET note = '' WHERE customer = 2",
                "keys=2|1"
            ),
        ])
    }

    @Test("reference and single tables")
    func otherTables() {
        check([
            ("SELECT 1", "any"), ("SELECT * FROM countries", "any"), ("SELECT * FROM pg_class", "any"),
            ("SELECT * FROM information_schema.tables", "any"), ("SELECT * FROM nowhere", "any"),
            ("SELECT * FROM app.accounts", "any"), ("SELECT * FROM settings", "single a"),
            ("SELECT * FROM settings JOIN countries ON k = code", "single a"),
            ("SELECT * FROM settings, logs", "gather"), ("SELECT * FROM settings, accounts WHERE id = 1", "gather"),
            ("INSERT INTO settings VALUES ('a', 'b')", "single a"),
            ("INSERT INTO settings SELECT * FROM logs", "gather"),
            ("UPDATE settings SET v = 'x'", "single a"), ("UPDATE countries SET name = 'x' WHERE code = 'y'", "copy"),
            ("INSERT INTO countries VALUES ('x', upper('y'))", "copy"), ("DELETE FROM countries", "copy"),
            ("INSERT INTO kinds (id, name) VALUES (1, 'x')", "copy"), ("SELECT * FROM rich", "gather"),
            ("VALUES (1), (2)", "any"), ("SELECT * FROM generate_series(1, 3) AS accounts", "any"),
        ])
    }

    @Test("the search path decides which table a name means")
    func searchPath() throws {
        #expect(try makePlan("SELECT * FROM accounts WHERE id = 1", searchPath: ["app"]).route == .anyOne)
        #expect(try makePlan("SELECT * FROM accounts", searchPath: ["public", "app"]).route == .every)
    }

    @Test("what could never be right is refused with a hint")
    func refused() {
        let texts = [
            "UPDATE accounts SET id = 2 WHERE id = 1", "UPDATE accounts SET (owner, id) = ('x', 2) WHERE id = 1",
            "INSERT INTO accounts VALUES (1, 'x', 2) ON CONFLICT (id) DO UPDATE SET id = 3",
            "DELETE FROM accounts WHERE CURRENT OF c", "INSERT INTO countries VALUES ('x', random()::text)",
            "INSERT INTO countries SELECT owner, owner FROM accounts", "UPDATE countries SET name = now()::text",
            "UPDATE countries SET name = current_user", "UPDATE countries SET name = audit()",
            "INSERT INTO kinds (name) VALUES ('x')", "INSERT INTO kinds VALUES (DEFAULT, 'x')",
            "INSERT INTO kinds DEFAULT VALUES",
        ]
        for text in texts {
            do {
                _ = try makePlan(text)
                Issue.record("planned: \(text)")
            } catch let error as StatementError {
                #expect(error.sqlState == .featureNotSupported, "\(text)")
                #expect(error.hint != nil, "\(text)")
            } catch {
                Issue.record(error)
            }
        }
    }

    @Test("INSERT of a query is pushed down when its rows stay on their shards")
    func insertSelect() {
        check([
            ("INSERT INTO accounts SELECT customer, note, total FROM orders", "every"),
            ("INSERT INTO accounts (owner, id) SELECT note, customer FROM orders", "every"),
            ("INSERT INTO accounts SELECT id, note, total FROM orders", "gather"),
            ("INSERT INTO accounts SELECT customer, note, total FROM orders LIMIT 5", "gather"),
            ("INSERT INTO accounts SELECT customer, max(note), sum(total) FROM orders GROUP BY customer", "every"),
            ("INSERT INTO accounts SELECT count(*), note, 0 FROM orders GROUP BY note", "gather"),
            ("INSERT INTO accounts SELECT 5, name, 0 FROM countries", "key=5"),
            ("INSERT INTO accounts SELECT generate_series(1, 5), 'x', 0", "gather"),
            ("INSERT INTO orders SELECT * FROM orders WHERE customer = 1", "key=1"),
            ("INSERT INTO orders SELECT * FROM orders", "every"),
            ("INSERT INTO accounts VALUES (1, 'x', (SELECT sum(total) FROM orders WHERE customer = 1))", "key=1"),
            ("INSERT INTO accounts VALUES (1, 'x', (SELECT sum(total) FROM orders))", "gather"),
            ("MERGE INTO accounts a USING orders o ON a.id = o.customer WHEN MATCHED THEN DELETE", "gather"),
            ("MERGE INTO countries c USING kinds k ON c.code = k.name WHEN MATCHED THEN DELETE", "copy"),
            ("MERGE INTO settings s USING countries c ON c.code = s.k WHEN MATCHED THEN DELETE", "single a"),
        ])
    }
}
