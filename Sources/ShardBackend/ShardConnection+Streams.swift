import CLibPQ

extension ShardConnection {
    /// Runs a statement and hands out its rows as they arrive, however many there are, in little memory.
    ///
    /// Rows are read from the socket only as they are consumed. The connection serves nothing else until the stream is
    /// read to its end or dropped; dropping it early, ``cancel()``, or cancelling the task, stops the statement on the
    /// server.
    ///
    /// - Parameters:
    ///   - prefix: statements that are run before it in the same pipeline, such as BEGIN; their results are dropped,
    ///     and their errors are the stream's.
    ///   - deadline: when the server is told to stop, rows taken or not.
    ///   - patience: how long each wait for the server may take before it is told to stop. The time that the rows
    ///     taken are in use for does not count.
    /// - Returns: the rows; what may go wrong on the server is thrown when they are read. The
    ///   ``ShardError/statementIndex`` counts the prefix too.
    public func stream(
        _ statement: SQLStatement, after prefix: [SQLStatement] = [], deadline: ContinuousClock.Instant? = nil,
        patience: Duration? = nil
    ) async throws(ShardError) -> SQLRowStream {
        let statements = prefix + [statement]
        for (index, statement) in statements.enumerated() { try statement.check(index: index) }
        let exchange = Exchange(.stream(statements), deadline: deadline)
        exchange.patience = patience
        exchange.isFirstWork = transactionStatus == .idle
        _ = try await perform(exchange)
        return SQLRowStream(source: SessionSource(connection: self, exchange: exchange))
    }

    /// The next rows of a stream, with the last of them how the statement ended; nil after that.
    func nextRows(of exchange: Exchange) async throws(ShardError) -> SQLRowBatch? {
        var rows: SQLResult?
        do throws(ShardError) {
            while let result = try await nextResult(of: exchange) {
                exchange.isFirstWork = false
                let begun = SQLResult(packingRowOf: result)
                rows = begun
                if let packed = begun.storage.packed, gather(into: packed, of: exchange) {
                    return SQLRowBatch(rows: begun, ending: nil)
                }
            }
        } catch {
            // The rows before the error come first; it is thrown to who asks for more.
            if let rows { return SQLRowBatch(rows: rows, ending: nil) }
            guard exchange.isFirstWork, exchange.isRepeatable(after: error) else { throw error }
            exchange.isFirstWork = false
            exchange.reset()
            _ = try await perform(exchange)
            return try await nextRows(of: exchange)
        }
        let ending = exchange.results.popLast()
        exchange.results = []
        return ending.map { SQLRowBatch(rows: rows ?? $0, ending: $0) }
    }

    /// Takes the rows that have arrived, without a suspension for each.
    ///
    /// - Returns: false when no more will come.
    private func gather(into rows: PackedRows, of exchange: Exchange) -> Bool {
        while case .nothing = arrivedResult(of: exchange, orAddTo: rows) {
            guard exchange.failure == nil, let handle else { return false }
            if rows.isFull || !readAgain(handle) { return true }
        }
        return false
    }
}
