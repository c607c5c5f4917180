import Foundation
import Synchronization

/// One PostgreSQL server of our own: a child process in the foreground, on 127.0.0.1, with a database `meridian` that
/// belongs to a user `meridian`.
///
/// That user is no superuser, as on a managed PostgreSQL. It needs no password, on 127.0.0.1 only; everyone else,
/// superusers included, comes through the socket in ``home``, which only the server's user and root can enter.
/// ``start()``, ``stop(_:)``, ``kill()``, ``pause()`` and ``resume()`` are for one caller at a time.
public final class LocalPostgres: Sendable {
    /// How ``stop(_:)`` asks.
    public enum Shutdown: Sendable {
        /// SIGINT: sessions end, a checkpoint is written.
        case fast
        /// SIGQUIT: as after a crash; the next start recovers from the write-ahead log.
        case immediate
    }

    /// What the server is called in messages and in `ps`.
    public let name: String
    /// The directory that holds the server's data, log and socket.
    public let home: String
    /// The programs that it runs.
    public let installation: PostgresInstallation
    private let settings: [String: String]
    private let isKept: Bool
    /// Whose standby it is, until it is promoted.
    private let primary: LocalPostgres?
    private let user: ServerUser?
    private let state: Mutex<State>

    private struct State {
        var port: UInt16
        var isPortFixed: Bool
        var child: ChildProcess?
    }

    /// Describes a server; nothing is made or started before ``start()``.
    ///
    /// - Parameters:
    ///   - home: its directory, made by ``start()``; a server that is in it is started again.
    ///   - port: the TCP port; nil finds a free one, which is then kept for good.
    ///   - preferredPort: a port to take when it is free.
    ///   - settings: lines of postgresql.conf for a new server.
    ///   - isKept: whether the data shall outlive this process, and so are made to outlive a crash of the machine.
    ///   - primary: a server that runs; this one begins as its copy and follows it, through a slot of its own name.
    public init(
        name: String, home: String, installation: PostgresInstallation, port: UInt16? = nil,
        preferredPort: UInt16? = nil, settings: [String: String] = [:], isKept: Bool = false,
        standbyOf primary: LocalPostgres? = nil
    ) throws {
        self.name = name
        self.home = home
        self.installation = installation
        self.settings = settings
        self.isKept = isKept
        self.primary = primary
        user = try ServerUser.current(ownerOf: home)
        let free = try port ?? preferredPort.flatMap { isFree(port: $0) ? $0 : nil } ?? freePort()
        state = Mutex(State(port: free, isPortFixed: port != nil))
    }

    /// The data directory; its postgresql.conf may be edited.
    public var dataDirectory: String { "\(home)/data" }

    /// The file that the server logs to.
    public var logFile: String { "\(home)/postgres.log" }

    /// The TCP port on 127.0.0.1. It may change until the first ``start()`` returns, and never after.
    public var port: UInt16 { state.withLock { $0.port } }

    /// How libpq connects to a database as `meridian`.
    public func conninfo(database: String = "meridian") -> String {
        "host=127.0.0.1 port=\(port) dbname=\(database) user=meridian"
    }

    /// How libpq connects as the superuser, which only the server's user and root can.
    ///
    /// Nil when the path of ``home`` is too long for a Unix socket.
    public var superuserConninfo: String? {
        socketDirectory.map { "host='\($0)' port=\(port) dbname=meridian user=postgres" }
    }

    /// Whether the server's process is there, running or paused.
    public var isRunning: Bool { child != nil }

    /// The number of the server's process, nil when it isn't there.
    public var processID: Int32? { child?.processID }

    private var child: ChildProcess? {
        state.withLock { $0.child.flatMap { $0.exitStatus == nil ? $0 : nil } }
    }

    /// Initialises the server when it is new, starts it, and returns once it accepts connections. Does nothing when it
    /// is running.
    ///
    /// Throws ``LocalClusterError`` with the end of the log when the server does not start within a minute.
    public func start() async throws {
        if isRunning { return }
        if !FileManager.default.fileExists(atPath: dataDirectory) {
            if let primary { try await copy(primary) } else { try await initialise() }
        }
        let deadline = ContinuousClock.now + .seconds(60)
        while true {
            let logBegin = logSize
            let child = try await spawn()
            state.withLock { $0.child = child }
            do {
                if try await becomesReady(child, deadline: deadline) { break }
            } catch {
                await stop(.immediate)
                throw error
            }
            try await recover(from: child.exitStatus, log: log(from: logBegin), deadline: deadline)
        }
        state.withLock { $0.isPortFixed = true }
    }

    /// Stops the server and returns when it has ended, also in a cancelled task. Does nothing when it is not running.
    ///
    /// The bound is 15 s: 10 for the way asked for, 5 for an immediate shutdown; then the server is killed.
    public func stop(_ shutdown: Shutdown = .fast) async {
        guard let child else { return }
        // A task of its own, since a wait in a cancelled task ends at once.
        await Task {
            child.signalTree(SIGCONT)
            if case .fast = shutdown {
                child.signal(SIGINT)
                if await child.waitForExit(atMost: .seconds(10)) != nil { return }
            }
            child.signal(SIGQUIT)
            if await child.waitForExit(atMost: .seconds(5)) != nil { return }
            child.signalTree(SIGKILL)
            _ = await child.waitForExit()
        }.value
    }

