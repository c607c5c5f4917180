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
    /// Answers the frames that are here, now or later; false when a task must.
    func answerAtOnce() -> Bool {
        guard transaction == nil, !block.isOpen, temporaries == nil, isAtRest, let first = pending.first else {
            return false
        }
        switch first.kind {
        case .query:
            guard pending.count == 1, first.byteCount <= SessionNode.plannedTextBytesMax,
                case .query(let text)? = try? first.decode(), let letter = text.utf8.first
            else { return false }
            return switch letter | 0x20 {
            case UInt8(ascii: "b"): beginBlock(text)
            case UInt8(ascii: "s"): beginPlainRead(text)
            default: false
            }
        case .bind: return beginPlainExecution()
        default: return false
        }
    }

    private func knownPlan(_ text: String) -> PlannedStatement? {
        let searchPath = variables.settings.searchPath
        return node.onLoop { $0.knownPlan(text, searchPath) }
    }

    private func beginBlock(_ text: String) -> Bool {
        guard case .transaction(.begin(let modes))? = knownPlan(text)?.statement.kind else { return false }
        forgetUnnamed()
        activity.began(text)
        beginBlock(modes)
        writer.commandComplete("BEGIN")
        answeredAtOnce(frames: 1)
        return true
    }

    /// A simple query does away with the unnamed statement and portal.
    private func forgetUnnamed() {
        if !statements.isEmpty { statements[""] = nil }
        if !portals.isEmpty { portals[""] = nil }
    }

    // MARK: Reads

    /// What is being read.
    struct LonePlainRead {
        let planned: PlannedStatement
        let read: PlainRead
        /// By the extended protocol; nil: by a Query.
        let execution: LoneExecution?
        /// What the shard said meanwhile, for the client if the read counts.
        var notices: [PostgresErrorFields] = []
        /// The client wants no more of it, or is gone.
        var isCancelled = false
    }

    private func beginPlainRead(_ text: String) -> Bool {
        let searchPath = variables.settings.searchPath
        guard let (planned, values) = node.onLoop({ $0.knownWithoutLiterals(text, searchPath) }), planned.isPlainRead,
            let statement = try? BoundStatement(planned, values.map { .text($0) }),
            let read = plainRead(of: statement)
        else { return false }
        forgetUnnamed()
        activity.began(text)
        begin(LonePlainRead(planned: planned, read: read, execution: nil))
        return true
    }

    /// The read of a statement, which is yet to begin; nil when it can't be read so.
    private func plainRead(of statement: BoundStatement) -> PlainRead? {
        guard variables.isReadPlain, let shards = try? statement.shards(), shards.count == 1 else { return nil }
        let preparation = plainReadPreparation
        return node.engine.onLoop {
            $0.plainRead(of: statement.sql, on: shards[0], preparing: preparation) { [self] outcome in
                onLoop { $0.endPlainRead(outcome) }
            }
        }
    }

    private func begin(_ plain: LonePlainRead) {
        plainRead = plain
        // It may have ended, and another one begun, before this returns.
        plain.read.begin()
    }

    /// What a shard's session is told before a plain read: the same each time, as the session is when it begins.
    func makePlainReadPreparation() -> SessionPreparation {
        let notice: @Sendable (PostgresErrorFields) -> Void = { [unowned self] fields in
            onLoop { $0.plainRead?.notices.append(fields) }
        }
        return { [unowned self] connection in
            connection.onLoop { $0.setNoticeHandler(notice) }
            return onLoop { $0.node.applied.statements(bringing: connection, to: $0.variables.settings) }
        }
    }

    private func endPlainRead(_ outcome: PlainRead.Outcome) {
        guard let plain = plainRead else { return }
        plainRead = nil
        switch outcome {
        case .rows(let result)
        where node.catalogs.onLoop({ $0.isNewest(plain.planned.catalog) }) && plain.execution?.expects(result) != false:
            for notice in plain.notices { forward(notice) }
            write(result, plain.execution)
            answeredAtOnce(frames: plain.execution?.frameCount ?? 1)
        case .failed(let error) where !plain.isCancelled:
            if plain.execution != nil { writer.bindComplete() }
            fail(error)
            answeredAtOnce(frames: plain.execution?.frameCount ?? 1)
        case .rows, .undone, .failed:
            serveByTask()
            // It says so to the client.
            if plain.isCancelled { serving?.cancel() }
        }
    }

    /// Writes rows as they came, all in one format.
    private func write(_ result: SQLResult, _ execution: LoneExecution?) {
        if let execution {
            writer.bindComplete()
            if let description = execution.description { writer.rowDescription(description) }
        } else {
            writer.rowDescription(Self.descriptions(result.fields))
        }
        result.withRawRows { rows in
            for row in 0..<rows.count { writer.dataRow(columns: rows.columnCount) { rows[row, $0] } }
        }
        result.withCommandTagBytes { writer.commandComplete($0) }
    }

    func cancelPlainRead() {
        plainRead?.isCancelled = true
        plainRead?.read.cancel()
    }
}

