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
        guard transaction == nil, !block.isOpen, temporaries == nil, let text = loneQuery, let first = text.utf8.first
        else { return false }
        return switch first | 0x20 {
        case UInt8(ascii: "b"): beginBlock(text)
        case UInt8(ascii: "s"): beginPlainRead(text)
        default: false
        }
    }

    private func knownPlan(_ text: String) -> PlannedStatement? {
        let searchPath = variables.settings.searchPath
        return node.assumeIsolated { $0.knownPlan(text, searchPath) }
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
                connection.assumeIsolated {
                    $0.setNoticeHandler { [unowned self] fields in
                        assumeIsolated { $0.plainRead?.notices.append(fields) }
                    }
                }
                return applied.statements(bringing: connection, to: settings)
            })
        let read = node.engine.assumeIsolated {
            $0.beginPlainRead(client, on: shards[0]) { [self] outcome in assumeIsolated { $0.endPlainRead(outcome) } }
        }
        // What ended at once has been seen to.
        if read != nil { plainRead?.read = read } else { plainRead = nil }
        return read != nil
    }

    /// The statement with its values, when it is one that can be read so.
    private func plainRead(_ text: String) -> (PlannedStatement, BoundStatement)? {
        guard variables.isReadPlain, let normalized = StatementNormalizer.normalize(text),
            let planned = knownPlan(normalized.text), planned.isPlainRead,
            let statement = try? BoundStatement(
                plan: planned.plan, catalog: planned.catalog, parameters: normalized.values.map { .text($0) })
        else { return nil }
        return (planned, statement)
    }

    private func endPlainRead(_ outcome: PlainRead.Outcome) {
        guard let read = plainRead else { return }
        plainRead = nil
        switch outcome {
        case .rows(let result) where node.catalogs.assumeIsolated({ $0.isNewest(read.planned.catalog) }):
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
        describe(Self.descriptions(result.fields), [])
        RowEncoder(result.fields, []).write(RowBlock(result), ColumnTexts(), to: &writer)
        writer.commandComplete(result.commandTag)
        answeredLoneQuery()
    }

    func cancelPlainRead() {
        plainRead?.isCancelled = true
        plainRead?.read?.cancel()
    }
}
