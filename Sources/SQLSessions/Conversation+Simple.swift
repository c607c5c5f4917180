import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore

/// The simple query protocol: statements in one string.
extension Conversation {
    /// Runs the statements of `text`: outside a block, all of them are one transaction.
    func simpleQuery(_ text: String) async {
        var done = 0
        defer { isImplicitBlock = false }
        do {
            if let (planned, values) = await planWithoutLiterals(text) {
                return try await run(planned, values, of: text)
            }
            while true {
                // Planned one by one: a statement may change the schema for the next.
                let planned = try await plans(of: text)
                guard done < planned.count else { break }
                if planned.isEmpty { break }
                let statement = planned[done]
                let isLast = done + 1 == planned.count
                isImplicitBlock = planned.count > 1
                if let result = try await run(statement, isBlock: isImplicitBlock, delivery: .streamed) {
                    // What is told as done must be: a lone statement is committed before its tag is sent.
                    try await write(result, endsTransaction: isLast)
                } else if isLast {
                    try await endImplicitTransaction()
                }
                done += 1
                if isLast { break }
            }
            if done == 0 { writer.emptyQueryResponse() }
            try await endImplicitTransaction()
        } catch {
            fail(error)
        }
    }

    // MARK: Without literals

    /// A lone simple statement, its literals made parameters: one that differs from it in them alone is planned by
    /// then, here and on the shards. Nil for what has none, and for what can't be planned, whose error the text as it
    /// is tells.
    private func planWithoutLiterals(_ text: String) async -> (planned: PlannedStatement, values: [String])? {
        // What all sessions see alike is known by its shape.
        if temporaries == nil, await transaction?.ownCatalog == nil {
            let searchPath = variables.settings.searchPath
            if let known = node.onLoop({ $0.knownWithoutLiterals(text, searchPath) }) { return known }
        }
        guard let normalized = StatementNormalizer.normalize(text),
            let planned = try? await plans(of: normalized.text), planned.count == 1
        else { return nil }
        return (planned[0], normalized.values)
    }

    private func run(_ planned: PlannedStatement, _ values: [String], of text: String) async throws {
        do {
            let parameters = values.map { SQLParameter.text($0) }
            if let result = try await run(planned, parameters, isBlock: false, delivery: .streamed) {
                try await write(result, endsTransaction: true)
            } else {
                try await endImplicitTransaction()
            }
        } catch var error as TransactionError {
            // As if the literals had been there.
            if let position = error.reportFields[UInt8(ascii: "P")].flatMap({ Int($0) }),
                let normalized = StatementNormalizer.normalize(text)
            {
                error.reportFields[UInt8(ascii: "P")] = String(normalized.position(in: text, of: position))
            }
            if error.reportFields[UInt8(ascii: "W")]?.hasPrefix("unnamed portal parameter") == true {
                error.reportFields[UInt8(ascii: "W")] = nil
            }
            throw error
        }
    }
}
