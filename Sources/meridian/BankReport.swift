import BankWorkload
import Foundation
import TransactionCore

/// What a run of the bank is summed up in.
struct BankReport {
    let load: BankLoad
    let tally: BankTally
    /// 0 to 1; nil where nobody waits so.
    let commitWaitShare: Double?
    let took: Duration
    /// It is known which account is on which shard.
    let knowsShards: Bool

    static func describe(_ failures: [SQLState: Int]) -> String {
        guard !failures.isEmpty else { return "no aborts" }
        let counts = failures.sorted { $0.key.rawValue < $1.key.rawValue }.map { "\($0.key) × \($0.value)" }
        return "aborts: \(counts.joined(separator: ", "))"
    }

    private var seconds: Double { took / .seconds(1) }

    /// The table at the end of a run.
    var text: String {
        var rows: [(String, String)] = [
            ("clients", "\(load.clients)"),
            ("seconds", String(format: "%.1f", seconds)),
            ("transfers", "\(tally.transfers)"),
            ("transfers/s", String(format: "%.0f", Double(tally.transfers) / seconds)),
            ("  on two shards", knowsShards ? "\(tally.crossShard)" : "?"),
            ("  on one shard", knowsShards ? "\(tally.transfers - tally.crossShard)" : "?"),
            ("  refused (overdraft)", "\(tally.refused)"),
            ("  p50 ms", Self.milliseconds(Double(tally.transferLatency.valueAtPercentile(50)))),
            ("  p99 ms", Self.milliseconds(Double(tally.transferLatency.valueAtPercentile(99)))),
            ("  longest gap ms", Self.milliseconds(tally.longestGap / .microseconds(1))),
            ("strong sums", "\(tally.strongSums)"),
            ("  p50 ms", Self.milliseconds(Double(tally.sumLatency.valueAtPercentile(50)))),
            ("  p99 ms", Self.milliseconds(Double(tally.sumLatency.valueAtPercentile(99)))),
            ("sums in the past", "\(tally.pastSums)"),
            ("wrong sums", "\(tally.wrongSums)"),
            ("aborts", tally.failures.isEmpty ? "none" : Self.describe(tally.failures)),
            ("outcome unknown", "\(tally.indeterminate)"),
        ]
        if let commitWaitShare {
            rows.append(("commit-wait share", String(format: "%.1f %%", commitWaitShare * 100)))
        }
        return rows.map { "\($0.0.padding(toLength: 24, withPad: " ", startingAt: 0))\($0.1)" }.joined(separator: "\n")
    }

    func writeJSON(to path: String) throws {
        var figures: [String: Any] = [
            "clients": load.clients, "seconds": seconds, "seed": String(load.seed), "transfers": tally.transfers,
            "transfersPerSecond": Double(tally.transfers) / seconds, "refused": tally.refused,
            "transferMilliseconds": Self.percentiles(tally.transferLatency.valueAtPercentile),
            "longestGapMilliseconds": tally.longestGap / .milliseconds(1),
            "strongSums": tally.strongSums,
            "strongSumMilliseconds": Self.percentiles(tally.sumLatency.valueAtPercentile),
            "pastSums": tally.pastSums, "wrongSums": tally.wrongSums, "indeterminate": tally.indeterminate,
            "aborts": Dictionary(uniqueKeysWithValues: tally.failures.map { ($0.key.rawValue, $0.value) }),
        ]
        if knowsShards {
            figures["crossShard"] = tally.crossShard
            figures["oneShard"] = tally.transfers - tally.crossShard
        }
        if let commitWaitShare { figures["commitWaitShare"] = commitWaitShare }
        let data = try JSONSerialization.data(withJSONObject: figures, options: [.prettyPrinted, .sortedKeys])
        try data.write(to: URL(filePath: path))
    }

    private static func percentiles(_ value: (Double) -> UInt64) -> [String: Double] {
        ["p50": Double(value(50)) / 1000, "p99": Double(value(99)) / 1000, "max": Double(value(100)) / 1000]
    }

    private static func milliseconds(_ microseconds: Double) -> String { String(format: "%.2f", microseconds / 1000) }

    /// What `check` says.
    static func text(_ findings: BankFindings) -> String {
        var lines = [
            verdict(
                "total conserved at \(findings.sumsChecked) timestamps",
                findings.wrongSums.map {
                    "at \($0.timestamp) the accounts held \($0.sum)"
                }),
            verdict("timestamps unique", findings.repeatedTimestamps.map { "\($0) stands for two transactions" }),
            verdict(
                "real-time order respected",
                findings.realTimeViolations.map {
                    "\($0.second.commitTimestamp) began after \($0.first.commitTimestamp) was acknowledged"
                }),
        ]
        if findings.hasSeenLogs {
            lines += [
                verdict("transactions whole on all their shards", findings.halfApplied.map { "\($0) is not" }),
                verdict(
                    "\(findings.transfersChecked) acknowledged transfers are in the commit logs",
                    findings.lost.map { "\($0) is not" }),
                verdict("no prepared transaction left", findings.prepared),
            ]
        } else {
            lines.append("note  the shards' logs were not looked at: no configuration names the shards")
        }
        if !findings.strangers.isEmpty {
            let strangers = findings.strangers.joined(separator: ", ")
            lines.append("note  prepared transactions of others hold locks: \(strangers)")
        }
        return (lines + [findings.isConsistent ? "consistent" : "VIOLATED"]).joined(separator: "\n")
    }

    private static func verdict(_ claim: String, _ witnesses: [String]) -> String {
        guard !witnesses.isEmpty else { return "ok    \(claim)" }
        let shown = witnesses.prefix(5).map { "\n        \($0)" }.joined()
        let more = witnesses.count > 5 ? "\n        and \(witnesses.count - 5) more" : ""
        return "FAIL  \(claim): \(witnesses.count)\(shown)\(more)"
    }
}
