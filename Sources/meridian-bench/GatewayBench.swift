import ArgumentParser
import Foundation
import LocalCluster

/// `ops/bench gateway`
struct GatewayBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "gateway",
        abstract: "The same statements on one PostgreSQL directly, through pgbouncer and through Meridian.",
        discussion: """
            select    pgbench, -M simple: SELECT of one row by its key
            update    pgbench, -M simple: UPDATE of one row by its key
            rows      1,000,000 rows read by one SELECT
            copy in, copy out     1,000,000 rows
            transfer  two UPDATEs of rows on three shards in a transaction, against the same in Meridian's own process
            idle      1,000 connections that have run a statement and wait
            "own µs" is the processor time of pgbouncer or of the node. pgbouncer pools transactions.
            """)

    @OptionGroup var options: BenchOptions

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Numbers of clients.", valueName: "n"))
    var clients: [Int] = [1, 8, 32, 256]

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Parts to run, of those above.", valueName: "part"))
    var parts = ["select", "update", "rows", "copy", "transfer", "idle"]

    @Option(help: ArgumentHelp("Seconds of each cell and round.", valueName: "s"))
    var seconds: Int?

    static let settings = ["max_connections": "400", "max_prepared_transactions": "200"]

    private var rounds: Int { options.quick ? 1 : 3 }
    private var cellSeconds: Int { seconds ?? (options.quick ? 2 : 5) }

    func run() async throws {
        var report = BenchReport(benchmark: "gateway", software: "")
        try await LocalCluster.withTemporary(shards: 1, settings: Self.settings) { cluster in
            try await Doors.with(cluster, rows: options.quick ? 100_000 : 1_000_000) { doors in
                report.software = try doors.postgresVersion()
                for part in ["select", "update"] where parts.contains(part) { try await pgbench(part, doors, &report) }
                if parts.contains("rows") { try await bulk("rows", doors, &report) { try $0.readRows() } }
                if parts.contains("copy") {
                    try await bulk("copy out", doors, &report) { try $0.copyOut() }
                    try await bulk("copy in", doors, &report) { try $0.copyIn(rows: doors.rows) }
                }
                if parts.contains("idle") { try idle(doors, &report) }
            }
        }
        if parts.contains("transfer") { try await transfers(&report) }
        try report.finish(json: options.json)
    }

    /// Runs one of pgbench's scripts by each door, in turns.
    private func pgbench(_ part: String, _ doors: Doors, _ report: inout BenchReport) async throws {
        for clients in clients {
            var cells: [String: PgbenchCell] = [:]
            for _ in 0..<rounds {
                for door in doors.all {
                    let cell = try await door.pgbench(part, clients: clients, seconds: cellSeconds, doors)
                    cells[door.name, default: PgbenchCell()].add(cell)
                }
            }
            for door in doors.all {
                report.add(cells[door.name]!.measurement("\(part) \(door.name)", clients))
            }
            for other in ["direct", "pgbouncer"] {
                let (ours, theirs) = (cells["meridian"]!, cells[other]!)
                report.addRatio("\(part), meridian / \(other), \(clients) clients", ours.perSecond / theirs.perSecond)
            }
        }
    }

    /// Moves many rows by each door, and takes each one's best of several tries.
    private func bulk(
        _ part: String, _ doors: Doors, _ report: inout BenchReport, _ move: (BareConnection) throws -> Void
    ) async throws {
        var best: [String: Double] = [:]
        for _ in 0..<max(2, rounds) {
            for door in doors.all {
                let connection = try BareConnection(door.conninfo)
                let began = ContinuousClock.now
                try move(connection)
                best[door.name] = min(best[door.name] ?? .infinity, (ContinuousClock.now - began) / .seconds(1))
            }
        }
        for door in doors.all {
            let seconds = best[door.name]!
            print(String(format: "%@ %@: %.2f s for %d rows", part, door.name, seconds, doors.rows))
        }
        report.addRatio("\(part), meridian / direct", best["direct"]! / best["meridian"]!)
        report.addRatio("\(part), meridian / pgbouncer", best["pgbouncer"]! / best["meridian"]!)
    }

    private func idle(_ doors: Doors, _ report: inout BenchReport) throws {
        let count = 1_000
        let before = residentMiB(of: doors.node.processID)
        let connections = try (0..<count).map { _ in try BareConnection(doors.door("meridian").conninfo) }
        for connection in connections { _ = try connection.scalar("SELECT aid FROM pgbench_accounts WHERE aid = 1") }
        let after = residentMiB(of: doors.node.processID)
        withExtendedLifetime(connections) {}
        print(String(format: "idle: %d connections take %.1f MiB", count, after - before))
        report.addRatio("MiB that \(count) idle connections take", after - before)
        report.addRatio("MiB of the node with \(count) idle connections", after)
    }

    /// Transfers by pgbench through a node against the bank in the node's own process, in turns.
    private func transfers(_ report: inout BenchReport) async throws {
        for clients in clients where [8, 32].contains(clients) {
            try await LocalCluster.withTemporary(shards: 3, settings: Transfers.settings) { cluster in
                let bench = try await BenchCluster(cluster, accounts: Transfers.accounts)
                var (wire, own) = (PgbenchCell(), Cell())
                for round in 0..<max(2, rounds) {
                    own.add(try await bench.run("meridian-any", clients: clients, for: .seconds(cellSeconds)))
                    let cell = try await NodeOverShards.with(bench, cluster, isFirst: round == 0) { node in
                        try await node.transfers(clients: clients, seconds: cellSeconds)
                    }
                    wire.add(cell)
                }
                let inProcess = own.measurement("transfer in process", clients)
                report.add(inProcess)
                report.add(wire.measurement("transfer gateway", clients))
                report.addRatio(
                    "transfer, gateway / in process, \(clients) clients", wire.perSecond / inProcess.perSecond)
            }
        }
    }
}

/// Resident memory of a process.
func residentMiB(of processID: Int32) -> Double {
    let status = (try? String(contentsOfFile: "/proc/\(processID)/status", encoding: .utf8)) ?? ""
    let line = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") } ?? ""
    return (line.split(separator: " ").compactMap { Double($0) }.first ?? 0) / 1024
}
