import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// What is answered without a task: BEGIN, and a lone SELECT of rows by their keys.
///
/// Nothing has to be waited for but one shard's answer, as a rule, and the functions that might suspend on the way to
/// it cost more than all else that such a statement costs a node. Whatever isn't as usual is left to the task, which
/// begins from the start: nothing has been told to the client by then.
extension Conversation {
    /// Answers the frame in front, now or later; false when a task must.
    func answerAtOnce() -> Bool {
        guard transaction == nil, !block.isOpen, let text = loneQuery, let first = text.utf8.first else { return false }
        return switch first | 0x20 {
        case UInt8(ascii: "b"): beginBlock(text)
        case UInt8(ascii: "s"): beginPlainRead(text)
        default: false
        }
    }

    private func knownPlan(_ text: String) -> PlannedStatement? {
        let searchPath = variables.settings.searchPath
        return node.onLoop { $0.knownPlan(text, searchPath) }
    }

    private func began(_ text: String) {
        (statements[""], portals[""]) = (nil, nil)
        activity.began(text)
    }

    private func beginBlock(_ text: String) -> Bool {
        guard case .transaction(.begin(let modes))? = knownPlan(text)?.statement.kind else { return false }
        began(text)
        beginBlock(modes)
        writer.commandComplete("BEGIN")
        answeredLoneQuery()
        return true
    }

    // MARK: Reads

    /// What is being read.
    struct LonePlainRead {
        let planned: PlannedStatement
        var read: PlainRead?
        /// What the shard said meanwhile, for the client if the read counts.
        var notices: [PostgresErrorFields] = []
        /// The client wants no more of it, or is gone.
        var isCancelled = false
    }

    private func beginPlainRead(_ text: String) -> Bool {
        guard let (planned, statement) = plainRead(text), let shards = try? statement.shards(), shards.count == 1 else {
            return false
        }
        began(text)
        plainRead = LonePlainRead(planned: planned)
        let (settings, applied) = (variables.settings, node.applied)
        let client = ClientStatement(
            statement.sql, searchPath: [],
            preparation: { [self] connection in
                connection.onLoop {
                    $0.setNoticeHandler { [unowned self] fields in
                        onLoop { $0.plainRead?.notices.append(fields) }
                    }
                }
                return applied.statements(bringing: connection, to: settings)
            })
        let read = node.engine.onLoop {
            $0.beginPlainRead(client, on: shards[0]) { [self] outcome in onLoop { $0.endPlainRead(outcome) } }
        }
        // What ended at once has been seen to.
        if read != nil { plainRead?.read = read } else { plainRead = nil }
        return read != nil
    }

    /// The statement with its values, when it is one that can be read so.
    private func plainRead(_ text: String) -> (PlannedStatement, BoundStatement)? {
        let searchPath = variables.settings.searchPath
        guard variables.isReadPlain,
            let (planned, values) = node.onLoop({ $0.knownWithoutLiterals(text, searchPath) }), planned.isPlainRead,
            let statement = try? BoundStatement(planned, values.map { .text($0) })
        else { return nil }
        return (planned, statement)
    }

    private func endPlainRead(_ outcome: PlainRead.Outcome) {
        guard let read = plainRead else { return }
        plainRead = nil
        switch outcome {
        case .rows(let result) where node.catalogs.onLoop({ $0.isNewest(read.planned.catalog) }):
            for notice in read.notices { forward(notice) }
            writeAnswer(result)
        case .failed(let error) where !read.isCancelled:
            fail(error)
            answeredLoneQuery()
        case .rows, .undone, .failed:
            serveByTask()
            // It says so to the client.
            if read.isCancelled { serving?.cancel() }
        }
    }

    private func writeAnswer(_ result: SQLResult) {
        // All of it in text, and by the first shard's numbers of types: it goes on as it came.
        result.withRawRows { rows in
            writer.beginRowDescription(fields: rows.columnCount)
            for column in 0..<rows.columnCount { writer.field(rows.field(column)) }
            writer.endRowDescription()
            for row in 0..<rows.count { writer.dataRow(columns: rows.columnCount) { rows[row, $0] } }
        }
        result.withCommandTagBytes { writer.commandComplete($0) }
        answeredLoneQuery()
    }

    func cancelPlainRead() {
        plainRead?.isCancelled = true
        plainRead?.read?.cancel()
    }
}

extension BackendWriter {
    fileprivate mutating func field(_ field: RawField) {
        self.field(
            name: field.name, table: field.tableOID, attribute: field.columnNumber, type: field.typeOID,
            typeSize: field.typeSize, typeModifier: field.typeModifier, format: .text)
    }
}
