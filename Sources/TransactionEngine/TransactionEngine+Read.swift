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
        let now = try present()
        if bound == .strong { return Snapshot(timestamp: try await strongTimestamp(now), engine: self) }
        let timestamp = tracker.readTimestamp(
            for: bound, over: shards ?? self.shards, at: now, closedByPeers: peers.closedByPeers)
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
        if !peers.isClosed(upTo: timestamp) { _ = try await closeAmongPeers(max(timestamp, try present().latest)) }
        tracker.close(upTo: timestamp)
        return Snapshot(timestamp: timestamp, engine: self)
    }

    /// The smallest timestamp that no commit acknowledged by now exceeds, whichever node it was acknowledged by (R9).
    /// Nobody chooses one up to it any more.
    private func strongTimestamp(_ now: TimestampInterval) async throws(TransactionError) -> Timestamp {
        var timestamp = tracker.strongReadTimestamp
        if !peers.isSole {
            // What is acknowledged meanwhile may lie beyond what all have closed, and need not be seen.
            let closed = try await closeAmongPeers(now.latest)
            timestamp = min(closed, tracker.strongReadTimestamp)
        }
        tracker.close(upTo: timestamp)
        return timestamp
    }

    /// The state of the cluster with every commit that is visible on a shard by now, acknowledged or not: whoever has
    /// waited for a lock sees what it waited for.
    public func newestSnapshot() async throws(TransactionError) -> Snapshot {
        // Of peers that are silent or gone, strong reads are to see the newest that they have chosen.
        let newest = peers.isSole ? max(tracker.closed, tracker.strongReadTimestamp) : try present().latest
        return try await snapshot(.at(newest))
    }

    func present() throws(TransactionError) -> TimestampInterval {
        do throws(ClockError) { return try clock.now() } catch { throw error.transactionError }
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
    /// The plain way costs what the statement costs on PostgreSQL alone.
    func read(
        _ statement: ClientStatement, at timestamp: Timestamp, on shard: ShardID
    ) async throws(TransactionError) -> SQLResult {
        if let result = try await readPlainly(statement, at: timestamp, on: shard) { return result }
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

    /// Whether a read of the plain tables that begins now may turn out to have seen the state at `timestamp`, and is
    /// not likely to be done in vain. Returns when the shard's safe time has reached it.
    ///
    /// It is one if nothing is in flight and nothing later has been applied, by then and at the end. While peers
    /// commit, whose timestamps nobody here knows before they are applied, only the end tells.
    func mayBeCurrent(
        _ statement: ClientStatement, at timestamp: Timestamp, on shard: ShardID
    ) async throws(TransactionError) -> Bool {
        if tracker.isCurrent(at: timestamp, on: shard) {
            // Closes the timestamp: a commit that is chosen from here on is a later one, and is noticed at the end.
            _ = tracker.readRequested(at: timestamp, on: shard)
            return true
        }
        guard !peers.isSole else { return false }
        try await reachSafeTime(timestamp, on: shard)
        return tracker.inFlight(on: shard).isEmpty || !statement.isReadableInThePast
    }

    /// Whether such a read, which has its snapshot by now, has seen the state at `timestamp`: what is not there now was
    /// not there then.
    func wasCurrent(at timestamp: Timestamp, on shard: ShardID) async -> Bool {
        if tracker.isCurrent(at: timestamp, on: shard) { return true }
        guard !peers.isSole, let newest = try? await recovery.run([ShardSchema.newestTimestamp], on: shard)[0] else {
            return false
        }
        return Self.isNoLater(newest, than: timestamp)
    }

    private static func isNoLater(_ newest: SQLResult, than timestamp: Timestamp) -> Bool {
        (try? newest[0].int64(0)).map { $0 <= timestamp.rawValue } ?? false
    }

    /// The plain way, where it counts; nil where it does not. While peers are active, the second look goes with it.
    private func readPlainly(
        _ statement: ClientStatement, at timestamp: Timestamp, on shard: ShardID
    ) async throws(TransactionError) -> SQLResult? {
        let wasSole = peers.isSole
        guard try await mayBeCurrent(statement, at: timestamp, on: shard) else { return nil }
        let statements = try await translated([statement.statement], to: shard)
        let results: [SQLResult]
        do throws(TransactionError) {
            results = try await withReader(statement, on: shard) { connection throws(ShardError) in
                try await connection.run(
                    statements + (wasSole ? [] : [ShardSchema.newestTimestamp]),
                    deadline: .now + self.configuration.statementTimeout)
            }
        } catch  where !wasSole && statement.isReadableInThePast {
            // At the timestamp there may be no error.
            return nil
        }
        let isCurrent =
            wasSole
            ? tracker.isCurrent(at: timestamp, on: shard) : Self.isNoLater(results[1], than: timestamp)
        guard isCurrent else { return nil }
        statistics.reads += 1
        return try await translated(results[0], from: shard)
    }

    /// Shards whose tables held, at a moment, the state at a timestamp.
    public struct QuietShards: Sendable {
        let timestamp: Timestamp
        let shards: Set<ShardID>
    }

    /// The shards on which no commit is in flight now; while peers are active, all shards as soon as they have applied
    /// what has been chosen by now.
    public func quietShards() async -> QuietShards {
        if !peers.isSole {
            guard let now = try? present(), let closed = try? await closeAmongPeers(now.latest) else {
                return QuietShards(timestamp: .zero, shards: [])
            }
            var reached: Set<ShardID> = []
            for shard in shards where (try? await reachSafeTime(closed, on: shard)) != nil { reached.insert(shard) }
            return QuietShards(timestamp: closed, shards: reached)
        }
        // Every commit from here on gets a later timestamp.
        let timestamp = tracker.closed
        return QuietShards(
            timestamp: timestamp, shards: Set(shards.filter { tracker.isCurrent(at: timestamp, on: $0) }))
    }

    /// Whether no commit that has become visible since `moment` has changed any of `shards`, and none will have that
    /// the caller's locks don't keep from it.
    public func isQuiet(_ shards: [ShardID], since moment: QuietShards) async -> Bool {
        for shard in shards {
            guard moment.shards.contains(shard), await wasCurrent(at: moment.timestamp, on: shard) else { return false }
        }
        return true
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
        case .preparing, .deciding, .inDoubt: throw Self.undecided(id)
        case nil:
            try checkCanExist(id)
            decision = try await findDecision(of: id)
        }
        guard decision == .commit else { return .aborted }
        try await acknowledge(id)
        return .committed(id.commitTimestamp)
    }

    /// By the home shard's commit log. What a peer may be about to commit is not aborted by asking.
    private func findDecision(of id: TransactionID) async throws(TransactionError) -> Decision {
        let isYoung =
            try present().earliest.nanoseconds(since: id.commitTimestamp)
            < configuration.outcomeTimeout.nanoseconds
        let mayBeUnderWay = isYoung && peers.peerIncarnations.contains(Incarnation(id.node, id.epoch))
        let decision: Decision?
        do throws(ShardError) {
            decision = mayBeUnderWay ? try await recovery.readDecision(of: id) : try await recovery.decide(id).decision
        } catch {
            var failure = TransactionError(error, shard: id.home)
            failure.outcome = .indeterminate(id)
            throw failure
        }
        guard let decision else { throw Self.undecided(id) }
        return decision
    }

    private static func undecided(_ id: TransactionID) -> TransactionError {
        TransactionError(
            .transactionResolutionUnknown, "the outcome of \(id) is not known yet", hint: "ask again", shard: id.home,
            outcome: .indeterminate(id))
    }

    /// Whoever is told that a transaction committed expects to read it, on every node (R9). Peers ask those that are
    /// active, for as long as these are not fenced.
    private func acknowledge(_ id: TransactionID) async throws(TransactionError) {
        tracker.acknowledged(id.commitTimestamp)
        guard id.node != configuration.node, !peers.peerIncarnations.isEmpty else { return }
        try await activate()
        do throws(ShardError) {
            _ = try await recovery.run([ShardSchema.openSession(node: configuration.node, epoch: epoch)], on: id.home)
        } catch {
            throw TransactionError(error, shard: id.home)
        }
    }

    /// Refuses an id that no transaction can have: asking leaves a tombstone, and one in the future would make every
    /// clock look wrong.
    private func checkCanExist(_ id: TransactionID) throws(TransactionError) {
        let newest = max(try present().latest, tracker.closed)
        let isKnown = ([incarnation] + peers.peerIncarnations).contains { $0.node == id.node && id.epoch <= $0.epoch }
        guard isKnown || fencedEpochs.contains(id), id.commitTimestamp <= newest, pools[id.home] != nil else {
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
