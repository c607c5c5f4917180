import PeerTransport
import Testing
import TransactionCore

@testable import meridian

@Suite("ConfigurationRules") struct ConfigurationRulesTests {
    /// What a server that is fit says.
    private static let fit = [
        "server_version": "15.18", "server_version_num": "150018", "max_prepared_transactions": "300",
        "max_connections": "300", "superuser_reserved_connections": "3", "fsync": "on", "full_page_writes": "on",
        "synchronous_commit": "on", "wal_level": "replica", "default_transaction_read_only": "off",
        "idle_in_transaction_session_timeout": "0", "user": "app", "database": "bank", "server": "a",
        "is_standby": "false", "schema": "can be made", "sees_sessions": "true", "sessions": "1",
        "role_connections": "-1", "database_connections": "-1",
    ]

    /// What a shard says that was migrated.
    private static let migrated = SchemaFacts.current(shard: "a", cluster: "c", retentionSeconds: 3600)

    private func findings(
        _ changes: [String: String] = [:], schema: SchemaFacts = migrated, offsetNanoseconds: Int64 = 0,
        errorNanoseconds: Int64 = 0, nodes: Int = 1
    ) throws -> [Finding] {
        let shard = try #require(ShardID("a"))
        var configuration = ClusterConfiguration(shards: [.init(id: shard, conninfo: "host=h")])
        if nodes > 1 {
            let address = PeerAddress(host: "h", port: 1)
            let founders = (1...nodes).map { (NodeID(rawValue: UInt16($0))!, address) }
            configuration.replication = ReplicationSettings(
                name: "c", listen: address, address: address, founders: Dictionary(uniqueKeysWithValues: founders),
                directory: "d")
        }
        let facts = ShardFacts(
            answers: Self.fit.merging(changes) { $1 }, schema: schema,
            clockOffset: (offsetNanoseconds, errorNanoseconds)
        )
        return ConfigurationRules(configuration: configuration).findings(on: shard, facts)
    }

    @Test("a server must have room for the pools of all nodes")
    func severalNodes() throws {
        let roomy = ["max_connections": "500"]
        #expect(try findings(roomy, nodes: 3).allSatisfy { $0.severity == .ok })
        let crowded = try #require(try findings(nodes: 5).first { $0.message.contains("max_connections") })
        #expect(crowded.message.contains("is 297, below the 440 connections of 5 nodes' pools"), "\(crowded)")
        let few = roomy.merging(["max_prepared_transactions": "143"]) { $1 }
        let finding = try #require(try findings(few, nodes: 3).first)
        #expect(finding.message.contains("is 143, below the 144 writers of 3 nodes' pools"), "\(finding)")
    }

    @Test("a server that is fit gets nothing but ok")
    func fitServer() throws {
        #expect(try findings().allSatisfy { $0.severity == .ok })
    }

    @Test(
        "an unfit server is refused, and told what to change",
        arguments: [
            (["server_version_num": "140010", "server_version": "14.10"], "14.10 is too old", "upgrade"),
            (["max_prepared_transactions": "0"], "is 0", "set max_prepared_transactions = 300 and restart"),
            (["is_standby": "true"], "standby", "host=db1a,db1b"),
            (["default_transaction_read_only": "on"], "read-only", "default_transaction_read_only = off"),
            (["schema": "missing"], "may not make the schema", "GRANT CREATE ON DATABASE bank TO app"),
            (["schema": "closed"], "may not use", "GRANT USAGE, CREATE ON SCHEMA meridian TO app"),
        ]
    )
    func refusals(changes: [String: String], message: String, hint: String) throws {
        let worst = try #require(try findings(changes).first)
        #expect(worst.severity == .refused)
        #expect(worst.message.contains(message))
        #expect(worst.hint?.contains(hint) == true)
    }