// MARK: The extended protocol

extension Conversation {
    /// A prepared statement that is bound, run to its end and done with in one go: Bind, perhaps Describe, Execute and
    /// Sync, of the unnamed portal.
    struct LoneExecution {
        let frameCount: Int
        /// The columns as the client is to be told of them; nil when it has not asked.
        let description: [FieldDescription]?
        /// The types of the columns as the client was told them before; nil when it was not.
        let toldTypes: [UInt32]?

        /// A result that is another is told by the usual path, and so is one without columns.
        func expects(_ result: SQLResult) -> Bool {
            let types = result.fields.map(\.typeOID)
            return !types.isEmpty && (toldTypes ?? types) == types && (description?.map(\.type) ?? types) == types
        }
    }

    private func beginPlainExecution() -> Bool {
        guard let (bind, isDescribed) = loneBind, let prepared = statements[bind.statement],
            let planned = knownPlan(prepared.text), planned.isPlainRead, bind.resultFormats.count <= 1,
            bind.parameters.count == max(planned.plan.parameterCount, prepared.parameterTypes.count),
            (try? bind.checkText()) != nil,
            let statement = try? BoundStatement(
                planned, Self.parameters(of: bind), types: prepared.parameterTypes,
                resultFormat: bind.resultFormats.shardFormat)
        else { return false }
        var description: [FieldDescription]?
        if isDescribed {
            // As the first shard says: tables and types have their numbers there.
            guard let known = planned.described.withLock(\.self), known.types == prepared.parameterTypes else {
                return false
            }
            description = Self.descriptions(known.description.fields)
            for index in known.description.fields.indices {
                description?[index].format = bind.resultFormats.format(at: index)
            }
        }
        guard let read = plainRead(of: statement) else { return false }
        activity.began(planned.statement.text)
        let execution = LoneExecution(
            frameCount: pending.count, description: description, toldTypes: prepared.resultTypes)
        begin(LonePlainRead(planned: planned, read: read, execution: execution))
        return true
    }

    /// The Bind of a lone execution; nil when that is not what is here.
    private var loneBind: (bind: FrontendMessage.Bind, isDescribed: Bool)? {
        let count = pending.count
        guard count == 3 || count == 4, pending[count - 1].kind == .sync, pending[count - 2].kind == .execute,
            case .bind(let bind)? = try? pending[0].decode(), bind.portal.isEmpty,
            case .execute(let execute)? = try? pending[count - 2].decode(), execute.portal.isEmpty,
            execute.rowsMax <= 0, count == 3 || (try? pending[1].decode()) == .describe(.portal("")),
            (try? pending[count - 1].decode()) != nil
        else { return nil }
        return (bind, count == 4)
    }
}
