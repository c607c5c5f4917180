import EventLoops
import Histogram
import ShardBackend
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

/// How the bank is loaded.
public struct BankLoad: Sendable {
    /// Clients that work at the same time, each one thing after the other.
    public var clients = 16
    /// How long they go on.
    public var duration: Duration = .seconds(10)
    /// The share of transfers between two shards, 0 to 1; nil lets chance decide.
    public var crossShard: Double?
    /// How many accounts are used; nil is all.
    public var hot: Int64?
    /// The share of a client's operations that are sums over all accounts, 0 to 1: half of them strong reads, half at
    /// random timestamps in the past of the run.
    public var readFraction = 0.05
    /// What the random choices follow from.
    public var seed: UInt64

    public init(seed: UInt64) {
        self.seed = seed
    }
}

/// What one client, or all together, did so far.
public struct BankTally: Sendable {
    public var transfers = 0
    /// Those of ``transfers`` between two shards, where it is known which account is where.
    public var crossShard = 0
    /// Transfers refused because they would have overdrawn.
    public var refused = 0
    public var strongSums = 0
    public var pastSums = 0
    /// Sums that were not the bank's total. One is one too many.
    public var wrongSums = 0
    /// Failed tries, by SQLSTATE; a try that may be repeated was repeated.
    public var failures: [SQLState: Int] = [:]
    /// Transfers whose outcome is not known.
    public var indeterminate = 0
    /// The longest time in which none of the clients' transfers was acknowledged.
    public var longestGap = Duration.zero
    /// Of acknowledged transfers, from the first try on, in microseconds.
    public var transferLatency = Self.makeLatencyHistogram()
    /// Of strong sums, in microseconds.
    public var sumLatency = Self.makeLatencyHistogram()

    public init() {}

    /// Latencies up to ten minutes in microseconds, to two digits.
    private static func makeLatencyHistogram() -> Histogram<UInt32> {
        Histogram(highestTrackableValue: 600_000_000, numberOfSignificantValueDigits: .two)
    }
}

