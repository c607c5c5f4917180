import EventLoops
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// A cursor that a client declared in its transaction. It gives its rows from the first to the last, as they were when
/// it was declared.
actor Cursor {
    /// Where the rows come from.
    enum Source: Sendable {
        /// The transaction's snapshot, which stays as it is: the query is run when the first rows are wanted.
        case snapshot(ClientTransaction)
        /// Cursors in the transaction's own sessions, since rows are to be seen without what it writes later.
        case sessions(SessionCursor)
        /// Rows that had to be put together from several shards.
        case rows(StatementResult)
        /// All rows, of a cursor that outlives its transaction or goes back.
        case kept(KeptRows)
    }

    nonisolated let query: BoundStatement
    nonisolated let isBinary: Bool
    /// It outlives the transaction that declares it, if this commits.
    nonisolated let isHeld: Bool
    private nonisolated let isForwardOnly: Bool
    /// The later it was declared in its session, the larger.
    nonisolated let number: Int
    private var source: Source
    private let loop: EventLoop
    private var reader: ResultReader?
    private var isBroken = false

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    /// It reads in sessions that are not the transaction's own.
    nonisolated let isAtSnapshot: Bool
    /// The columns, and how much memory the rows take, where these are kept.
    nonisolated let keptFields: [ResultField]?
    nonisolated let keptBytes: Int

    init(
        _ query: BoundStatement, _ options: CursorOptions, number: Int, _ source: Source, on loop: EventLoop
    ) {
        (self.query, self.number) = (query, number)
        if case .snapshot = source { isAtSnapshot = true } else { isAtSnapshot = false }
        (isBinary, isHeld) = (options.contains(.binary), options.contains(.hold))
        isForwardOnly = options.contains(.noScroll)
        if case .kept(let rows) = source {
            (keptFields, keptBytes) = (rows.fields, rows.byteCount)
        } else {
            (keptFields, keptBytes) = (nil, 0)
        }
        (self.source, self.loop) = (source, loop)
    }

    /// The rows that FETCH or MOVE is about.
    ///
    /// - Parameter format: the shards are asked for it by the first call.
    func portion(
        _ amount: FetchAmount, _ format: SQLStatement.Format, words: String
    ) async throws(TransactionError) -> StatementResult {
        if case .kept(var rows) = source {
            try check(rows.fields, format)
            try check(amount)
            let portion = rows.fetch(amount)
            source = .kept(rows)
            var result = StatementResult(
                KeptPortion(portion, words: words, on: loop), fields: rows.fields)
            result.isBinary = isBinary
            return result
        }
        guard case .forward(let limit) = amount else { throw Self.onlyForward }
        let fields = try await opened(format).fields
        try check(fields, format)
        var result = StatementResult(CursorPortion(self, limit: limit, words: words, on: loop), fields: fields)
        result.isBinary = isBinary
        return result
    }

    private func check(_ amount: FetchAmount) throws(TransactionError) {
        guard isForwardOnly else { return }
        switch amount {
        case .forward, .relative(1...): return
        case .backward, .absolute, .relative: throw Self.onlyForward
        }
    }

    private static let onlyForward = TransactionError(
        .objectNotInPrerequisiteState, "cursor can only scan forward",
        hint: "declare it with SCROLL option to enable backward scan")

    private func check(_ fields: [ResultField], _ format: SQLStatement.Format) throws(TransactionError) {
        if format == .binary, let field = fields.first(where: { !$0.isBinary }) {
            throw TransactionError(
                .featureNotSupported, "column \"\(field.name)\" of the cursor can't be fetched as binary",
                detail: "its rows are here as text", hint: "fetch as text, or all in binary")
        }
    }

    private func opened(_ format: SQLStatement.Format) async throws(TransactionError) -> ResultReader {
        if let reader { return reader }
        guard !isBroken else {
            throw TransactionError(
                .objectNotInPrerequisiteState, "the cursor cannot be run", detail: "fetching from it has failed",
                hint: "close it and declare it again")
        }
        let result: StatementResult
        switch source {
        case .snapshot(let transaction):
            var query = query
            query.resultFormat = format
            result = try await transaction.readAtSnapshot(query)
        case .sessions(let cursor): result = StatementResult(cursor, fields: try await cursor.open(format))
        case .rows(let rows): result = rows
        case .kept: preconditionFailure("kept rows are not read from a shard")
        }
        let opened = ResultReader(result)
        reader = opened
        return opened
    }

    func next(atMost limit: Int) async throws(TransactionError) -> RowBlock? {
        guard var reader else { return nil }
        // Where it stands is not known after an error.
        self.reader = nil
        isBroken = true
        let block = try await reader.next(atMost: limit)
        self.reader = reader
        isBroken = false
        return block
    }

    /// Lets go of what the rows come from.
    func close() async {
        reader = nil
        if case .sessions(let cursor) = source { await cursor.close() }
    }
}

