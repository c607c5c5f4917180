import ArgumentParser
@preconcurrency import Glibc
import Logging

/// The command line: parses, assembles, runs; rules are elsewhere.
@main struct Meridian: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "meridian",
        abstract: "One global order of transactions over the PostgreSQL servers you already run.",
        discussion: """
            Start a local cluster, and work with it from another terminal:

              meridian dev --shards 3
              meridian bank init
              meridian bank run --clients 16 --seconds 10
              meridian bank check

            Several nodes, each a process of its own, and what they agree on:

              meridian dev --nodes 3
              meridian metadata members

            Work with your own servers:

              meridian check-config --config /etc/meridian.yaml
              meridian migrate --config /etc/meridian.yaml
              meridian check-config --shard 'east host=db1 dbname=bank user=meridian' \\
                                    --shard 'west host=db2 dbname=bank user=meridian'
            """,
        version: "0.1.0",
        subcommands: [
            Dev.self, Serve.self, Migrate.self, CheckConfig.self, BankCommand.self, MetadataGroup.self,
            Simulate.self,
        ]
    )

    static func main() async {
        // Line by line also into a pipe: whoever starts `meridian dev` there waits for its lines.
        setvbuf(stdout, nil, _IOLBF, 0)
        LoggingSystem.bootstrap { label in
            var handler = StreamLogHandler.standardError(label: label)
            handler.logLevel = .notice
            return handler
        }
        do {
            var command = try parseAsRoot()
            if var command = command as? any AsyncParsableCommand {
                try await command.run()
            } else {
                try command.run()
            }
        } catch {
            exit(reporting: error)
        }
    }

    /// Ends the process: errors in psql's layout on standard error, everything else as ArgumentParser has it.
    private static func exit(reporting error: any Error) -> Never {
        let code = exitCode(for: error)
        if code.isSuccess || error is ExitCode { exit(withError: error) }
        // Usage errors come from the parser with a status of their own; all else is a failure of what was asked for.
        let text: String
        if code == .validationFailure {
            let full = fullMessage(for: error)
            text = full.hasPrefix("Error: ") ? String(full.dropFirst("Error: ".count)) : full
        } else {
            text = "\(error)"
        }
        fputs("ERROR:  \(text)\n", stderr)
        Glibc.exit(code.rawValue)
    }
}