/// Runs the workload: clients that transfer and sum.
public actor BankRun {
    private let bank: any BankAccess
    private let load: BankLoad
    private let history: HistoryFile?
    /// All clients' doings so far.
    public private(set) var tally = BankTally()
    /// The commit timestamps between which the run lies; nil where there are none.
    public private(set) var timestamps: ClosedRange<Timestamp>?
    private var isStopped = false
    private var deadline = ContinuousClock.now
    /// When a transfer was acknowledged last, or the run began.
    private var lastCommit = ContinuousClock.now

    public nonisolated var unownedExecutor: UnownedSerialExecutor { bank.loop.asUnownedSerialExecutor() }

    /// Prepares a run that appends every acknowledged transfer to `history`.
    public init(_ load: BankLoad, on bank: any BankAccess, history: HistoryFile?) {
        self.load = load
        self.bank = bank
        self.history = history
    }

    /// Runs until the time is over or ``stop()``; returns when every client has finished what it was doing.
    ///
    /// - Throws: the first error that is no transaction's, and errors that make going on pointless.
    public func run() async throws {
        timestamps = try await bank.now().map { $0...$0 }
        deadline = .now + load.duration
        lastCommit = .now
        try await withThrowingTaskGroup(of: Void.self) { group in
            for client in 0..<load.clients {
                group.addTask(executorPreference: bank.loop) {
                    var generator = SeededGenerator(seed: self.load.seed &+ UInt64(client))
                    while await self.goesOn { try await self.operate(&generator) }
                }
            }
            try await group.waitForAll()
        }
        noteGap()
    }

    /// Lets every client finish what it is doing, and no more.
    public func stop() { isStopped = true }

    private var goesOn: Bool { !isStopped && !Task.isCancelled && .now < deadline }

    private nonisolated func operate(_ generator: inout SeededGenerator) async throws {
        if Double.random(in: 0..<1, using: &generator) < load.readFraction {
            try await sum(isStrong: Bool.random(using: &generator), &generator)
        } else {
            let (source, target) = accounts(&generator)
            try await transfer(Int64.random(in: 1...100, using: &generator), from: source, to: target)
        }
    }

    private nonisolated func accounts(_ generator: inout SeededGenerator) -> (source: Int64, target: Int64) {
        let accounts = min(load.hot ?? bank.accounts, bank.accounts)
        let isCross = load.crossShard.map { Double.random(in: 0..<1, using: &generator) < $0 }
        while true {
            let source = Int64.random(in: 0..<accounts, using: &generator)
            let target = Int64.random(in: 0..<accounts, using: &generator)
            if source != target, isCross == nil || bank.crosses(source, target) == isCross { return (source, target) }
        }
    }

    // MARK: Operations

    private nonisolated func transfer(_ amount: Int64, from source: Int64, to target: Int64) async throws {
        let began = HistoryFile.now()
        while true {
            do {
                let end = try await bank.transfer(amount, from: source, to: target)
                let acknowledged = HistoryFile.now()
                guard case .committed(let timestamp) = end else { return await refusedTransfer() }
                if let timestamp {
                    try history?.append(
                        HistoryEntry(began: began, acknowledged: acknowledged, commitTimestamp: timestamp))
                }
                let isCross = bank.crosses(source, target) == true
                return await committedTransfer(at: timestamp, isCross: isCross, nanoseconds: acknowledged - began)
            } catch let error as TransactionError {
                guard try await failed(error) else { return }
            }
        }
    }

    private nonisolated func sum(isStrong: Bool, _ generator: inout SeededGenerator) async throws {
        let began = ContinuousClock.now
        do {
            let past = isStrong ? nil : await pastTimestamp(&generator)
            let sum = try await bank.sum(past.map { .at($0) } ?? .strong)
            await summed(isStrong: past == nil, isRight: sum == bank.total, took: .now - began)
        } catch let error as TransactionError {
            _ = try await failed(error)
        }
    }

    private func pastTimestamp(_ generator: inout SeededGenerator) -> Timestamp? {
        timestamps.map { range in
            Timestamp(rawValue: .random(in: range.lowerBound.rawValue...range.upperBound.rawValue, using: &generator))
        }
    }

    // MARK: Tally

    private func committedTransfer(at timestamp: Timestamp?, isCross: Bool, nanoseconds: Int64) {
        tally.transfers += 1
        noteGap()
        if isCross { tally.crossShard += 1 }
        tally.transferLatency.record(UInt64(max(0, nanoseconds / 1000)))
        if let range = timestamps, let timestamp { timestamps = range.lowerBound...max(range.upperBound, timestamp) }
    }

    private func noteGap() {
        tally.longestGap = max(tally.longestGap, .now - lastCommit)
        lastCommit = .now
    }

    private func refusedTransfer() { tally.refused += 1 }

    private func summed(isStrong: Bool, isRight: Bool, took duration: Duration) {
        if isStrong {
            tally.strongSums += 1
            tally.sumLatency.record(UInt64(duration / .microseconds(1)))
        } else {
            tally.pastSums += 1
        }
        if !isRight { tally.wrongSums += 1 }
    }

    /// Counts a failed try; returns whether to try again, after a pause when a shard seems to be down.
    private func failed(_ error: TransactionError) async throws -> Bool {
        tally.failures[error.sqlState, default: 0] += 1
        if error.sqlState == .transactionResolutionUnknown {
            tally.indeterminate += 1
            return false
        }
        guard [.undefinedTable, .internalError, .clockNotTrusted].contains(error.sqlState) == false else { throw error }
        guard !error.isRetryable else { return true }
        try? await bank.loop.sleep(until: .now + .milliseconds(100))
        return goesOn && [.connectionFailure, .cannotConnectNow].contains(error.sqlState)
    }
}

/// A small, fast generator of good quality (SplitMix64, Steele, Lea & Flood, OOPSLA 2014), for repeatable choices.
struct SeededGenerator: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) {
        // Neighbouring seeds begin far apart.
        state = seed &* 0xD1B5_4A32_D192_ED03
    }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
