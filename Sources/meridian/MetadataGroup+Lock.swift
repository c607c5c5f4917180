import ArgumentParser
import EventLoops
import Foundation
import LocalCluster
import Metadata
import ReplicatedMetadata
import Synchronization
import SystemClock
import TransactionCore
import UnixSignals

extension MetadataGroup {
    /// `meridian metadata lock`
    struct Lock: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Run a command while holding a lock that one process of all has at a time.",
            discussion: """
                Waits for its turn, first come, first served. The command finds a number in MERIDIAN_LOCK_TOKEN that \
                is larger than that of every holder before: what it changes elsewhere should refuse a smaller one than \
                it has seen. If the lock can't be kept (no node answers for two thirds of --ttl), the command gets \
                SIGTERM, and SIGKILL before another one can have the lock. Ends with the command's status.

                  meridian metadata lock backup -- pg_dump --file dump.sql
                  meridian metadata lock --ttl 30s report sh -c 'echo $MERIDIAN_LOCK_TOKEN'
                """)

        @OptionGroup var options: Options

        @Option(help: "When this process dies or is cut off, the next one has the lock after that time: 1s to 1h.")
        var ttl = DurationArgument(.seconds(10))

        @Argument(help: "Any name without a /, of printable ASCII.") var name: String

        @Argument(parsing: .captureForPassthrough, help: "The command and its arguments.") var command: [String]

        func validate() throws {
            guard Contender.lock(name) != nil else { throw ValidationError("\"\(name)\" is not a name of a lock.") }
            guard !words.isEmpty else { throw ValidationError("Which command?") }
            guard (.seconds(1) ... .seconds(3600)).contains(ttl.duration) else {
                throw ValidationError("--ttl is 1s to 1h.")
            }
        }

        private var words: [String] { command.first == "--" ? Array(command.dropFirst()) : command }

        func run() async throws {
            let status = try await options.withMetadata(logging: .error) { remote, clock in
                _ = try await remote.learnAddresses(deadline: options.deadline)
                let session = try await NodeSession.open(
                    on: remote, duration: ttl.duration, clock: clock, deadline: options.deadline)
                // The lock goes with its session.
                do {
                    let status = try await runLocked(under: session)
                    try? await session.close(deadline: .now + .seconds(2))
                    return status
                } catch {
                    try? await session.close(deadline: .now + .seconds(2))
                    throw error
                }
            }
            throw ExitCode(status)
        }

        /// Returns the command's exit status; signals that this process gets meanwhile go to the command, or end the
        /// wait for the lock.
        private func runLocked(under session: NodeSession) async throws -> Int32 {
            let caught = CaughtSignal()
            let work = Task {
                let held = try await session.acquire(Contender.lock(name)!, value: holder)
                let program = try await LocalProgram.attached(
                    words, environment: ["MERIDIAN_LOCK_TOKEN": "\(held.token)"])
                return (program, held)
            }
            let signals = await UnixSignalsSequence(trapping: .sigint, .sigterm, .sighup)
            return try await withThrowingTaskGroup(of: Int32?.self) { group in
                group.addTask {
                    for await signal in signals {
                        caught.take(signal.rawValue)
                        work.cancel()
                    }
                    return nil
                }
                group.addTask {
                    let (started, held): (LocalProgram, HeldLock)
                    do {
                        (started, held) = try await work.value
                    } catch {
                        guard let signal = caught.signal else { throw error }
                        return 128 + signal
                    }
                    caught.handOn(to: started)
                    return try await watchOver(started, held)
                }
                defer { group.cancelAll() }
                while true { if let status = try await group.next() ?? nil { return status } }
            }
        }

        /// Who it is, for people who look at the lock.
        private var holder: [UInt8] {
            Array("\(ProcessInfo.processInfo.hostName) process \(getpid())".utf8)
        }

        /// Waits for the command's end, and sees to it that it comes before another process can hold the lock.
        private func watchOver(_ program: LocalProgram, _ held: HeldLock) async throws -> Int32 {
            let keeper = Task {
                var isEnding = false
                while !Task.isCancelled {
                    let left = await held.session.timeLeft
                    if left <= .zero {
                        program.signal(SIGKILL)
                        return true
                    }
                    if left < ttl.duration / 3, !isEnding {
                        isEnding = true
                        program.signal(SIGTERM)
                    }
                    try? await Task.sleep(for: min(.milliseconds(50), left))
                }
                return isEnding
            }
            let status = await Task { await program.exitStatus() }.value
            keeper.cancel()
            guard await !keeper.value else {
                throw MetadataError(
                    .refused, "lock \(name) could not be kept, and the command was ended",
                    detail: "its session was not renewed in time",
                    hint: "are the nodes running? A longer --ttl bears longer outages")
            }
            switch status {
            case .exited(let status): return status
            case .signaled(let signal): return 128 + signal
            case nil: preconditionFailure("nobody cancels this wait")
            }
        }
    }
}

/// A signal that this process got, on its way to the command.
private final class CaughtSignal: Sendable {
    private let state = Mutex<(signal: Int32?, program: LocalProgram?)>((nil, nil))

    var signal: Int32? { state.withLock { $0.signal } }

    func take(_ signal: Int32) {
        let program = state.withLock { state in
            state.signal = signal
            return state.program
        }
        // A terminal sends Ctrl-C to the command, too.
        if signal != SIGINT || isatty(STDIN_FILENO) == 0 { program?.signal(signal) }
    }

    /// Signals from now on, and one that was caught before, go to `program`.
    func handOn(to program: LocalProgram) {
        let signal = state.withLock { state in
            state.program = program
            return state.signal
        }
        if let signal { program.signal(signal) }
    }
}
