import ArgumentParser
import BankWorkload
import EventLoops
import Foundation
import Logging
import ShardBackend
import SystemClock
import TransactionCore
import TransactionEngine

/// `meridian bank`: the standard workload.
struct BankCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bank",
        abstract: "Move money between accounts on all shards, and check that none was lost and the order was true.",
        discussion: """
            Works over the wire, on the node of the configuration or whatever --url names, PostgreSQL too. With \
            --in-process it coordinates the cluster itself, for comparison; no node can run meanwhile.

              meridian bank init --accounts 10000 --balance 1000
              meridian bank run --clients 16 --seconds 10
              meridian bank check
              meridian bank run --url postgresql://localhost/postgres
            """,
        subcommands: [Init.self, Run.self, Check.self])

    /// Where runs leave what their clients saw, for `check`.
    static let historyDefault = "meridian-bank.history"

}

/// Where the bank is, for every command of it.
struct BankOptions: ParsableArguments {
    @OptionGroup var cluster: ClusterOptions

    @Option(help: "A server, as libpq takes it; by default the node of the configuration.")
    var url: String?

    @Flag(help: "Coordinate the cluster in this process.")
    var inProcess = false

    func validate() throws {
        if inProcess, url != nil { throw ValidationError("--url and --in-process exclude each other.") }
    }

    /// Takes the cluster over, runs `body`, and lets go of it in every case.
    func withEngine<Result: Sendable>(
        _ body: @Sendable (TransactionEngine) async throws -> Result
    ) async throws -> Result {
        var configuration = try cluster.load()
        configuration.engine.faultHook = try FaultInjection.hook(from: ProcessInfo.processInfo.environment)
        return try await TransactionEngine.withEngine(
            configuration.engine, clock: SystemBoundedClock(source: configuration.clock), body)
    }

    /// Runs `body` with the server, and with the shards behind it where they are known.
    func withServer<Result: Sendable>(
        clients: Int, _ body: (RemoteBank.Server, ShardLogs?) async throws -> Result
    ) async throws -> Result {
        let configuration = try knownCluster()
        let loop = try EventLoop(name: "bank")
        defer { loop.shutdown() }
        // One connection more than clients: for the progress.
        let server = try await RemoteBank.Server(try url ?? Self.url(configuration), clients: clients + 1, on: loop)
        let shards = configuration?.engine.shards
        return try await body(server, server.isMeridian ? try shards.map { try ShardLogs($0, on: loop) } : nil)
    }

    /// Runs `body` with the bank, however it is reached.
    func withBank<Result: Sendable>(
        clients: Int = 1, _ body: @Sendable (any BankAccess, ShardLogs?) async throws -> Result
    ) async throws -> Result {
        if inProcess {
            return try await withEngine { try await body(try await Bank.open(on: $0), ShardLogs($0)) }
        }
        return try await withServer(clients: clients) { server, logs in
            try await body(try await RemoteBank.open(on: server, logs: logs), logs)
        }
    }

    /// The configuration, which a server that is named by its URL does without.
    private func knownCluster() throws -> ClusterConfiguration? {
        do {
            return try cluster.load()
        } catch is ConfigurationError where url != nil && !cluster.isGiven {
            return nil
        }
    }

    private static func url(_ configuration: ClusterConfiguration?) throws -> String {
        guard let gateway = configuration?.gateway, gateway.port > 0 else {
            throw ConfigurationError(
                "which node to use is not known", detail: "the configuration has no gateway.listen with a port",
                hint: "name a server by --url, or coordinate in this process by --in-process")
        }
        return gateway.url(port: gateway.port)
    }
}

extension BankCommand {
    /// `meridian bank init`
    struct Init: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Make the accounts, on all shards or on none.")

        @OptionGroup var bank: BankOptions

        @Option(help: "How many accounts.")
        var accounts: Int64 = 10_000

        @Option(help: "What each account holds.")
        var balance: Int64 = 1_000

        @Flag(help: "Replace the bank that is there.")
        var replace = false

        func validate() throws {
            guard (2...1_000_000_000).contains(accounts) else {
                throw ValidationError("--accounts is 2 to 1000000000.")
            }
            guard (0...1_000_000_000).contains(balance) else { throw ValidationError("--balance is 0 to 1000000000.") }
        }

        func run() async throws {
            let made: any BankAccess
            do {
                made = try await make()
            } catch let error as TransactionError
                where [.duplicateSchema, .duplicateTable].contains(error.sqlState)
            {
                throw TransactionError(
                    error.sqlState, "there is a bank already", hint: "use it, or replace it by --replace",
                    shard: error.shard)
            }
            print("made \(made.accounts) accounts, which hold \(made.total) together")
        }

        private func make() async throws -> any BankAccess {
            if bank.inProcess {
                return try await bank.withEngine { engine in
                    try await Bank.create(accounts: accounts, balance: balance, replacing: replace, on: engine)
                }
            }
            return try await bank.withServer(clients: 1) { server, _ in
                let progress = ProgressLine()
                defer { progress.clear() }
                return try await RemoteBank.create(
                    accounts: accounts, balance: balance, replacing: replace, on: server
                ) { progress.show("made \($0) of \(accounts) accounts") }
            }
        }
    }

    /// `meridian bank check`
    struct Check: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Check the bank: its total at any time of its runs, whole transactions, the order of timestamps.",
            discussion: "Exit code 0: everything holds. 1: something does not, or could not be checked.")

        @OptionGroup var bank: BankOptions

        @Option(help: "What `meridian bank run` wrote.", completion: .file())
        var history = BankCommand.historyDefault

        @Option(help: "The total that the accounts were given; by default what they hold now.")
        var total: Int64?

        @Option(help: "At how many random timestamps of the runs the total is checked.")
        var samples = 100

        func validate() throws {
            guard (1...100_000).contains(samples) else { throw ValidationError("--samples is 1 to 100000.") }
        }

        func run() async throws {
            let entries = try HistoryFile.read(history)
            let findings = try await bank.withBank { bank, logs in
                let progress = ProgressLine()
                let findings = try await BankCheck(bank, logs: logs).run(
                    history: entries, total: total, samples: samples, seed: .random(in: 0 ... .max)
                ) { progress.show("checked the total at \($0) of \(samples) timestamps") }
                progress.clear()
                return findings
            }
            print(BankReport.text(findings))
            if !findings.isConsistent { throw ExitCode.failure }
        }
    }
}
