import EventLoops
import Logging
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Settles transactions that stand prepared while nobody coordinates them (R4): the shell around ``Recovery``.
///
/// Every function makes one attempt and throws when a shard can't be reached; trying again is always right.
struct OrphanRecovery: Sendable {
    let control: [ShardID: ConnectionPool]
    let timeout: Duration
    let logger: Logger

    /// The gids that stand prepared on `shard`, strangers' among them.
    func prepared(on shard: ShardID) async throws(ShardError) -> [String] {
        let rows = try await run([ShardSchema.preparedTransactions], on: shard)[0]
        var gids: [String] = []
        for row in rows { gids.append(try row.text(0)) }
        return gids
    }

    /// The decision of the transaction's home shard; when there is none, makes it abort.
    func decide(_ id: TransactionID) async throws(ShardError) -> DecidedTransaction {
        var recovery = Recovery(id: id)
        var action = recovery.started()
        while true {
            switch action {
            case .lookUpDecision: action = recovery.decisionRead(try await readDecision(of: id))
            case .insertTombstone: action = recovery.tombstoneInserted(try await insertTombstone(for: id))
            case .apply(let decided): return decided
            }
        }
    }

    /// Applies a decision on `shard`. A transaction that is not prepared there has been settled before.
    func apply(_ decided: DecidedTransaction, on shard: ShardID) async throws(ShardError) {
        do throws(ShardError) {
            try await applyWhenFree(decided, on: shard)
        } catch {
            guard error.sqlState == .undefinedObject else { throw error }
            guard decided.decision == .commit, try await !isLogged(decided.id, on: shard) else { return }
            // Neither prepared nor committed: the shard has lost what it had flushed.
            logger.critical(
                "shard \(shard) has lost its part of the committed transaction \(decided.id): restore it from a backup")
        }
    }

    /// Nodes may settle the same transaction at once. PostgreSQL then refuses all but the first, until that one's
    /// answer has come from the synchronous standby too.
    private func applyWhenFree(_ decided: DecidedTransaction, on shard: ShardID) async throws(ShardError) {
        let deadline = ContinuousClock.now + timeout
        while true {
            do throws(ShardError) {
                _ = try await run([Statement.apply(decided)], on: shard)
                return
            } catch {
                guard error.sqlState == .objectNotInPrerequisiteState, .now < deadline,
                    (try? await control[shard]!.loop.sleep(until: .now + .milliseconds(20))) != nil
                else { throw error }
            }
        }
    }

    /// Finds the decision of an orphan on `shard` and applies it there.
    func settle(_ id: TransactionID, on shard: ShardID) async throws(ShardError) {
        let decided = try await decide(id)
        try await apply(decided, on: shard)
        logger.notice("recovered \(id) on shard \(shard): \(decided.decision)")
    }

    /// What stands prepared on `shard` and nobody coordinates: what is of `fenced` epochs, and of the incarnation `own`
    /// what is not in `live`. The rest is other nodes' own.
    func orphans(
        on shard: ShardID, fenced: FencedEpochs, own: Incarnation? = nil,
        live: @Sendable () async -> Set<TransactionID> = { [] }
    ) async throws(ShardError) -> [TransactionID] {
        // Listed before the live ones are asked for: see ``Recovery/orphans(among:live:)``.
        let prepared = try await prepared(on: shard)
        guard !prepared.isEmpty else { return [] }
        return Recovery.orphans(among: prepared, live: await live())
            .filter { fenced.contains($0) || Incarnation($0.node, $0.epoch) == own }
    }

    /// The decision of the transaction's home shard, if there is one.
    func readDecision(of id: TransactionID) async throws(ShardError) -> Decision? {
        guard let row = try await run([ShardSchema.decision(of: id)], on: id.home)[0].first else { return nil }
        return try row.bool(0) ? .commit : .abort
    }

    private func insertTombstone(for id: TransactionID) async throws(ShardError) -> Bool {
        try await run([ShardSchema.tombstone(for: id)], on: id.home)[0].affectedRows == 1
    }

    private func isLogged(_ id: TransactionID, on shard: ShardID) async throws(ShardError) -> Bool {
        try await !run([ShardSchema.decision(of: id)], on: shard)[0].isEmpty
    }

    func run(_ statements: [SQLStatement], on shard: ShardID) async throws(ShardError) -> [SQLResult] {
        try await withConnection(to: shard) { connection throws(ShardError) in
            try await connection.runUncancelled(statements, within: timeout)
        }
    }

    /// Lends `body` a connection for recovery and upkeep.
    func withConnection<Result: Sendable>(
        to shard: ShardID, _ body: (ShardConnection) async throws(ShardError) -> Result
    ) async throws(ShardError) -> Result {
        guard let pool = control[shard] else {
            throw ShardError(.invalidUse, "the transaction's shard \"\(shard)\" is not configured here")
        }
        let connection = try await pool.lease(deadline: .now + timeout)
        do throws(ShardError) {
            let result = try await body(connection)
            await pool.giveBack(connection)
            return result
        } catch {
            await pool.giveBack(connection)
            throw error
        }
    }
}

extension ShardConnection {
    /// Runs what prepares, decides or applies. It is never cancelled: a session that waits for a synchronous standby
    /// answers a cancel by reporting success, although the standby has nothing. When the time is over the session is
    /// closed instead.
    func runUncancelled(
        _ statements: [SQLStatement], within timeout: Duration
    ) async throws(ShardError) -> [SQLResult] {
        let timer = loop.schedule(at: .now + timeout) { [self] in onLoop { $0.close() } }
        defer { timer.cancel() }
        return try await run(statements)
    }
}
