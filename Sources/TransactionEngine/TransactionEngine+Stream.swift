import EventLoops
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Reads at a timestamp whose rows are handed on as they arrive (DESIGN section 5).
extension TransactionEngine {
    /// Runs a client's `statement` on `shards` at `timestamp` (R8, R10), all at once; the streams stand in the order of
    /// `shards`.
    ///
    /// Sessions are taken in that order, so that two reads don't wait for each other's.
    func streams(
        of statement: ClientStatement, at timestamp: Timestamp, on shards: [ShardID]
    ) async throws(TransactionError) -> [ShardStream<SQLRowStream>] {
        try await onLeases(of: shards, for: statement) { lease throws(TransactionError) in
            try await self.stream(statement, at: timestamp, lease)
        }
    }

    /// Has what COPY TO STDOUT sends on `shards` at `timestamp`, likewise.
    ///
    /// - Parameter text: makes the COPY of a query's text and the shard's place in `shards`.
    func copiesOut(
        of query: ClientStatement, at timestamp: Timestamp, on shards: [ShardID],
        _ text: @escaping @Sendable (_ query: String, _ place: Int) -> String
    ) async throws(TransactionError) -> [ShardStream<CopyOutStream>] {
        try await onLeases(of: shards, for: query) { lease throws(TransactionError) in
            let place = shards.firstIndex(of: lease.shard)!
            return try await self.copyOut(query, at: timestamp, lease) { text($0, place) }
        }
    }

    /// Opens streams of all shards at once, or if that leads to a deadlock, one after the other.
    ///
    /// A stream has a lock on its tables that TRUNCATE and changes of the schema wait for, and may wait for one of
    /// theirs on another shard. Whoever locks tables on several shards does so in their order: a read that does so,
    /// too, is in nobody's way.
    private func onLeases<Value: Sendable>(
        of shards: [ShardID], for statement: ClientStatement,
        _ open: @escaping @Sendable (StreamLease) async throws(TransactionError) -> Value
    ) async throws(TransactionError) -> [Value] {
        if shards.count > 1, let opened = try await atOnce(shards, statement, open) { return opened }
        var opened: [Value] = []
        for shard in shards { opened.append(try await open(try await leaseForStream(on: shard, statement, of: nil))) }
        return opened
    }

    /// Nil when waiting would not have ended.
    private func atOnce<Value: Sendable>(
        _ shards: [ShardID], _ statement: ClientStatement,
        _ open: @escaping @Sendable (StreamLease) async throws(TransactionError) -> Value
    ) async throws(TransactionError) -> [Value]? {
        let read = StreamedRead(engine: self, number: nextNumber())
        var leases: [ShardID: StreamLease] = [:]
        for shard in shards { leases[shard] = try await leaseForStream(on: shard, statement, of: read) }
        let taken = leases
        do throws(TransactionError) {
            let opened = try await onEach(shards) { shard throws(TransactionError) in try await open(taken[shard]!) }
            await read.opened()
            return opened
        } catch {
            guard await read.isCalledOff else { throw error }
            return nil
        }
    }

    private func leaseForStream(
        on shard: ShardID, _ statement: ClientStatement, of read: StreamedRead?
    ) async throws(TransactionError) -> StreamLease {
        guard let pools = pools[shard] else { throw Self.unknownShard(shard) }
        let connection: ShardConnection
        do throws(ShardError) {
            connection = try await pools.streams.lease(deadline: .now + configuration.admissionTimeout)
        } catch {
            var failure = TransactionError(error, shard: shard)
            if error.kind == .poolWaitTimedOut {
                failure.hint = "finish or close the results and cursors that are open, or raise pool.streams"
            }
            throw failure
        }
        let lease = StreamLease(shard: shard, connection: connection, pool: pools.streams, read: read)
        try await prepare(connection, by: statement.preparation, for: shard)
        return lease
    }

    /// On the plain tables while these are the state at the timestamp, else through the as-of views.
    ///
    /// A statement reads one snapshot of PostgreSQL's, which it has when its first rows arrive. So the second look, by
    /// which the plain way counts (``wasCurrent(at:on:)``), is taken then, and no row is handed on
    /// before it; whatever commits later does not change the rows that follow. A function of the client's own would
    /// take new snapshots: its statement runs at REPEATABLE READ, where there is one for all.
    private func stream(
        _ statement: ClientStatement, at timestamp: Timestamp, _ lease: StreamLease
    ) async throws(TransactionError) -> ShardStream<SQLRowStream> {
        if try await mayBeCurrent(statement, at: timestamp, on: lease.shard) {
            let prefix = statement.isReadableInThePast ? [] : [Self.beginReading]
            let stream = try await open(statement.statement, after: prefix, lease)
            if await wasCurrent(at: timestamp, on: lease.shard) {
                statistics.reads += 1
                return stream
            }
            if await stream.firstPiece?.ending == nil { lease.mustBeUndone = true }
        }
        let prologue = try await prologue(of: statement, at: timestamp, lease.shard)
        try await lease.undo(within: configuration.statementTimeout)
        return try await open(statement.asOf.statement, after: prologue, lease)
    }

    /// Likewise. COPY can't be sent behind other statements, so what it needs before it is run first.
    private func copyOut(
        _ query: ClientStatement, at timestamp: Timestamp, _ lease: StreamLease, _ text: (String) -> String
    ) async throws(TransactionError) -> ShardStream<CopyOutStream> {
        if try await mayBeCurrent(query, at: timestamp, on: lease.shard) {
            if !query.isReadableInThePast { try await begin([Self.beginReading], lease) }
            let stream = try await openCopy(text(query.statement.text), lease)
            if await wasCurrent(at: timestamp, on: lease.shard) {
                statistics.reads += 1
                return stream
            }
            lease.mustBeUndone = true
        }
        let prologue = try await prologue(of: query, at: timestamp, lease.shard)
        try await lease.undo(within: configuration.statementTimeout)
        try await begin(prologue, lease)
        return try await openCopy(text(query.asOf.statement.text), lease)
    }

