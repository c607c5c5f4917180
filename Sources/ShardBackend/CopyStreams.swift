import CLibPQ

/// How the data of a COPY is written, as CopyInResponse and CopyOutResponse say.
public struct CopyFormat: Hashable, Sendable {
    /// The data is in PostgreSQL's binary COPY format, and not text or CSV.
    public let isBinary: Bool
    /// The format of each column.
    public let columnFormats: [SQLStatement.Format]

    init(_ result: OpaquePointer) {
        isBinary = PQbinaryTuples(result) == 1
        columnFormats = (0..<PQnfields(result)).map { PQfformat(result, $0) == 1 ? .binary : .text }
    }
}

/// Takes the data of one COPY FROM STDIN; see ``ShardConnection/copyIn(_:deadline:patience:)``. For one task at a time.
public struct CopyInSink: Sendable {
    let source: SessionSource
    public let format: CopyFormat

    /// Sends bytes, which may be cut anywhere, and returns when more are welcome.
    ///
    /// - Throws: also what was wrong with earlier data, as soon as it is known.
    public func write<Bytes: Collection & Sendable>(
        _ bytes: Bytes
    ) async throws(ShardError) where Bytes.Element == UInt8 {
        try await source.connection.put(bytes, source.exchange)
    }

    /// Ends the data. The result has the command tag, like `COPY 5`; nothing is copied when an error is thrown.
    public func finish() async throws(ShardError) -> SQLResult {
        guard let result = try await source.connection.endData(of: source.exchange, reason: nil) else {
            throw ShardError(.invalidUse, "the data of a COPY has been ended before")
        }
        return result
    }

    /// Has the server give the copy up, for a reason that its error repeats.
    ///
    /// - Returns: that error, or what had gone wrong before.
    public func fail(_ reason: String) async -> ShardError {
        do throws(ShardError) {
            _ = try await source.connection.endData(of: source.exchange, reason: reason)
            return ShardError(.invalidUse, "the data of a COPY has been ended before")
        } catch {
            return error
        }
    }
}

/// The data of one COPY TO STDOUT, as it arrives; see ``ShardConnection/copyOut(_:deadline:patience:)``. To be read
/// once, either chunk by chunk or in batches.
public struct CopyOutStream: AsyncSequence, Sendable {
    public typealias Element = [UInt8]
    public typealias Failure = ShardError

    let source: SessionSource
    public let format: CopyFormat

    /// The chunks that have arrived, once there are any; nil after the batch that has a command tag.
    public func nextBatch() async throws(ShardError) -> CopyOutBatch? {
        try await source.connection.nextChunks(of: source.exchange)
    }

    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let stream: CopyOutStream
        fileprivate var batch: CopyOutBatch?
        fileprivate var position = 0

        public mutating func next() async throws(ShardError) -> [UInt8]? {
            try await next(isolation: nil)
        }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(ShardError) -> [UInt8]? {
            while true {
                if let batch, position < batch.count {
                    defer { position += 1 }
                    return batch.withBytes(position) { Array($0) }
                }
                batch = nil
                guard let next = try await stream.nextBatch() else { return nil }
                (batch, position) = (next, 0)
            }
        }
    }

    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(stream: self) }
}

/// Some data of a COPY TO STDOUT, in the chunks that the server sent: one row each, in text or CSV.
public struct CopyOutBatch: Sendable {
    /// Owns memory of libpq's. Filled before anyone else sees it, and not changed any more.
    final class Storage: @unchecked Sendable {
        private(set) var chunks: [UnsafeRawBufferPointer] = []
        private var byteCount = 0

        var isEmpty: Bool { chunks.isEmpty }

        /// As many rows are enough as of a statement.
        var isFull: Bool { byteCount >= PackedRows.bytesMax || chunks.count >= PackedRows.rowsMax }

        func append(_ chunk: UnsafeRawBufferPointer) {
            chunks.append(chunk)
            byteCount += chunk.count
        }

        deinit {
            for chunk in chunks { PQfreemem(UnsafeMutableRawPointer(mutating: chunk.baseAddress)) }
        }
    }

    let storage: Storage
    /// The result without data that ends the copy, with the command tag; nil while more data may come.
    public let ending: SQLResult?

    /// How many chunks there are.
    public var count: Int { storage.chunks.count }

    /// What PostgreSQL calls the statement, like `COPY 5`; nil while more data may come.
    public var commandTag: String? { ending?.commandTag }

    /// Lends a chunk, valid within `body` only.
    public func withBytes<Value, Failure: Error>(
        _ chunk: Int, _ body: (UnsafeRawBufferPointer) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        defer { withExtendedLifetime(storage) {} }
        return try body(storage.chunks[chunk])
    }
}
