import ClientAuthentication
import Gateway
import NIOCore
import PostgresWire
import Synchronization
import TransactionCore

/// A session that answers each query with one row, its own text. It runs on the connection's event loop, but for:
///
/// - `rows N`: N rows of about a thousand bytes, produced on a thread of the pool, as far as the client reads them;
/// - `sleep`: no answer before ``wake()`` or a cancel request;
/// - `close`: the answer, and the end of the connection.
///
/// Nothing but Query is answered.
final class EchoSession: ClientSession {
    private struct State {
        var isAsleep = false
        var departures: [Departure] = []
        var receivedBytes = 0
        var unprocessedBytes = 0
        var holdsBack = false
        var mostQueued = 0
        var producedBytes = 0
        var producer: Task<Void, Never>?
    }

    let startup: ClientStartup
    let key: CancelRequest
    private let output: ClientOutput
    private let state = Mutex(State())

    init(_ startup: ClientStartup, key: CancelRequest, output: ClientOutput) {
        self.startup = startup
        self.key = key
        self.output = output
    }

    let mayHaveCommitted = false
    var departures: [Departure] { state.withLock { $0.departures } }
    var isAsleep: Bool { state.withLock { $0.isAsleep } }
    var receivedBytes: Int { state.withLock { $0.receivedBytes } }
    /// The most that was queued after a write of `rows`.
    var mostQueued: Int { state.withLock { $0.mostQueued } }
    var producedBytes: Int { state.withLock { $0.producedBytes } }
    var queuedBytes: Int { output.queuedBytes }

    /// Frames received from now on are not said to be processed, until this is false again.
    func holdBack(_ holdsBack: Bool) {
        let bytes = state.withLock { state in
            state.holdsBack = holdsBack
            guard !holdsBack else { return 0 }
            defer { state.unprocessedBytes = 0 }
            return state.unprocessedBytes
        }
        output.processed(bytes: bytes)
    }

    /// Ends `sleep` with an answer.
    func wake() {
        guard
            state.withLock({ state in
                defer { state.isAsleep = false }
                return state.isAsleep
            })
        else { return }
        answer("awake")
    }

    // MARK: ClientSession

    func receive(_ frames: [FrontendFrame]) {
        let bytes = frames.reduce(0) { $0 + $1.byteCount }
        let processed = state.withLock { state in
            state.receivedBytes += bytes
            if state.holdsBack { state.unprocessedBytes += bytes }
            return state.holdsBack ? 0 : bytes
        }
        for frame in frames {
            do {
                if case .query(let text) = try frame.decode() { run(text) }
            } catch {
                fail(ErrorFields(error))
            }
        }
        output.processed(bytes: processed)
    }

    func disconnected(_ departure: Departure) {
        state.withLock { state in
            state.departures.append(departure)
            state.producer?.cancel()
        }
        if departure == .terminated { output.close() }
    }

    func cancel() {
        guard
            state.withLock({ state in
                defer { state.isAsleep = false }
                return state.isAsleep
            })
        else { return }
        fail(ErrorFields(.error, .queryCanceled, "canceling statement due to user request"))
    }

    // MARK: Answers

    private func run(_ text: String) {
        let words = text.split(whereSeparator: { $0 == " " || $0 == ";" })
        switch words.first {
        case "rows":
            let count = Int(words[1]) ?? 0
            let producer = Task { await produce(count) }
            state.withLock { $0.producer = producer }
        case "sleep":
            state.withLock { $0.isAsleep = true }
        case "close":
            answer(text)
            output.close()
        default:
            answer(text)
        }
    }

    private static let columns = [FieldDescription(name: "echo", type: 25)]

    private func answer(_ text: String) {
        var writer = BackendWriter()
        writer.rowDescription(EchoSession.columns)
        writer.beginDataRow(columns: 1)
        writer.column(text)
        writer.endDataRow()
        writer.commandComplete("SELECT", rows: 1)
        writer.readyForQuery(.idle)
        output.write(writer.take())
    }

    private func fail(_ fields: ErrorFields) {
        var writer = BackendWriter()
        writer.errorResponse(fields)
        writer.readyForQuery(.idle)
        output.write(writer.take())
    }

    private func produce(_ count: Int) async {
        var writer = BackendWriter(capacity: 20_000)
        let row = String(repeating: "x", count: 1_000)
        writer.rowDescription(EchoSession.columns)
        for _ in 0..<count {
            writer.beginDataRow(columns: 1)
            writer.column(row)
            writer.endDataRow()
            guard writer.bytesWritten >= 16_384 else { continue }
            if output.isBacklogged, await !output.drained() { return }
            write(writer.take())
        }
        writer.commandComplete("SELECT", rows: count)
        writer.readyForQuery(.idle)
        write(writer.take())
    }

    private func write(_ bytes: ByteBuffer) {
        output.write(bytes)
        let queued = output.queuedBytes
        state.withLock { state in
            state.producedBytes += bytes.readableBytes
            state.mostQueued = max(state.mostQueued, queued)
        }
    }
}

/// Opens echo sessions, and remembers them.
final class EchoProvider: ClientSessionProvider {
    /// What the database `nowhere` gets.
    static let unknownDatabase = TransactionError(
        SQLState(rawValue: ["3D", "000"].joined()), "database \"nowhere\" does not exist")

    private struct State {
        var sessions: [EchoSession] = []
        var cancelled: [CancelRequest] = []
        var abandonedOpenings = 0
    }

    private let verifiers: [String: PasswordVerifier]
    private let state = Mutex(State())

    init(verifiers: [String: PasswordVerifier] = [:]) {
        self.verifiers = verifiers
    }

    var sessions: [EchoSession] { state.withLock { $0.sessions } }
    /// The keys of sessions that were cancelled.
    var cancelled: [CancelRequest] { state.withLock { $0.cancelled } }
    /// How many clients of the database `slow` went before they had a session.
    var abandonedOpenings: Int { state.withLock { $0.abandonedOpenings } }

    func verifier(ofUser user: String) -> PasswordVerifier? { verifiers[user] }

    func open(
        _ startup: ClientStartup, key: CancelRequest, output: ClientOutput
    ) async throws(TransactionError) -> OpenedSession {
        switch startup.database {
        case "nowhere":
            throw EchoProvider.unknownDatabase
        case "slow":
            // Until the client goes, or for longer than any test takes.
            try? await Task.sleep(for: .seconds(600))
            if Task.isCancelled { state.withLock { $0.abandonedOpenings += 1 } }
        default:
            break
        }
        let session = EchoSession(startup, key: key, output: output)
        state.withLock { $0.sessions.append(session) }
        return OpenedSession(
            session,
            parameters: [
                .init("server_version", "15.0"), .init("server_encoding", "UTF8"), .init("client_encoding", "UTF8"),
                .init("standard_conforming_strings", "on"), .init("DateStyle", "ISO, MDY"),
            ])
    }

    func cancel(_ session: any ClientSession) {
        guard let session = session as? EchoSession else { return }
        state.withLock { $0.cancelled.append(session.key) }
        session.cancel()
    }
}