    /// Kills the server's processes, as a crash of its machine would, and returns when its main process has ended.
    public func kill() async {
        guard let child else { return }
        child.signalTree(SIGKILL)
        await Task { _ = await child.waitForExit() }.value
    }

    /// Stops the server and starts it again on the same port.
    public func restart(_ shutdown: Shutdown = .fast) async throws {
        await stop(shutdown)
        try await start()
    }

    /// Freezes all of the server's processes: connections stay open and nothing is answered.
    public func pause() {
        child?.signalTree(SIGSTOP)
    }

    /// Ends a ``pause()``.
    public func resume() {
        child?.signalTree(SIGCONT)
    }

    /// Ends the recovery of a standby, which accepts writes when this returns: `pg_ctl promote`.
    public func promote() async throws {
        try await run("promote", ["pg_ctl", "promote", "-D", dataDirectory])
    }

    /// Has every commit wait until the standby of that name has flushed it; nil ends that.
    public func setSynchronousStandby(_ name: String?) throws {
        try append("synchronous_standby_names = '\(name ?? "")'\n", to: "\(dataDirectory)/postgresql.conf")
        child?.signal(SIGHUP)
    }

    /// Waits until the server's process ends; nil when it isn't there, or when the task is cancelled before that.
    public func waitForExit() async -> ExitStatus? {
        await child?.waitForExit()
    }

    /// Kills the server's processes and waits, blocking the thread, at most 5 s. For the end of a process, where
    /// nothing asynchronous runs any more.
    func killBlocking() {
        guard let child else { return }
        child.signalTree(SIGKILL)
        for _ in 0..<5000 where child.exitStatus == nil { usleep(1000) }
    }
}

// MARK: - Starting

extension LocalPostgres {
    /// The longest path of a Unix socket, its final zero byte excluded (`sockaddr_un`).
    private static let socketPathLengthMax = 107

    /// Where the socket goes; nil when its path would be too long.
    private var socketDirectory: String? {
        "\(home)/.s.PGSQL.65535".utf8.count <= Self.socketPathLengthMax ? home : nil
    }

    private func spawn() async throws -> ChildProcess {
        try await ChildProcess.spawn(
            order(["postgres", "-D", dataDirectory, "-c", "port=\(port)", "-k", socketDirectory ?? ""])
        )
    }

    private func order(_ command: [String], input: String? = nil) -> ChildProcess.Order {
        ChildProcess.Order(
            command: [installation.program(command[0])] + command.dropFirst(), directory: home, user: user,
            streams: .files(input: input, log: logFile)
        )
    }

    /// Waits until the server says in its lock file that it is ready, as `pg_ctl --wait` does; false when it ended.
    private func becomesReady(_ child: ChildProcess, deadline: ContinuousClock.Instant) async throws -> Bool {
        while child.exitStatus == nil {
            // The lines are the process id, data directory, start time, port, socket, address, memory key and status.
            let lockFile = try? String(contentsOfFile: "\(dataDirectory)/postmaster.pid", encoding: .utf8)
            let lines = lockFile?.split(separator: "\n", omittingEmptySubsequences: false) ?? []
            if lines.count > 7, lines[0] == "\(child.processID)", lines[7].hasPrefix("ready") { return true }
            guard ContinuousClock.now < deadline else {
                throw LocalClusterError("server \(name) is not ready after a minute", detail: logTail())
            }
            try await Task.sleep(for: .milliseconds(10))
        }
        return false
    }

    /// Returns when another try may succeed: the port was lost to someone, or processes of a server that was killed
    /// here are still about to end. Throws otherwise.
    private func recover(from exit: ExitStatus?, log: String, deadline: ContinuousClock.Instant) async throws {
        let canRetry = ContinuousClock.now < deadline
        if log.contains("could not bind IPv4 address") {
            guard canRetry, !state.withLock({ $0.isPortFixed }) else {
                throw LocalClusterError(
                    "port \(port) of server \(name) is in use", hint: "end what listens there, or give another port"
                )
            }
            let port = try freePort()
            return state.withLock { $0.port = port }
        }
        let isStillEnding = ["lock file \"postmaster.pid\" already exists", "pre-existing shared memory block"]
        if isStillEnding.contains(where: log.contains), canRetry {
            return try await Task.sleep(for: .milliseconds(50))
        }
        throw failure("server \(name) could not start on port \(port)", exit, log: log)
    }

    private func failure(_ message: String, _ exit: ExitStatus?, log: String) -> LocalClusterError {
        if exit == ChildProcess.directoryRefused, let user {
            return LocalClusterError(
                "the servers' user can't enter \(home)", detail: "started by root, servers run as user \(user.userID)",
                hint: "use a directory that other users may enter, or run this as an ordinary user"
            )
        }
        let lines = log.split(separator: "\n").suffix(20).joined(separator: "\n")
        return LocalClusterError("\(message): \(exit?.description ?? "no exit status")", detail: lines)
    }
}

