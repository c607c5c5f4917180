import NIOCore
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// A statement bound to values, and how far its rows were fetched.
struct Portal: Sendable {
    let planned: PlannedStatement?
    let parameters: [SQLParameter]
    let parameterTypes: [UInt32]
    let formats: [FormatCode]
    /// Where its rows have been read to. Set by the first Execute, of a statement without rows too.
    var reader: ResultReader?
    /// All has been read.
    var isDone = false
    /// It has been run and returns no rows: it can't be again.
    var isSpent = false
    /// The types of the columns as the client was told them before the statement was bound; nil when it was not.
    var expectedTypes: [UInt32]?

    /// Refuses a result whose columns are others than the client was told, as PostgreSQL does: it would misread them.
    func check(_ result: StatementResult?) throws(TransactionError) {
        guard let expectedTypes, let result, result.fields.map(\.typeOID) != expectedTypes else { return }
        var error = TransactionError(.featureNotSupported, "cached plan must not change result type")
        // Drivers know the error by this, and prepare the statement anew.
        error.reportFields[ErrorFields.Code.routine.rawValue] = "RevalidateCachedQuery"
        throw error
    }
}

/// The extended query protocol.
extension Conversation {
    func parse(_ parse: FrontendMessage.Parse) async throws {
        if parse.statement.isEmpty { statements[""] = nil }
        let planned = try await plans(of: parse.query)
        guard planned.count <= 1 else {
            throw TransactionError(.syntaxError, "cannot insert multiple commands into a prepared statement")
        }
        try checkBlock(allows: planned.first)
        guard statements[parse.statement] == nil else { throw Self.duplicateStatement(parse.statement) }
        statements[parse.statement] = PreparedStatement(
            text: parse.query, parameterTypes: parse.parameterTypes)
        writer.parseComplete()
    }

    func bind(_ bind: FrontendMessage.Bind) async throws {
        guard let prepared = statements[bind.statement] else { throw Self.noStatement(bind.statement) }
        let parameters = Self.parameters(of: bind)
        let planned = try await current(prepared)
        // A declared type makes a parameter, used or not.
        let expected = max(planned?.plan.parameterCount ?? 0, prepared.parameterTypes.count)
        guard parameters.count == expected else {
            throw TransactionError(
                .protocolViolation,
                "bind message supplies \(parameters.count) parameters, but prepared statement \"\(bind.statement)\" "
                    + "requires \(expected)")
        }
        try checkBlock(allows: planned)
        if !bind.portal.isEmpty, portals[bind.portal] != nil {
            throw TransactionError(.duplicateCursor, "cursor \"\(bind.portal)\" already exists")
        }
        try bind.checkText()
        if bind.resultFormats.count > 1, let planned {
            let columns = try await columnCount(of: planned, prepared)
            guard columns == 0 || columns == bind.resultFormats.count else {
                throw TransactionError(
                    .protocolViolation,
                    "bind message has \(bind.resultFormats.count) result formats but query has \(columns) columns")
            }
        }
        await closePortal(bind.portal)
        portals[bind.portal] = Portal(
            planned: planned, parameters: parameters, parameterTypes: prepared.parameterTypes,
            formats: bind.resultFormats, expectedTypes: prepared.resultTypes)
        writer.bindComplete()
    }

    static func parameters(of bind: FrontendMessage.Bind) -> [SQLParameter] {
        bind.parameters.enumerated().map { index, value in
            guard let value else { return .null }
            return bind.parameterFormat(at: index) == .binary
                ? .bytes(Array(value.readableBytesView)) : .text(String(buffer: value))
        }
    }

    /// How many columns it returns; none if it is no query.
    private func columnCount(of planned: PlannedStatement, _ prepared: PreparedStatement) async throws -> Int {
        if let told = prepared.resultTypes { return told.count }
        let description = try await description(of: planned, types: prepared.parameterTypes)
        return description?.fields.count ?? ownColumns(of: planned).count
    }

    /// The plan for the schema as it is now.
    private func current(_ prepared: PreparedStatement) async throws -> PlannedStatement? {
        try await plans(of: prepared.text).first
    }

    func describe(_ named: FrontendMessage.Named) async throws {
        switch named {
        case .statement(let name):
            guard let prepared = statements[name] else { throw Self.noStatement(name) }
            guard let planned = try await current(prepared) else {
                writer.parameterDescription([])
                return writer.noData()
            }
            let description = try await description(of: planned, types: prepared.parameterTypes)
            let fields = description.map(\.fields).map(Self.descriptions) ?? ownColumns(of: planned)
            if !fields.isEmpty { try checkBlock(allows: planned) }
            writer.parameterDescription(description?.parameterTypes ?? [])
            statements[name]?.resultTypes = description?.fields.map(\.typeOID)
            // Binary values of users' types have their numbers in them, which are told apart by the parameters' types.
            if let types = description?.parameterTypes, types.contains(where: { $0 >= 16_384 }) {
                statements[name]?.parameterTypes = types
            }
            describeRows(fields, [], of: planned)
        case .portal(let name):
            guard let portal = portals[name] else { return try await describeCursor(name) }
            guard let planned = portal.planned else { return writer.noData() }
            let description = try await description(of: planned, types: portal.parameterTypes)
            let fields = description.map(\.fields).map(Self.descriptions) ?? ownColumns(of: planned)
            if !fields.isEmpty { try checkBlock(allows: planned) }
            describeRows(fields, formats(of: planned, portal.formats), of: planned)
        }
    }

    /// A cursor that was declared is a portal, too.
    private func describeCursor(_ name: String) async throws {
        guard let cursor = cursors[name] else { throw Self.noPortal(name) }
        try checkBlock(allows: cursor.query.planned)
        let description = try await description(ofCursor: cursor)
        describe(Self.descriptions(description?.fields ?? []), cursor.isBinary ? [.binary] : [])
    }

