import ArgumentParser
import BankWorkload
import Foundation
import LocalCluster
import TransactionEngine

/// `ops/bench memory`
struct Memory: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "The memory of the coordinating process over ten minutes of transfers and sums.")

    @OptionGroup var options: BenchOptions

    func run() async throws {
        let duration = Duration.seconds(options.quick ? 40 : 600)
        try await LocalCluster.withTemporary(shards: 3, settings: Transfers.settings) { cluster in
            let bench = try await BenchCluster(cluster, accounts: Transfers.accounts)
            var report = BenchReport(benchmark: "memory", software: try bench.postgresVersion())
            let samples = try await bench.memory(for: duration)
            // The first fifth is warming up: pools fill, statements are prepared.
            let steady = samples.dropFirst(samples.count / 5)
            let half = steady.count / 2
            let (early, late) = (steady.prefix(half).max() ?? 0, steady.suffix(half).max() ?? 0)
            report.addRatio("resident MiB at the end", Double(samples.last ?? 0) / 1024)
            report.addRatio("peak of the second half / peak of the first", Double(late) / Double(max(1, early)))
            try report.finish(json: options.json)
        }
    }
}

extension BenchCluster {
    /// Resident memory of this process in KiB, twenty-five times over `duration`, while sixteen clients work.
    func memory(for duration: Duration) async throws -> [Int] {
        try await withEngine(uncertainty: .milliseconds(1)) { engine in
            var load = load(16, duration)
            load.readFraction = 0.05
            let run = BankRun(load, on: try await Bank.open(on: engine), history: nil)
            async let running: Void = run.run()
            var samples: [Int] = []
            for _ in 0..<25 {
                try await Task.sleep(for: duration / 25)
                samples.append(Self.residentKiB())
                print("\(samples.count * 4) %: \(samples[samples.count - 1] / 1024) MiB")
            }
            try await running
            return samples
        }
    }

    private static func residentKiB() -> Int {
        let status = (try? String(contentsOfFile: "/proc/self/status", encoding: .utf8)) ?? ""
        let line = status.split(separator: "\n").first { $0.hasPrefix("VmRSS:") } ?? ""
        return line.split(separator: " ").compactMap { Int($0) }.first ?? 0
    }
}
