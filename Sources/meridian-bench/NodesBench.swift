import ArgumentParser
import Foundation
import LocalCluster

/// `ops/bench nodes`
struct NodesBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "nodes",
        abstract: "What other nodes cost the one that clients use: clusters of one and of three nodes, side by side.",
        discussion: """
            select    pgbench, -M simple: SELECT of one row by its key
            update    pgbench, -M simple: UPDATE of one row by its key
            transfer  two UPDATEs of rows on three shards in a transaction
            Each by one node: the only one ("alone"), one of three ("silent others"), and one of three while another one
            commits now and then, so that every strong read asks it ("active other"). With one client the mean latency
            shows what a round trip to it takes.
            """)

    @OptionGroup var options: BenchOptions

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Numbers of clients.", valueName: "n"))
    var clients: [Int] = [1, 8, 32]

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Parts to run, of those above.", valueName: "part"))
    var parts = ["select", "update", "transfer"]

    @Option(help: ArgumentHelp("Seconds of each cell and round.", valueName: "s"))
    var seconds: Int?

    private static let accounts: Int64 = 99_999
    private var rounds: Int { options.quick ? 1 : 3 }
    private var cellSeconds: Int { seconds ?? (options.quick ? 2 : 5) }

    func run() async throws {
        var report = BenchReport(benchmark: "nodes", software: "")
        let directory = FileManager.default.temporaryDirectory.appending(path: "meridian-nodes-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: directory) }
        let path = directory.path(percentEncoded: false)
        let alone = try await RunningNodes.start(1, in: path)
        do {
            let three = try await RunningNodes.start(3, in: path)
            do {
                try writeScripts(to: path)
                for nodes in [alone, three] { try nodes.fill(accounts: Self.accounts) }
                report.software = "PostgreSQL, three shards for each cluster"
                for part in parts {
                    for clients in clients { try await measure(part, clients, alone, three, path, &report) }
                }
            } catch {
                await three.stop()
                throw error
            }
            await three.stop()
        } catch {
            await alone.stop()
            throw error
        }
        await alone.stop()
        try report.finish(json: options.json)
    }

    private func measure(
        _ part: String, _ clients: Int, _ alone: RunningNodes, _ three: RunningNodes, _ path: String,
        _ report: inout BenchReport
    ) async throws {
        var cells: [String: PgbenchCell] = [:]
        func add(_ name: String, _ nodes: RunningNodes) async throws {
            cells[name, default: PgbenchCell()].add(
                try await PgbenchCell.run(
                    script: "\(path)/\(part).sql", clients: clients, seconds: cellSeconds, conninfo: nodes.urls[0],
                    between: nil, servers: [], options: ["--max-tries=100"]))
        }
        for _ in 0..<rounds {
            try await add("alone", alone)
            // Until the others have been silent for long enough not to be asked.
            try await Task.sleep(for: .seconds(2))
            try await add("silent others", three)
            let other = try await LocalProgram.start(
                [
                    "/usr/bin/pgbench", "-n", "-c", "1", "-R", "20", "-T", "\(cellSeconds + 2)", "--max-tries=100",
                    "-f", "\(path)/update.sql", three.urls[1],
                ], in: path)
            try await Task.sleep(for: .milliseconds(500))
            try await add("active other", three)
            _ = await other.exitStatus()
        }
        for name in ["alone", "silent others", "active other"] {
            report.add(cells[name]!.measurement("\(part) \(name)", clients))
        }
        for name in ["silent others", "active other"] {
            let ratio = cells[name]!.perSecond / cells["alone"]!.perSecond
            report.addRatio("\(part), \(name) / alone, \(clients) clients", ratio)
        }
    }

    private func writeScripts(to path: String) throws {
        let key = "\\set id random(0, \(Self.accounts - 1))\n"
        let scripts = [
            "select": key + "SELECT balance FROM account WHERE id = :id;\n",
            "update": key + "UPDATE account SET balance = balance + 1 WHERE id = :id;\n",
            "transfer": NodeOverShards.transferScript(accounts: Self.accounts),
        ]
        for (name, script) in scripts {
            try script.write(toFile: "\(path)/\(name).sql", atomically: true, encoding: .utf8)
        }
    }
}

/// A cluster of `meridian dev`.
private struct RunningNodes: Sendable {
    let program: LocalProgram
    /// Where clients of each node connect.
    let urls: [String]

    static func start(_ nodes: Int, in directory: String) async throws -> RunningNodes {
        let program = try await LocalProgram.start(
            [Doors.meridian, "dev", "--shards", "3", "--nodes", "\(nodes)"], in: directory)
        do {
            while true {
                let urls = program.output.split(separator: "\n").filter { $0.hasPrefix("ready: ") }
                    .map { String($0.dropFirst("ready: ".count)) }
                if urls.count == nodes { return RunningNodes(program: program, urls: urls) }
                try await program.waits(for: "ready: ")
                try await Task.sleep(for: .milliseconds(50))
            }
        } catch {
            await program.stop()
            throw error
        }
    }

    func fill(accounts: Int64) throws {
        let connection = try BareConnection(urls[0])
        try connection.execute([
            "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 80)"
        ])
        try connection.copyIn(accounts: accounts)
    }

    func stop() async { await program.stop() }
}
