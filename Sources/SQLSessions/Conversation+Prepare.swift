import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// PREPARE, EXECUTE and DEALLOCATE, of the same statements as Parse and Close.
extension Conversation {
    /// PREPARE name (types) AS statement.
    func prepare(
        _ name: String, _ types: [String], _ range: Range<Int>, of planned: PlannedStatement
    ) async throws {
        guard statements[name] == nil else { throw Self.duplicateStatement(name) }
        let text = planned.statement.part(range)
        let parameterTypes = try await typeOIDs(of: types)
        // Fails now if it is wrong, as on PostgreSQL.
        if let inner = try await plans(of: text).first {
            _ = try await description(of: inner, types: parameterTypes)
        }
        statements[name] = PreparedStatement(
            text: text, parameterTypes: parameterTypes, isFromSQL: true, definition: planned.statement.text)
        writer.commandComplete("PREPARE")
    }

    /// EXECUTE name (arguments).
    func execute(
        _ name: String, _ arguments: [String], _ format: SQLStatement.Format, isBlock: Bool,
        _ delivery: ResultDelivery
    ) async throws -> StatementResult? {
        let (inner, types) = try await executed(name)
        guard let inner else {
            writer.emptyQueryResponse()
            return nil
        }
        guard arguments.count == inner.plan.parameterCount else {
            throw TransactionError(
                .syntaxError, "wrong number of parameters for prepared statement \"\(name)\"",
                detail: "expected \(inner.plan.parameterCount) parameters but got \(arguments.count)")
        }
        let values = try await values(of: arguments, for: inner, types: types)
        return try await run(inner, values, types: types, format: format, isBlock: isBlock, delivery: delivery)
    }

    /// The statement that EXECUTE names, planned for the schema as it is now.
    func executed(_ name: String) async throws -> (PlannedStatement?, types: [UInt32]) {
        guard let prepared = statements[name], !name.isEmpty else { throw Self.noStatement(name) }
        let planned = try await plans(of: prepared.text).first
        switch planned?.statement.kind {
        case nil, .query, .insert, .update, .delete, .merge: return (planned, prepared.parameterTypes)
        default:
            // What the protocol has prepared can be anything, an EXECUTE of itself too.
            throw TransactionError(
                .featureNotSupported, "EXECUTE of a utility statement is not supported",
                hint: "execute \"\(name)\" by the protocol that prepared it")
        }
    }

    func deallocate(_ name: String?) throws(TransactionError) {
        if let name {
            guard statements.removeValue(forKey: name) != nil else { throw Self.noStatement(name) }
            writer.commandComplete("DEALLOCATE")
        } else {
            statements = statements.filter { $0.key.isEmpty }
            writer.commandComplete("DEALLOCATE ALL")
        }
    }

    /// The values of EXECUTE's arguments, which are expressions without tables. A server computes them, as values of
    /// the parameters' types.
    func values(
        of arguments: [String], for inner: PlannedStatement, types: [UInt32]
    ) async throws -> [SQLParameter] {
        guard !arguments.isEmpty else { return [] }
        let described = try await description(of: inner, types: types)?.parameterTypes ?? types
        let names = try await node.engine.typeNames(of: described)
        guard names.count == arguments.count else {
            throw TransactionError(.internalError, "\(names.count) types for \(arguments.count) parameters")
        }
        let columns = zip(arguments, names).map { "CAST((\($0)) AS \($1))" }
        let text = "SELECT " + columns.joined(separator: ", ")
        guard let planned = try await plans(of: text).first,
            planned.plan.tables.isEmpty, planned.plan.views.isEmpty, planned.plan.otherRelations.isEmpty
        else {
            throw TransactionError(.featureNotSupported, "cannot use subquery in EXECUTE parameter")
        }
        let bound = try BoundStatement(planned)
        let result = try await currentTransaction(isBlock: true).run(bound)
        guard let row = result.parts.first?.first else { return [] }
        var values: [SQLParameter] = []
        for column in arguments.indices {
            do throws(ShardError) {
                values.append(try row.isNull(column) ? .null : .text(try row.text(column)))
            } catch {
                throw TransactionError(error, shard: nil)
            }
        }
        return values
    }

    /// The types' OIDs; 0 for `unknown`, which PREPARE leaves open.
    private func typeOIDs(of names: [String]) async throws -> [UInt32] {
        guard !names.isEmpty else { return [] }
        let columns = names.map { "NULL::\($0)" }.joined(separator: ", ")
        let text = "SELECT " + columns
        guard let planned = try await plans(of: text).first,
            let description = try await description(of: planned, types: [])
        else { return [] }
        let unknown: UInt32 = 705
        return description.fields.map { $0.typeOID == unknown ? 0 : $0.typeOID }
    }

    static func duplicateStatement(_ name: String) -> TransactionError {
        TransactionError(.duplicatePreparedStatement, "prepared statement \"\(name)\" already exists")
    }
}
