import CLinux
import Foundation
import Synchronization

/// How a child process ended.
public enum ExitStatus: Hashable, Sendable, CustomStringConvertible {
    /// It returned that status; 0 is success.
    case exited(Int32)
    /// That signal ended it.
    case signaled(Int32)

    public var description: String {
        switch self {
        case .exited(let status): "exit status \(status)"
        case .signaled(let signal): "signal \(signal)"
        }
    }
}

/// One child process that dies with this process, however this process dies.
///
/// `PR_SET_PDEATHSIG` fires when the *thread* that made the child ends, so a thread of Swift's pool, which may end
/// when idle, must not make one. Each child therefore has a thread of its own, which makes it and then waits for it.
final class ChildProcess: Sendable {
    /// What to run, and as whom.
    struct Order: Sendable {
        /// The absolute path of the program, then its arguments.
        var command: [String]
        /// The working directory, which the user must be able to enter.
        var directory: String
        /// The user to become; nil stays who we are.
        var user: ServerUser?
        var streams: Streams
    }

    /// What the child reads and writes, and what it knows of us.
    enum Streams: Sendable {
        /// The file that it reads, nil for an empty one, and the file that output and errors are appended to. It knows
        /// nothing of our environment, and a terminal's Ctrl-C does not reach it.
        case files(input: String?, log: String)
        /// Ours, and our terminal; our environment, with these variables over it.
        case ours(environment: [String: String])
    }

    /// The exit status of a child whose user may not enter the working directory.
    static let directoryRefused = ExitStatus.exited(113)

    let processID: pid_t
    private let state = Mutex(State())

    private struct State {
        var exit: ExitStatus?
        var nextWaiter = 0
        var waiters: [Int: CheckedContinuation<ExitStatus?, Never>] = [:]
    }

    private init(processID: pid_t) {
        self.processID = processID
    }

    /// Makes the child. Throws a ``LocalClusterError`` when the program that sets its death signal is not there.
    static func spawn(_ order: Order) async throws -> ChildProcess {
        try await withCheckedThrowingContinuation { continuation in
            Thread.detachNewThread {
                switch posixSpawn(order) {
                case .success(let processID):
                    let child = ChildProcess(processID: processID)
                    continuation.resume(returning: child)
                    child.reap()
                case .failure(let error):
                    continuation.resume(throwing: error)
                }
            }
        }
    }

    /// Runs a program to its end; a cancelled task kills it and the programs that it runs itself, and throws.
    static func run(_ order: Order) async throws -> ExitStatus {
        let child = try await spawn(order)
        if let status = await child.waitForExit() { return status }
        child.state.withLock { if $0.exit == nil { _ = kill(-child.processID, SIGKILL) } }
        await Task { _ = await child.waitForExit() }.value
        throw CancellationError()
    }

    /// How the child ended, nil while it runs.
    var exitStatus: ExitStatus? { state.withLock { $0.exit } }

    /// Sends a signal. Does nothing once the child has ended: its number may be another process's by then.
    func signal(_ number: Int32) {
        state.withLock { if $0.exit == nil { _ = kill(processID, number) } }
    }

    /// Waits until the child ends; nil when the task is cancelled before that.
    func waitForExit() async -> ExitStatus? {
        let waiter = state.withLock { state in
            state.nextWaiter += 1
            return state.nextWaiter
        }
        return await withTaskCancellationHandler {
            await withCheckedContinuation { continuation in
                let isOver = state.withLock { state in
                    if state.exit != nil || Task.isCancelled { return true }
                    state.waiters[waiter] = continuation
                    return false
                }
                if isOver { continuation.resume(returning: exitStatus) }
            }
        } onCancel: {
            state.withLock { $0.waiters.removeValue(forKey: waiter) }?.resume(returning: nil)
        }
    }

    /// Waits until the child ends, at most `duration`; nil when it still runs then.
    func waitForExit(atMost duration: Duration) async -> ExitStatus? {
        await withTaskGroup(of: ExitStatus?.self) { group in
            group.addTask { await self.waitForExit() }
            group.addTask {
                try? await Task.sleep(for: duration)
                return nil
            }
            defer { group.cancelAll() }
            return await group.next() ?? nil
        }
    }

    /// Waits for the end of the child, then collects it under the lock that ``signal(_:)`` takes, so that a signal
    /// never goes to a number that was given out again.
    private func reap() {
        var info = siginfo_t()
        while waitid(P_PID, id_t(processID), &info, WEXITED | WNOWAIT) == -1, errno == EINTR {}
        let (exit, waiters) = state.withLock { state in
            var status: Int32 = 0
            while waitpid(processID, &status, 0) == -1, errno == EINTR {}
            let signal = status & 0x7F
            let exit: ExitStatus = signal == 0 ? .exited((status >> 8) & 0xFF) : .signaled(signal)
            state.exit = exit
            defer { state.waiters = [:] }
            return (exit, state.waiters.values)
        }
        for waiter in waiters { waiter.resume(returning: exit) }
    }
}

