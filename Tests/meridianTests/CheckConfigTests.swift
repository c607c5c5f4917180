import TestSupport
import Testing

@Suite("meridian check-config") struct CheckConfigTests {
    @Test("servers that are fit pass")
    func fit() async throws {
        try await TestCluster.withShards(2) { shards in
            let check = try RunningCommand(
                ["check-config"] + shards.flatMap { ["--shard", "\($0.name) \($0.conninfo)"] })
            #expect(await check.exitStatus() == 0)
            #expect(check.output.hasSuffix("\n0 refused, 0 warnings\n"))
            #expect(check.output.contains("shard2  ok       PostgreSQL "))
            try await shards[0].checkHasNoSchema()
        }
    }

    @Test("everything that is wrong is said at once, on every shard, with what to change")
    func everythingAtOnce() async throws {
        try await TestCluster.withPrivateShards(1, settings: ["max_prepared_transactions": "0", "fsync": "off"]) {
            unfit in
            try await unfit[0].psql("REVOKE CREATE ON DATABASE meridian FROM meridian")
            try await unfit[0].psql("ALTER DATABASE meridian OWNER TO postgres")
            let check = try RunningCommand([
                "check-config", "--shard", "unfit \(unfit[0].conninfo)", "--shard",
                "gone host=127.0.0.1 port=1 dbname=x",
                "--shard", "twice \(unfit[0].server.conninfo(database: "postgres"))",
            ])
            #expect(await check.exitStatus() == 1)
            let messages = [
                "gone          refused", "max_prepared_transactions is 0",
                "set max_prepared_transactions = 500 and restart",
                "fsync is off", "meridian may not make the schema meridian",
                "GRANT CREATE ON DATABASE meridian TO meridian",
                "twice, unfit  refused  these shards are on one server", "6 refused, 2 warnings",
            ]
            for message in messages { #expect(check.output.contains(message), "\(message) in \(check.output)") }
        }
    }
}

extension TestShard {
    /// Fails the test when something made the schema `meridian`.
    fileprivate func checkHasNoSchema() async throws {
        #expect(try await psql("SELECT to_regnamespace('meridian') IS NULL") == "t")
    }
}
