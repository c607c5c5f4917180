import Foundation
import Synchronization

/// A `meridian` command of this build, or another program, running as its users run it. Killed when the last reference
/// to it goes.
public final class RunningCommand: Sendable {
    /// It did not do in time what was waited for.
    public struct TimedOut: Error, CustomStringConvertible {
        public let description: String
    }

    /// The path of this build's `meridian`.
    public static let meridian = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
        .deletingLastPathComponent().appendingPathComponent("meridian").path

    /// The number of its process.
    public let processID: Int32
    private let outputs: TemporaryDirectory
    private let exit: Task<Int32, Never>
    private let isOver: Over

    private final class Over: Sendable {
        let value = Mutex(false)
    }

    /// Starts it, with `environment` over that of this process.
    ///
    /// - Parameter program: the path of another program than `meridian`.
    public init(_ arguments: [String], program: String? = nil, environment: [String: String] = [:]) throws {
        outputs = try TemporaryDirectory()
        let process = Process()
        process.executableURL = URL(fileURLWithPath: program ?? Self.meridian)
        process.arguments = arguments
        process.environment = ProcessInfo.processInfo.environment.merging(environment) { $1 }
        process.standardInput = FileHandle.nullDevice
        process.standardOutput = try Self.file("\(outputs.path)/output")
        process.standardError = try Self.file("\(outputs.path)/errors")
        let (exits, continuation) = AsyncStream.makeStream(of: Int32.self)
        let isOver = Over()
        self.isOver = isOver
        process.terminationHandler = { process in
            isOver.value.withLock { $0 = true }
            let isSignal = process.terminationReason == .uncaughtSignal
            continuation.yield(isSignal ? -process.terminationStatus : process.terminationStatus)
        }
        try process.run()
        processID = process.processIdentifier
        exit = Task {
            var exits = exits.makeAsyncIterator()
            return await exits.next() ?? -1
        }
    }

    deinit {
        signal(SIGKILL)
    }

    /// What it has printed so far.
    public var output: String { (try? String(contentsOfFile: "\(outputs.path)/output", encoding: .utf8)) ?? "" }

    /// What it has said on standard error so far.
    public var errors: String { (try? String(contentsOfFile: "\(outputs.path)/errors", encoding: .utf8)) ?? "" }

    /// Sends it a signal, unless it has ended.
    public func signal(_ number: Int32) {
        isOver.value.withLock { if !$0 { _ = kill(processID, number) } }
    }

    /// Waits until it has printed `text`, on standard error too. Throws ``TimedOut``.
    public func waits(for text: String, within duration: Duration = .seconds(60)) async throws {
        let deadline = ContinuousClock.now + duration
        while !output.contains(text), !errors.contains(text) {
            guard ContinuousClock.now < deadline else {
                throw TimedOut(description: "\"\(text)\" was not printed, but: \(output)\(errors)")
            }
            try await Task.sleep(for: .milliseconds(20))
        }
    }

    /// Waits for its end: its exit status, or the negative number of the signal that ended it. It is killed when it
    /// takes longer than `duration`.
    @discardableResult
    public func exitStatus(within duration: Duration = .seconds(60)) async -> Int32 {
        let killer = Task { [weak self] in
            try await Task.sleep(for: duration)
            self?.signal(SIGKILL)
        }
        defer { killer.cancel() }
        return await exit.value
    }

    private static func file(_ path: String) throws -> FileHandle {
        try Data().write(to: URL(fileURLWithPath: path))
        return try FileHandle(forWritingTo: URL(fileURLWithPath: path))
    }
}
