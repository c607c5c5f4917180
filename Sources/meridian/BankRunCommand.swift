import ArgumentParser
import BankWorkload
import Foundation
import TransactionCore
import TransactionEngine
import UnixSignals

extension BankCommand {
    /// `meridian bank run`
    struct Run: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Transfer and sum with many clients at once.",
            discussion: """
                Ctrl-C ends the run early: clients finish what they are doing, and the report is made.

                  meridian bank run --clients 32 --seconds 30
                  meridian bank run --cross-shard 1 --read-fraction 0
                  meridian bank run --hot 10
                  meridian bank run --url 'postgresql://bank@db1/bank'     another server, PostgreSQL too
                  meridian bank run --in-process                           without a node in between
                """)

        @OptionGroup var bank: BankOptions

        @Option(help: "Clients that work at the same time.")
        var clients = 16

        @Option(help: "For how long.")
        var seconds = 10.0

        @Option(help: "The share of transfers between two shards, 0 to 1; by default as chance has it.")
        var crossShard: Double?

        @Option(help: "Use this many accounts only.")
        var hot: Int64?

        @Option(help: "The share of operations that are sums over all accounts, 0 to 1.")
        var readFraction = 0.05

        @Option(help: "What the random choices follow from; by default another each time.")
        var seed: UInt64 = .random(in: 0 ... .max)

        @Option(help: "Append what the clients saw to this file, for `check`.", completion: .file())
        var history = BankCommand.historyDefault

        @Option(help: "Write the report to this file.", completion: .file())
        var json = "meridian-bank.json"

        func validate() throws {
            guard (1...10_000).contains(clients) else { throw ValidationError("--clients is 1 to 10000.") }
            guard seconds > 0, seconds <= 86_400 else { throw ValidationError("--seconds is above 0, at most 86400.") }
            guard crossShard.map((0...1).contains) ?? true else { throw ValidationError("--cross-shard is 0 to 1.") }
            guard (0...1).contains(readFraction) else { throw ValidationError("--read-fraction is 0 to 1.") }
            guard hot.map({ $0 >= 2 }) ?? true else { throw ValidationError("--hot is at least 2.") }
        }

        func run() async throws {
            let file = try HistoryFile(appendingTo: history)
            var load = BankLoad(seed: seed)
            load.clients = clients
            load.duration = .seconds(seconds)
            load.crossShard = crossShard
            load.hot = hot
            load.readFraction = readFraction
            let report = try await bank.withBank(clients: clients) { [load] bank, _ in
                try checkCrossShard(bank)
                let run = BankRun(load, on: bank, history: file)
                let began = ContinuousClock.now
                try await Self.execute(run, bank)
                return BankReport(
                    load: load, tally: await run.tally, commitWaitShare: await bank.commitWaitShare(),
                    took: .now - began,
                    knowsShards: bank.crosses(0, 1) != nil)
            }
            print(report.text)
            try report.writeJSON(to: json)
            print("report: \(json)\nhistory: \(history)")
            if report.tally.wrongSums > 0 { throw ExitCode.failure }
        }

        /// Accounts on different shards, and on one, are found by trying.
        private func checkCrossShard(_ bank: any BankAccess) throws {
            guard let crossShard else { return }
            let used = min(hot ?? .max, bank.accounts)
            let kinds = Set((1..<min(used, 1_000)).map { bank.crosses(0, $0) })
            guard bank.crosses(0, 1) != nil else {
                throw ValidationError("--cross-shard needs to know the shards: --config, or a running `meridian dev`.")
            }
            guard kinds.contains(true) || crossShard == 0 else {
                throw ValidationError("--cross-shard needs accounts on two shards; all that are used lie on one.")
            }
            guard kinds.contains(false) || crossShard == 1 else {
                throw ValidationError("--cross-shard below 1 needs more accounts.")
            }
        }

        /// Runs to the end or to Ctrl-C, with a line of progress.
        private static func execute(_ run: BankRun, _ bank: any BankAccess) async throws {
            try await withThrowingTaskGroup(of: Void.self) { group in
                let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm)
                group.addTask {
                    for await _ in signals { await run.stop() }
                }
                group.addTask { await BankProgress(run, bank).show() }
                do {
                    try await run.run()
                    group.cancelAll()
                } catch {
                    group.cancelAll()
                    throw error
                }
            }
        }
    }
}

/// The live line of a run: what happened in the last second.
private struct BankProgress {
    let run: BankRun
    let bank: any BankAccess

    init(_ run: BankRun, _ bank: any BankAccess) {
        self.run = run
        self.bank = bank
    }

    /// Shows a line each second, until the task is cancelled.
    func show() async {
        let line = ProgressLine()
        let began = ContinuousClock.now
        var (before, transfersBefore) = (began, 0)
        while (try? await Task.sleep(for: .seconds(1))) != nil {
            let (tally, share) = (await run.tally, await bank.commitWaitShare())
            let now = ContinuousClock.now
            let rate = Double(tally.transfers - transfersBefore) / ((now - before) / .seconds(1))
            (before, transfersBefore) = (now, tally.transfers)
            line.show(
                String(
                    format: "%3.0f s  %6.0f transfers/s  p50 %.1f ms  p99 %.1f ms  %@%@",
                    (now - began) / .seconds(1), rate,
                    Double(tally.transferLatency.valueAtPercentile(50)) / 1000,
                    Double(tally.transferLatency.valueAtPercentile(99)) / 1000,
                    share.map { String(format: "commit-wait %.1f %%  ", $0 * 100) } ?? "",
                    BankReport.describe(tally.failures)))
        }
        line.clear()
    }
}
