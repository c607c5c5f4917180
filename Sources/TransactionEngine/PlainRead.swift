import BoundedTime
import EventLoops
import ShardBackend
import TransactionCore
import TwoPhaseCommit

/// A strong read of one shard that runs on the plain tables, as a ``Snapshot``'s does while nothing is in flight there
/// (R8, R10), for who is on the loop and would be called rather than wait: a task costs more than a small read.
///
/// It counts only if nothing was in flight when it was sent and no commit came until it was answered. Confined to the
/// engine's loop.
public final class PlainRead: @unchecked Sendable {
    /// How it ended.
    public enum Outcome: Sendable {
        case rows(SQLResult)
        /// It doesn't count, or there was an error that comes again: a ``Snapshot`` tells.
        case undone
        /// So long was waited that nobody would wait for a second time.
        case failed(TransactionError)
    }

    private enum State {
        /// Next: `waiting`, `sent`, `over`.
        case new
        /// In line for a connection; nil while it is just being put there. Next: `sent`, `over`.
        case waiting(ConnectionPool.PendingLease?)
        /// Next: `over`.
        case sent(ShardConnection, ShardConnection.BegunRequest)
        case over
    }

    private let engine: TransactionEngine
    private let statement: SQLStatement
    private let preparation: SessionPreparation
    private let shard: ShardID
    private let readers: ConnectionPool
    private let completion: (Outcome) -> Void
    private var state = State.new

    fileprivate init(
        _ engine: TransactionEngine, _ statement: SQLStatement, _ preparation: @escaping SessionPreparation,
        _ shard: ShardID, _ readers: ConnectionPool, completion: @escaping (Outcome) -> Void
    ) {
        (self.engine, self.statement, self.shard, self.readers) = (engine, statement, shard, readers)
        (self.preparation, self.completion) = (preparation, completion)
    }

    /// Ends it soon, with its rows or without.
    public func cancel() {
        switch state {
        case .new: break
        case .waiting(let lease): lease?.cancel()
        case .sent(let connection, let request): connection.onLoop { $0.cancel(request) }
        case .over: break
        }
    }

    /// Begins it. Its completion is called on the loop, once, maybe before this returns.
    public func begin() {
        if let connection = readers.onLoop({ $0.leaseIdle() }) { return send(on: connection) }
        guard engine.onLoop({ $0.countsPlainRead(on: shard) }) else { return end(.undone) }
        state = .waiting(nil)
        let deadline = ContinuousClock.now + engine.configuration.admissionTimeout
        let lease = readers.onLoop { readers in
            readers.lease(deadline: deadline) { [self] outcome in
                switch outcome {
                case .success(let connection): send(on: connection)
                case .failure(let error): end(without(error))
                }
            }
        }
        if case .waiting = state { state = .waiting(lease) }
    }

    private func send(on connection: ShardConnection) {
        guard let timestamp = engine.onLoop({ $0.plainReadTimestamp(on: shard) }) else {
            readers.onLoop { $0.giveBack(connection) }
            return end(.undone)
        }
        let preparation = preparation(connection)
        let deadline = ContinuousClock.now + engine.configuration.statementTimeout
        let request = connection.onLoop {
            $0.begin(preparation + [statement], deadline: deadline) { [self] outcome in
                // Nobody knows what a session knows that was told in vain.
                if case .failure = outcome, !preparation.isEmpty { connection.onLoop { $0.close() } }
                readers.onLoop { $0.giveBack(connection) }
                switch outcome {
                case .success(let results): end(engine.onLoop { $0.counted(results, at: timestamp, on: shard) })
                case .failure(let error): end(without(error))
                }
            }
        }
        if case .over = state { return }
        state = .sent(connection, request)
    }

    private func without(_ error: ShardError) -> Outcome {
        switch error.kind {
        case .timedOut, .poolWaitTimedOut: .failed(TransactionError(error, shard: shard))
        default: .undone
        }
    }

    private func end(_ outcome: Outcome) {
        state = .over
        completion(outcome)
    }
}

extension TransactionEngine {
    /// A plain read of `shard`, which is yet to begin; nil when there is no such shard, and for parameters whose types
    /// may have other numbers there.
    ///
    /// - Parameter preparation: what the session is told first.
    public func plainRead(
        of statement: SQLStatement, on shard: ShardID, preparing preparation: @escaping SessionPreparation,
        completion: @escaping @Sendable (PlainRead.Outcome) -> Void
    ) -> PlainRead? {
        guard let readers = pools[shard]?.readers,
            shard == shards[0] || !statement.parameterTypes.contains(where: Self.needsLook)
        else { return nil }
        return PlainRead(self, statement, preparation, shard, readers, completion: completion)
    }

    /// Whether a plain read that was sent now would count.
    fileprivate func countsPlainRead(on shard: ShardID) -> Bool {
        tracker.isCurrent(at: tracker.strongReadTimestamp, on: shard)
    }

    /// The timestamp of a plain read that is sent now; nil when it would not count.
    fileprivate func plainReadTimestamp(on shard: ShardID) -> Timestamp? {
        let timestamp = tracker.strongReadTimestamp
        // A clock that can't be trusted is the snapshot's to refuse.
        guard tracker.isCurrent(at: timestamp, on: shard), (try? clock.now()) != nil else { return nil }
        // Closes the timestamp: a commit that is chosen from here on is a later one, and is noticed at the end.
        _ = tracker.readRequested(at: timestamp, on: shard)
        return timestamp
    }

    fileprivate func counted(_ results: [SQLResult], at timestamp: Timestamp, on shard: ShardID) -> PlainRead.Outcome {
        guard let result = results.last, tracker.isCurrent(at: timestamp, on: shard),
            !needsTranslation(result, from: shard)
        else { return .undone }
        statistics.reads += 1
        statistics.plainReads += 1
        return .rows(result)
    }
}
