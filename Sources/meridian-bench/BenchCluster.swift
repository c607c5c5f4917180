import BankWorkload
import EventLoops
import Foundation
import Histogram
import LocalCluster
import ShardBackend
import ShardSchema
import SystemClock
import TransactionCore
import TransactionEngine

/// The shards of a benchmark: Meridian's bank and the bare tables beside it.
struct BenchCluster {
    let shards: [ShardConfiguration]
    let accounts: Int64
    /// The process numbers of the servers.
    let servers: [Int32]

    /// Prepares the shards of `cluster`.
    init(_ cluster: LocalCluster, accounts: Int64) async throws {
        shards = cluster.servers.map { ShardConfiguration(id: ShardID($0.name)!, conninfo: $0.conninfo()) }
        self.accounts = accounts
        servers = cluster.servers.compactMap(\.processID)
        try await Self.migrate(shards)
        try BareTransfers.create(accounts: accounts, conninfos: shards.map(\.conninfo))
        try await withEngine(uncertainty: .zero) { engine in
            // Nobody is ever refused: the bare transfers don't look at balances either.
            _ = try await Bank.create(accounts: accounts, balance: 1_000_000, replacing: false, on: engine)
        }
        for shard in shards { try BareConnection(shard.conninfo).execute(["VACUUM (ANALYZE) bank.account"]) }
    }

    private static func migrate(_ shards: [ShardConfiguration]) async throws {
        let loop = try EventLoop()
        defer { loop.shutdown() }
        for shard in shards {
            let connection = try await ShardConnection.connect(to: try ConnectionSettings(shard.conninfo), on: loop)
            _ = try await Migrator(connection).apply()
            _ = try await Migrator(connection).claim(shard.id, of: "6f1d0b9e-3c1f-4d0f-9a55-0f8a8e1f2c11")
            await connection.close()
        }
    }

    func postgresVersion() throws -> String {
        let version = try BareConnection(shards[0].conninfo).scalar("SELECT current_setting('server_version_num')::int")
        return "PostgreSQL \(version / 10_000).\(version % 10_000)"
    }

    /// Runs `body` with an engine over the shards.
    func withEngine<Result: Sendable>(
        uncertainty: Duration, _ body: (TransactionEngine) async throws -> Result
    ) async throws -> Result {
        let configuration = EngineConfiguration(node: NodeID(rawValue: 1)!, shards: shards)
        let clock = SystemBoundedClock(source: .host(uncertainty: uncertainty))
        return try await TransactionEngine.withEngine(configuration, clock: clock, body)
    }

    /// Runs the transfers of `system` for `duration`.
    func run(_ system: String, clients: Int, for duration: Duration) async throws -> Cell {
        switch system {
        case "bare": try bare(.lastAgent, clients: clients, for: duration)
        case "textbook": try bare(.textbook, clients: clients, for: duration)
        case "meridian": try await meridian(uncertainty: .milliseconds(1), clients: clients, for: duration)
        case "meridian-any":
            try await meridian(uncertainty: .milliseconds(1), crossShard: nil, clients: clients, for: duration)
        case "meridian-0": try await meridian(uncertainty: .zero, clients: clients, for: duration)
        default: throw BareConnection.Failure(description: "there is no system \"\(system)\"")
        }
    }

    private func bare(_ kind: BareTransfers.CommitProtocol, clients: Int, for duration: Duration) throws -> Cell {
        let transfers = BareTransfers(conninfos: shards.map(\.conninfo), accounts: accounts, commitProtocol: kind)
        var cell = Cell()
        var (before, after) = (ProcessorTime(), ProcessorTime())
        cell.latencies = try transfers.run(
            clients: clients, for: duration, began: { before = .spent(servers: servers) },
            ended: { after = .spent(servers: servers) })
        cell.processor = after - before
        cell.seconds = duration / .seconds(1)
        return cell
    }

    private func meridian(
        uncertainty: Duration, crossShard: Double? = 1, clients: Int, for duration: Duration
    ) async throws -> Cell {
        try await withEngine(uncertainty: uncertainty) { engine in
            let bank = try await Bank.open(on: engine)
            // Connections are opened before the clock runs, as the bare clients' are.
            try await BankRun(load(clients, .milliseconds(300)), on: bank, history: nil).run()
            var load = load(clients, duration)
            load.crossShard = crossShard
            let run = BankRun(load, on: bank, history: nil)
            let before = ProcessorTime.spent(servers: servers)
            try await run.run()
            var cell = Cell()
            cell.processor = .spent(servers: servers) - before
            cell.latencies = await run.tally.transferLatency
            cell.seconds = duration / .seconds(1)
            return cell
        }
    }

    func load(_ clients: Int, _ duration: Duration) -> BankLoad {
        var load = BankLoad(seed: .random(in: 0 ... .max))
        load.clients = clients
        load.duration = duration
        load.crossShard = 1
        load.readFraction = 0
        return load
    }
}
