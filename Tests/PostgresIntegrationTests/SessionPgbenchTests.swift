import ShardBackend
import TestSupport
import Testing

@Suite(.serialized) struct SessionPgbenchTests {
    private static let tables = """
        CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int, filler char(88));
        CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int, tbalance int, filler char(84));
        CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int, abalance int, filler char(84));
        CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));
        INSERT INTO pgbench_branches VALUES (1, 0, '');
        """

    @Test(
        "pgbench's TPC-B-like transactions over all shards never fail, and the balances agree",
        arguments: ["simple", "extended", "prepared"])
    func tpcb(mode: String) async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(Self.tables)
                let tellers = (1...10).map { "(\($0), 1, 0, '')" }.joined(separator: ", ")
                try await client.text("INSERT INTO pgbench_tellers VALUES \(tellers)")
                for start in stride(from: 1, through: 100_000, by: 5_000) {
                    let accounts = (start..<(start + 5_000)).map { "(\($0), 1, 0, '')" }.joined(separator: ", ")
                    try await client.text("INSERT INTO pgbench_accounts VALUES \(accounts)")
                }
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
