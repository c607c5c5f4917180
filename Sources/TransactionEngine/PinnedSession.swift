import ShardBackend
import TransactionCore

/// A session on one shard that a client keeps from one transaction to the next, for what PostgreSQL binds to a session:
/// temporary tables. Transactions that are begun with it run in it on its shard.
///
/// It is one of the writers' pool, taken from that until ``TransactionEngine/unpin(_:)``.
public struct PinnedSession: Sendable {
    public let shard: ShardID
    let connection: ShardConnection

    /// The session is there, and so is what was made in it. To be asked on the engine's loop.
    public nonisolated var isOpen: Bool { connection.assumeIsolated { $0.isOpen } }
}

extension TransactionEngine {
    /// Makes room for another pinned session.
    func pinOne() throws(TransactionError) {
        guard pinnedCount < configuration.pinnedMax else {
            throw TransactionError(
                .tooManyConnections, "too many sessions have temporary tables",
                detail: "\(pinnedCount) keep a connection to a shard for them",
                hint: "drop temporary tables that are not needed, or raise pool.pinned")
        }
        pinnedCount += 1
    }

    /// Lets go of a pinned session, between two transactions. What is left in it is dropped.
    public func unpin(_ session: PinnedSession) async {
        do throws(ShardError) {
            let deadline = ContinuousClock.now + configuration.statementTimeout
            _ = try await session.connection.run([SQLStatement("DISCARD TEMP", isPrepared: false)], deadline: deadline)
        } catch {
            await session.connection.close()
        }
        pinnedCount -= 1
        await pools[session.shard]!.writers.giveBack(session.connection)
    }

    /// Runs a statement in a pinned session between two transactions, as one by itself.
    public func evaluate(
        _ statement: ClientStatement, in session: PinnedSession
    ) async throws(TransactionError) -> SQLResult {
        try await prepare(session.connection, by: statement.preparation, for: session.shard)
        let translated = try await translated([statement.statement], to: session.shard)
        let result: [SQLResult]
        do throws(ShardError) {
            result = try await session.connection.run(
                translated, deadline: .now + configuration.statementTimeout)
        } catch {
            throw TransactionError(error, shard: session.shard)
        }
        return try await self.translated(result, from: session.shard)[0]
    }

    /// What a statement takes and returns, as a pinned session says.
    public func describe(
        _ statement: ClientStatement, in session: PinnedSession
    ) async throws(TransactionError) -> StatementDescription {
        try await prepare(session.connection, by: statement.preparation, for: session.shard)
        let translated = try await translated([statement.statement], to: session.shard)
        let description: StatementDescription
        do throws(ShardError) {
            description = try await session.connection.describe(
                translated[0], deadline: .now + configuration.statementTimeout)
        } catch {
            throw TransactionError(error, shard: session.shard)
        }
        return try await self.translated(description, from: session.shard)
    }
}
