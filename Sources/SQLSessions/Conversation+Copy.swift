import NIOCore
import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// COPY between a client and the shards.
extension Conversation {
    /// Runs a COPY. The result has the tag alone: the data has been on its way by then.
    func runCopy(
        _ planned: PlannedStatement, _ command: CopyCommand, isBlock: Bool
    ) async throws -> StatementResult {
        guard command.peer == .client else {
            throw TransactionError(
                .featureNotSupported, "COPY to or from a file or program of a server is not supported",
                hint: "use COPY FROM STDIN or TO STDOUT; psql's \\copy command does")
        }
        let count =
            try await command.isFrom
            ? copyIn(planned, command, isBlock: isBlock) : copyOut(planned, command, isBlock: isBlock)
        return StatementResult([], fields: [], tag: "COPY \(count)")
    }

    /// The columns that a COPY without a list has: all that are not computed.
    private func columns(of command: CopyCommand, in table: TableDefinition) -> [String] {
        if case .table(_, let columns) = command.source, !columns.isEmpty { return columns }
        return table.columns.filter { $0.defaultKind != .computed }.map(\.name)
    }

    // MARK: In

    private func copyIn(_ planned: PlannedStatement, _ command: CopyCommand, isBlock: Bool) async throws -> Int {
        guard case .table(let name, _) = command.source else { preconditionFailure("COPY FROM has a table") }
        let path = variables.settings.searchPath
        guard case .table(let table) = planned.catalog.relation(schema: name.schema, name.name, searchPath: path) else {
            throw TransactionError(
                .undefinedTable, "relation \"\(name.name)\" does not exist",
                detail: "only tables that Meridian distributes can be copied into")
        }
        let transaction = try currentTransaction(isBlock: isBlock)
        if !table.name.isTemporary { try await transaction.checkMayWrite("COPY FROM") }
        let locking = try await table.name.isTemporary ? transaction.ownSessions() : transaction.lockingTransaction()
        await transaction.used(planned.catalog, table.name.isTemporary ? [] : [table.name])
        var copy = try await CopyIn(
            command, planned.statement.text, into: table, columns: columns(of: command, in: table), planned.catalog,
            locking, node.engine
        ) { statement throws(TransactionError) in try await self.evaluate(statement) }
        let (format, columns) = Self.formats(copy.format)
        writer.copyInResponse(format, columns: columns)
        while true {
            guard let frame = await nextFrame() else {
                if departure == .terminated { throw lostSynchronisation(by: .terminate) }
                throw TransactionError(.queryCanceled, "the client is gone", hint: "nothing of the COPY was kept")
            }
            switch frame.kind {
            case .copyData: try await copy.take(bytes(from: frame).readableBytesView)
            case .copyDone: return try await copy.finish()
            case .copyFail:
                guard case .copyFail(let reason) = try frame.decode() else { continue }
                throw await copy.fail(reason)
            // What a client sends ahead of the data.
            case .flush, .sync: continue
            default: throw lostSynchronisation(by: frame.kind)
            }
        }
    }

    /// As on PostgreSQL, the client is told of what it sent first, and then that it is the session's end.
    private func lostSynchronisation(by kind: FrontendFrame.Kind) -> WireError {
        writer.errorResponse(ErrorFields(WireError.unexpectedDuringCopy(kind)))
        return .lostSynchronisation
    }

    /// The data of a frame, and of those that have come behind it, up to a good piece.
    private func bytes(from frame: FrontendFrame) -> ByteBuffer {
        var bytes = frame.body
        while bytes.readableBytes < 65_536, let next = nextCopyData() {
            bytes.writeImmutableBuffer(next.body)
        }
        return bytes
    }

    private static func formats(_ format: CopyFormat) -> (FormatCode, [FormatCode]) {
        (
            format.isBinary ? .binary : .text,
            format.columnFormats.map { $0 == .binary ? .binary : .text }
        )
    }

    // MARK: Out

    private func copyOut(_ planned: PlannedStatement, _ command: CopyCommand, isBlock: Bool) async throws -> Int {
        let query = try await query(of: planned, command)
        let statement = try BoundStatement(query)
        let transaction = try currentTransaction(isBlock: isBlock)
        var output = CopyOutput(command)
        if try await transaction.canCopyOut(statement) {
            let types = output.isBinary ? try await description(of: query, types: [])?.fields.map(\.typeOID) : nil
            let sources = try await transaction.copyOut(statement, output)
            for place in sources.places {
                let stream = try await sources.stream(at: place)
                output.begin(place, try await node.engine.rowTranslation(from: stream.shard, of: types ?? []))
                try await send(stream, &output, isFirst: place == 0)
            }
        } else {
            // Rows that must be put together first are copied out of a server that is given them.
            let result = try await transaction.run(statement)
            let text = try await output.query(over: result, names: node.engine)
            let stream = try await transaction.copyOut(text, output)
            output.begin(0)
            try await send(stream, &output, isFirst: true)
        }
        output.end(&writer)
        writer.copyDone()
        return output.rowCount
    }

    private func send(
        _ stream: ShardStream<CopyOutStream>, _ output: inout CopyOutput, isFirst: Bool
    ) async throws {
        if isFirst {
            let (format, columns) = Self.formats(stream.head)
            writer.copyOutResponse(format, columns: columns)
        }
        while let batch = try await stream.next() {
            output.write(batch, to: &writer)
            if writer.bytesWritten > 64 << 10 { try await flushAndWait() }
        }
    }

    /// The query that is copied: the client's, or one for a table.
    private func query(of planned: PlannedStatement, _ command: CopyCommand) async throws -> PlannedStatement {
        let text: String
        switch command.source {
        case .query(let range):
            text = planned.statement.part(range)
        case .table(let name, let listed):
            var columns = listed
            let path = variables.settings.searchPath
            switch planned.catalog.relation(schema: name.schema, name.name, searchPath: path) {
            case .table(let table): columns = self.columns(of: command, in: table)
            case .view:
                throw TransactionError(
                    .wrongObjectType, "cannot copy from view \"\(name.name)\"",
                    hint: "try the COPY (SELECT ...) TO variant")
            case .system, .unknown: break
            }
            let list = columns.isEmpty ? "*" : columns.map { quotedIdentifier($0) }.joined(separator: ", ")
            text = "SELECT \(list) FROM \(name)"
        }
        let plans = try await plans(of: text)
        guard let query = plans.first, plans.count == 1 else {
            throw TransactionError(.syntaxError, "COPY needs a query")
        }
        return query
    }
}
