import ArgumentParser
import BankWorkload
import LocalCluster
import ShardBackend
import TransactionEngine

/// `ops/bench sums`
struct Sums: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Sums over 100,000 accounts on three shards while transfers run: a strong read against plain SQL.",
        discussion: """
            plain    SELECT sum(balance) on the three shards at once, at whatever time each happens to read
            strong   the same as a strong read at one timestamp
            The two take turns, so both meet the same transfers. A sum is wrong when it is not the total.
            """)

    @OptionGroup var options: BenchOptions

    @Option(help: "Clients that transfer meanwhile.")
    var clients = 8

    func run() async throws {
        let duration = Duration.seconds(options.quick ? 10 : 60)
        try await LocalCluster.withTemporary(shards: 3, settings: Transfers.settings) { cluster in
            let bench = try await BenchCluster(cluster, accounts: 100_000)
            var report = BenchReport(benchmark: "sums", software: try bench.postgresVersion())
            let (plain, strong) = try await bench.sums(clients: clients, for: duration)
            report.add(plain.measurement("plain", clients, duration))
            report.add(strong.measurement("strong", clients, duration))
            report.addRatio("strong / plain, p50", strong.median / plain.median)
            report.addRatio("strong / plain, mean", strong.mean / plain.mean)
            report.addRatio("wrong sums of plain reads, share", plain.wrongShare)
            report.addRatio("wrong sums of strong reads, share", strong.wrongShare)
            try report.finish(json: options.json)
            if strong.wrong > 0 { throw ExitCode.failure }
        }
    }
}

/// Sums of one kind.
struct SumTally {
    var latencies = makeLatencyHistogram()
    var wrong = 0

    var mean: Double { latencies.mean }
    var median: Double { Double(latencies.valueAtPercentile(50)) }
    var wrongShare: Double { Double(wrong) / Double(max(1, latencies.totalCount)) }

    mutating func add(_ sum: Int64, of total: Int64, took duration: Duration) {
        latencies.record(UInt64(duration / .microseconds(1)))
        if sum != total { wrong += 1 }
    }

    func measurement(_ system: String, _ clients: Int, _ duration: Duration) -> Measurement {
        // Processor time is the transfers' too, so none is told.
        Measurement(
            system: system, clients: clients, latencies: latencies, seconds: duration / .seconds(1),
            processor: ProcessorTime())
    }
}

extension BenchCluster {
    /// Sums plainly and strongly in turns while `clients` transfer.
    func sums(clients: Int, for duration: Duration) async throws -> (plain: SumTally, strong: SumTally) {
        try await withEngine(uncertainty: .milliseconds(1)) { engine in
            let bank = try await Bank.open(on: engine)
            let transfers = BankRun(load(clients, duration), on: bank, history: nil)
            async let running: Void = transfers.run()
            var (plain, strong) = (SumTally(), SumTally())
            let deadline = ContinuousClock.now + duration
            while ContinuousClock.now < deadline {
                var began = ContinuousClock.now
                let plainSum = try await plainSum(engine)
                plain.add(plainSum, of: bank.total, took: .now - began)
                began = .now
                let strongSum = try await bank.sum(at: try await engine.snapshot())
                strong.add(strongSum, of: bank.total, took: .now - began)
            }
            try await running
            return (plain, strong)
        }
    }

    private func plainSum(_ engine: TransactionEngine) async throws -> Int64 {
        let statement = SQLStatement("SELECT sum(balance)::bigint FROM bank.account")
        let sums = engine.shards.map { shard in
            Task(executorPreference: engine.loop) { try await engine.inspect(statement, on: shard)[0].int64(0) }
        }
        var total: Int64 = 0
        for sum in sums { total += try await sum.value }
        return total
    }
}
