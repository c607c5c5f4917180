import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// What a statement has told its client of the rows, for comparing it with what it says when it is run again.
enum StatementAnswer: Hashable, Sendable {
    case result(tag: String, RowsDigest)
    /// The rows were not as the statement needs them: a key was there, a check did not hold.
    case error(SQLState, constraint: String?)

    init(_ result: StatementResult) { self = .result(tag: result.tag, result.digest) }

    /// Nil for an error that tells nothing of the rows.
    init?(_ error: TransactionError) {
        guard error.sqlState.isAboutRows else { return nil }
        self = .error(error.sqlState, constraint: error.reportFields[UInt8(ascii: "n")])
    }

    var isError: Bool { if case .error = self { true } else { false } }
}

/// Running a statement again after a rollback to a savepoint, to see whether what it said is still so.
///
/// Its locks are taken first, outside the savepoint that undoes it again: they stay to the transaction's end.
extension LockingRun {
    private static let savepoint = "\"meridian: again\""

    /// What `statement`, of which the shards ran `pieces`, says now. Nothing is left of it but its locks.
    func answerAgain(
        of statement: BoundStatement, _ pieces: [Piece], wasError: Bool
    ) async throws(TransactionError) -> StatementAnswer {
        try await lockAgain(statement, Set(pieces.map(\.shard)), wasError: wasError)
        try await writer.savepoint(Self.savepoint)
        var answer: StatementAnswer
        do throws(TransactionError) {
            answer = StatementAnswer(
                statement.plan.isWrite ? try await write(statement, pieces) : try await read(statement, .result))
        } catch {
            guard let said = StatementAnswer(error) else { throw error }
            answer = said
        }
        try await writer.rollback(to: Self.savepoint)
        try await writer.release(Self.savepoint)
        return answer
    }

    /// Takes the locks that keep what a write says as it is: which rows it finds, which keys are free, and which rows
    /// there are that its own refer to, or that refer to them.
    private func lockAgain(
        _ statement: BoundStatement, _ shards: Set<ShardID>, wasError: Bool
    ) async throws(TransactionError) {
        guard statement.plan.isWrite else { return try await lock(statement) }
        let isByRows = statement.plan.locks.rows != nil && !wasError && !mayChangeKeys(statement)
        if isByRows { try await lockFound(by: statement) }
        let written = Set(statement.plan.tables.filter(\.role.isWrite).map(\.table))
        for shard in shards.sorted() {
            var locks = try await relatives(of: written, on: shard).map { "LOCK TABLE \($0) IN SHARE MODE" }
            if !isByRows {
                // Not SHARE, though it would do: two that hold it and then write would wait for each other.
                locks += statement.tables.sorted().map { table in
                    "LOCK TABLE \(table) IN \(written.contains(table) ? "SHARE ROW EXCLUSIVE" : "SHARE") MODE"
                }
            }
            guard !locks.isEmpty else { continue }
            _ = try await writer.lockingRead(locks.map { SQLStatement($0) }, on: shard)
        }
    }

    /// Keeps everybody from writing those of a statement's tables that there are.
    func lockWhatIsThere(of statement: BoundStatement) async throws(TransactionError) {
        let query = "SELECT name FROM unnest($1::text[]) AS name WHERE to_regclass(name) IS NOT NULL ORDER BY 1"
        for shard in statement.catalog.buckets.shards.sorted() {
            let there = try await names(query, Self.array(statement.tables), on: shard)
            let locks = there.map { SQLStatement("LOCK TABLE \($0) IN SHARE ROW EXCLUSIVE MODE") }
            if !locks.isEmpty { _ = try await writer.lockingRead(locks, on: shard) }
        }
    }

    /// Whether an UPDATE by key may give a row another unique key, which must be free.
    private func mayChangeKeys(_ statement: BoundStatement) -> Bool {
        statement.plan.tables.contains { use in
            guard use.role == .update, let table = statement.catalog.tables[use.table] else { return false }
            // A shard key can't be changed.
            return table.shardKey == nil || table.primaryKey.count > 1 || !table.uniqueConstraints.isEmpty
        }
    }

    /// The tables that `tables` are tied to by foreign keys, over others too since a DELETE may cascade.
    private func relatives(of tables: Set<TableName>, on shard: ShardID) async throws(TransactionError) -> [String] {
        let query = """
            WITH RECURSIVE tied(oid) AS (
                SELECT name::regclass::oid FROM unnest($1::text[]) AS name
                UNION
                SELECT CASE tied.oid WHEN conrelid THEN confrelid ELSE conrelid END
                FROM tied JOIN pg_catalog.pg_constraint ON contype = 'f' AND tied.oid IN (conrelid, confrelid))
            SELECT oid::regclass::text FROM tied WHERE oid <> ALL ($1::regclass[]::oid[]) ORDER BY 1
            """
        return try await names(query, Self.array(tables), on: shard)
    }

    /// Tables' names as SQL has them, as a parameter of type text[].
    private static func array(_ tables: Set<TableName>) -> SQLParameter {
        let names = tables.filter { !$0.isTemporary }.map { "\"\($0.description.escaped)\"" }
        return .text("{" + names.sorted().joined(separator: ",") + "}")
    }

    private func names(
        _ query: String, _ parameter: SQLParameter, on shard: ShardID
    ) async throws(TransactionError) -> [String] {
        let result = try await writer.lockingRead(SQLStatement(query, [parameter], resultFormat: .text), on: shard)
        do throws(ShardError) {
            var names: [String] = []
            for row in result { names.append(try row.text(0)) }
            return names
        } catch {
            throw TransactionError(error, shard: shard)
        }
    }
}

extension String {
    /// As it stands between the quotes of an array's element.
    fileprivate var escaped: String { replacing("\\", with: "\\\\").replacing("\"", with: "\\\"") }
}
