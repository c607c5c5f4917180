import ShardBackend
import TestSupport
import Testing

@Suite(.serialized) struct SessionPgbenchTests {
    /// Has pgbench create and fill its tables: rows come by COPY FREEZE, primary keys after them.
    private static func initialize(_ served: ServedShards) async throws {
        let bench = try RunningCommand(["-i", "-s", "1", "-q", served.conninfo], program: "/usr/bin/pgbench")
        #expect(await bench.exitStatus() == 0, "\(bench.errors)")
    }

    @Test("pgbench -i fills tables that are sharded, by COPY FREEZE, and again")
    func initialization() async throws {
        try await ServedShards.with(3) { served in
            for _ in 0..<2 {
                try await Self.initialize(served)
                var counts: [Int64] = []
                for shard in served.engine.shards {
                    let rows = try await served.engine.inspect("SELECT count(*) FROM pgbench_accounts", on: shard)
                    counts.append(try rows[0].int64(0))
                }
                #expect(counts.reduce(0, +) == 100_000)
                #expect(counts.min() ?? 0 > 25_000, "\(counts)")
            }
            try await served.session { client in
                let sums = try await client.text("SELECT count(*), sum(aid), min(abalance) FROM pgbench_accounts")
                #expect(sums == "100000,5000050000,0")
                #expect(try await client.text("SELECT bid FROM pgbench_accounts WHERE aid = 77777") == "1")
            }
        }
    }

    @Test(
        "pgbench's TPC-B-like transactions over all shards never fail, and the balances agree",
        arguments: ["simple", "extended", "prepared"])
    func tpcb(mode: String) async throws {
        try await ServedShards.with(3) { served in
            try await Self.initialize(served)
            try await served.session { client in
                let bench = try RunningCommand(
                    ["-n", "-M", mode, "-c", "4", "-t", "25", "--max-tries", "20", served.conninfo],
                    program: "/usr/bin/pgbench")
                #expect(await bench.exitStatus() == 0, "\(bench.errors)")
                #expect(bench.output.contains("number of transactions actually processed: 100/100"))
                let select = try RunningCommand(
                    ["-n", "-S", "-M", mode, "-c", "4", "-t", "50", served.conninfo], program: "/usr/bin/pgbench")
                #expect(await select.exitStatus() == 0, "\(select.errors)")
                let sums = try await client.text(
                    """
                    SELECT sum(abalance) FROM pgbench_accounts; SELECT sum(tbalance) FROM pgbench_tellers;
                    SELECT sum(bbalance) FROM pgbench_branches; SELECT sum(delta) FROM pgbench_history
                    """)
                #expect(Set(sums.split(separator: "\n")).count == 1, "\(sums)")
                #expect(try await client.text("SELECT count(*) FROM pgbench_history") == "100")
            }
        }
    }
}
