import ArgumentParser
import BankWorkload
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
            The process that runs a bank command coordinates the cluster while it lasts; one at a time can.

              meridian bank init --accounts 10000 --balance 1000
              meridian bank run --clients 16 --seconds 10
              meridian bank check
            """,
        subcommands: [Init.self, Run.self, Check.self])

    /// Where runs leave what their clients saw, for `check`.
    static let historyDefault = "meridian-bank.history"

    /// Takes the cluster over, runs `body`, and lets go of it in every case.
    static func withEngine<Result: Sendable>(
        _ cluster: ClusterOptions, _ body: @Sendable (TransactionEngine) async throws -> Result
    ) async throws -> Result {
        var configuration = try cluster.load()
        configuration.engine.faultHook = try FaultInjection.hook(from: ProcessInfo.processInfo.environment)
        return try await TransactionEngine.withEngine(
            configuration.engine, clock: SystemBoundedClock(source: configuration.clock), body)
    }
}

extension BankCommand {
    /// `meridian bank init`
    struct Init: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Make the accounts, on all shards or on none.")

        @OptionGroup var cluster: ClusterOptions

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
            let bank = try await BankCommand.withEngine(cluster) { engine in
                do {
                    return try await Bank.create(
                        accounts: accounts, balance: balance, replacing: replace, on: engine)
                } catch let error as TransactionError where error.sqlState == .duplicateSchema {
                    throw TransactionError(
                        error.sqlState, "there is a bank already", hint: "use it, or replace it by --replace",
                        shard: error.shard)
                }
            }
            print("made \(bank.accounts) accounts, which hold \(bank.total) together")
        }
    }

    /// `meridian bank check`
    struct Check: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Check the bank: its total at any time of its runs, whole transactions, the order of timestamps.",
            discussion: "Exit code 0: everything holds. 1: something does not, or could not be checked.")

        @OptionGroup var cluster: ClusterOptions

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
            let findings = try await BankCommand.withEngine(cluster) { engine in
                let progress = ProgressLine()
                let findings = try await BankCheck(try await Bank.open(on: engine)).run(
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
