import BankWorkload
import Foundation
import TestSupport
import Testing

/// The standard workload by clients of every node, and its check.
struct ChaosBank: Sendable {
    private let cluster: ChaosCluster
    private let runs: [BankRun]
    private let bank: RemoteBank
    private let logs: ShardLogs
    private let total: Int64
    private let history: String
    private let seed: UInt64

    /// Makes the accounts.
    init(
        _ cluster: ChaosCluster, accounts: Int64, balance: Int64, clientsPerNode: Int, seed: UInt64, history: String
    ) async throws {
        let loop = cluster.shards.loop
        let servers = try await withThrowingTaskGroup(of: RemoteBank.Server.self) { group in
            for node in cluster.nodes {
                group.addTask {
                    try await RemoteBank.Server(cluster.conninfo(of: node), clients: clientsPerNode + 1, on: loop)
                }
            }
            return try await group.reduce(into: []) { $0.append($1) }
        }
        bank = try await RemoteBank.create(
            accounts: accounts, balance: balance, replacing: false, on: servers[0], progress: { _ in })
        logs = try ShardLogs(cluster.shards.configuration().shards, on: loop)
        let file = try HistoryFile(appendingTo: history)
        var runs: [BankRun] = []
        for (place, server) in servers.enumerated() {
            var load = BankLoad(seed: seed &+ UInt64(place) << 32)
            load.clients = clientsPerNode
            load.duration = .seconds(86_400)
            runs.append(BankRun(load, on: try await RemoteBank.open(on: server, logs: logs), history: file))
        }
        (self.cluster, self.runs, self.history, self.seed) = (cluster, runs, history, seed)
        total = accounts * balance
    }

    /// Transfers and sums until ``stop()``.
    func run() async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for run in runs { group.addTask { try await run.run() } }
            try await group.waitForAll()
        }
    }

    func stop() async {
        for run in runs { await run.stop() }
    }

    /// Expects that all is well; returns how many transfers' outcomes are not known.
    func check() async throws -> Int {
        var (transfers, sums, wrong, unknown) = (0, 0, 0, 0)
        for run in runs {
            let tally = await run.tally
            transfers += tally.transfers
            sums += tally.strongSums + tally.pastSums
            wrong += tally.wrongSums
            unknown += tally.indeterminate
        }
        print("bank: \(transfers) transfers, \(sums) sums, \(unknown) transfers of unknown outcome")
        #expect(wrong == 0, "\(wrong) sums were not the total")
        #expect(transfers > 0 && sums > 0)
        let findings = try await BankCheck(bank, logs: logs).run(
            history: try HistoryFile.read(history), total: total, seed: seed)
        #expect(findings.isConsistent, "\(findings)")
        return unknown
    }
}
