import Foundation
import NIOCore
import PostgresWire
import Synchronization
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

/// A TCP socket that a test writes bytes to; whatever blocks does so on a thread of its own.
final class RawClient: Sendable {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    private let descriptor: Int32
    private let received = Mutex(ByteBuffer())
    private let isOpen = Mutex(true)

    /// Connects. Reading and writing give up after `timeout`.
    init(port: Int, timeout: Int = 30) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var limit = timeval(tv_sec: timeout, tv_usec: 0)
        for option in [SO_RCVTIMEO, SO_SNDTIMEO] {
            setsockopt(descriptor, SOL_SOCKET, option, &limit, socklen_t(MemoryLayout<timeval>.size))
        }
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = UInt16(port).bigEndian
        address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
        let status = withUnsafePointer(to: &address) { pointer in
            pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
                connect(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size))
            }
        }
        guard status == 0 else { throw Failure(description: "connect: \(String(cString: strerror(errno)))") }
    }

    deinit {
        hangUp()
    }

    /// Closes the socket.
    func hangUp() {
        isOpen.withLock { isOpen in
            if isOpen { close(descriptor) }
            isOpen = false
        }
    }

    /// Sends everything, unless the server closes before.
    func send(_ bytes: [UInt8]) async {
        await blocking { [descriptor] in
            var sent = 0
            while sent < bytes.count {
                let count = bytes[sent...].withUnsafeBytes {
                    Foundation.send(descriptor, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL))
                }
                guard count > 0 else { return }
                sent += count
            }
        }
    }

    func send(_ packet: StartupPacket) async {
        var buffer = ByteBuffer()
        packet.write(to: &buffer)
        await send(Array(buffer.readableBytesView))
    }

    func send(_ messages: FrontendMessage...) async {
        var buffer = ByteBuffer()
        for message in messages { message.write(to: &buffer) }
        await send(Array(buffer.readableBytesView))
    }

    /// What comes next, up to 64 kB; empty at the end. Throws when nothing comes in time.
    func receive() async throws -> [UInt8] {
        let answer = await blocking { [descriptor] in
            var bytes = [UInt8](repeating: 0, count: 65_536)
            let count = recv(descriptor, &bytes, bytes.count, 0)
            return count < 0 && errno == EAGAIN ? nil : Array(bytes.prefix(max(count, 0)))
        }
        guard let answer else { throw Failure(description: "nothing came from the server") }
        return answer
    }

    /// The next message; nil at the end.
    func nextMessage() async throws -> BackendMessage? {
        while true {
            if let message = try received.withLock({ try BackendMessage.next(from: &$0) }) { return message }
            let bytes = try await receive()
            if bytes.isEmpty { return nil }
            _ = received.withLock { $0.writeBytes(bytes) }
        }
    }

    /// All that comes until the server closes.
    func receiveToEnd() async throws -> [UInt8] {
        var all: [UInt8] = []
        while case let bytes = try await receive(), !bytes.isEmpty { all += bytes }
        return all
    }

    /// Messages up to the first that is ReadyForQuery, or to the end.
    func messagesToReady() async throws -> [BackendMessage] {
        var messages: [BackendMessage] = []
        while let message = try await nextMessage() {
            messages.append(message)
            if case .readyForQuery = message { break }
        }
        return messages
    }

    /// Connects as a user that is trusted; the messages up to ReadyForQuery.
    @discardableResult
    func logIn(
        user: String = "trusted", database: String = "bank", _ parameters: [StartupMessage.Parameter] = [],
        version: ProtocolVersion = .newest
    ) async throws -> [BackendMessage] {
        await send(
            .startup(
                StartupMessage(
                    version: version, parameters: [.init("user", user), .init("database", database)] + parameters)))
        return try await messagesToReady()
    }
}

private func blocking<Result: Sendable>(_ body: @escaping @Sendable () -> Result) async -> Result {
    await withCheckedContinuation { continuation in
        Thread.detachNewThread { continuation.resume(returning: body()) }
    }
}

/// The first column of each row among messages.
func rows(_ messages: [BackendMessage]) -> [String] {
    messages.compactMap { message in
        if case .dataRow(let columns) = message { String(buffer: (columns.first ?? nil) ?? ByteBuffer()) } else { nil }
    }
}

/// The first error among messages.
func error(_ messages: [BackendMessage]) -> ErrorFields? {
    messages.lazy.compactMap { if case .errorResponse(let fields) = $0 { fields } else { nil } }.first
}

/// The first error among bytes that a server sent.
func error(_ bytes: [UInt8]) throws -> ErrorFields? {
    var buffer = ByteBuffer(bytes: bytes)
    var messages: [BackendMessage] = []
    while let message = try BackendMessage.next(from: &buffer) { messages.append(message) }
    return error(messages)
}

/// Waits until something holds; false when it doesn't within `duration`.
func eventually(within duration: Duration = .seconds(30), _ condition: () -> Bool) async -> Bool {
    let deadline = ContinuousClock.now + duration
    while !condition() {
        guard ContinuousClock.now < deadline else { return false }
        try? await Task.sleep(for: .milliseconds(5))
    }
    return true
}
