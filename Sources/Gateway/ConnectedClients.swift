import Metrics
import NIOCore
import PostgresWire
import Synchronization

/// Every connection of a gateway, by the number that is its session's process in PostgreSQL's eyes.
final class ConnectedClients: Sendable {
    private struct Entry {
        let secret: Int32
        let connection: NIOLoopBound<ClientConnection>
        var session: (any ClientSession)?
    }

    private struct State {
        var entries: [Int32: Entry] = [:]
        var admitted = 0
        var lastProcessID: Int32 = 0
        var isStopping = false
        var whenEmpty: EventLoopPromise<Void>?
    }

    /// Whether one more client may in.
    enum Admission {
        case admitted, tooMany, stopping
    }

    private let clientsMax: Int
    /// As many may be on the way in as be in, and a few more; PostgreSQL has the same bound on its processes.
    private let connectionsMax: Int
    private let state = Mutex(State())
    private let connected = Gauge(label: "meridian_gateway_clients")
    private let opened = Counter(label: "meridian_gateway_connections_opened")

    init(clientsMax: Int) {
        self.clientsMax = clientsMax
        connectionsMax = 2 * clientsMax + 10
    }

    // MARK: What connections do, in this order

    /// A connection was made; nil when there are too many to keep it, even if only to tell it so.
    func enter(_ connection: NIOLoopBound<ClientConnection>) -> CancelRequest? {
        let secret = Int32.random(in: .min ... .max)
        let key = state.withLock { state -> CancelRequest? in
            guard state.entries.count < connectionsMax, !state.isStopping else { return nil }
            repeat {
                state.lastProcessID = state.lastProcessID == .max ? 1 : state.lastProcessID + 1
            } while state.entries[state.lastProcessID] != nil
            state.entries[state.lastProcessID] = Entry(secret: secret, connection: connection)
            return CancelRequest(processID: state.lastProcessID, secret: secret)
        }
        if key != nil { opened.increment() }
        return key
    }

    /// The connection is a client's, who wants a session.
    func admit() -> Admission {
        let (admission, count) = state.withLock { state -> (Admission, Int) in
            if state.isStopping { return (.stopping, state.admitted) }
            if state.admitted >= clientsMax { return (.tooMany, state.admitted) }
            state.admitted += 1
            return (.admitted, state.admitted)
        }
        connected.record(count)
        return admission
    }

    /// The client has its session, and may have statements cancelled.
    func opened(_ session: any ClientSession, for key: CancelRequest) {
        state.withLock { $0.entries[key.processID]?.session = session }
    }

    /// The connection is gone.
    func leave(_ key: CancelRequest, wasAdmitted: Bool) {
        let (count, promise) = state.withLock { state -> (Int, EventLoopPromise<Void>?) in
            state.entries[key.processID] = nil
            if wasAdmitted { state.admitted -= 1 }
            guard state.entries.isEmpty else { return (state.admitted, nil) }
            defer { state.whenEmpty = nil }
            return (state.admitted, state.whenEmpty)
        }
        if wasAdmitted { connected.record(count) }
        promise?.succeed()
    }

    /// The session whose key this is. Takes the same time for every wrong secret.
    func session(for key: CancelRequest) -> (any ClientSession)? {
        state.withLock { state in
            guard let entry = state.entries[key.processID], entry.secret ^ key.secret == 0 else { return nil }
            return entry.session
        }
    }

    // MARK: The end

    /// Lets nobody in any more, and sends away who is still on the way in.
    func stop() {
        let onTheWay = state.withLock { state in
            state.isStopping = true
            return state.entries.values.filter { $0.session == nil }.map(\.connection)
        }
        for connection in onTheWay {
            connection.eventLoop.execute { connection.value.stopping() }
        }
    }

    /// Sends all away who are there.
    func sendAway() {
        let connections = state.withLock { $0.entries.values.map(\.connection) }
        for connection in connections {
            connection.eventLoop.execute { connection.value.sendAway() }
        }
    }

    /// Waits until nobody is there, at most `duration`. One at a time may wait.
    func emptied(within duration: Duration, on eventLoop: any EventLoop) async {
        let promise = eventLoop.makePromise(of: Void.self)
        let isEmpty = state.withLock { state in
            if state.entries.isEmpty { return true }
            state.whenEmpty = promise
            return false
        }
        if isEmpty { promise.succeed() }
        let deadline = eventLoop.scheduleTask(in: TimeAmount(duration)) { [self] in
            state.withLock { state in
                defer { state.whenEmpty = nil }
                return state.whenEmpty
            }?.succeed()
        }
        try? await promise.futureResult.get()
        deadline.cancel()
    }
}
