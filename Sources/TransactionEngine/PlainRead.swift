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
    private enum State {
        /// No connection yet; nil when it is just being asked for. Next: `sent`, `over`.
        case waiting(ConnectionPool.PendingLease?)
        /// Next: `over`.
        case sent(ShardConnection)
        case over
    }

    private let engine: TransactionEngine
    private let statement: ClientStatement
    private let shard: ShardID
    private let readers: ConnectionPool
    private let completion: (SQLResult?) -> Void
    private var state = State.waiting(nil)

    fileprivate init(
        _ engine: TransactionEngine, _ statement: ClientStatement, _ shard: ShardID, _ readers: ConnectionPool,
        completion: @escaping (SQLResult?) -> Void
    ) {
        (self.engine, self.statement, self.shard, self.readers) = (engine, statement, shard, readers)
        self.completion = completion
    }

    /// Ends it soon, with its rows or without.
    public func cancel() {
        switch state {
        case .waiting(let lease): lease?.cancel()
        case .sent(let connection): connection.assumeIsolated { $0.cancel() }
        case .over: break
        }
    }

    fileprivate func begin() {
        let deadline = ContinuousClock.now + engine.configuration.admissionTimeout
        let lease = readers.assumeIsolated { $0.lease(deadline: deadline) { [self] in leased($0) } }
        if case .waiting = state { state = .waiting(lease) }
    }

    private func leased(_ outcome: Result<ShardConnection, ShardError>) {
        guard case .success(let connection) = outcome else { return end(nil) }
        guard let timestamp = engine.assumeIsolated({ $0.plainReadTimestamp(on: shard) }) else {
            readers.assumeIsolated { $0.giveBack(connection) }
            return end(nil)
        }
        state = .sent(connection)
        let preparation = statement.preparation?(connection) ?? []
        let deadline = ContinuousClock.now + engine.configuration.statementTimeout
        connection.assumeIsolated {
            $0.begin(preparation + [statement.statement], deadline: deadline) { [self] outcome in
                // Nobody knows what a session knows that was told in vain.
                if case .failure = outcome, !preparation.isEmpty { connection.assumeIsolated { $0.close() } }
                readers.assumeIsolated { $0.giveBack(connection) }
                end(engine.assumeIsolated { $0.counted(outcome, at: timestamp, on: shard) })
            }
        }
    }

    private func end(_ result: SQLResult?) {
        state = .over
        completion(result)
    }
}

extension TransactionEngine {
    /// Begins a plain read of `shard`.
    ///
    /// - Parameter completion: is called on the loop, once, maybe before this returns: with the rows, or nil when these
    ///   don't count or there was an error, whatever it was. A ``Snapshot`` tells.
    /// - Returns: nil when a plain read would not count; nothing is called then.
    public func beginPlainRead(
        _ statement: ClientStatement, on shard: ShardID, completion: @escaping @Sendable (SQLResult?) -> Void
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

    fileprivate func counted(
        _ outcome: Result<[SQLResult], ShardError>, at timestamp: Timestamp, on shard: ShardID
    ) -> SQLResult? {
        guard case .success(let results) = outcome, let result = results.last,
            tracker.isCurrent(at: timestamp, on: shard), !needsTranslation(result, from: shard)
        else { return nil }
        statistics.reads += 1
        return result
    }
}
