import CLibPQ

// Streams and COPY have the connection to themselves. Their owner takes the answers as it can use them, and until it
// does, nothing is read from the socket: that slows the server down. When the owner gives up, the connection reads and
// drops the rest by itself.
extension ShardConnection {
    func lostInSession(_ exchange: Exchange, _ handle: LibPQHandle) -> ShardError {
        lost(handle)
        return exchange.failure ?? ShardError(.connectionLost, "the connection was lost", isOutcomeUnknown: true)
    }

    /// The next answer that is for the owner of a session, nil after the last: of a stream these are the single rows,
    /// otherwise all. When there is an error, the connection is free again before it is thrown.
    func nextResult(of exchange: Exchange) async throws(ShardError) -> OpaquePointer? {
        while true {
            switch arrivedResult(of: exchange) {
            case .result(let result): return result
            case .nothing: await waitForSocket(exchange)
            case .over:
                if let failure = exchange.failure { throw failure }
                return nil
            }
        }
    }

    enum Arrival {
        case result(OpaquePointer)
        /// The socket must be waited for.
        case nothing
        case over
    }

    /// What ``nextResult(of:)`` has without waiting.
    ///
    /// - Parameter rows: takes single rows, until it is full.
    func arrivedResult(of exchange: Exchange, orAddTo rows: PackedRows? = nil) -> Arrival {
        while !exchange.isOver {
            guard exchange.failure == nil, let handle else { return .nothing }
            switch handle.takeResult(inSingleRows: exchange.isBeforeStreamedRows, orAddTo: rows) {
            case .nothing: return .nothing
            case .end: finish(exchange)
            case .disorder: lost(handle)
            case .result(let result):
                guard !exchange.isForOwner(PQresultStatus(result)) else { return .result(result) }
                // After an error the rest is for nobody.
                if take(result, of: exchange, handle), exchange.failure != nil { takeResults(handle) }
            }
        }
        return .over
    }

    // MARK: Waiting and giving up

    /// Waits for the socket's next event, unless there is no need to. Returns without cause now and then.
    func waitForSocket(_ exchange: Exchange, unless isReady: () -> Bool = { false }) async {
        if let patience = exchange.patience, exchange.interruption == nil {
            let deadline = ContinuousClock.now + patience
            exchange.deadline = deadline
            armTimer(at: deadline)
        }
        defer { if exchange.patience != nil { exchange.deadline = nil } }
        await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                // The way here led through the executor's queue, so everything may have changed.
                guard let handle, !exchange.isOver, !isReady() else { return continuation.resume() }
                sessionWaiter = continuation
                watch(handle, for: interest.union(.readable))
            }
        } onCancel: {
            loop.execute { [self] in
                onLoop { $0.interrupt(exchange, .cancelled) }
            }
        }
    }

    func resumeSessionWaiter() {
        sessionWaiter?.resume()
        sessionWaiter = nil
    }

    /// The owner of the session is told why it is over once the server's answers have been read and dropped.
    func abandon(_ exchange: Exchange) {
        guard let handle, let interruption = exchange.interruption else { return }
        if exchange.failure == nil {
            exchange.failure = ShardError(interruption, Exchange.message(of: interruption))
        }
        watch(handle, for: interest.union(.readable))
        takeResults(handle)
    }
}

/// The connection, in the hands of one stream; letting go of it stops what is under way.
final class SessionSource: Sendable {
    let connection: ShardConnection
    let exchange: Exchange

    init(connection: ShardConnection, exchange: Exchange) {
        self.connection = connection
        self.exchange = exchange
    }

    deinit {
        let (connection, exchange) = (connection, exchange)
        connection.loop.execute {
            connection.onLoop { $0.interrupt(exchange, .cancelled) }
        }
    }
}
