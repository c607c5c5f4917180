import Foundation
import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// Queries of what the session or the node knows: settings, Meridian's own functions and relations.
extension Conversation {
    func runSessionQuery(
        _ planned: PlannedStatement, _ parameters: [SQLParameter], _ types: [UInt32], _ format: SQLStatement.Format,
        isBlock: Bool
    ) async throws -> StatementResult {
        let use = planned.plan.session
        let sql = SQLStatement(
            use.sql ?? planned.statement.text, parameters, parameterTypes: types, isPrepared: !parameters.isEmpty,
            resultFormat: format)
        if let call = use.call { return try await run(call, sql, isBlock: isBlock) }
        guard use.relations.isEmpty else { return try await read(use.relations, planned, sql) }
        return try await runSettingCalls(use.settings, sql)
    }

    // MARK: set_config

    /// `SELECT set_config(…)`: a server computes and checks the values, the session keeps them.
    private func runSettingCalls(_ calls: [SettingCall], _ sql: SQLStatement) async throws -> StatementResult {
        let result = try await node.engine.evaluateUndone(clientStatement(sql))
        for call in calls {
            guard let name = Self.text(of: call.name, sql.parameters), let row = result.first else { continue }
            let isLocal = ["true", "t", "on", "1"].contains(Self.text(of: call.isLocal, sql.parameters) ?? "")
            let value: String
            do throws(ShardError) { value = try row.text(call.column) } catch {
                throw TransactionError(error, shard: nil)
            }
            // Outside a block what is local ends with the statement.
            if isLocal, !block.isOpen { continue }
            try await set(name.lowercased(), to: value, isLocal: isLocal)
        }
        return StatementResult([result])
    }

    /// An argument's value as text; nil for NULL. A boolean may have come in binary.
    private static func text(of argument: PlainArgument, _ parameters: [SQLParameter]) -> String? {
        guard case .parameter(let number) = argument else {
            if case .constant(let text) = argument { return text }
            return nil
        }
        guard parameters.indices.contains(number - 1) else { return nil }
        switch parameters[number - 1] {
        case .text(let text): return text
        case .bool(let bool): return bool ? "true" : "false"
        case .bytes(let bytes):
            return bytes == [1] ? "true" : bytes == [0] ? "false" : String(decoding: bytes, as: UTF8.self)
        case .null, .int64, .double: return nil
        }
    }

    // MARK: Own relations

    /// A query of relations that the node fills: the views on the shard read settings, which are given to them here.
    private func read(
        _ relations: Set<OwnRelation>, _ planned: PlannedStatement, _ sql: SQLStatement
    ) async throws -> StatementResult {
        guard planned.plan.tables.isEmpty, planned.plan.views.isEmpty else {
            throw TransactionError(
                .featureNotSupported, "Meridian's own relations can't be read together with tables",
                hint: "read them by a statement of their own")
        }
        var prologue: [SQLStatement] = []
        for relation in relations {
            prologue.append(
                SQLStatement(
                    "SELECT set_config('meridian.' || $1, $2, true)",
                    [.text(relation.rawValue), .text(try await rows(of: relation))]))
        }
        return StatementResult([try await node.engine.evaluateUndone(clientStatement(sql), after: prologue)])
    }

    /// The relation's rows as a JSON array of objects.
    private func rows(of relation: OwnRelation) async throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .sortedKeys
        let data =
            switch relation {
            case .activity: try encoder.encode(await node.activity())
            case .shards: try encoder.encode(await shardRows())
            case .inDoubt: try encoder.encode(try await node.engine.inDoubt())
            case .preparedStatements: try encoder.encode(preparedRows())
            }
        return String(decoding: data, as: UTF8.self)
    }

    private func shardRows() async -> [ShardStatus] {
        let buckets = await node.catalogs.current.buckets
        return await node.engine.shardStatus().map { row in
            var row = row
            let index = buckets.shards.firstIndex { $0.rawValue == row.shard }
            row.buckets = index.map { index in buckets.owners.count { Int($0) == index } } ?? 0
            return row
        }
    }

    private func preparedRows() -> [PreparedRow] {
        statements.filter { !$0.key.isEmpty }.sorted { $0.key < $1.key }.map { name, statement in
            PreparedRow(
                name: name, statement: statement.definition ?? statement.text,
                preparedAt: statement.preparedAt.timeIntervalSince1970, types: statement.parameterTypes,
                isFromSQL: statement.isFromSQL)
        }
    }

    private struct PreparedRow: Encodable {
        var name: String
        var statement: String
        var preparedAt: Double
        var types: [UInt32]
        var isFromSQL: Bool
    }

    // MARK: Own functions

    private func run(_ call: OwnCall, _ sql: SQLStatement, isBlock: Bool) async throws -> StatementResult {
        let arguments = call.arguments.map { Self.text(of: $0, sql.parameters) }
        switch (call.function, arguments.count) {
        case ("pg_notify", 2):
            try await currentTransaction(isBlock: isBlock).notify(arguments[0] ?? "", arguments[1] ?? "")
            return StatementResult([
                try await evaluate(SQLStatement("SELECT ''::void AS pg_notify", resultFormat: sql.resultFormat))
            ])
        case ("transaction_outcome", 1):
            let answer = try await outcome(of: arguments[0])
            return StatementResult([
                try await evaluate(
                    SQLStatement("SELECT $1::text AS transaction_outcome", [answer], resultFormat: sql.resultFormat))
            ])
        case ("shard_table", 1), ("shard_table", 2):
            guard let relation = arguments[0] else {
                throw TransactionError(.invalidParameterValue, "the table's name must not be null")
            }
            try await shardTable(relation, by: arguments.count > 1 ? arguments[1] : nil, isBlock: isBlock)
            return StatementResult([
                try await evaluate(SQLStatement("SELECT ''::void AS shard_table", resultFormat: sql.resultFormat))
            ])
        default:
            throw TransactionError(
                .featureNotSupported, "function meridian.\(call.function) can't be called through a node",
                hint: "it is the shards' own; clients call meridian.shard_table and meridian.transaction_outcome")
        }
    }

    /// `committed`, `aborted` or `in progress`, as `pg_xact_status` says it.
    private func outcome(of text: String?) async throws(TransactionError) -> SQLParameter {
        guard let text else { return .null }
        guard let id = TransactionID(text) else {
            throw TransactionError(
                .invalidParameterValue, "invalid transaction id: \"\(text)\"",
                hint: "it is what an error with SQLSTATE 08007 or meridian.in_doubt_transactions calls the transaction")
        }
        do throws(TransactionError) {
            switch try await node.engine.outcome(of: id) {
            case .committed: return "committed"
            case .aborted: return "aborted"
            case .indeterminate: return "in progress"
            }
        } catch {
            guard error.sqlState == .transactionResolutionUnknown else { throw error }
            return "in progress"
        }
    }

    /// A statement with what the session has set.
    func clientStatement(_ statement: SQLStatement) -> ClientStatement {
        let (applied, settings) = (node.applied, variables.settings)
        return ClientStatement(
            statement, searchPath: settings.searchPath,
            preparation: { applied.statements(bringing: $0, to: settings) })
    }
}
