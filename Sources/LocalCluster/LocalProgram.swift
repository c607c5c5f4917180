import Foundation

/// A program that runs beside a local cluster, like a pooler in front of it. It dies with this process.
public final class LocalProgram: Sendable {
    private let child: ChildProcess
    /// Nil where it writes to our own output.
    private let log: String?

    private init(_ child: ChildProcess, log: String?) {
        (self.child, self.log) = (child, log)
    }

    /// Starts a program.
    ///
    /// - Parameters:
    ///   - command: the program's absolute path, then its arguments.
    ///   - directory: the working directory; output goes to a file in it.
    ///   - asServerUser: run it as the user of the servers, for programs that refuse to run as root.
    public static func start(
        _ command: [String], in directory: String, asServerUser: Bool = false
    ) async throws -> LocalProgram {
        let name = URL(filePath: command[0]).lastPathComponent
        let log = "\(directory)/\(name)-\(UUID().uuidString.prefix(8)).log"
        let user = asServerUser ? try ServerUser.current(ownerOf: directory) : nil
        let order = ChildProcess.Order(
            command: command, directory: directory, user: user, streams: .files(input: nil, log: log))
        return LocalProgram(try await ChildProcess.spawn(order), log: log)
    }

    /// Runs a command as if it were this process: with its input, output, terminal, directory and environment, and
    /// `environment` over that.
    ///
    /// - Parameter command: the program, looked up in PATH, then its arguments.
    public static func attached(_ command: [String], environment: [String: String]) async throws -> LocalProgram {
        let order = ChildProcess.Order(
            command: command, directory: FileManager.default.currentDirectoryPath, user: nil,
            streams: .ours(environment: environment))
        return LocalProgram(try await ChildProcess.spawn(order), log: nil)
    }

    /// Sends it a signal, unless it has ended.
    public func signal(_ number: Int32) { child.signal(number) }

    public var processID: Int32 { child.processID }

    /// What it has printed so far, errors too.
    public var output: String { log.flatMap { try? String(contentsOfFile: $0, encoding: .utf8) } ?? "" }

    /// Waits until it has printed `text`, at most `timeout`.
    public func waits(for text: String, timeout: Duration = .seconds(30)) async throws {
        let deadline = ContinuousClock.now + timeout
        while !output.contains(text) {
            guard child.exitStatus == nil, .now < deadline else {
                throw LocalClusterError("a program did not get ready: it did not print \"\(text)\"", detail: output)
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// Waits for its end.
    public func exitStatus() async -> ExitStatus? { await child.waitForExit() }

    /// Ends it; with SIGKILL if it takes long.
    public func stop() async {
        child.signal(SIGTERM)
        if await child.waitForExit(atMost: .seconds(10)) == nil {
            child.signal(SIGKILL)
            _ = await child.waitForExit()
        }
    }
}