/// What one FETCH returns.
actor CursorPortion: RowSource {
    private let cursor: Cursor
    private let words: String
    private let loop: EventLoop
    private var left: Int
    private var count = 0

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    init(_ cursor: Cursor, limit: Int, words: String, on loop: EventLoop) {
        (self.cursor, self.words, self.loop) = (cursor, words, loop)
        left = limit
    }

    func nextBlock() async throws(TransactionError) -> RowBlock? {
        guard left > 0, let block = try await cursor.next(atMost: left) else { return nil }
        left -= block.count
        count += block.count
        return block
    }

    var tag: String { "\(words) \(count)" }

    /// The cursor stays, for other portions.
    func close() {}
}

/// A query's rows by cursors in a transaction's own sessions, one on each shard: the sessions are free for other
/// statements between two portions.
actor SessionCursor: RowSource {
    /// So many rows are asked for at a time.
    private static let rowsPerFetch = 512

    private let writer: ReadWriteTransaction
    private let name: String
    private let loop: EventLoop
    private let shards: [ShardID]
    private var unread: ArraySlice<ShardID>
    private var format = SQLStatement.Format.text
    private var count = 0

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    /// Takes the locks and declares the cursors, all of them before the transaction does anything else.
    init(
        _ statement: SQLStatement, after locks: [SQLStatement], name: String, on shards: [ShardID], isWrite: Bool,
        in writer: ReadWriteTransaction, _ loop: EventLoop
    ) async throws(TransactionError) {
        (self.writer, self.name, self.loop, self.shards, unread) = (writer, name, loop, shards, shards[...])
        var declaration = statement
        declaration.text = "DECLARE \(name) NO SCROLL CURSOR FOR \(statement.text)"
        declaration.isPrepared = false
        await writer.declares(cursor: name, on: shards)
        for shard in shards {
            _ =
                isWrite
                ? try await writer.execute(locks + [declaration], on: shard)
                : try await writer.lockingRead(locks + [declaration], on: shard)
        }
    }

    /// Returns the columns in that format.
    func open(_ format: SQLStatement.Format) async throws(TransactionError) -> [ResultField] {
        self.format = format
        return try await fetch(0, on: shards[0]).fields
    }

    func nextBlock() async throws(TransactionError) -> RowBlock? {
        while let shard = unread.first {
            let rows = try await fetch(Self.rowsPerFetch, on: shard)
            if rows.count < Self.rowsPerFetch { unread = unread.dropFirst() }
            count += rows.count
            if rows.count > 0 { return RowBlock(rows) }
        }
        return nil
    }

    var tag: String { "SELECT \(count)" }

    func close() async { await writer.unneeded(cursor: name) }

    private func fetch(_ count: Int, on shard: ShardID) async throws(TransactionError) -> SQLResult {
        try await writer.lockingRead(
            SQLStatement("FETCH FORWARD \(count) FROM \(name)", isPrepared: false, resultFormat: format), on: shard)
    }
}
