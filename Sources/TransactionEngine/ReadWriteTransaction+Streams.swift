import ShardBackend
import TransactionCore

/// Statements of a transaction whose rows or data go through piece by piece.
///
/// Each is under way until it has been read to its end. Letting go of one before stops it on the server, by which the
/// transaction has failed.
extension ReadWriteTransaction {
    /// Runs a statement that locks what it reads, and hands its rows on as they arrive.
    ///
    /// - Parameters:
    ///   - locks: what is run before it, in the same round trip.
    ///   - isWrite: it writes, too.
    public func stream(
        _ statement: SQLStatement, after locks: [SQLStatement], on shard: ShardID, isWrite: Bool = false
    ) async throws(TransactionError) -> ShardStream<SQLRowStream> {
        let (engine, patience) = (engine, engine.configuration.statementTimeout)
        let statement = try await engine.translated([statement], to: shard)[0]
        let translation = engine.translation(from: shard)
        let tenure = try tenure()
        return try await perform(on: shard, isWrite: isWrite) { session, prologue throws(TransactionError) in
            let rows: SQLRowStream
            do throws(ShardError) {
                rows = try await session.connection.stream(statement, after: prologue + locks, patience: patience)
            } catch {
                throw tenure.failed(TransactionError(error, shard: shard))
            }
            return try await ShardStream(rows, from: shard, on: engine.loop, tenure: tenure, translation)
        }
    }

    /// Runs `COPY … TO STDOUT` after locks on what it reads, and hands its data on as it arrives.
    public func copyOut(
        _ text: String, after locks: [SQLStatement], on shard: ShardID
    ) async throws(TransactionError) -> ShardStream<CopyOutStream> {
        let (engine, patience) = (engine, engine.configuration.statementTimeout)
        let tenure = try tenure()
        return try await perform(on: shard, isWrite: false) { session, prologue throws(TransactionError) in
            let data: CopyOutStream
            do throws(ShardError) {
                try await session.run(prologue + locks, within: patience)
                data = try await session.connection.copyOut(text, patience: patience)
            } catch {
                throw tenure.failed(TransactionError(error, shard: shard))
            }
            return try await ShardStream(data, from: shard, on: engine.loop, tenure: tenure)
        }
    }

    /// Begins `COPY … FROM STDIN`, after locks, and takes its data piece by piece.
    ///
    /// - Parameter isWrite: false for a table that is the pinned session's own.
    public func copyIn(
        _ text: String, after locks: [SQLStatement], on shard: ShardID, isWrite: Bool = true
    ) async throws(TransactionError) -> ShardCopy {
        let patience = engine.configuration.statementTimeout
        let tenure = try tenure()
        return try await perform(on: shard, isWrite: isWrite) { session, prologue throws(TransactionError) in
            do throws(ShardError) {
                try await session.run(prologue + locks, within: patience)
                let sink = try await session.connection.copyIn(text, patience: patience)
                return ShardCopy(sink, to: shard, tenure)
            } catch {
                throw tenure.failed(TransactionError(error, shard: shard))
            }
        }
    }

    /// A statement is under way for as long as a stream holds this.
    private func tenure() throws(TransactionError) -> StreamTenure {
        try statementBegins()
        let request = engine.onLoop { $0.requestBegan() }
        let rollbacks = rollbackCount
        return StreamTenure { end in
            switch end {
            case .complete: return self.streamEnded(request, nil)
            case .failed(let error): return self.streamEnded(request, error)
            case .abandoned:
                let stopped = TransactionError(.queryCanceled, "the rest of a statement's rows was given up")
                self.engine.loop.execute {
                    // A rollback to a savepoint may have been begun meanwhile, which undoes the statement.
                    let isUndone = self.onLoop { $0.rollbackCount > rollbacks }
                    self.streamEnded(request, isUndone ? nil : stopped)
                }
                return nil
            }
        }
    }

    /// Called on the loop; returns why it failed, if it did.
    @discardableResult
    private nonisolated func streamEnded(
        _ request: Admission.Request, _ error: TransactionError?
    ) -> TransactionError? {
        engine.onLoop { $0.requestEnded(request) }
        return onLoop { transaction in
            guard let error else {
                transaction.statementEnded()
                return nil
            }
            return transaction.statementFailed(error)
        }
    }
}

extension ReadWriteTransaction.Session {
    fileprivate func run(_ statements: [SQLStatement], within duration: Duration) async throws(ShardError) {
        guard !statements.isEmpty else { return }
        _ = try await connection.run(statements, deadline: .now + duration)
    }
}

/// Takes the data of one shard's part of a COPY FROM STDIN. For one task at a time; letting go of it before its end
/// gives the copy up, by which the transaction has failed.
public final class ShardCopy: Sendable {
    public let shard: ShardID
    private let sink: CopyInSink
    private let tenure: StreamTenure

    init(_ sink: CopyInSink, to shard: ShardID, _ tenure: StreamTenure) {
        (self.sink, self.shard, self.tenure) = (sink, shard, tenure)
    }

    /// The data is in PostgreSQL's binary COPY format, and not text or CSV; and so many columns are copied.
    public var format: CopyFormat { sink.format }

    /// Sends bytes, which may be cut anywhere, and returns when more are welcome.
    public func write(_ bytes: [UInt8]) async throws(TransactionError) {
        do throws(ShardError) {
            try await sink.write(bytes)
        } catch {
            throw tenure.failed(TransactionError(error, shard: shard))
        }
    }

    /// Ends the data.
    ///
    /// - Returns: how many rows were copied.
    public func finish() async throws(TransactionError) -> Int {
        do throws(ShardError) {
            let rows = try await sink.finish().affectedRows
            tenure.end(.complete)
            return rows
        } catch {
            throw tenure.failed(TransactionError(error, shard: shard))
        }
    }

    /// Has the server give the copy up; returns its error, which repeats the reason.
    public func fail(_ reason: String) async -> TransactionError {
        tenure.failed(TransactionError(await sink.fail(reason), shard: shard))
    }
}
