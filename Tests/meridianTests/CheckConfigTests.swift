import TestSupport
import Testing

@Suite("meridian check-config") struct CheckConfigTests {
    @Test("a fresh server lacks migrations and is left as it is; after \"meridian migrate\" nothing is left to say")
    func migrate() async throws {
        try await TestCluster.withShards(2) { shards in
            let options = shards.flatMap { ["--shard", "\($0.name) \($0.conninfo)"] }
            let fresh = try RunningCommand(["check-config"] + options)
            #expect(await fresh.exitStatus() == 0)
            #expect(fresh.output.contains("shard2  warning  lacks 0001_commit_log.sql, "))
            #expect(fresh.output.hasSuffix("\n0 refused, 2 warnings\n"))
            let plan = try RunningCommand(["migrate", "--plan"] + options)
            #expect(await plan.exitStatus() == 0)
            #expect(plan.output.contains("shard1: lacks 0001_commit_log.sql, "))
            let untouched = try await shards[0].psql("SELECT to_regnamespace('meridian') IS NULL")
            #expect(untouched == "t")

            let migrate = try RunningCommand(["migrate"] + options)
            #expect(await migrate.exitStatus() == 0, "\(migrate.errors)")
            #expect(migrate.output.contains("shard2: now has 0001_commit_log.sql, "))
            let again = try RunningCommand(["migrate"] + options)
            #expect(await again.exitStatus() == 0)
            #expect(again.output == "shard1: up to date\nshard2: up to date\n")
            let after = try RunningCommand(["check-config"] + options)
            #expect(await after.exitStatus() == 0)
            #expect(after.output.hasSuffix("\n0 refused, 0 warnings\n"), "\(after.output)")

            let swapped = ["--shard", "shard2 \(shards[0].conninfo)", "--shard", "shard1 \(shards[1].conninfo)"]
            let wrong = try RunningCommand(["check-config"] + swapped)
            #expect(await wrong.exitStatus() == 1)
            #expect(wrong.output.contains("shard2  refused  this database is shard shard1"))
            let refused = try RunningCommand(["migrate"] + swapped)
            #expect(await refused.exitStatus() == 1)
            #expect(refused.errors.hasPrefix("ERROR:  shard shard2: this database is another shard\nDETAIL:  "))
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
                "twice, unfit  refused  these shards are on one server", "6 refused, 4 warnings",
            ]
            for message in messages { #expect(check.output.contains(message), "\(message) in \(check.output)") }
        }
    }

    @Test("a shard with a standby is warned of until that is synchronous, whichever of its servers is named first")
    func standby() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            try await shards[0].withStandby(isSynchronous: false) { standby in
                let ports = "\(standby.server.port),\(shards[0].server.port)"
                let shard = "a host=127.0.0.1,127.0.0.1 port=\(ports) dbname=meridian user=meridian"
                let warned = try RunningCommand(["check-config", "--shard", shard])
                #expect(await warned.exitStatus() == 0, "\(warned.output)")
                #expect(warned.output.contains("a      warning  no standby is synchronous: "), "\(warned.output)")
                try shards[0].server.setSynchronousStandby(standby.name)
                while try await shards[0].psql("SELECT sync_state FROM pg_stat_replication") != "sync" {
                    try await Task.sleep(for: .milliseconds(20))
                }
                let synchronous = try RunningCommand(["check-config", "--shard", shard])
                #expect(await synchronous.exitStatus() == 0)
                #expect(!synchronous.output.contains("standby"), "\(synchronous.output)")
            }
        }
    }
}