// MARK: - Initialising

extension LocalPostgres {
    /// The settings of a new server, one line of postgresql.conf each. Durability is PostgreSQL's own: fsync stays on.
    private var defaultSettings: [String: String] {
        [
            "listen_addresses": "127.0.0.1",
            "max_connections": "500",
            "max_prepared_transactions": "500",
            "cluster_name": "meridian \(name)",
            "log_line_prefix": "%m [%p] %q%u@%d ",
            "log_timezone": "UTC",
            "timezone": "UTC",
            "lc_messages": "C",
        ]
    }

    /// Makes the data directory under another name and renames it when it is complete: one that is there is whole.
    private func initialise() async throws {
        let unfinished = "\(home)/data.unfinished"
        try? FileManager.default.removeItem(atPath: unfinished)
        try FileManager.default.createDirectory(
            atPath: home, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700]
        )
        if let user { chown(home, user.userID, user.groupID) }

        try await run(
            "initialise",
            [
                "initdb", "-D", unfinished, "--username=postgres", "--auth=trust", "--encoding=UTF8",
                "--locale=C.UTF-8", "--no-sync", "--no-instructions",
            ])
        try await createDatabase(in: unfinished)

        let lines = defaultSettings.merging(settings) { $1 }.sorted { $0.key < $1.key }
            .map { "\($0.key) = '\($0.value.replacingOccurrences(of: "'", with: "''"))'" }
        try append(lines.joined(separator: "\n") + "\n", to: "\(unfinished)/postgresql.conf")
        let access = "local all,replication all trust\nhost all meridian 127.0.0.1/32 trust\n"
        try Data(access.utf8).write(to: URL(fileURLWithPath: "\(unfinished)/pg_hba.conf"), options: [])
        if isKept { try await run("synchronise", ["initdb", "--sync-only", "-D", unfinished]) }
        try FileManager.default.moveItem(atPath: unfinished, toPath: dataDirectory)
    }

    /// Copies a server that runs, to follow it from then on through a slot that keeps what is not here yet.
    private func copy(_ primary: LocalPostgres) async throws {
        guard let conninfo = primary.superuserConninfo else {
            throw LocalClusterError("the path of \(primary.home) is too long for a socket")
        }
        let unfinished = "\(home)/data.unfinished"
        try FileManager.default.createDirectory(
            atPath: home, withIntermediateDirectories: true, attributes: [.posixPermissions: 0o700])
        if let user { chown(home, user.userID, user.groupID) }
        try await run(
            "copy \(primary.name) for",
            [
                "pg_basebackup", "-D", unfinished, "-d", "\(conninfo) application_name=\(name)", "--checkpoint=fast",
                "--write-recovery-conf", "--create-slot", "--slot=\(name)", "--no-sync",
            ])
        try FileManager.default.moveItem(atPath: unfinished, toPath: dataDirectory)
    }

    /// Makes the user and the database by a single-user server, which takes one command per line.
    private func createDatabase(in directory: String) async throws {
        let commands = """
            CREATE ROLE meridian LOGIN CREATEDB IN ROLE pg_monitor, pg_checkpoint
            CREATE DATABASE meridian OWNER meridian

            """
        let input = "\(home)/create.sql"
        try Data(commands.utf8).write(to: URL(fileURLWithPath: input))
        defer { try? FileManager.default.removeItem(atPath: input) }
        try await run(
            "make the database of",
            ["postgres", "--single", "-D", directory, "-c", "exit_on_error=on", "postgres"],
            input: input
        )
    }

    private func run(_ what: String, _ command: [String], input: String? = nil) async throws {
        let logBegin = logSize
        let status = try await ChildProcess.run(order(command, input: input))
        guard status == .exited(0) else {
            throw failure("could not \(what) server \(name)", status, log: log(from: logBegin))
        }
    }

    private func append(_ text: String, to path: String) throws {
        let file = try FileHandle(forWritingTo: URL(fileURLWithPath: path))
        defer { try? file.close() }
        try file.seekToEnd()
        try file.write(contentsOf: Data(text.utf8))
    }
}

// MARK: - Log

extension LocalPostgres {
    /// The last lines of the server's log; empty when there is none.
    public func logTail(lines: Int = 20) -> String {
        let size = logSize
        let text = log(from: size > 65536 ? size - 65536 : 0)
        return text.split(separator: "\n").suffix(lines).joined(separator: "\n")
    }

    private var logSize: UInt64 {
        var status = stat()
        return stat(logFile, &status) == 0 ? UInt64(status.st_size) : 0
    }

    private func log(from offset: UInt64) -> String {
        guard let file = FileHandle(forReadingAtPath: logFile) else { return "" }
        defer { try? file.close() }
        try? file.seek(toOffset: offset)
        return String(decoding: (try? file.readToEnd()) ?? Data(), as: UTF8.self)
    }
}
