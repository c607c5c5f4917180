import CLibPQ

// Streams and COPY have the connection to themselves. Their owner takes the answers as it can use them, and until it
// does, nothing is read from the socket: that slows the server down. When the owner gives up, the connection reads and
// drops the rest by itself.
extension ShardConnection {
    /// How many bytes of COPY data go to libpq before the socket must have taken them.
    private static let copyBytesPerFlush = 65536

    /// Runs a statement and hands out its rows one by one, however many there are, in little memory.
    ///
    /// Rows are read from the socket only as they are consumed. The connection serves nothing else until the stream is
    /// read to its end or dropped; dropping it early, or cancelling the task, stops the statement on the server.
    public func stream(
        _ statement: SQLStatement, deadline: ContinuousClock.Instant? = nil
    ) async throws(ShardError) -> SQLRowStream {
        try statement.check(index: 0)
        // In pipeline mode, because libpq leaves single-row mode at the end of a pipeline, but not when one begins.
        let exchange = try await beginSession(inPipelineMode: true, deadline: deadline) { connection, buffer in
            let sent = buffer.withArrays(of: statement.parameters) { arrays in
                PQsendQueryParams(
                    connection, statement.text, arrays.count, nil, arrays.values, arrays.lengths, arrays.formats,
                    statement.resultFormat.rawValue)
            }
            return sent == 1 && PQsetSingleRowMode(connection) == 1 && PQpipelineSync(connection) == 1
        }
        return SQLRowStream(source: SessionSource(connection: self, exchange: exchange))
    }

    /// Runs `COPY … TO STDOUT` and hands out what it sends, one chunk per row; see ``stream(_:deadline:)``.
    public func copyOut(
        _ text: String, deadline: ContinuousClock.Instant? = nil
    ) async throws(ShardError) -> CopyOutStream {
        let exchange = try await beginCopy(text, PGRES_COPY_OUT, deadline: deadline)
        return CopyOutStream(source: SessionSource(connection: self, exchange: exchange))
    }

    /// Runs `COPY … FROM STDIN` with the bytes of `chunks`, which may be cut anywhere.
    ///
    /// A chunk is asked for only when the socket has taken those before.
    ///
    /// - Returns: how many rows were copied.
    /// - Throws: ``ShardError``, or what `chunks` threw; then nothing was copied.
    public func copyIn<Chunks: AsyncSequence & Sendable>(
        _ text: String, from chunks: Chunks, deadline: ContinuousClock.Instant? = nil
    ) async throws -> Int where Chunks.Element == [UInt8] {
        let exchange = try await beginCopy(text, PGRES_COPY_IN, deadline: deadline)
        do {
            for try await chunk in chunks { try await put(chunk, exchange) }
        } catch {
            interrupt(exchange, .cancelled)
            while !exchange.isOver { await waitForSocket(exchange) }
            throw error
        }
        // Sequences end early when their task is cancelled; what they left out must not be missing in the table.
        if Task.isCancelled { interrupt(exchange, .cancelled) }
        if exchange.failure == nil, let handle {
            guard PQputCopyEnd(handle.pointer, nil) == 1 else { throw lostInSession(exchange, handle) }
            flush(handle)
        }
        var rowCount = 0
        while let result = try await nextResult(of: exchange) { rowCount = SQLResult(owning: result).affectedRows }
        return rowCount
    }

    private func put(_ chunk: [UInt8], _ exchange: Exchange) async throws(ShardError) {
        for start in stride(from: 0, to: chunk.count, by: Self.copyBytesPerFlush) {
            guard exchange.failure == nil, let handle else { break }
            let slice = chunk[start..<min(start + Self.copyBytesPerFlush, chunk.count)]
            // libpq's buffer grows without a bound, so it is up to us to wait for the socket.
            let status = slice.withUnsafeBytes { bytes in
                PQputCopyData(
                    handle.pointer, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(bytes.count))
            }
            guard status == 1 else { throw lostInSession(exchange, handle) }
            exchange.unflushedBytes += slice.count
            guard exchange.unflushedBytes >= Self.copyBytesPerFlush else { continue }
            exchange.unflushedBytes = 0
            flush(handle)
            while exchange.failure == nil, !exchange.isOver, interest.contains(.writable) {
                await waitForSocket(exchange) { !interest.contains(.writable) }
            }
        }
        if exchange.failure != nil { _ = try await nextResult(of: exchange) }
    }

    // MARK: Sessions

