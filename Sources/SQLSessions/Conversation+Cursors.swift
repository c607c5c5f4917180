import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// DECLARE, FETCH, MOVE and CLOSE.
extension Conversation {
    func declareCursor(
        _ name: String, _ query: String, _ options: CursorOptions, _ parameters: [SQLParameter], types: [UInt32]
    ) async throws {
        if !isImplicitBlock { try checkInBlock("DECLARE CURSOR") }
        guard !options.contains(.hold) else {
            throw TransactionError(
                .featureNotSupported, "cursors WITH HOLD are not supported",
                hint: "declare it WITHOUT HOLD, and fetch before the transaction ends")
        }
        guard !options.contains(.scroll) else {
            throw TransactionError(
                .featureNotSupported, "scrollable cursors are not supported", hint: "declare it with NO SCROLL")
        }
        guard cursors[name] == nil else {
            throw TransactionError(.duplicateCursor, "cursor \"\(name)\" already exists")
        }
        let plans = try await node.plan(query, variables.settings.searchPath, transaction)
        guard let planned = plans.first, plans.count == 1, case .query = planned.statement.kind, !planned.plan.isWrite
        else {
            throw TransactionError(
                .featureNotSupported, "DECLARE CURSOR must not contain data-modifying statements in WITH")
        }
        let statement = try BoundStatement(planned, parameters, types: types)
        cursorCount += 1
        let source = try await currentTransaction(isBlock: true).openCursor(statement, number: cursorCount)
        cursors[name] = Cursor(
            statement, isBinary: options.contains(.binary), number: cursorCount, source, on: node.engine.loop)
        writer.commandComplete("DECLARE CURSOR")
    }

    /// FETCH: its rows; of MOVE, which tells none, nil.
    func fetch(
        _ name: String, _ amount: FetchAmount, isMove: Bool, _ format: SQLStatement.Format
    ) async throws -> StatementResult? {
        let cursor = try cursor(name)
        let limit: Int
        switch amount {
        case .rows(let rows): limit = rows
        case .all: limit = .max
        case .other:
            throw TransactionError(
                .objectNotInPrerequisiteState, "cursor can only scan forward",
                hint: "FETCH NEXT, FORWARD or ALL")
        }
        let rows = try await cursor.portion(
            atMost: limit, cursor.isBinary ? .binary : format, words: isMove ? "MOVE" : "FETCH")
        guard isMove else { return rows }
        var reader = ResultReader(rows)
        while try await reader.next(atMost: .max) != nil {}
        writer.commandComplete(await reader.tag)
        return nil
    }

    func closeCursor(_ name: String?) async throws {
        if let name {
            let closed = try cursor(name)
            cursors[name] = nil
            await closed.close()
        } else {
            let closed = cursors.values
            cursors = [:]
            for cursor in closed { await cursor.close() }
        }
        writer.commandComplete(name == nil ? "CLOSE CURSOR ALL" : "CLOSE CURSOR")
    }

    private func cursor(_ name: String) throws(TransactionError) -> Cursor {
        guard let cursor = cursors[name] else {
            throw TransactionError(.invalidCursorName, "cursor \"\(name)\" does not exist")
        }
        return cursor
    }

    /// The formats of a FETCH's columns: those of a binary cursor are what it was declared for.
    func formats(of planned: PlannedStatement, _ asked: [FormatCode]) -> [FormatCode] {
        guard case .fetch(let name, _, _) = planned.statement.kind, cursors[name]?.isBinary == true else {
            return asked
        }
        return [.binary]
    }
}

extension ClientTransaction {
    /// Begins to read for a cursor, which sees what there is now.
    func openCursor(_ statement: BoundStatement, number: Int) async throws(TransactionError) -> Cursor.Source {
        try checkFunctions(of: statement)
        note(statement.catalog, statement.tables)
        guard statement.isLocking || writer != nil else {
            // What it will return counts as read already: it must be so, too, when the transaction turns to locking.
            _ = try await currentSnapshot()
            try await remember(statement)
            return .snapshot(self)
        }
        let run = LockingRun(try await lockingTransaction(), engine)
        try await remember(statement)
        let mustRepeat = mustRepeat(statement)
        if let cursor = try await run.cursor(statement, mustRepeat, name: "meridian_cursor_\(number)") {
            return .sessions(cursor)
        }
        return .rows(try await run.read(statement, mustRepeat))
    }

    /// Reads for a cursor that was declared before the transaction locked anything, if it has since.
    func readAtSnapshot(_ statement: BoundStatement) async throws(TransactionError) -> StatementResult {
        let run = try await snapshotRun()
        if !statement.hasFewRows, let stream = try await run.stream(statement, nil) {
            return StatementResult(stream, fields: stream.fields)
        }
        return try await run.read(statement)
    }
}
