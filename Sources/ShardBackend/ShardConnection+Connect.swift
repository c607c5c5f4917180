import CLibPQ
import EventLoops
import TransactionCore

extension ShardConnection {
    /// Opens a session.
    ///
    /// Host names are resolved on a thread of their own; the rest never blocks the loop.
    ///
    /// - Throws: ``ShardError/Kind/notConnected`` when no host can be reached or the server refuses,
    ///   ``ShardError/Kind/timedOut`` at the deadline, ``ShardError/Kind/cancelled``.
    public static func connect(
        to settings: ConnectionSettings, on loop: EventLoop, deadline: ContinuousClock.Instant? = nil,
        handlers: Handlers = Handlers()
    ) async throws(ShardError) -> ShardConnection {
        let resolved = try await settings.resolvingHosts(on: loop, deadline: deadline)
        let connection = ShardConnection(settings: resolved, loop: loop, handlers: handlers)
        try await connection.open(deadline: deadline)
        return connection
    }

    private func open(deadline: ContinuousClock.Instant?) async throws(ShardError) {
        guard let pointer = start() else { throw ShardError(.notConnected(nil), "out of memory") }
        let handle = LibPQHandle(pointer)
        guard PQstatus(pointer) != CONNECTION_BAD else { throw Self.refusal(handle) }
        // Until the server can send a structured error, its SQLSTATE is to be had from verbose text only.
        PQsetErrorVerbosity(pointer, PQERRORS_VERBOSE)
        receiveNotices(handle)
        var timeout: ScheduledTimer?
        defer { timeout?.cancel() }
        let outcome: Result<Void, ShardError> = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                guard !Task.isCancelled else {
                    return continuation.resume(returning: .failure(Self.interruptedConnecting(.cancelled)))
                }
                phase = .connecting(handle, continuation)
                timeout = deadline.map { deadline in
                    loop.schedule(at: deadline) { [self] in giveUpConnecting(.timedOut) }
                }
                // libpq's rule: before the first poll, act as if it had asked for writing.
                loop.watch(handle.socket, for: .writable, handler: self)
            }
        } onCancel: {
            loop.execute { [self] in giveUpConnecting(.cancelled) }
        }
        try outcome.get()
    }

    /// Begins connecting; libpq fills what is not set from the environment and its defaults.
    private func start() -> OpaquePointer? {
        let parameters = settings.parameters + [("fallback_application_name", "meridian")]
        return withCStrings(parameters.map(\.keyword)) { keywords in
            withCStrings(parameters.map(\.value)) { values in PQconnectStartParams(keywords, values, 0) }
        }
    }

    /// The socket is ready for libpq's next step.
    func continueConnecting(_ handle: LibPQHandle, _ continuation: UnsafeContinuation<Result<Void, ShardError>, Never>)
    {
        let previous = handle.socket
        let status = PQconnectPoll(handle.pointer)
        // On its way to the next host libpq has closed the socket, which took it out of epoll.
        if handle.socket != previous { loop.unwatch(previous) }
        switch status {
        case PGRES_POLLING_READING: loop.watch(handle.socket, for: .readable, handler: self)
        case PGRES_POLLING_WRITING: loop.watch(handle.socket, for: .writable, handler: self)
        case PGRES_POLLING_OK:
            PQsetErrorVerbosity(handle.pointer, PQERRORS_DEFAULT)
            PQsetnonblocking(handle.pointer, 1)
            phase = .open(handle)
            interest = .readable
            loop.watch(handle.socket, for: interest, handler: self)
            continuation.resume(returning: .success(()))
        default:
            end(Self.refusal(handle))
        }
    }

    /// The connection is not retained: libpq calls back only while the connection uses it, and so lives.
    private func receiveNotices(_ handle: LibPQHandle) {
        PQsetNoticeReceiver(
            handle.pointer,
            { argument, result in
                guard let argument else { return }
                let connection = Unmanaged<ShardConnection>.fromOpaque(argument).takeUnretainedValue()
                // libpq runs on the connection's loop only.
                let fields = PostgresErrorFields(result)
                connection.onLoop { $0.noticeHandler(fields) }
            }, Unmanaged.passUnretained(self).toOpaque())
    }

    private nonisolated func giveUpConnecting(_ kind: ShardError.Kind) {
        onLoop { connection in
            guard case .connecting = connection.phase else { return }
            connection.end(Self.interruptedConnecting(kind))
        }
    }

    private static func interruptedConnecting(_ kind: ShardError.Kind) -> ShardError {
        ShardError(
            kind, kind == .timedOut ? "the deadline passed while connecting to the shard" : "connecting was cancelled")
    }

    /// Takes apart `connection to server at … failed: FATAL:  53300: sorry, too many clients already`.
    private static func refusal(_ handle: LibPQHandle) -> ShardError {
        let lines = handle.errorMessage.split(separator: "; ").filter { !$0.hasPrefix("LOCATION:") }
        var message = lines.joined(separator: "; ")
        var state: SQLState?
        if let match = message.firstMatch(of: #/(FATAL|ERROR|PANIC): +([0-9A-Z]{5}): /#) {
            state = SQLState(rawValue: String(match.output.2))
            message.replaceSubrange(match.range, with: "\(match.output.1): ")
        }
        return ShardError(.notConnected(state), message)
    }
}

/// Calls `body` with a null-terminated array of C strings.
private func withCStrings<Value>(
    _ strings: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>?) -> Value
) -> Value {
    var bytes: [CChar] = []
    let starts = strings.map { string in
        defer { bytes.append(contentsOf: string.utf8CString) }
        return bytes.count
    }
    return bytes.withUnsafeBufferPointer { bytes in
        let pointers = starts.map { start in bytes.baseAddress.map { $0 + start } } + [nil]
        return pointers.withUnsafeBufferPointer { body($0.baseAddress) }
    }
}
