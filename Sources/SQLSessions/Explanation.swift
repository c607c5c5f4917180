import Foundation
import Placement
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// EXPLAIN of one statement: its options, and what it explains.
struct Explanation: Sendable {
    /// The forms that shards' plans can be put together in.
    enum Form: Sendable { case text, json }

    /// Runs the statement too.
    let isAnalyze: Bool
    let form: Form
    /// The text of the explained statement.
    let text: String
    /// What stands before it, for a shard.
    let prefix: String

    init(_ planned: PlannedStatement, _ options: [String: String], _ range: Range<Int>) throws(TransactionError) {
        isAnalyze = options["analyze"].map { !["false", "off", "0"].contains($0.lowercased()) } ?? false
        switch options["format"]?.lowercased() {
        case nil, "text": form = .text
        case "json": form = .json
        case let other?:
            throw TransactionError(
                .featureNotSupported, "EXPLAIN in format \(other.uppercased()) can't be used through Meridian",
                hint: "use FORMAT TEXT or FORMAT JSON")
        }
        text = planned.statement.part(range)
        let bytes = planned.statement.text.utf8
        let length = max(0, range.lowerBound - planned.statement.range.lowerBound)
        prefix = String(decoding: bytes.prefix(length), as: UTF8.self)
    }

    /// The lines that a shard's answer is made of.
    static func lines(of result: SQLResult) throws(TransactionError) -> [String] {
        var lines: [String] = []
        for row in result {
            do throws(ShardError) { lines.append(try row.text(0)) } catch { throw TransactionError(error, shard: nil) }
        }
        return lines
    }

    /// The answer's rows: the route, and below it each shard's plan.
    func rows(route: String, plans: [(shard: ShardID, result: SQLResult)]) throws -> [String] {
        switch form {
        case .text:
            var lines = ["Route: \(route)"]
            for plan in plans {
                lines.append("Shard \(plan.shard):")
                lines += try Self.lines(of: plan.result).map { "  " + $0 }
            }
            return lines
        case .json:
            // As PostgreSQL has it, so that programs which draw plans can draw this one.
            let nested = try plans.map { plan -> [String: Any] in
                let text = try Self.lines(of: plan.result).joined(separator: "\n")
                let document = try JSONSerialization.jsonObject(with: Data(text.utf8)) as? [[String: Any]]
                var whole = document?.first ?? [:]
                var node = whole.removeValue(forKey: "Plan") as? [String: Any] ?? [:]
                node["Shard"] = plan.shard.rawValue
                node.merge(whole) { own, _ in own }
                return node
            }
            let top: [String: Any] = ["Node Type": "Shards", "Route": route, "Plans": nested]
            let data = try JSONSerialization.data(
                withJSONObject: [["Plan": top]], options: [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
            return [String(decoding: data, as: UTF8.self)]
        }
    }

    static func describe(_ route: Route, _ shards: [ShardID], of count: Int) -> String {
        let names = shards.map(\.rawValue).joined(separator: ", ")
        return switch route {
        case .anyOne: "any one shard (\(names))"
        case .single: "the only shard that has the tables (\(names))"
        case .keys: "by shard key: \(shards.count) of \(count) shards (\(names))"
        case .every: "all \(count) shards, the rows put together"
        case .everyCopy: "all \(count) shards, each the same"
        case .rows: "each row to the shard of its key (\(names))"
        case .gather: "gathered"
        }
    }
}
