import PostgresWire
import StatementRouting
import TransactionCore

/// The simple query protocol: statements in one string.
extension Conversation {
    /// Runs the statements of `text`: outside a block, all of them are one transaction.
    func simpleQuery(_ text: String) async {
        var done = 0
        do {
            while true {
                // Planned one by one: a statement may change the schema for the next.
                let planned = try await node.plan(text, variables.settings.searchPath, transaction)
                guard done < planned.count else { break }
                if planned.isEmpty { break }
                let statement = planned[done]
                let isLast = done + 1 == planned.count
                if let result = try await run(statement, isBlock: planned.count > 1) {
                    // What is told as done must be: a lone statement is committed before its tag is sent.
                    if isLast { try await endImplicitTransaction() }
                    try await write(result)
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
}
