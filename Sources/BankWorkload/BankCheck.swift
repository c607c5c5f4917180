import ShardBackend
import ShardSchema
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

/// What `meridian bank check` found. Every list is empty when all is well.
public struct BankFindings: Sendable {
    public var sumsChecked = 0
    public var transfersChecked = 0
    /// Timestamps at which the accounts did not hold the total, and what they held.
    public var wrongSums: [(timestamp: Timestamp, sum: Int64)] = []
    /// Timestamps that stand for two transactions.
    public var repeatedTimestamps: [Timestamp] = []
    /// Transactions that are not on every shard they wrote.
    public var halfApplied: [Timestamp] = []
    /// Acknowledged transfers that no shard knows.
    public var lost: [Timestamp] = []
    /// Pairs in which the second began after the first was acknowledged and has the smaller timestamp.
    public var realTimeViolations: [(first: HistoryEntry, second: HistoryEntry)] = []
    /// Prepared transactions of ours that are left.
    public var prepared: [String] = []
    /// Prepared transactions of others: no fault of ours, but they hold locks.
    public var strangers: [String] = []
    /// The shards' logs and prepared transactions were held against the history.
    public var hasSeenLogs = false

    /// Everything holds.
    public var isConsistent: Bool {
        wrongSums.isEmpty && repeatedTimestamps.isEmpty && halfApplied.isEmpty && lost.isEmpty
            && realTimeViolations.isEmpty && prepared.isEmpty
    }
}

/// Checks a bank after, or between, its runs.
public struct BankCheck: Sendable {
    private let bank: any BankAccess
    private let logs: ShardLogs?

    /// Checks a bank by its sums, and by what its shards have logged.
    public init(_ bank: any BankAccess, logs: ShardLogs?) {
        (self.bank, self.logs) = (bank, logs)
    }

    /// Checks a bank of this process's engine.
    public init(_ bank: Bank) {
        self.init(bank, logs: ShardLogs(bank.engine))
    }

    /// Checks the bank against the history of its runs.
    ///
    /// - Parameters:
    ///   - total: what all accounts together were given; nil takes what they hold now.
    ///   - samples: how many random timestamps of the run the total is checked at.
    ///   - progress: is told how many samples are done.
    public func run(
        history: [HistoryEntry], total: Int64? = nil, samples: Int = 100, seed: UInt64,
        progress: (Int) -> Void = { _ in }
    ) async throws -> BankFindings {
        var findings = BankFindings()
        findings.transfersChecked = history.count
        findings.realTimeViolations = Self.realTimeViolations(in: history)
        var floor = Timestamp.zero
        if let logs {
            floor = try await Self.oldestReadable(logs)
            try await checkLogs(logs, history.filter { $0.commitTimestamp >= floor }, since: floor, &findings)
            try await checkPrepared(logs, &findings)
            findings.hasSeenLogs = true
        }
        let timestamps = history.map(\.commitTimestamp).filter { $0 >= floor }
        try await checkSums(
            at: timestamps, total: total ?? bank.total, samples: samples, seed: seed, &findings, progress)
        return findings
    }

    /// The pairs that break real-time order, one for each transfer that is in any, in O(n log n).
    static func realTimeViolations(in history: [HistoryEntry]) -> [(first: HistoryEntry, second: HistoryEntry)] {
        let byEnd = history.sorted { $0.acknowledged < $1.acknowledged }
        var newest: HistoryEntry?
        var next = byEnd.startIndex
        var violations: [(HistoryEntry, HistoryEntry)] = []
        for entry in history.sorted(by: { $0.began < $1.began }) {
            // Of all that were acknowledged before this one began, the newest timestamp is the one to beat.
            while next < byEnd.endIndex, byEnd[next].acknowledged < entry.began {
                if newest.map({ $0.commitTimestamp < byEnd[next].commitTimestamp }) ?? true { newest = byEnd[next] }
                next += 1
            }
            if let newest, newest.commitTimestamp >= entry.commitTimestamp { violations.append((newest, entry)) }
        }
        return violations
    }

    /// One row of a shard's commit log.
    struct LogRow: Sendable {
        var shard: ShardID
        var timestamp: Timestamp
        var participants: [Substring]
    }

    /// - Parameter floor: shards forget at their own pace; only what all of them still keep can be held against each
    ///   other.
    private func checkLogs(
        _ logs: ShardLogs, _ history: [HistoryEntry], since floor: Timestamp, _ findings: inout BankFindings
    ) async throws {
        var rows: [LogRow] = []
        for shard in logs.shards {
            for row in try await logs.run(ShardSchema.committedTransactions, on: shard) {
                let participants = try row.text(1).split(separator: ",")
                rows.append(
                    LogRow(shard: shard, timestamp: Timestamp(rawValue: try row.int64(0)), participants: participants))
            }
        }
        Self.judge(rows.filter { $0.timestamp >= floor }, history, &findings)
    }

    private static func oldestReadable(_ logs: ShardLogs) async throws -> Timestamp {
        var floor = Timestamp.zero
        for shard in logs.shards {
            let row = try await logs.run(ShardSchema.oldestReadable, on: shard)[0]
            floor = max(floor, Timestamp(rawValue: try row.int64(0)))
        }
        return floor
    }

    /// Holds the shards' logs against each other and against what clients were told.
    static func judge(_ rows: [LogRow], _ history: [HistoryEntry], _ findings: inout BankFindings) {
        let transactions = Dictionary(grouping: rows, by: \.timestamp)
        for (timestamp, rows) in transactions {
            if Set(rows.map(\.participants)).count > 1 {
                findings.repeatedTimestamps.append(timestamp)
            } else if Set(rows.map(\.shard.rawValue)) != Set(rows[0].participants.map(String.init)) {
                findings.halfApplied.append(timestamp)
            }
        }
        var acknowledged: Set<Timestamp> = []
        for entry in history {
            if !acknowledged.insert(entry.commitTimestamp).inserted {
                findings.repeatedTimestamps.append(entry.commitTimestamp)
            }
            if transactions[entry.commitTimestamp] == nil { findings.lost.append(entry.commitTimestamp) }
        }
    }

    private func checkPrepared(_ logs: ShardLogs, _ findings: inout BankFindings) async throws {
        for shard in logs.shards {
            for row in try await logs.run(ShardSchema.preparedTransactions, on: shard) {
                let gid = try row.text(0)
                if TransactionID(gid) == nil {
                    findings.strangers.append("\(gid) on \(shard)")
                } else {
                    findings.prepared.append("\(gid) on \(shard)")
                }
            }
        }
    }

    private func checkSums(
        at timestamps: [Timestamp], total: Int64, samples: Int, seed: UInt64, _ findings: inout BankFindings,
        _ progress: (Int) -> Void
    ) async throws {
        guard let now = try await bank.now() else {
            findings.sumsChecked = 1
            let sum = try await bank.sum(.strong)
            if sum != total { findings.wrongSums.append((.zero, sum)) }
            return progress(samples)
        }
        let first = timestamps.min() ?? now
        let range = first...max(timestamps.max() ?? now, first)
        var generator = SeededGenerator(seed: seed)
        for sample in 0..<samples {
            let timestamp = Timestamp(
                rawValue: .random(in: range.lowerBound.rawValue...range.upperBound.rawValue, using: &generator))
            let sum = try await bank.sum(.at(timestamp))
            if sum != total { findings.wrongSums.append((timestamp, sum)) }
            findings.sumsChecked += 1
            progress(sample + 1)
        }
    }
}
