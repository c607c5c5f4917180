import BoundedTime
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Reads at a timestamp, lock-free (DESIGN section 5).
extension TransactionEngine {
    /// The state of the cluster as fresh as `bound` asks.
    ///
    /// - Parameter shards: where `bound` leaves a choice, the newest state that needs no waiting on these shards; nil
    ///   is all.
    /// - Throws: ``TransactionError`` when the clock can't be trusted or the timestamp lies too far ahead.
    public func snapshot(
        _ bound: ReadBound = .strong, over shards: [ShardID]? = nil
    ) async throws(TransactionError) -> Snapshot {
        let now: TimestampInterval
        do throws(ClockError) {
            now = try clock.now()
        } catch {
            throw error.transactionError
        }
        let timestamp = tracker.readTimestamp(for: bound, over: shards ?? self.shards, at: now)
        // Whatever was acknowledged or read at before has passed. Any other timestamp must pass first: no commit of a
        // later engine, which can't know of this read, is given a timestamp that has passed.
        if timestamp > tracker.strongReadTimestamp, !now.isAfter(timestamp) {
            let limit = now.latest.advanced(byNanoseconds: configuration.readAheadMax.nanoseconds)
            guard timestamp <= limit else {
                throw TransactionError(
                    .invalidParameterValue, "the read timestamp \(timestamp) lies too far in the future",
                    detail: "it is \(now.latest) now",
                    hint: "read at most \(configuration.readAheadMax) ahead; timestamps are nanoseconds since 1970")
            }
            try await waitOut(timestamp)
        }
        return Snapshot(timestamp: timestamp, engine: self)
    }

    /// The state of the cluster with every commit that has been given its timestamp by now, acknowledged or not:
    /// whoever has waited for a lock sees what it waited for.
    public func newestSnapshot() async throws(TransactionError) -> Snapshot {
        try await snapshot(.at(tracker.closed))
    }

