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
            if let (planned, values) = await node.planWithoutLiterals(text, variables.settings.searchPath, transaction)
            {
                return try await run(planned, values, of: text)
            }
            while true {
                // Planned one by one: a statement may change the schema for the next.
                let planned = try await node.plan(text, variables.settings.searchPath, transaction)
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
            }
            if done == 0 { writer.emptyQueryResponse() }
            try await endImplicitTransaction()
        } catch {
            fail(error)
        }
    }

    // MARK: Without literals

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