    @Test(
        "what is slow or unsafe is warned of, and told what to change",
        arguments: [
            (["max_prepared_transactions": "47"], "below the 48 writers", "restart"),
            (["max_connections": "66"], "is 63, below the 88", "pool.writers"),
            (["role_connections": "10"], "role's connection limit is 10", "pool.writers"),
            (["database_connections": "0"], "database's connection limit is 0", "pool.writers"),
            (["sees_sessions": "false"], "does not see", "GRANT pg_read_all_stats TO app"),
            (["fsync": "off"], "fsync is off", "fsync = on"),
            (["full_page_writes": "off"], "full_page_writes is off", "full_page_writes = on"),
            (["synchronous_commit": "off"], "synchronous_commit is off", "synchronous_commit = on"),
            (["idle_in_transaction_session_timeout": "500"], "pause for 500 ms", "0 for this role"),
            (["standbys": "1"], "no standby is synchronous", "synchronous_standby_names = 'ANY 1 (*)'"),
            (
                ["standbys": "1", "synchronous_standby_names": "x", "synchronous_commit": "local"],
                "do not wait for the synchronous standby", "synchronous_commit = on"
            ),
            (["standbys": "1", "synchronous_standby_names": "x"], "every commit waits", "'x' names"),
        ]
    )
    func warnings(changes: [String: String], message: String, hint: String) throws {
        let findings = try findings(changes)
        #expect(findings.first?.severity == .warning)
        #expect(findings.first?.message.contains(message) == true)
        #expect(findings.first?.hint?.contains(hint) == true)
    }

    @Test("a schema that is missing or another's is told of, with the command that helps where there is one")
    func schema() throws {
        let missing = try #require(try findings(schema: .pending(["0001_x.sql"])).first)
        #expect(missing.severity == .warning && missing.hint?.contains("meridian migrate") == true)
        let broken = try #require(try findings(schema: .unusable(message: "changed", hint: "h")).first)
        #expect(broken == Finding(.refused, "a", "changed", hint: "h"))
        let other = SchemaFacts.current(shard: "b", cluster: "c", retentionSeconds: 3600)
        #expect(try findings(schema: other).first?.message == "this database is shard b")
        let shorter = SchemaFacts.current(shard: "a", cluster: "c", retentionSeconds: 60)
        #expect(try findings(schema: shorter).first?.message == "its retention is 1min")
    }

    @Test("shards of different clusters are refused")
    func clusters() throws {
        let rules = ConfigurationRules(configuration: ClusterConfiguration(shards: []))
        func findings(_ clusters: [String?]) throws -> [String] {
            let shards = try zip(["a", "b", "c"], clusters).map { name, cluster in
                let schema = SchemaFacts.current(shard: name, cluster: cluster, retentionSeconds: 1)
                let facts = ShardFacts(answers: [:], schema: schema, clockOffset: (0, 0))
                return (name: try #require(ShardID(name)), facts: facts)
            }
            return rules.clusters(shards).map(\.subject)
        }
        #expect(try findings(["x", nil, "x"]) == [])
        #expect(try findings(["x", "y", "x"]) == ["a, c", "b"])
    }

    @Test("a difference of clocks counts only beyond what measuring it may be wrong by")
    func clocks() throws {
        #expect(try findings(offsetNanoseconds: 900_000_000).first?.severity == .ok)
        #expect(try findings(offsetNanoseconds: -2_000_000_000, errorNanoseconds: 1_500_000_000).first?.severity == .ok)
        let warning = try #require(try findings(offsetNanoseconds: -2_000_000_000, errorNanoseconds: 1000).first)
        #expect(warning.message == "its clock is 2000 ms behind this machine's")
    }

    @Test("shards that share a server are refused together, all the more so when they are one database")
    func sharedServers() throws {
        func findings(_ shards: [(name: String, server: String, database: String)]) throws -> [Finding] {
            let rules = ConfigurationRules(configuration: ClusterConfiguration(shards: []))
            return try rules.sharedServers(
                shards.map { shard in
                    let answers = ["server": shard.server, "database": shard.database]
                    return (
                        try #require(ShardID(shard.name)),
                        ShardFacts(answers: answers, schema: Self.migrated, clockOffset: (0, 0))
                    )
                })
        }
        #expect(try findings([("a", "s", "x"), ("b", "t", "x")]) == [])
        let same = try #require(try findings([("a", "s", "x"), ("c", "t", "x"), ("b", "s", "x")]).first)
        #expect(same.subject == "a, b" && same.message.contains("one and the same database"))
        let two = try #require(try findings([("a", "s", "x"), ("b", "s", "y")]).first)
        #expect(two.severity == .refused && two.message.contains("on one server"))
    }
}
