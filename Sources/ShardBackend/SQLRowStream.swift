/// The rows of one statement, as they arrive; see ``ShardConnection/stream(_:deadline:)``. To be iterated once.
public struct SQLRowStream: AsyncSequence, Sendable {
    public typealias Element = SQLRow
    public typealias Failure = ShardError

    let source: SessionSource

    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let source: SessionSource
        fileprivate var batch: ArraySlice<SQLRow> = []

        public mutating func next() async throws(ShardError) -> SQLRow? {
            try await next(isolation: nil)
        }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(ShardError) -> SQLRow? {
            if batch.isEmpty {
                guard let rows = try await source.connection.nextRows(of: source.exchange) else { return nil }
                batch = rows[...]
            }
            return batch.popFirst()
        }
    }

    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(source: source) }
}

/// The data of one COPY TO STDOUT, as it arrives; see ``ShardConnection/copyOut(_:deadline:)``. To be iterated once.
public struct CopyOutStream: AsyncSequence, Sendable {
    public typealias Element = [UInt8]
    public typealias Failure = ShardError

    let source: SessionSource

    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let source: SessionSource
        fileprivate var batch: ArraySlice<[UInt8]> = []

        public mutating func next() async throws(ShardError) -> [UInt8]? {
            try await next(isolation: nil)
        }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(ShardError) -> [UInt8]? {
            if batch.isEmpty {
                guard let chunks = try await source.connection.nextChunks(of: source.exchange) else { return nil }
                batch = chunks[...]
            }
            return batch.popFirst()
        }
    }

    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(source: source) }
}
