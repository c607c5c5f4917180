import CLibPQ

/// The rows of one statement, as they arrive; see ``ShardConnection/stream(_:after:deadline:patience:)``. To be read
/// once, either row by row or in batches.
public struct SQLRowStream: AsyncSequence, Sendable {
    public typealias Element = SQLRow
    public typealias Failure = ShardError

    let source: SessionSource

    /// The rows that have arrived, once there are any; nil after the batch that has a command tag.
    ///
    /// Every stream that succeeds ends with such a batch, be it without rows. An error comes after the rows that the
    /// server had sent before it.
    public func nextBatch() async throws(ShardError) -> SQLRowBatch? {
        try await source.connection.nextRows(of: source.exchange)
    }

    public struct AsyncIterator: AsyncIteratorProtocol {
        fileprivate let stream: SQLRowStream
        fileprivate var batch: SQLRowBatch?
        fileprivate var position = 0

        public mutating func next() async throws(ShardError) -> SQLRow? {
            try await next(isolation: nil)
        }

        public mutating func next(isolation actor: isolated (any Actor)?) async throws(ShardError) -> SQLRow? {
            while true {
                if let batch, position < batch.count {
                    defer { position += 1 }
                    return batch[position]
                }
                // Before the next one is asked for: the last rows handed out need not be kept meanwhile.
                batch = nil
                guard let next = try await stream.nextBatch() else { return nil }
                (batch, position) = (next, 0)
            }
        }
    }

    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(stream: self) }
}

/// Some rows of a stream. A row keeps its whole batch in memory.
public struct SQLRowBatch: Sendable {
    public let rows: SQLResult
    /// The result without rows that ends the stream, with the command tag; nil while more rows may come.
    public let ending: SQLResult?

    public init(rows: SQLResult, ending: SQLResult?) {
        (self.rows, self.ending) = (rows, ending)
    }

    /// What the server says about the columns, the same in every batch; made anew at each call.
    public var fields: [ResultField] { rows.fields }

    /// What PostgreSQL calls the statement, like `SELECT 5`; nil while more rows may come.
    public var commandTag: String? { ending?.commandTag }
}

extension SQLRowBatch: RandomAccessCollection {
    public var startIndex: Int { 0 }
    public var endIndex: Int { rows.count }

    public subscript(row: Int) -> SQLRow { rows[row] }
}