    private func description(ofCursor cursor: Cursor) async throws -> StatementDescription? {
        if let kept = cursor.keptFields { return StatementDescription(fields: kept) }
        return try await description(of: cursor.query.planned, types: cursor.query.parameterTypes)
    }

    private func describeRows(
        _ fields: [FieldDescription], _ formats: [FormatCode], of planned: PlannedStatement
    ) {
        // Rows may have no column.
        if case .query = planned.statement.kind { return describe(fields, formats) }
        if fields.isEmpty { writer.noData() } else { describe(fields, formats) }
    }

    /// libpq takes a description of more (30,000 bytes) for a broken connection.
    private static let describedParametersMax = 7_498

    /// What the statement takes and returns, as a shard says; nil for what no shard is asked.
    func description(
        of planned: PlannedStatement, types: [UInt32]
    ) async throws -> StatementDescription? {
        switch planned.statement.kind {
        case .fetch(let name, _, isMove: false):
            guard let cursor = cursors[name] else { return nil }
            return try await description(ofCursor: cursor)
        case .query, .insert, .update, .delete, .merge, .explain:
            guard planned.plan.parameterCount <= Self.describedParametersMax else {
                throw TransactionError(
                    .featureNotSupported,
                    "a statement with more than \(Self.describedParametersMax) parameters can't be described",
                    hint: "pass the values as an array")
            }
            let sql = SQLStatement(
                planned.plan.session.sql ?? planned.statement.text, parameterTypes: types,
                isPrepared: temporaries == nil)
            if let own = try await transaction?.describe(sql) { return own }
            if let temporaries { return try await node.engine.describe(clientStatement(sql), in: temporaries.session) }
            let description = try await node.engine.describe(clientStatement(sql))
            planned.described.withLock { $0 = (types, description) }
            return description
        case .execute(let name, _):
            // That there is no such statement is said when it is run.
            guard statements[name] != nil else { return nil }
            let (inner, types) = try await executed(name)
            guard let inner else { return nil }
            return try await description(of: inner, types: types).map { StatementDescription(fields: $0.fields) }
        default: return nil
        }
    }

    /// The columns of what Meridian answers itself.
    private func ownColumns(of planned: PlannedStatement) -> [FieldDescription] {
        switch planned.statement.kind {
        case .setting(.show("all")): ["name", "setting", "description"].map { FieldDescription(name: $0, type: 25) }
        case .setting(.show(let name)): [FieldDescription(name: name.lowercased(), type: 25)]
        default: []
        }
    }

    func execute(_ execute: FrontendMessage.Execute) async throws {
        guard var portal = portals[execute.portal] else { throw Self.noPortal(execute.portal) }
        guard let planned = portal.planned else { return writer.emptyQueryResponse() }
        try checkBlock(allows: planned)
        // With the Sync already here, nothing follows in the same transaction.
        let isLone = isSyncNext
        if portal.reader == nil {
            activity.began(planned.statement.text)
            describesAnswers = false
            defer { describesAnswers = true }
            let result = try await run(
                planned, portal.parameters, types: portal.parameterTypes, format: portal.formats.shardFormat,
                isBlock: !isLone, delivery: execute.rowsMax > 0 ? .inPortions : .streamed)
            try portal.check(result)
            if isLone, result?.rest == nil { try await endImplicitTransaction() }
            portal.reader = ResultReader(result ?? StatementResult([], fields: [], tag: ""))
            portal.isSpent = result.map { !$0.isRows } ?? ownColumns(of: planned).isEmpty
            portals[execute.portal] = portal
            // What is not rows has been answered.
            if result == nil { return }
        } else if portal.isSpent {
            throw TransactionError(
                .objectNotInPrerequisiteState, "portal \"\(execute.portal)\" cannot be run")
        }
        do {
            try await fetch(from: &portal, execute.rowsMax > 0 ? Int(execute.rowsMax) : .max, isLone: isLone)
            portals[execute.portal] = portal
        } catch {
            // Where it stands is not known.
            await closePortal(execute.portal)
            throw error
        }
    }

    /// Answers an Execute of a portal whose statement has been run: at most `limit` rows.
    private func fetch(from portal: inout Portal, _ limit: Int, isLone: Bool) async throws {
        guard var reader = portal.reader else { return }
        let formats = portal.planned.map { self.formats(of: $0, portal.formats) } ?? portal.formats
        let count = portal.isDone ? 0 : try await writeRows(&reader, formats, limit: limit)
        portal.reader = reader
        // As in PostgreSQL, it takes another Execute to learn that there are no more.
        guard count < limit || portal.isDone else { return writer.portalSuspended() }
        portal.isDone = true
        await reader.close()
        if isLone { try await endImplicitTransaction() }
        let tag = await reader.tag
        writer.commandComplete(tag.hasPrefix("SELECT ") ? "SELECT \(count)" : tag)
    }

    func close(_ named: FrontendMessage.Named) async {
        switch named {
        case .statement(let name): statements[name] = nil
        case .portal(let name): await closePortal(name)
        }
        writer.closeComplete()
    }

    /// Lets go of a portal, if there is one, and of what its rows come from.
    func closePortal(_ name: String) async { await portals.removeValue(forKey: name)?.reader?.close() }

    static func noStatement(_ name: String) -> TransactionError {
        TransactionError(
            .invalidStatementName,
            name.isEmpty
                ? "unnamed prepared statement does not exist" : "prepared statement \"\(name)\" does not exist")
    }

    private static func noPortal(_ name: String) -> TransactionError {
        TransactionError(.invalidCursorName, "portal \"\(name)\" does not exist")
    }
}
