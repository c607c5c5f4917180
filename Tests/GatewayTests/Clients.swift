import Foundation
import TestSupport

/// A program that is not ours, as it runs.
final class RunningProgram: Sendable {
    struct Result: Sendable {
        /// The negative number of the signal, if one ended it.
        var status: Int32
        var output: String
        var errors: String
    }

    let processID: Int32
    private let outcome: Task<Result, Never>

    /// Starts it with nothing of this process's environment but the path.
    init(_ command: [String], environment: [String: String] = [:]) throws {
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        process.arguments = command
        process.environment = ["PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/nonexistent"]
            .merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        let (output, errors) = (Pipe(), Pipe())
        (process.standardOutput, process.standardError) = (output, errors)
        let (results, continuation) = AsyncStream.makeStream(of: Result.self)
        try withUnblockedSignals { try process.run() }
        processID = process.processIdentifier
        // What blocks has a thread of its own rather than one of the tests'.
        Thread.detachNewThread {
            let printed = output.fileHandleForReading.readDataToEndOfFile()
            let failure = errors.fileHandleForReading.readDataToEndOfFile()
            process.waitUntilExit()
            let isSignal = process.terminationReason == .uncaughtSignal
            continuation.yield(
                Result(
                    status: isSignal ? -process.terminationStatus : process.terminationStatus,
                    output: String(decoding: printed, as: UTF8.self).trimmingCharacters(in: .newlines),
                    errors: String(decoding: failure, as: UTF8.self).trimmingCharacters(in: .newlines)))
        }
        outcome = Task {
            var iterator = results.makeAsyncIterator()
            return await iterator.next() ?? Result(status: -1, output: "", errors: "")
        }
    }

    func signal(_ number: Int32) { _ = kill(processID, number) }

    var result: Result { get async { await outcome.value } }

    static func run(_ command: [String], environment: [String: String] = [:]) async throws -> Result {
        try await RunningProgram(command, environment: environment).result
    }
}

/// Runs `body` on a thread that takes Ctrl-C: a child inherits what its parent's thread does not take, and the threads
/// that tests run on take no signal.
private func withUnblockedSignals(_ body: () throws -> Void) rethrows {
    var (interrupt, before) = (sigset_t(), sigset_t())
    sigemptyset(&interrupt)
    sigaddset(&interrupt, SIGINT)
    pthread_sigmask(SIG_UNBLOCK, &interrupt, &before)
    defer { pthread_sigmask(SIG_SETMASK, &before, nil) }
    try body()
}

/// Starts psql, which runs `commands`.
func startPsql(_ conninfo: String, port: Int, _ commands: String, password: String? = nil) throws -> RunningProgram {
    try RunningProgram(
        [
            "psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--no-password",
            "--command=\(commands)", "host=127.0.0.1 port=\(port) \(conninfo)",
        ], environment: password.map { ["PGPASSWORD": $0] } ?? [:])
}

/// Runs psql to its end.
func psql(
    _ conninfo: String, port: Int, _ commands: String = "hello", password: String? = nil
) async throws -> RunningProgram.Result {
    try await startPsql(conninfo, port: port, commands, password: password).result
}
