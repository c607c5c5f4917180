import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

extension ClientTransaction {
    /// Runs a statement under EXPLAIN ANALYZE on each of its shards; `prefix` is the EXPLAIN with its options.
    ///
    /// In a block all that it reads is locked first, by whole tables: what it counts must stay true until the commit,
    /// and there are no rows to compare.
    func explainAnalyze(
        _ statement: BoundStatement, _ prefix: String
    ) async throws(TransactionError) -> [(shard: ShardID, result: SQLResult)] {
        try checkFunctions(of: statement)
        note(statement.catalog, statement.tables)
        let isFinal = modes.isReadOnly || modes.bound != .strong || !modes.isBlock
        let ownSessions = statement.plan.usesTemporaryTables ? try await sessions(for: statement) : nil
        if !statement.isLocking, writer == nil, ownSessions == nil, isFinal {
            return try await explainAtSnapshot(statement, prefix)
        }
        if statement.plan.changesSharedTables {
            try checkMayWrite(statement.plan.statement.text.prefix { $0.isLetter }.uppercased())
        }
        let writer: ReadWriteTransaction =
            if let ownSessions { ownSessions } else { try await lockingTransaction() }
        let isWrite = statement.plan.changesSharedTables || statement.plan.functions.contains { $0.trait == .sequence }
        let locks = Self.tableLocks(of: statement).statements
        var plans: [(shard: ShardID, result: SQLResult)] = []
        for (shard, sql) in try await shardStatements(of: statement, locking(writer)) {
            let statements = locks + [sql.explained(prefix)]
            let results =
                isWrite
                ? try await writer.execute(statements, on: shard) : try await writer.lockingRead(statements, on: shard)
            plans.append((shard, results[locks.count]))
        }
        rememberFound(by: statement)
        return plans
    }

    private func explainAtSnapshot(
        _ statement: BoundStatement, _ prefix: String
    ) async throws(TransactionError) -> [(shard: ShardID, result: SQLResult)] {
        let shards = try statement.shards()
        let merged = shards.count > 1 ? statement.shardSQL : nil
        let snapshot = try await currentSnapshot()
        var client = try await snapshotRun().client(merged ?? statement.sql, statement)
        client.statement = client.statement.explained(prefix)
        client.textInThePast = client.textInThePast.map { prefix + $0 }
        var plans: [(shard: ShardID, result: SQLResult)] = []
        for shard in shards { plans.append((shard, try await snapshot.run(client, on: shard))) }
        return plans
    }

    private func shardStatements(
        of statement: BoundStatement, _ run: LockingRun
    ) async throws(TransactionError) -> [(shard: ShardID, sql: SQLStatement)] {
        if case .rows = statement.plan.route, let insert = statement.plan.insert {
            return try await run.split(statement, insert).map { ($0.shard, $0.sql) }
        }
        let shards = try statement.shards()
        let merged = shards.count > 1 ? statement.shardSQL : nil
        return shards.map { ($0, merged ?? statement.sql) }
    }

    /// Locks on every table of a statement, enough for all that it reads and writes.
    private static func tableLocks(of statement: BoundStatement) -> [TableLock] {
        var modes: [String: TableLock] = [:]
        for use in statement.plan.tables {
            let mode: TableLockMode = use.role.isWrite ? .shareRowExclusive : .share
            let key = use.table.description
            if modes[key].map({ $0.mode.rawValue < mode.rawValue }) ?? true {
                modes[key] = TableLock(table: use.table, mode: mode)
            }
        }
        return modes.sorted { $0.key < $1.key }.map(\.value)
    }

    // MARK: Beside the transaction's statements

    /// Runs what locks no rows on the transaction's own session on `shard`, which sees its changes; nil when it has
    /// none there.
    func runAside(_ sql: SQLStatement, on shard: ShardID) async throws(TransactionError) -> SQLResult? {
        if let writer, await writer.shards.contains(shard) { return try await writer.lockingRead([sql], on: shard)[0] }
        return shard == engine.shards[0] ? try await runInOwnSession(sql) : nil
    }
}
