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

/// Some rows of a stream, where libpq put them. A row keeps its whole batch in memory.
public struct SQLRowBatch: Sendable {
    /// Owns libpq results of one row each. Filled before anyone else sees it, and not changed any more.
    final class Storage: @unchecked Sendable {
        var results: [OpaquePointer] = []

        deinit {
            for result in results { PQclear(result) }
        }
    }

    let storage: Storage
    /// The result without rows that ends the stream, with the command tag; nil while more rows may come.
    public let ending: SQLResult?
    /// What the columns are said to be, where that is not what the server said.
    private var ownFields: [ResultField]?

    init(storage: Storage, ending: SQLResult?) {
        (self.storage, self.ending) = (storage, ending)
    }

    /// What the server says about the columns, the same in every batch; made anew at each call.
    public var fields: [ResultField] {
        ownFields ?? storage.results.first.map { ResultField.all(of: $0) } ?? ending?.fields ?? []
    }

    /// The same rows, with other words about their columns.
    public func described(as fields: [ResultField]) -> SQLRowBatch {
        var copy = SQLRowBatch(storage: storage, ending: ending?.described(as: fields))
        copy.ownFields = fields
        return copy
    }

    /// What PostgreSQL calls the statement, like `SELECT 5`; nil while more rows may come.
    public var commandTag: String? { ending?.commandTag }

    /// Lends the values of all rows as the server sent them.
    public func withRawRows<Value, Failure: Error>(
        _ body: (borrowing RawRows) throws(Failure) -> Value
    ) throws(Failure) -> Value {
        defer { withExtendedLifetime(storage) {} }
        return try storage.results.withUnsafeBufferPointer { (results) throws(Failure) in try body(RawRows(results)) }
    }
}

extension SQLRowBatch: RandomAccessCollection {
    public var startIndex: Int { 0 }
    public var endIndex: Int { storage.results.count }

    public subscript(row: Int) -> SQLRow { SQLRow(owner: storage, result: storage.results[row], row: 0) }
}