    private func beginCopy(
        _ text: String, _ direction: ExecStatusType, deadline: ContinuousClock.Instant?
    ) async throws(ShardError) -> Exchange {
        try SQLStatement.check(text: text)
        let exchange = try await beginSession(inPipelineMode: false, deadline: deadline) { connection, _ in
            PQsendQuery(connection, text) == 1
        }
        let result = try await nextResult(of: exchange)
        defer { PQclear(result) }
        guard PQresultStatus(result) == direction else {
            interrupt(exchange, .cancelled)
            let name = direction == PGRES_COPY_IN ? "COPY FROM STDIN" : "COPY TO STDOUT"
            throw ShardError(.invalidUse, "the statement is not \(name)")
        }
        return exchange
    }

    private func beginSession(
        inPipelineMode: Bool, deadline: ContinuousClock.Instant?,
        _ send: (OpaquePointer, inout ParameterBuffer) -> Bool
    ) async throws(ShardError) -> Exchange {
        let exchange = Exchange(.session, deadline: deadline)
        _ = try await perform(exchange)
        guard let handle, exchange.failure == nil else {
            throw exchange.failure ?? ShardError(.closed, "the connection was closed")
        }
        guard handle.setPipelineMode(inPipelineMode), send(handle.pointer, &parameterBuffer) else {
            throw lostInSession(exchange, handle)
        }
        flush(handle)
        return exchange
    }

    private func lostInSession(_ exchange: Exchange, _ handle: LibPQHandle) -> ShardError {
        lost(handle)
        return exchange.failure ?? ShardError(.connectionLost, "the connection was lost", isOutcomeUnknown: true)
    }

    /// The next answer of a session, nil after the last. When there is an error, the connection is free again before it
    /// is thrown.
    private func nextResult(of exchange: Exchange) async throws(ShardError) -> OpaquePointer? {
        while !exchange.isOver {
            guard exchange.failure == nil, let handle else {
                await waitForSocket(exchange)
                continue
            }
            switch handle.takeResult() {
            case .nothing: await waitForSocket(exchange)
            case .end: finish(exchange)
            case .disorder: lost(handle)
            case .result(let result):
                guard PQresultStatus(result) == PGRES_FATAL_ERROR else { return result }
                take(errorOf: result, of: exchange, statementIndex: 0)
                takeResults(handle)
            }
        }
        if let failure = exchange.failure { throw failure }
        return nil
    }

    func nextRows(of exchange: Exchange) async throws(ShardError) -> [SQLRow]? {
        var rows: [SQLRow] = []
        while let result = try await nextResult(of: exchange) {
            guard PQresultStatus(result) == PGRES_SINGLE_TUPLE else {
                PQclear(result)
                continue
            }
            rows.append(contentsOf: SQLResult(owning: result))
            if rows.count >= Exchange.rowsPerBatchMax || handle.map({ PQisBusy($0.pointer) }) == 1 { return rows }
        }
        return rows.isEmpty ? nil : rows
    }

    func nextChunks(of exchange: Exchange) async throws(ShardError) -> [[UInt8]]? {
        var chunks: [[UInt8]] = []
        while exchange.failure == nil, !exchange.isOver, let handle {
            var buffer: UnsafeMutablePointer<CChar>?
            let count = PQgetCopyData(handle.pointer, &buffer, 1)
            guard count >= 0 else { break }
            if let buffer {
                chunks.append(Array(UnsafeRawBufferPointer(start: buffer, count: Int(count))))
                PQfreemem(buffer)
                if chunks.count < Exchange.rowsPerBatchMax { continue }
            }
            guard chunks.isEmpty else { return chunks }
            await waitForSocket(exchange)
        }
        // The data has ended: what follows says whether all is well.
        guard chunks.isEmpty else { return chunks }
        while let result = try await nextResult(of: exchange) { PQclear(result) }
        return nil
    }

    // MARK: Waiting and giving up

    /// Waits for the socket's next event, unless there is no need to. Returns without cause now and then.
    private func waitForSocket(_ exchange: Exchange, unless isReady: () -> Bool = { false }) async {
        await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                // The way here led through the executor's queue, so everything may have changed.
                guard let handle, !exchange.isOver, !isReady() else { return continuation.resume() }
                sessionWaiter = continuation
                watch(handle, for: interest.union(.readable))
            }
        } onCancel: {
            loop.execute { [self] in
                assumeIsolated { $0.interrupt(exchange, .cancelled) }
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
            connection.assumeIsolated { $0.interrupt(exchange, .cancelled) }
        }
    }
}