extension ChildProcess {
    /// Signals a server as a whole: the child and the processes it made.
    ///
    /// The child is stopped first and goes last: a stopped parent neither makes processes nor collects dead ones, so
    /// the numbers listed stay theirs.
    func signalTree(_ number: Int32) {
        state.withLock { state in
            guard state.exit == nil else { return }
            kill(processID, SIGSTOP)
            var info = siginfo_t()
            while waitid(P_PID, id_t(processID), &info, WSTOPPED | WEXITED | WNOWAIT) == -1, errno == EINTR {}
            for descendant in Self.childrenOf(processID) { kill(descendant, number) }
            kill(processID, number)
        }
    }

    /// The processes whose parent is `parent`, by the process table in /proc.
    private static func childrenOf(_ parent: pid_t) -> [pid_t] {
        let entries = (try? FileManager.default.contentsOfDirectory(atPath: "/proc")) ?? []
        return entries.compactMap { pid_t($0) }.filter { processID in
            // The parent is the second field after the command, which stands in parentheses and may hold anything.
            guard let stat = try? String(contentsOfFile: "/proc/\(processID)/stat", encoding: .isoLatin1),
                let commandEnd = stat.lastIndex(of: ")")
            else { return false }
            return stat[commandEnd...].split(separator: " ").dropFirst(2).first == "\(parent)"
        }
    }
}

/// Runs the order's command through setpriv(1), which becomes the user and asks for a signal at our death, in this
/// order because a change of user clears the request. The shell then makes sure that we did not die before it was made.
/// A process group of its own keeps a terminal's Ctrl-C from the child.
///
/// A server gets SIGQUIT, which it obeys at once without leaving anything behind; another program might ignore that.
private func posixSpawn(_ order: ChildProcess.Order) -> Result<pid_t, LocalClusterError> {
    let script = #"[ "$PPID" = "$1" ] || exit 1; cd "$2" || exit 113; shift 2; exec "$@""#
    var arguments = ["setpriv", "--pdeathsig"]
    switch order.streams {
    case .files: arguments.append("QUIT")
    case .ours: arguments.append("KILL")
    }
    if let user = order.user {
        arguments += ["--reuid", "\(user.userID)", "--regid", "\(user.groupID)", "--init-groups"]
    }
    arguments += ["--", "/bin/sh", "-c", script, "sh", "\(getpid())", order.directory] + order.command

    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    var flags = POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK
    let environment: [String]
    switch order.streams {
    case .files(let input, let log):
        posix_spawn_file_actions_addopen(&actions, 0, input ?? "/dev/null", O_RDONLY, 0)
        posix_spawn_file_actions_addopen(&actions, 1, log, O_WRONLY | O_CREAT | O_APPEND, 0o600)
        posix_spawn_file_actions_adddup2(&actions, 1, 2)
        flags |= POSIX_SPAWN_SETPGROUP
        // Nothing of ours is passed on: a PGPORT or PGOPTIONS of the user's would change what initdb and postgres do.
        environment = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"]
    case .ours(let added):
        environment = ProcessInfo.processInfo.environment.merging(added) { $1 }.map { "\($0)=\($1)" }
    }
    // A server that held on to the end of somebody's pipe would keep its reader waiting for as long as it runs.
    posix_spawn_file_actions_addclosefrom_np(&actions, 3)

    var attributes = posix_spawnattr_t()
    posix_spawnattr_init(&attributes)
    defer { posix_spawnattr_destroy(&attributes) }
    var none = sigset_t()
    sigemptyset(&none)
    posix_spawnattr_setsigmask(&attributes, &none)
    var all = sigset_t()
    sigfillset(&all)
    posix_spawnattr_setsigdefault(&attributes, &all)
    posix_spawnattr_setflags(&attributes, Int16(flags))

    var argumentPointers = arguments.map { strdup($0) } + [nil]
    var environmentPointers = environment.map { strdup($0) } + [nil]
    defer { for pointer in argumentPointers + environmentPointers { free(pointer) } }
    var processID: pid_t = 0
    let code = posix_spawnp(
        &processID, arguments[0], &actions, &attributes, &argumentPointers, &environmentPointers
    )
    guard code == 0 else {
        let hint = code == ENOENT ? "install it: apt-get install util-linux" : nil
        return .failure(
            LocalClusterError("could not run setpriv", detail: String(cString: strerror(code)), hint: hint)
        )
    }
    return .success(processID)
}
