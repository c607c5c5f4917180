import ArgumentParser
import BankWorkload
import Foundation
import Histogram
import LocalCluster
import TransactionEngine

/// `ops/bench transfers`
struct Transfers: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Transfers between two shards: bare libpq, textbook two-phase commit, Meridian.",
        discussion: """
            bare       UPDATE on two shards, PREPARE on one, COMMIT on the other, COMMIT PREPARED; nothing else
            textbook   PREPARE on both, a decision record, COMMIT PREPARED on both
            meridian   commit timestamps, undo log, commit log and commit-wait, with an uncertainty of 1 ms
            meridian-0 the same with an uncertainty of 0
            """)

    @OptionGroup var options: BenchOptions

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Numbers of clients.", valueName: "n"))
    var clients: [Int] = [1, 8, 32, 128]

    @Option(parsing: .upToNextOption, help: ArgumentHelp("Systems to measure.", valueName: "name"))
    var systems: [String] = ["bare", "textbook", "meridian", "meridian-0"]

    @Option(help: ArgumentHelp("Seconds of each cell and round.", valueName: "s"))
    var seconds: Double?

    @Option(
        help: ArgumentHelp(
            "Microseconds that every flush takes longer (commit_delay), as on a slower disk.", valueName: "us"))
    var flushDelay = 0

    static let accounts: Int64 = 99_999

    func run() async throws {
        // Short cells in several rounds, all systems in each: what disturbs the machine disturbs all of them.
        let rounds = options.quick ? 3 : 8
        let cell = Duration.seconds(seconds ?? (options.quick ? 0.8 : 3))
        let slower = ["commit_delay": "\(flushDelay)", "commit_siblings": "0"]
        let settings = Self.settings.merging(flushDelay > 0 ? slower : [:]) { _, new in new }
        try await LocalCluster.withTemporary(shards: 3, settings: settings) { cluster in
            let bench = try await BenchCluster(cluster, accounts: Self.accounts)
            var report = BenchReport(benchmark: "transfers", software: try bench.postgresVersion())
            for clients in clients {
                var cells: [String: Cell] = [:]
                for _ in 0..<rounds {
                    for system in systems {
                        cells[system, default: Cell()].add(try await bench.run(system, clients: clients, for: cell))
                    }
                }
                for system in systems { report.add(cells[system]!.measurement(system, clients)) }
            }
            addRatios(to: &report)
            try report.finish(json: options.json)
        }
    }

    private func addRatios(to report: inout BenchReport) {
        for clients in clients {
            for (system, other) in [
                ("meridian", "bare"), ("meridian", "textbook"), ("meridian-0", "bare"), ("meridian", "meridian-0"),
            ] {
                if let one = report.find(system, clients: clients), let two = report.find(other, clients: clients) {
                    report.addRatio("\(system) / \(other), \(clients) clients", one.perSecond / two.perSecond)
                }
            }
        }
    }

    static let settings = ["max_connections": "500", "max_prepared_transactions": "500"]
}

/// One system's doings at one number of clients, over all rounds.
struct Cell {
    var latencies = makeLatencyHistogram()
    var seconds = 0.0
    var processor = ProcessorTime()

    mutating func add(_ other: Cell) {
        latencies.add(other.latencies)
        seconds += other.seconds
        processor += other.processor
    }

    func measurement(_ system: String, _ clients: Int) -> Measurement {
        Measurement(
            system: system, clients: clients, latencies: latencies, seconds: seconds, processor: processor)
    }
}
