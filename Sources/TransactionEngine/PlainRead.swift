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
        /// No connection yet; nil when it is just being asked for. Next: `sent`, `over`.
        case waiting(ConnectionPool.PendingLease?)
        /// Next: `over`.
        case sent(ShardConnection, ShardConnection.BegunRequest)
        case over
    }

    private let engine: TransactionEngine
    private let statement: ClientStatement
    private let shard: ShardID
    private let readers: ConnectionPool
    private let completion: (Outcome) -> Void
    private var state = State.waiting(nil)

    fileprivate init(
        _ engine: TransactionEngine, _ statement: ClientStatement, _ shard: ShardID, _ readers: ConnectionPool,
        completion: @escaping (Outcome) -> Void
    ) {
        (self.engine, self.statement, self.shard, self.readers) = (engine, statement, shard, readers)
        self.completion = completion
    }

    /// Ends it soon, with its rows or without.
    public func cancel() {
        switch state {
        case .waiting(let lease): lease?.cancel()
        case .sent(let connection, let request): connection.onLoop { $0.cancel(request) }
        case .over: break
        }
    }

    fileprivate func begin() {
        let deadline = ContinuousClock.now + engine.configuration.admissionTimeout
        let lease = readers.onLoop { $0.lease(deadline: deadline) { [self] in leased($0) } }
        if case .waiting = state { state = .waiting(lease) }
    }

    private func leased(_ outcome: Result<ShardConnection, ShardError>) {
        let connection: ShardConnection
        switch outcome {
        case .success(let leased): connection = leased
        case .failure(let error): return end(without(error))
        }
        guard let timestamp = engine.onLoop({ $0.plainReadTimestamp(on: shard) }) else {
            readers.onLoop { $0.giveBack(connection) }
            return end(.undone)
        }
        let preparation = statement.preparation?(connection) ?? []
        let deadline = ContinuousClock.now + engine.configuration.statementTimeout
        let request = connection.onLoop {
            $0.begin(preparation + [statement.statement], deadline: deadline) { [self] outcome in
                // Nobody knows what a session knows that was told in vain.
                if case .failure = outcome, !preparation.isEmpty { connection.onLoop { $0.close() } }
                readers.onLoop { $0.giveBack(connection) }
                switch outcome {
                case .success(let results): end(engine.onLoop { $0.counted(results, at: timestamp, on: shard) })
                case .failure(let error): end(without(error))
                }
            }
        }
        if case .waiting = state { state = .sent(connection, request) }
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
    /// Begins a plain read of `shard`.
    ///
    /// - Parameter completion: is called on the loop, once, maybe before this returns.
    /// - Returns: nil when a plain read would not count; nothing is called then.
    public func beginPlainRead(
        _ statement: ClientStatement, on shard: ShardID, completion: @escaping @Sendable (PlainRead.Outcome) -> Void
    ) -> PlainRead? {
        guard tracker.isCurrent(at: tracker.strongReadTimestamp, on: shard), let readers = pools[shard]?.readers else {
            return nil
        }
        let read = PlainRead(self, statement, shard, readers, completion: completion)
        read.begin()
        return read
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
