import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// EXPLAIN.
extension Conversation {
    /// Explains a statement, and with ANALYZE runs it within the transaction.
    func explain(
        _ explanation: Explanation, _ parameters: [SQLParameter], _ types: [UInt32], _ format: SQLStatement.Format,
        isBlock: Bool
    ) async throws -> StatementResult? {
        let inner = try await explained(explanation)
        guard let inner else { throw TransactionError(.syntaxError, "there is nothing to explain") }
        let bound = try BoundStatement(
            inner.statement, inner.parameters ?? parameters, types: inner.types ?? types)
        guard inner.statement.plan.session.isEmpty else {
            throw TransactionError(
                .featureNotSupported, "a query of Meridian's own relations or settings can't be explained",
                hint: "it is answered by the node")
        }
        let plans: [(shard: ShardID, result: SQLResult)]
        if explanation.isAnalyze {
            plans = try await currentTransaction(isBlock: isBlock).explainAnalyze(bound, explanation.prefix)
        } else {
            plans = try await shardPlans(of: bound, explanation)
        }
        let route = Explanation.describe(bound.plan.route, plans.map(\.shard), of: node.engine.shards.count)
        let rows = try explanation.rows(route: route, plans: plans)
        let array =
            "{"
            + rows.map { "\"" + $0.replacing("\\", with: "\\\\").replacing("\"", with: "\\\"") + "\"" }
            .joined(separator: ",") + "}"
        let type = explanation.form == .json ? "json" : "text"
        return StatementResult(
            [
                try await evaluate(
                    SQLStatement(
                        "SELECT line::\(type) AS \"QUERY PLAN\" FROM unnest($1::text[]) AS line", [.text(array)],
                        resultFormat: format))
            ], tag: "EXPLAIN")
    }

    /// What EXPLAIN is about: a statement, or the one that an EXECUTE names, with its arguments.
    private func explained(
        _ explanation: Explanation
    ) async throws -> (statement: PlannedStatement, parameters: [SQLParameter]?, types: [UInt32]?)? {
        let planned = try await plans(of: explanation.text).first
        guard let planned else { return nil }
        switch planned.statement.kind {
        case .query, .insert, .update, .delete, .merge: return (planned, nil, nil)
        case .execute(let name, let arguments):
            let (inner, types) = try await executed(name)
            guard let inner else { return nil }
            return (inner, try await values(of: arguments, for: inner, types: types), types)
        default:
            throw TransactionError(
                .featureNotSupported, "this kind of statement can't be explained through Meridian",
                hint: "explain the query that it runs")
        }
    }

    /// The plans for the statement without running it.
    private func shardPlans(
        of bound: BoundStatement, _ explanation: Explanation
    ) async throws -> [(shard: ShardID, result: SQLResult)] {
        let shards: [ShardID] =
            if case .rows = bound.plan.route { [node.engine.shards[0]] } else { try bound.shards() }
        let merged = shards.count > 1 ? bound.shardSQL : nil
        let sql = (merged ?? bound.sql).explained(explanation.prefix)
        var plans: [(shard: ShardID, result: SQLResult)] = []
        for shard in shards {
            let described = try await transaction?.runAside(sql, on: shard)
            let result: SQLResult =
                if let described {
                    described
                } else if let session = temporaries?.session, session.shard == shard {
                    try await node.engine.evaluate(clientStatement(sql), in: session)
                } else {
                    try await evaluate(sql, on: shard)
                }
            plans.append((shard, result))
        }
        return plans
    }
}

extension SQLStatement {
    /// EXPLAIN of this statement.
    func explained(_ prefix: String) -> SQLStatement {
        SQLStatement(
            prefix + text, parameters, parameterTypes: parameterTypes, isPrepared: false, resultFormat: .text)
    }
}
