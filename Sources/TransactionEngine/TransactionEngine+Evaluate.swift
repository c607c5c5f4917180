import ShardBackend
import TransactionCore

/// Statements that leave nothing behind, and what those who plan statements must wait for.
extension TransactionEngine {
    /// Waits until every shard has applied all that committed up to `timestamp`.
    ///
    /// A commit is acknowledged when it is decided; until it is applied, its locks keep others from its rows. A new
    /// table has none that others would meet: to them it is not there yet.
    public func reach(_ timestamp: Timestamp) async throws(TransactionError) {
        for shard in shards { try await reachSafeTime(timestamp, on: shard) }
    }

    /// Runs what reads no table of a client, behind `prologue`, in a transaction that is rolled back.
    ///
    /// What it sets in the session is thus undone, and so is what `prologue` sets for it.
    ///
    /// - Returns: the result of `statement`.
    public func evaluateUndone(
        _ statement: ClientStatement, after prologue: [SQLStatement] = [], on shard: ShardID? = nil
    ) async throws(TransactionError) -> SQLResult {
        let deadline = ContinuousClock.now + configuration.statementTimeout
        return try await withReader(statement, on: shard ?? shards[0]) { connection throws(ShardError) in
            do throws(ShardError) {
                let statements = [SQLStatement("BEGIN")] + prologue + [statement.statement, Statement.rollback]
                return try await connection.run(statements, deadline: deadline)[prologue.count + 1]
            } catch {
                _ = try? await connection.run([Statement.rollback], deadline: .now + .seconds(1))
                throw error
            }
        }
    }
}
