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
        if !isImplicitBlock, !options.contains(.hold) { try checkInBlock("DECLARE CURSOR") }
        guard cursors[name] == nil else {
            throw TransactionError(.duplicateCursor, "cursor \"\(name)\" already exists")
        }
        let plans = try await plans(of: query)
        guard let planned = plans.first, plans.count == 1, case .query = planned.statement.kind, !planned.plan.isWrite
        else {
            throw TransactionError(
                .featureNotSupported, "DECLARE CURSOR must not contain data-modifying statements in WITH")
        }
        let statement = try BoundStatement(
            planned, parameters, types: types, resultFormat: options.contains(.binary) ? .binary : .text)
        cursorCount += 1
        let transaction = try currentTransaction(isBlock: true)
        let source: Cursor.Source =
            if options.isDisjoint(with: [.hold, .scroll]) {
                try await transaction.openCursor(statement, number: cursorCount)
            } else {
                .kept(try await keep(try await transaction.run(statement, .streamed)))
            }
        cursors[name] = Cursor(statement, options, number: cursorCount, source, on: node.engine.loop)
        writer.commandComplete("DECLARE CURSOR")
    }

    /// The rows of cursors that are kept take so much memory at most, of all of a session's together.
    private static let keptBytesMax = 32 << 20

    /// Reads a result to its end for a cursor that outlives its transaction, or goes back. The rows are kept here: they
    /// may be of several shards, and on one they would need a connection for as long as the cursor is there.
    private func keep(_ result: StatementResult) async throws(TransactionError) -> KeptRows {
        var rows = KeptRows(fields: result.fields)
        let others = cursors.values.reduce(0) { $0 + $1.keptBytes }
        var reader = ResultReader(result)
        while let block = try await reader.next(atMost: .max) {
            rows.append(block)
            guard rows.byteCount + others <= Self.keptBytesMax else {
                await reader.close()
                throw TransactionError(
                    .configurationLimitExceeded, "the rows of a cursor WITH HOLD or SCROLL take too much memory",
                    detail: "the limit for those of a session is \(Self.keptBytesMax >> 20) MiB",
                    hint: "declare it WITHOUT HOLD and NO SCROLL, or read the rows into a temporary table")
            }
        }
        return rows
    }

    /// The transaction has ended: cursors end with it, but for those that are held.
    func endCursors(committing: Bool) {
        guard !cursors.isEmpty else { return }
        let limit = committing ? cursorCount : heldCursorCount
        cursors = cursors.filter { $0.value.isHeld && $0.value.number <= limit }
        heldCursorCount = cursorCount
    }

    /// FETCH: its rows; of MOVE, which tells none, nil.
    func fetch(
        _ name: String, _ amount: FetchAmount, isMove: Bool, _ format: SQLStatement.Format
    ) async throws -> StatementResult? {
        let cursor = try cursor(name)
        let rows = try await cursor.portion(
            amount, cursor.isBinary ? .binary : format, words: isMove ? "MOVE" : "FETCH")
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
        guard let sessions = try await sessions(for: statement) else {
            // What it will return counts as read already: it must be so, too, when the transaction turns to locking.
            _ = try await currentSnapshot()
            try await remember(statement)
            return .snapshot(self)
        }
        let run = locking(sessions)
        try await remember(statement)
        let lasting = lasting(statement)
        if let cursor = try await run.cursor(statement, lasting, name: "meridian_cursor_\(number)") {
            return .sessions(cursor)
        }
        return .rows(try await run.read(statement, lasting))
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
