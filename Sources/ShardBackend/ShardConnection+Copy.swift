import CLibPQ

extension ShardConnection {
    /// How many bytes of COPY data go to libpq before the socket must have taken them.
    private static let copyBytesPerFlush = 65536

    /// Runs `COPY … TO STDOUT` and hands out what it sends, one chunk per row; see
    /// ``stream(_:after:deadline:patience:)``.
    public func copyOut(
        _ text: String, deadline: ContinuousClock.Instant? = nil, patience: Duration? = nil
    ) async throws(ShardError) -> CopyOutStream {
        let (exchange, format) = try await beginCopy(text, PGRES_COPY_OUT, deadline: deadline, patience: patience)
        return CopyOutStream(source: SessionSource(connection: self, exchange: exchange), format: format)
    }

    /// Runs `COPY … FROM STDIN` and takes its data piece by piece.
    ///
    /// The connection serves nothing else until the copy is finished or dropped; dropping it, ``cancel()``, or
    /// cancelling the task, stops it on the server, and nothing is copied.
    ///
    /// - Parameters:
    ///   - deadline: when the server is told to stop.
    ///   - patience: how long each wait for the server may take before it is told to stop. The time that passes
    ///     between two calls of the sink does not count.
    public func copyIn(
        _ text: String, deadline: ContinuousClock.Instant? = nil, patience: Duration? = nil
    ) async throws(ShardError) -> CopyInSink {
        let (exchange, format) = try await beginCopy(text, PGRES_COPY_IN, deadline: deadline, patience: patience)
        return CopyInSink(source: SessionSource(connection: self, exchange: exchange), format: format)
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
        let sink = try await copyIn(text, deadline: deadline)
        do {
            for try await chunk in chunks { try await sink.write(chunk) }
        } catch {
            await giveUp(sink.source.exchange)
            throw error
        }
        return try await sink.finish().affectedRows
    }

    private func beginCopy(
        _ text: String, _ direction: ExecStatusType, deadline: ContinuousClock.Instant?, patience: Duration?
    ) async throws(ShardError) -> (Exchange, CopyFormat) {
        try SQLStatement.check(text: text)
        let exchange = Exchange(.session, deadline: deadline)
        exchange.patience = patience
        _ = try await perform(exchange)
        guard let handle, exchange.failure == nil else {
            throw exchange.failure ?? ShardError(.closed, "the connection was closed")
        }
        guard handle.setPipelineMode(false), PQsendQuery(handle.pointer, text) == 1 else {
            throw lostInSession(exchange, handle)
        }
        flush(handle)
        let result = try await nextResult(of: exchange)
        defer { PQclear(result) }
        guard let result, PQresultStatus(result) == direction else {
            interrupt(exchange, .cancelled)
            let name = direction == PGRES_COPY_IN ? "COPY FROM STDIN" : "COPY TO STDOUT"
            throw ShardError(.invalidUse, "the statement is not \(name)")
        }
        return (exchange, CopyFormat(result))
    }

    // MARK: In

    func put<Bytes: Collection & Sendable>(
        _ bytes: Bytes, _ exchange: Exchange
    ) async throws(ShardError) where Bytes.Element == UInt8 {
        var rest = bytes[...]
        // The connection of a copy that is over may be in the middle of another one.
        while !rest.isEmpty, exchange.failure == nil, !exchange.isOver, let handle {
            let slice = rest.prefix(Self.copyBytesPerFlush)
            rest = rest.dropFirst(slice.count)
            // libpq's buffer grows without a bound, so it is up to us to wait for the socket.
            let status =
                slice.withContiguousStorageIfAvailable { put(UnsafeRawBufferPointer($0), handle) }
                ?? Array(slice).withUnsafeBytes { put($0, handle) }
            guard status == 1 else { throw lostInSession(exchange, handle) }
            exchange.unflushedBytes += slice.count
            guard exchange.unflushedBytes >= Self.copyBytesPerFlush else { continue }
            exchange.unflushedBytes = 0
            flush(handle)
            while exchange.failure == nil, !exchange.isOver, interest.contains(.writable) {
                await waitForSocket(exchange) { !interest.contains(.writable) }
            }
        }
        if exchange.failure != nil || exchange.isOver { _ = try await nextResult(of: exchange) }
        guard !exchange.isOver else { throw ShardError(.invalidUse, "the data of a COPY has been ended before") }
    }

    private func put(_ bytes: UnsafeRawBufferPointer, _ handle: LibPQHandle) -> Int32 {
        PQputCopyData(handle.pointer, bytes.baseAddress?.assumingMemoryBound(to: CChar.self), Int32(bytes.count))
    }

    /// Ends the data, or when there is a reason, has the server fail for it.
    ///
    /// - Returns: how the copy ended; nil when it had ended before.
    func endData(of exchange: Exchange, reason: String?) async throws(ShardError) -> SQLResult? {
        // Sequences end early when their task is cancelled; what they left out must not be missing in the table.
        if Task.isCancelled { interrupt(exchange, .cancelled) }
        if exchange.failure == nil, !exchange.isOver, let handle {
            guard PQputCopyEnd(handle.pointer, reason) == 1 else { throw lostInSession(exchange, handle) }
            flush(handle)
        }
        var copied: SQLResult?
        while let result = try await nextResult(of: exchange) { copied = SQLResult(owning: result) }
        return copied
    }

    private func giveUp(_ exchange: Exchange) async {
        interrupt(exchange, .cancelled)
        while !exchange.isOver { await waitForSocket(exchange) }
    }

    // MARK: Out

    /// The next data of a COPY TO STDOUT, with the last of it how it ended; nil after that.
    func nextChunks(of exchange: Exchange) async throws(ShardError) -> CopyOutBatch? {
        let chunks = CopyOutBatch.Storage()
        var hasReadAgain = false
        while exchange.failure == nil, !exchange.isOver, let handle {
            var buffer: UnsafeMutablePointer<CChar>?
            let count = PQgetCopyData(handle.pointer, &buffer, 1)
            guard count >= 0 else { break }
            if let buffer {
                chunks.append(UnsafeRawBufferPointer(start: buffer, count: Int(count)))
                hasReadAgain = false
                if !chunks.isFull { continue }
            } else if !hasReadAgain {
                hasReadAgain = true
                _ = readAgain(handle)
                continue
            }
            guard chunks.isEmpty else { return CopyOutBatch(storage: chunks, ending: nil) }
            await waitForSocket(exchange)
            hasReadAgain = true
        }
        // The data has ended: what follows says whether all is well.
        guard chunks.isEmpty else { return CopyOutBatch(storage: chunks, ending: nil) }
        var ending: SQLResult?
        while let result = try await nextResult(of: exchange) { ending = SQLResult(owning: result) }
        return ending.map { CopyOutBatch(storage: chunks, ending: $0) }
    }
}