    /// Runs `statement` on `shard` at `timestamp`, once the shard's safe time has reached it (R8, R10).
    func read(
        _ statement: SQLStatement, in schema: String, at timestamp: Timestamp, on shard: ShardID
    ) async throws(TransactionError) -> SQLResult {
        guard let pools = pools[shard] else { throw Self.unknownShard(shard) }
        try await reachSafeTime(timestamp, on: shard)
        statistics.reads += 1
        do throws(ShardError) {
            let connection = try await pools.readers.lease(deadline: .now + configuration.admissionTimeout)
            do throws(ShardError) {
                let prologue = ShardSchema.readPrologue(at: timestamp, schemas: [schema])
                let statements = prologue + [statement, Statement.commit]
                let deadline = ContinuousClock.now + configuration.statementTimeout
                let results = try await connection.run(statements, deadline: deadline)
                await pools.readers.giveBack(connection)
                return results[results.count - 2]
            } catch {
                _ = try? await connection.run([Statement.rollback], deadline: .now + .seconds(1))
                await pools.readers.giveBack(connection)
                throw error
            }
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }

    /// Runs a client's `statement` on `shard` at `timestamp` (R8, R10): on the plain tables while these are the state
    /// at the timestamp, else through the as-of views.
    ///
    /// The plain way costs what the statement costs on PostgreSQL alone. It is taken when nothing is in flight on the
    /// shard and nothing later has been applied, and its answer counts only if that still holds then
    /// (``SafeTimeTracker/isCurrent(at:on:)``).
    func read(
        _ statement: ClientStatement, at timestamp: Timestamp, on shard: ShardID
    ) async throws(TransactionError) -> SQLResult {
        if tracker.isCurrent(at: timestamp, on: shard) {
            // Closes the timestamp: a commit that is chosen from here on is a later one, and is noticed below.
            _ = tracker.readRequested(at: timestamp, on: shard)
            let result = try await evaluate(statement, on: shard)
            if tracker.isCurrent(at: timestamp, on: shard) {
                statistics.reads += 1
                return result
            }
        }
        guard statement.isReadableInThePast else { throw Self.notReadableInThePast(shard) }
        let asOf = try await translated([statement.asOf.statement], to: shard)
        try await reachSafeTime(timestamp, on: shard)
        statistics.reads += 1
        statistics.readsOfThePast += 1
        let prologue = ShardSchema.readPrologue(
            at: timestamp, schemas: statement.searchPath, tables: statement.tables)
        let deadline = ContinuousClock.now + configuration.statementTimeout
        let result = try await withReader(statement, on: shard) { connection throws(ShardError) in
            do throws(ShardError) {
                let statements = prologue + asOf + [Statement.commit]
                return try await connection.run(statements, deadline: deadline)[prologue.count]
            } catch {
                _ = try? await connection.run([Statement.rollback], deadline: .now + .seconds(1))
                throw error
            }
        }
        return try await translated(result, from: shard)
    }

    /// Shards on which nothing was in flight at a moment.
    public struct QuietShards: Sendable {
        let timestamp: Timestamp
        let shards: Set<ShardID>
    }

    /// The shards on which no commit is in flight now; what their tables hold is the state of now.
    public func quietShards() -> QuietShards {
        // Every commit from here on gets a later timestamp.
        let timestamp = tracker.closed
        return QuietShards(
            timestamp: timestamp, shards: Set(shards.filter { tracker.isCurrent(at: timestamp, on: $0) }))
    }

    /// Whether no commit has changed any of `shards` since `moment`, nor is about to.
    public func isQuiet(_ shards: [ShardID], since moment: QuietShards) -> Bool {
        shards.allSatisfy { moment.shards.contains($0) && tracker.isCurrent(at: moment.timestamp, on: $0) }
    }

    /// Tells a pooled session what it must know first; closes it if that fails, since nobody knows then what it knows.
    private func prepare(
        _ connection: ShardConnection, by preparation: SessionPreparation?
    ) async throws(ShardError) {
        guard let statements = preparation?(connection), !statements.isEmpty else { return }
        do throws(ShardError) {
            _ = try await connection.run(statements, deadline: .now + configuration.statementTimeout)
        } catch {
            await connection.close()
            throw error
        }
    }

    func prepare(
        _ connection: ShardConnection, by preparation: SessionPreparation?, for shard: ShardID
    ) async throws(TransactionError) {
        do throws(ShardError) {
            try await prepare(connection, by: preparation)
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }

    static func notReadableInThePast(_ shard: ShardID) -> TransactionError {
        TransactionError(
            .serializationFailure, "the tables changed while a view or function of yours was reading them",
            detail: "what it reads can't be read at a timestamp", hint: "run the transaction again", shard: shard)
    }

    func reachSafeTime(_ timestamp: Timestamp, on shard: ShardID) async throws(TransactionError) {
        guard case .wait(let waiter) = tracker.readRequested(at: timestamp, on: shard) else { return }
        statistics.readsThatWaited += 1
        let place = waits.begin()
        readWaiters[waiter] = place
        let end = await wait(place, for: configuration.safeTimeTimeout)
        guard end != .granted else { return }
        tracker.readCancelled(waiter, on: shard)
        readWaiters[waiter] = nil
        guard end == .expired else { throw Self.cancelled }
        let blocking = tracker.inFlight(on: shard).first.map(String.init) ?? "none"
        throw TransactionError(
            .lockNotAvailable,
            "the read at \(timestamp) waited \(configuration.safeTimeTimeout) for transactions before it",
            detail: "the first of them has the commit timestamp \(blocking) and is not applied on the shard yet",
            hint: "see whether all shards of that transaction are reachable, or read at an older timestamp",
            shard: shard)
    }

    /// What became of a transaction whose outcome was unknown (R5).
    ///
    /// A transaction that nobody coordinates any more and that had not been decided is aborted by asking.
    ///
    /// - Throws: ``TransactionError`` with outcome ``TransactionOutcome/indeterminate(_:)`` while it can't be known.
    public func outcome(of id: TransactionID) async throws(TransactionError) -> TransactionOutcome {
        let decision: Decision
        switch live[id]?.coordinator.state {
        case .settling(let known, _, _), .finished(let known): decision = known
        case .preparing, .deciding, .inDoubt:
            throw TransactionError(
                .transactionResolutionUnknown, "the outcome of \(id) is not known yet", hint: "ask again",
                shard: id.home, outcome: .indeterminate(id))
        case nil:
            try checkCanExist(id)
            do throws(ShardError) {
                decision = try await recovery.decide(id).decision
            } catch {
                var failure = TransactionError(error, shard: id.home)
                failure.outcome = .indeterminate(id)
                throw failure
            }
        }
        guard decision == .commit else { return .aborted }
        // Whoever has been told that it committed expects to read it (R9).
        tracker.acknowledged(id.commitTimestamp)
        return .committed(id.commitTimestamp)
    }

    /// Refuses an id that no transaction can have: asking leaves a tombstone, and one in the future would make every
    /// clock look wrong.
    private func checkCanExist(_ id: TransactionID) throws(TransactionError) {
        let newest: Timestamp
        do throws(ClockError) {
            newest = max(try clock.now().latest, tracker.closed)
        } catch {
            throw error.transactionError
        }
        guard id.epoch <= epoch, id.commitTimestamp <= newest, pools[id.home] != nil else {
            throw TransactionError(
                .undefinedObject, "there was no transaction \(id)", hint: "see whether the gid is complete")
        }
    }

    /// Runs one read-only statement on `shard` as it is now, outside every transaction order: for looking at what
    /// Meridian itself keeps there. Reading a client's tables this way breaks R10.
    public func inspect(_ statement: SQLStatement, on shard: ShardID) async throws(TransactionError) -> SQLResult {
        do throws(ShardError) {
            return try await recovery.run([statement], on: shard)[0]
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }
}

/// What sessions ask of a server besides reading tables.
extension TransactionEngine {
    /// Runs what reads no table, or only a server's own catalogs, with the client's settings.
    public func evaluate(
        _ statement: ClientStatement, on shard: ShardID? = nil
    ) async throws(TransactionError) -> SQLResult {
        let shard = shard ?? shards[0]
        let translated = try await translated([statement.statement], to: shard)
        let result = try await withReader(statement, on: shard) { connection throws(ShardError) in
            try await connection.run(translated[0], deadline: .now + self.configuration.statementTimeout)
        }
        return try await self.translated(result, from: shard)
    }

    /// What a statement takes and returns.
    public func describe(_ statement: ClientStatement) async throws(TransactionError) -> StatementDescription {
        try await withReader(statement, on: shards[0]) { connection throws(ShardError) in
            try await connection.describe(
                statement.statement, deadline: .now + self.configuration.statementTimeout)
        }
    }

    func withReader<Result: Sendable>(
        _ statement: ClientStatement, on shard: ShardID,
        _ body: (ShardConnection) async throws(ShardError) -> Result
    ) async throws(TransactionError) -> Result {
        guard let pools = pools[shard] else { throw Self.unknownShard(shard) }
        do throws(ShardError) {
            let connection = try await pools.readers.lease(deadline: .now + configuration.admissionTimeout)
            do throws(ShardError) {
                try await prepare(connection, by: statement.preparation)
                let result = try await body(connection)
                await pools.readers.giveBack(connection)
                return result
            } catch {
                await pools.readers.giveBack(connection)
                throw error
            }
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }
}
