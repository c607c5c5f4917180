import ArgumentParser
import EventLoops
import Foundation
import ShardBackend
import ShardSchema
import SystemClock
import TransactionCore
import TransactionEngine

/// `meridian check-config`: everything that is wrong with a configuration and its shards, in one go.
struct CheckConfig: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "check-config",
        abstract: "Check the configuration and every shard; change nothing.",
        discussion: """
            Exits with 1 when something is refused, with what to change. Warnings are for you to judge.

              meridian check-config
              meridian check-config --config /etc/meridian.yaml
              meridian check-config --shard 'a host=db1 dbname=bank user=meridian'
            """
    )

    @OptionGroup var cluster: ClusterOptions

    func run() async throws {
        let configuration = try cluster.load()
        let loop = try EventLoop(name: "check-config")
        defer { loop.shutdown() }
        let probes = await probe(configuration, on: loop)

        let rules = ConfigurationRules(configuration: configuration)
        var findings = [clock(configuration.clock)]
        for (shard, result) in zip(configuration.engine.shards, probes) {
            switch result {
            case .success(let facts): findings += rules.findings(on: shard.id, facts)
            case .failure(let error): findings.append(rules.unreachable(shard.id, error))
            }
        }
        let answering = zip(configuration.engine.shards, probes).compactMap { shard, result in
            (try? result.get()).map { (shard.id, $0) }
        }
        findings += rules.sharedServers(answering) + rules.clusters(answering)
        report(findings)
        if findings.contains(where: { $0.severity == .refused }) { throw ExitCode.failure }
    }

    /// Asks all shards side by side; the results are in the shards' order.
    private func probe(
        _ configuration: ClusterConfiguration, on loop: EventLoop
    ) async -> [Result<ShardFacts, ShardError>] {
        await withTaskGroup(of: (Int, Result<ShardFacts, ShardError>).self) { group in
            for (index, shard) in configuration.engine.shards.enumerated() {
                group.addTask {
                    do throws(ShardError) {
                        return (index, .success(try await ShardFacts(of: shard, on: loop)))
                    } catch {
                        return (index, .failure(error))
                    }
                }
            }
            return await group.reduce(into: []) { $0.append($1) }.sorted { $0.0 < $1.0 }.map(\.1)
        }
    }

    private func clock(_ source: ClockSource) -> Finding {
        do {
            let now = try SystemBoundedClock(source: source).now()
            let width = Duration.nanoseconds(now.latest.nanoseconds(since: now.earliest))
            return Finding(.ok, "clock", "trusted; now is known within \(DurationArgument(width))")
        } catch {
            let lines = error.description.split(separator: "\n", maxSplits: 1)
            return Finding(.refused, "clock", "\(lines[0])", hint: lines.dropFirst().first.map(String.init))
        }
    }

    private func report(_ findings: [Finding]) {
        let width = findings.map(\.subject.count).max() ?? 0
        for finding in findings {
            let subject = finding.subject.padding(toLength: width, withPad: " ", startingAt: 0)
            let severity = finding.severity.rawValue.padding(toLength: 7, withPad: " ", startingAt: 0)
            print("\(subject)  \(severity)  \(finding.message)")
            if let hint = finding.hint { print("\(String(repeating: " ", count: width + 11))HINT:  \(hint)") }
        }
        let refused = findings.count { $0.severity == .refused }
        let warnings = findings.count { $0.severity == .warning }
        print("\(refused) refused, \(warnings) \(warnings == 1 ? "warning" : "warnings")")
    }
}

extension SchemaFacts {
    /// Asks a shard that answers; why it does not want to is an answer too.
    fileprivate init(_ connection: ShardConnection) async {
        let migrator = Migrator(connection)
        do {
            let pending = try await migrator.plan().pending.map(\.name)
            guard pending.isEmpty else {
                self = .pending(pending)
                return
            }
            self = .current(
                shard: try await connection.run(ShardSchema.shardName).first?.text(0),
                cluster: try await migrator.cluster(),
                retentionSeconds: try await connection.run("SELECT seconds FROM meridian.retention")[0].int64(0)
            )
        } catch let error as SchemaError {
            self = .unusable(message: error.message, hint: error.hint)
        } catch {
            self = .unusable(message: (error as? ShardError)?.message ?? "\(error)", hint: nil)
        }
    }
}

extension ShardFacts {
    /// A person waits for the answer, and a server that takes longer to give it is not fit to be a shard.
    private static let patience = Duration.seconds(5)

    /// Asks a shard.
    init(of shard: ShardConfiguration, on loop: EventLoop) async throws(ShardError) {
        let deadline = ContinuousClock.now + Self.patience
        let settings = try ConnectionSettings(shard.conninfo, overrides: ["application_name": "meridian check-config"])
        let connection = try await ShardConnection.connect(to: settings.ofPrimary, on: loop, deadline: deadline)
        do throws(ShardError) {
            var answers: [String: String] = [:]
            for row in try await connection.runSimple(Self.query, deadline: deadline)[0] {
                answers[try row.text(0)] = try row.text(1)
            }
            // The shard read its clock at some time between ours, so the difference is known within half of that time.
            let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
            let before = Self.wallNanoseconds()
            let there = try await connection.runSimple(clock, deadline: deadline)[0][0].int64(0) * 1000
            let after = Self.wallNanoseconds()
            self.init(
                answers: answers, schema: await SchemaFacts(connection), servers: settings.servers.count,
                clockOffset: (there - before - (after - before) / 2, (after - before) / 2 + 1000)
            )
            await connection.close()
        } catch {
            await connection.close()
            throw error
        }
    }

    private static func wallNanoseconds() -> Int64 {
        Int64(Date().timeIntervalSince1970 * 1_000_000) * 1000
    }
}
