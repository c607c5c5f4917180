import ArgumentParser
import Foundation
import LocalCluster

/// `ops/bench metadata`
struct MetadataBench: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "metadata",
        abstract: "Replicated metadata: three nodes against three members of etcd and of ZooKeeper, on the same disk.",
        discussion: """
            write     puts a value of 100 bytes to one of 1,000 keys; answered when durable on a majority
            read      linearizable: Meridian's read, etcd's range, ZooKeeper's sync and getData
            read-local            ZooKeeper's getData alone, which may tell what is old
            watch     from start: until another member tells of a write, from its beginning; from answer: from the
                      writer's answer on, 0 where the watcher heard of it first
            Clients are in one process, spread over the members, each with one operation under way; "own µs" is their
            processor time. etcd and ZooKeeper have the settings they come with. Only one system is there at a time.
            """)

    @OptionGroup var options: BenchOptions

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Numbers of clients that write.", valueName: "n"))
    var clients: [Int] = [1, 16, 64]

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Systems to run.", valueName: "system"))
    var systems = ["Meridian", "etcd", "ZooKeeper"]

    @Option(help: ArgumentHelp("Seconds of each cell and round.", valueName: "s"))
    var seconds: Double?

    @Option(help: ArgumentHelp("The directory with the load programs of the others.", visibility: .hidden))
    var programs = ".build/metadata-load"

    private var rounds: Int { options.quick ? 1 : 2 }
    private var cellSeconds: Double { seconds ?? (options.quick ? 1 : 5) }
    private var warmUp: Double { options.quick ? 0.3 : 1.5 }

    /// One line of the table: what is measured, with how many clients.
    private struct Row: Hashable {
        var name: String
        var clients: Int
    }

    private func operations(on system: String) -> [(operation: String, clients: Int)] {
        let reads = system == "ZooKeeper" ? ["read", "read-local"] : ["read"]
        return clients.map { ("write", $0) } + reads.map { ($0, 64) } + [("watch", 3)]
    }

    private var rows: [Row] {
        clients.map { Row(name: "write", clients: $0) }
            + [Row(name: "read", clients: 64), Row(name: "read-local", clients: 64)]
            + ["watch from start", "watch from answer"].map { Row(name: $0, clients: 3) }
    }

    func run() async throws {
        let directory =
            FileManager.default.temporaryDirectory.path + "/meridian-metadata-\(UUID().uuidString.prefix(8))"
        try FileManager.default.createDirectory(atPath: directory, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(atPath: directory) }
        let loadPrograms = URL(filePath: programs).absoluteURL.path(percentEncoded: false)
        var cells: [String: [Row: Cell]] = [:]
        for round in 1...rounds {
            for system in systems {
                try await ServerGroup.with(
                    system, in: "\(directory)/\(round)", programs: loadPrograms, warmUp: 6 * warmUp
                ) { group in
                    for (operation, clients) in operations(on: system) {
                        let found = try await group.run(
                            operation, clients: clients, warmUp: warmUp, seconds: cellSeconds)
                        for (series, cell) in found {
                            let row = Row(name: series.isEmpty ? operation : "\(operation) \(series)", clients: clients)
                            cells[system, default: [:]][row, default: Cell()].add(cell)
                        }
                    }
                }
            }
        }
        var report = BenchReport(benchmark: "metadata", software: "etcd and ZooKeeper of this system's packages")
        for row in rows {
            for system in systems {
                guard let cell = cells[system]?[row] else { continue }
                report.add(cell.measurement("\(row.name) \(system)", row.clients))
            }
        }
        addRatios(to: &report)
        try report.finish(json: options.json)
    }

    private func addRatios(to report: inout BenchReport) {
        for row in rows where row.name != "watch from answer" {
            guard let ours = report.find("\(row.name) Meridian", clients: row.clients) else { continue }
            for other in ["etcd", "ZooKeeper"] {
                guard let theirs = report.find("\(row.name) \(other)", clients: row.clients) else { continue }
                let name = "\(row.name), Meridian / \(other), \(row.clients) clients"
                if row.name == "watch from start" {
                    report.addRatio("\(name), median latency", ours.p50! / theirs.p50!)
                } else {
                    report.addRatio("\(name), per second", ours.perSecond / theirs.perSecond)
                }
            }
        }
    }
}