    private static let beginReading = SQLStatement("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")

    /// Waits for the shard's safe time; returns what a read through the as-of views begins with.
    private func prologue(
        of statement: ClientStatement, at timestamp: Timestamp, _ shard: ShardID
    ) async throws(TransactionError) -> [SQLStatement] {
        guard statement.isReadableInThePast else { throw Self.notReadableInThePast(shard) }
        try await reachSafeTime(timestamp, on: shard)
        statistics.reads += 1
        statistics.readsOfThePast += 1
        return ShardSchema.readPrologue(
            at: timestamp, schemas: statement.searchPath, tables: statement.tables)
    }

    private func begin(_ statements: [SQLStatement], _ lease: StreamLease) async throws(TransactionError) {
        lease.mustBeUndone = true
        do throws(ShardError) {
            _ = try await lease.connection.run(statements, deadline: .now + configuration.statementTimeout)
        } catch {
            throw TransactionError(error, shard: lease.shard)
        }
    }

    private func open(
        _ statement: SQLStatement, after prefix: [SQLStatement], _ lease: StreamLease
    ) async throws(TransactionError) -> ShardStream<SQLRowStream> {
        if !prefix.isEmpty { lease.mustBeUndone = true }
        let statement = try await translated([statement], to: lease.shard)[0]
        let rows: SQLRowStream
        do throws(ShardError) {
            rows = try await lease.connection.stream(statement, after: prefix, patience: configuration.statementTimeout)
        } catch {
            throw TransactionError(error, shard: lease.shard)
        }
        return try await ShardStream(
            rows, from: lease.shard, on: loop, tenure: lease.tenure(), translation(from: lease.shard))
    }

    private func openCopy(
        _ text: String, _ lease: StreamLease
    ) async throws(TransactionError) -> ShardStream<CopyOutStream> {
        let data: CopyOutStream
        do throws(ShardError) {
            data = try await lease.connection.copyOut(text, patience: configuration.statementTimeout)
        } catch {
            throw TransactionError(error, shard: lease.shard)
        }
        return try await ShardStream(data, from: lease.shard, on: loop, tenure: lease.tenure())
    }
}

/// A reader's session for as long as a stream has it. It goes back to its pool when nobody holds the lease any more.
///
/// Confined to the engine's event loop, but for its end.
private final class StreamLease: @unchecked Sendable {
    let shard: ShardID
    let connection: ShardConnection
    private let pool: ConnectionPool
    /// Knows of the session while the lease lasts.
    private let read: StreamedRead?
    /// The session is in a transaction, or in the middle of a statement.
    var mustBeUndone = false

    init(shard: ShardID, connection: ShardConnection, pool: ConnectionPool, read: StreamedRead?) {
        (self.shard, self.connection, self.pool, self.read) = (shard, connection, pool, read)
        read?.onLoop { $0.leased(connection, on: shard) }
    }

    /// The hold of a stream that runs in the session.
    func tenure() -> StreamTenure {
        StreamTenure { end in
            // Its statement is still being stopped.
            if case .abandoned = end { self.mustBeUndone = true }
            return nil
        }
    }

    /// Makes the session as it was before.
    func undo(within duration: Duration) async throws(TransactionError) {
        guard mustBeUndone else { return }
        do throws(ShardError) {
            _ = try await connection.run([Statement.rollback], deadline: .now + duration)
        } catch {
            throw TransactionError(error, shard: shard)
        }
        mustBeUndone = false
    }

    deinit {
        let (shard, connection, pool, read) = (shard, connection, pool, read)
        guard mustBeUndone else {
            return pool.loop.execute {
                read?.onLoop { $0.ended(connection, on: shard) }
                pool.onLoop { $0.giveBack(connection) }
            }
        }
        Task(executorPreference: pool.loop) {
            _ = try? await connection.run([Statement.rollback], deadline: .now + .seconds(5))
            await read?.ended(connection, on: shard)
            await pool.giveBack(connection)
        }
    }
}

/// A read whose streams are opened on several shards at once: it has locks on some, perhaps, while it waits on others.
actor StreamedRead: LockOwner, LoopActor {
    nonisolated let number: UInt64
    private let engine: TransactionEngine
    private var sessions: [(connection: ShardConnection, process: Int32)] = []
    private var isOpening = true
    private(set) var isCalledOff = false

    nonisolated var loop: EventLoop { engine.loop }
    nonisolated var unownedExecutor: UnownedSerialExecutor { engine.unownedExecutor }

    init(engine: TransactionEngine, number: UInt64) {
        (self.engine, self.number) = (engine, number)
    }

    func leased(_ connection: ShardConnection, on shard: ShardID) {
        let process = connection.onLoop { $0.processID }
        sessions.append((connection, process))
        engine.onLoop { $0.sessionOpened(process, on: shard, by: self) }
    }

    func ended(_ connection: ShardConnection, on shard: ShardID) {
        guard let index = sessions.firstIndex(where: { $0.connection === connection }) else { return }
        let process = sessions.remove(at: index).process
        engine.onLoop { $0.sessionClosed(process, on: shard, by: number) }
    }

    /// All streams have begun: none waits for a lock any more.
    func opened() { isOpening = false }

    func abortWaiting(because reason: TransactionError) async {
        guard isOpening else { return }
        isCalledOff = true
        for session in sessions { await session.connection.cancel() }
    }
}
