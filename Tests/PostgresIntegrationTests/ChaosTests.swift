import BankWorkload
import Foundation
import ShardBackend
import SimulationKit
import Synchronization
import TestSupport
import Testing
import TransactionCore

/// Several nodes, each a process, through everything that may happen to nodes, to shards and to the network between
/// them, while clients work.
///
/// Short by default, with every kind of fault once; `ops/chaos` runs it for as long as one likes.
@Suite(.serialized) struct ChaosTests {
    private static let clientsPerNode = 4
    private static let accounts: Int64 = 300
    private static let balance: Int64 = 1_000

    @Test(
        "whatever happens to nodes, shards and network: the order stays strict, the total stays, nothing is half done")
    func chaos() async throws {
        let given = ProcessInfo.processInfo.environment["MERIDIAN_CHAOS_SECONDS"].flatMap { Double($0) }
        var load = ListAppendLoad("ChaosTests")
        load.clients = ChaosCluster.nodeCount * Self.clientsPerNode
        load.committed = .max
        load.timeMax = .seconds(86_400)
        let record = ListAppendRecord(load)
        let history = try TemporaryDirectory()
        try await ChaosCluster.with { cluster in
            let probes = cluster.nodes.map { ChaosProbe($0, of: cluster) }
            let client = try await cluster.connect(toAnyFrom: 1)
            try await ListStep.setup(client)
            try await ChaosProbe.makeTable(probes, by: client)
            await client.close()
            let bank = try await ChaosBank(
                cluster, accounts: Self.accounts, balance: Self.balance, clientsPerNode: Self.clientsPerNode,
                seed: load.seed, history: "\(history.path)/history")
            var run = ChaosRun(cluster, probes, seconds: given, seed: load.seed)
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask {
                    try await record.runClients { number in
                        try await cluster.connect(toAnyFrom: number % ChaosCluster.nodeCount + 1)
                    }
                }
                for probe in probes { group.addTask { await probe.run() } }
                group.addTask { try await bank.run() }
                let result: Result<Void, any Error>
                do { result = .success(try await run.run()) } catch { result = .failure(error) }
                record.stop()
                for probe in probes { probe.stop() }
                await bank.stop()
                try await group.waitForAll()
                try result.get()
            }
            try await check(cluster, record, bank, probes, run)
        }
    }

    private func check(
        _ cluster: ChaosCluster, _ record: ListAppendRecord, _ bank: ChaosBank, _ probes: [ChaosProbe], _ run: ChaosRun
    ) async throws {
        print(run.report)
        let client = try await cluster.connect(toAnyFrom: 1)
        let history = try await record.check(by: client)
        for probe in probes { try await probe.check(by: client) }
        await client.close()
        let unknownTransfers = try await bank.check()

        // The faults were felt.
        func count(_ outcome: ListTransaction.Outcome) -> Int { history.count { $0.outcome == outcome } }
        #expect(count(.committed) > 0 && count(.aborted) > 0)
        #expect(count(.unknown) + unknownTransfers > 0, "no commit was under way when something went wrong")
        let lives = try await cluster.lifeCount()
        #expect(lives > ChaosCluster.nodeCount, "no node began anew")
        print("chaos: nodes had \(lives) lives")
        try await cluster.shards.waitUntilSettled()
        let ends = await cluster.killAll()
        #expect(ends.isEmpty, "nodes ended by themselves: \(ends)")
    }
}

/// One fault after the other, and two at a time now and then; what clients saw of them.
struct ChaosRun {
    /// What was seen of one kind of fault.
    private struct Tally {
        var count = 0
        var longestElsewhere = Duration.zero
        var longest = Duration.zero
    }

    private let cluster: ChaosCluster
    private let probes: [ChaosProbe]
    /// For how long; nil is once through all kinds.
    private let duration: Duration?
    private var chance: SeededGenerator
    private var tallies: [String: Tally] = [:]

    init(_ cluster: ChaosCluster, _ probes: [ChaosProbe], seconds: Double?, seed: UInt64) {
        (self.cluster, self.probes) = (cluster, probes)
        duration = seconds.map { .seconds($0) }
        chance = SeededGenerator(seed: seed)
    }

    mutating func run() async throws {
        let end = ContinuousClock.now + (duration ?? .zero)
        try await recover(since: .now)
        repeat {
            for (place, kind) in ChaosFault.Kind.allCases.shuffled(using: &chance).enumerated() {
                var faults = [fault(kind)]
                if duration != nil, place % 3 == 2 {
                    let other = fault(ChaosFault.Kind.allCases.randomElement(using: &chance) ?? kind)
                    if other.isApart(from: faults[0]) { faults.append(other) }
                }
                try await happen(faults)
                if duration != nil, ContinuousClock.now > end { break }
            }
        } while ContinuousClock.now < end
    }

    private mutating func fault(_ kind: ChaosFault.Kind) -> ChaosFault {
        ChaosFault(kind, lastingAtMost: duration == nil ? .seconds(1.2) : .seconds(6), using: &chance)
    }

    private mutating func happen(_ faults: [ChaosFault]) async throws {
        // A node that hands its clients on would not feel it.
        try await waitUntil("all nodes coordinate again", within: .seconds(60)) { [cluster] in
            try await cluster.coordinators() == Set(cluster.nodes)
        }
        let start = ContinuousClock.now
        try await withThrowingTaskGroup(of: Void.self) { [cluster] group in
            for fault in faults { group.addTask { try await fault.happen(to: cluster) } }
            try await group.waitForAll()
        }
        let healed = ContinuousClock.now
        try await recover(since: healed)
        let end = ContinuousClock.now
        let gaps = probes.map { $0.longestGap(from: start, to: end) }
        let elsewhere = zip(probes, gaps).filter { probe, _ in !faults.contains { $0.hitNode == probe.node } }.map(\.1)
        let title = faults.count == 1 ? faults[0].title : "two at a time"
        var tally = tallies[title] ?? Tally()
        tally.count += 1
        tally.longest = max(tally.longest, gaps.max() ?? .zero)
        tally.longestElsewhere = max(tally.longestElsewhere, elsewhere.max() ?? .zero)
        tallies[title] = tally
        let told = faults.map { "\($0.title) (node \($0.node), shard \($0.shard + 1), \(inSeconds($0.duration)) s)" }
        print(
            "chaos: \(Date()) \(told.joined(separator: " and ")); without service by node: "
                + gaps.map(inSeconds).joined(separator: ", ") + " s; served again after \(inSeconds(end - healed)) s")
        fflush(nil)
    }

    /// Waits until all nodes serve.
    private func recover(since healed: ContinuousClock.Instant) async throws {
        try await waitUntil("all nodes serve again", within: .seconds(60)) {
            probes.allSatisfy { $0.isServed(since: healed) }
        }
    }

    /// A table of what clients saw.
    var report: String {
        let rows = tallies.sorted { $0.key < $1.key }.map { title, tally in
            "| \(title) | \(tally.count) | \(inSeconds(tally.longestElsewhere)) | \(inSeconds(tally.longest)) |"
        }
        return """
            chaos: the longest time without service, in seconds
            | what happens | times | clients of nodes that it does not happen to | all clients |
            |---|---|---|---|
            \(rows.joined(separator: "\n"))
            """
    }
}

private func inSeconds(_ duration: Duration) -> String { String(format: "%.2f", duration / .seconds(1)) }
