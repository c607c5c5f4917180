import Placement
import StatementRouting
import Testing

@Suite struct SessionUseTests {
    private func use(_ text: String) throws -> SessionUse {
        try ParsedText(text).plan(0, in: makeCatalog()).session
    }

    @Test(
        "calls of set_config that are columns of a SELECT without tables are known, with their arguments",
        arguments: [
            (
                "SELECT set_config('TimeZone', 'UTC', false)",
                [SettingCall(column: 0, name: .constant("TimeZone"), isLocal: .constant("false"))]
            ),
            (
                "SELECT current_setting('jit') AS cur, pg_catalog.set_config($1, 'off', $2::bool) AS new",
                [SettingCall(column: 1, name: .parameter(1), isLocal: .parameter(2))]
            ),
            ("SELECT lower(set_config('a.b', 'c', true))", []),
            ("SELECT set_config('a.b', 'c', true), lower(set_config('a.b', 'd', true))", []),
            ("SELECT set_config('a.' || 'b', 'c', true)", []), ("SELECT other.set_config('a.b', 'c', true)", []),
            ("SELECT 1", []),
        ])
    func settings(text: String, expected: [SettingCall]) throws {
        #expect(try use(text).settings == expected)
    }

    @Test("one of Meridian's functions is known when its call is all that the statement is")
    func calls() throws {
        let call = OwnCall(function: "shard_table", arguments: [.constant("t"), .parameter(1)])
        #expect(try use("SELECT meridian.shard_table('t', $1)").call == call)
        #expect(try use("SELECT * FROM meridian.shard_table('t'::text, $1)").call == call)
        for text in [
            "SELECT meridian.shard_table('t', lower('X'))", "SELECT meridian.shard_table('t', $1), 1",
            "SELECT meridian.shard_table('t', $1) WHERE false", "SELECT shard_table('t', $1)",
            "SELECT meridian.shard_table('t', $1) UNION SELECT NULL",
        ] {
            #expect(try use(text).call == nil, "\(text)")
        }
    }

    @Test("relations that the node fills are known, and names of PostgreSQL's own are led to them")
    func relations() throws {
        #expect(try use("SELECT * FROM meridian.stat_activity").relations == [.activity])
        #expect(try use("SELECT * FROM meridian.stat_activity").sql == nil)
        #expect(try use("SELECT * FROM stat_activity").relations == [])
        let both = try use("SELECT * FROM meridian.stat_shards, (SELECT 1 FROM meridian.in_doubt_transactions) AS x")
        #expect(both.relations == [.shards, .inDoubt])
        let own = try use("SELECT name FROM pg_prepared_statements WHERE name = $1")
        #expect(own.relations == [.preparedStatements])
        #expect(
            own.sql
                == "SELECT name FROM meridian.prepared_statements AS pg_prepared_statements WHERE name = $1")
        #expect(
            try use("SELECT p.name FROM pg_catalog . pg_prepared_statements p, pg_class").sql
                == "SELECT p.name FROM meridian.prepared_statements p, pg_class")
        #expect(try use("SELECT * FROM pg_class").isEmpty)
    }
}
