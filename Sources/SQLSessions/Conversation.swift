import DequeModule
import EventLoops
import Foundation
import Gateway
import Logging
import NIOCore
import Placement
import PostgresWire
import ShardBackend
import StatementRouting
import TransactionCore
import TransactionEngine

/// One client's session: what it sends, in order, and what it is answered.
///
/// Runs on the engine's event loop, where the shards' connections are too. Frames are worked off by one task, which
/// ends when there are none: an idle client costs no task. Some are answered without one (``answerAtOnce()``).
actor Conversation: ClientSession, LoopActor {
    /// What Parse made. It is planned anew for each Bind, from the plan cache unless the schema has changed.
    struct PreparedStatement: Sendable {
        let text: String
        var parameterTypes: [UInt32]
        /// By PREPARE, whose whole text is ``definition``.
        var isFromSQL = false
        var definition: String?
        let preparedAt = Date()
        /// The types of the columns as the client was told them; nil when it has not asked.
        var resultTypes: [UInt32]?
    }

    let node: SessionNode
    /// The session's number: its process in PostgreSQL's eyes.
    let process: Int32
    let startup: ClientStartup
    let output: ClientOutput
    var variables: SessionVariables
    var writer = BackendWriter()

    private(set) var pending = Deque<FrontendFrame>()
    /// How the client left, once it has.
    private(set) var departure: Departure?
    var isGone: Bool { departure != nil }
    private(set) var isServing = false
    private(set) var serving: Task<Void, Never>?
    private var frameWaiter: UnsafeContinuation<Void, Never>?
    /// An error in the extended protocol: everything up to the next Sync is passed over.
    private var skipsToSync = false

    /// A commit was asked for, and its answer is not in the output yet.
    private var isCommitUnanswered = false

    /// Something failed since the last Sync, outside a block.
    private var hasFailedSinceSync = false
    /// The simple protocol describes rows with the rows.
    var describesAnswers = true
    /// Several statements of one Query are a block of their own.
    var isImplicitBlock = false

    /// Who said what since the last ReadyForQuery.
    private var notices: [NoticeKey: ObjectIdentifier] = [:]

    private struct NoticeKey: Hashable {
        let state: SQLState
        let message: String
    }

    var transaction: ClientTransaction?
    var block = TransactionBlock()
    var statements: [String: PreparedStatement] = [:]
    var portals: [String: Portal] = [:]
    var activity = SessionActivity()
    var idleTimer = IdleTimer()
    /// The statement that runs has taken longer than `statement_timeout` allows.
    var isTimedOut = false
    var temporaries: TemporaryRelations?
    /// What the node listens to for the session.
    var listening: Set<String> = []
    var heard = HeardNotifications()
    /// What was heard waits for the client to read.
    var isWaitingToTell = false
    var cursors: [String: Cursor] = [:]
    /// How many cursors were declared so far, and by the end of the last transaction.
    var cursorCount = 0
    var heldCursorCount = 0
    /// What is being answered without a task.
    var plainRead: LonePlainRead?
    private(set) lazy var plainReadPreparation = makePlainReadPreparation()

    nonisolated var loop: EventLoops.EventLoop { node.engine.loop }
    nonisolated var unownedExecutor: UnownedSerialExecutor { node.engine.unownedExecutor }

    init(
        _ node: SessionNode, _ process: Int32, _ startup: ClientStartup, _ output: ClientOutput,
        variables: SessionVariables
    ) {
        (self.node, self.process, self.startup) = (node, process, startup)
        (self.output, self.variables) = (output, variables)
    }

    // MARK: The gateway's calls

    nonisolated func receive(_ frames: [FrontendFrame]) {
        // As a rule: the gateway runs on the engine's loop, too.
        if loop.isCurrent { onLoop { $0.take(frames) } } else { perform { $0.take(frames) } }
    }

    nonisolated var mayHaveCommitted: Bool { loop.isCurrent ? onLoop { $0.isCommitUnanswered } : true }

    nonisolated func disconnected(_ departure: Departure) {
        perform { $0.leave(departure) }
    }

    /// Stops the statement that runs, as a cancel request asks.
    nonisolated func cancel() {
        perform { $0.stop() }
    }

    /// At once when the caller is on the loop.
    private nonisolated func perform(_ body: @escaping @Sendable (isolated Conversation) -> Void) {
        guard !loop.isCurrent else { return onLoop(body) }
        loop.execute { self.onLoop(body) }
    }

    private func take(_ frames: [FrontendFrame]) {
        idleTimer.stop()
        pending.append(contentsOf: frames)
        frameWaiter?.resume()
        frameWaiter = nil
        serveIfIdle()
    }

    private func leave(_ departure: Departure) {
        self.departure = departure
        if departure == .lost { stop() }
        frameWaiter?.resume()
        frameWaiter = nil
        serveIfIdle()
    }

    private func serveIfIdle() {
        guard !isServing else { return }
        isServing = true
        if !answerAtOnce() { serveByTask() }
    }

    func serveByTask() {
        serving = Task(executorPreference: node.engine.loop) { await self.serve() }
    }

    private func stop() {
        if plainRead != nil { cancelPlainRead() } else { serving?.cancel() }
    }

    private func serve() async {
        while let frame = pending.popFirst() {
            await answer(frame)
            output.processed(bytes: frame.byteCount)
            if pending.isEmpty || writer.bytesWritten > 64 << 10 {
                flush()
                isCommitUnanswered = false
            }
            // A client that only had its statement cancelled waits for the rest of its answers.
            if output.isBacklogged, await !output.drained(), isGone || !Task.isCancelled { pending = [] }
            // A cancelled task would cancel the next statement too.
            if Task.isCancelled, !pending.isEmpty, !isGone { return serveByTask() }
        }
        flush()
        isServing = false
        if isGone { await end() } else { becameIdle() }
    }

    private func becameIdle() {
        startIdleTimer()
        tellHeardIfIdle()
    }

    /// Nothing is in the way of answering what is here.
    var isAtRest: Bool { !skipsToSync && !hasFailedSinceSync && !isGone && !output.isBacklogged }

    /// The frames in front have been answered, without a task.
    func answeredAtOnce(frames count: Int) {
        for _ in 0..<count { output.processed(bytes: pending.removeFirst().byteCount) }
        readyForQuery()
        flush()
        isServing = false
        if isGone || !pending.isEmpty { serveIfIdle() } else { becameIdle() }
    }

    private func end() async {
        await transaction?.rollback()
        transaction = nil
        statements = [:]
        portals = [:]
        cursors = [:]
        idleTimer.stop()
        output.close()
        variables.channels = []
        await endListening()
        await releaseTemporaries()
        await node.closed(process)
    }

    /// Commits a transaction of this session's; nil for one that only read at its snapshot. Once the client is gone
    /// nothing is committed any more: it may have been told so (``mayHaveCommitted``), and another thing before.
    func commit(_ ending: ClientTransaction) async throws(TransactionError) -> Timestamp? {
        guard departure != .lost else {
            await ending.rollback()
            throw TransactionError(.queryCanceled, "the client is gone")
        }
        isCommitUnanswered = await ending.writer != nil
        return try await ending.commit()
    }

    func flush() {
        guard writer.bytesWritten > 0 else { return }
        output.write(writer.take())
    }

    // MARK: Messages

    private func answer(_ frame: FrontendFrame) async {
        if skipsToSync, frame.kind != .sync { return }
        skipsToSync = false
        do {
            try await answer(try frame.decode())
        } catch {
            fail(error)
            // What is no message of the extended protocol ends with ReadyForQuery, whatever was wrong with it.
            if frame.kind.skipsToSync { skipsToSync = true } else { await ready() }
        }
    }

    private func answer(_ message: FrontendMessage) async throws {
        switch message {
        case .query(let text):
            statements[""] = nil
            await closePortal("")
            activity.began(text)
            await simpleQuery(text)
            await ready()
        case .parse(let parse): try await self.parse(parse)
        case .bind(let bind): try await self.bind(bind)
        case .describe(let named): try await describe(named)
        case .execute(let execute): try await self.execute(execute)
        case .close(let named): await close(named)
        case .flush: flush()
        case .sync:
            do {
                if !hasFailedSinceSync { try await endImplicitTransaction() }
            } catch {
                fail(error)
            }
            await ready()
        case .functionCall:
            throw TransactionError(
                .featureNotSupported, "the function call protocol is not supported", hint: "call it by SELECT")
        case .copyData, .copyDone, .copyFail, .terminate, .authenticationResponse: break
        }
    }

    /// Tells the client what went wrong; a transaction block has failed by it.
    func fail(_ fields: ErrorFields) {
        writer.errorResponse(fields)
        hasFailedSinceSync = true
        block.failed()
    }

    /// Tells the client what a shard says. What several say, as of a change of the schema, is told once.
    func forward(_ notice: PostgresErrorFields, from connection: ShardConnection) {
        if node.engine.shards.count > 1 {
            let key = NoticeKey(state: notice.sqlState, message: notice.message)
            let teller = notices[key, default: ObjectIdentifier(connection)]
            guard teller == ObjectIdentifier(connection) else { return }
            notices[key] = teller
        }
        forward(notice)
    }

    func forward(_ notice: PostgresErrorFields) {
        writer.noticeResponse(
            ErrorFields(fields: notice.all.map { .init(.init(rawValue: $0.field.rawValue), $0.value) }))
    }

    func fail(_ error: any Error) {
        fail(fields(of: error))
        guard let error = error as? WireError, error.isFatal else { return }
        flush()
        output.close()
    }

    private func fields(of error: any Error) -> ErrorFields {
        guard isTimedOut, (error as? TransactionError)?.sqlState == .queryCanceled else {
            return Self.fields(of: error)
        }
        return ErrorFields(TransactionError(.queryCanceled, "canceling statement due to statement timeout"))
    }

    static func fields(of error: any Error) -> ErrorFields {
        switch error {
        case let error as TransactionError: ErrorFields(error)
        case let error as StatementError:
            ErrorFields(error.transactionError, position: error.position)
        case let error as ShardError: ErrorFields(TransactionError(error, shard: nil))
        case let error as WireError: ErrorFields(error)
        default: ErrorFields(TransactionError(.internalError, "\(error)"))
        }
    }

    private func ready() async {
        // Outside a block an error ends the transaction.
        if !block.isOpen, let transaction {
            await transaction.rollback()
            self.transaction = nil
            temporariesMayDiffer()
        }
        if block.hasFailed { await transaction?.statementFailed() }
        if transaction == nil { await settleTemporaries() }
        readyForQuery()
    }

    private func readyForQuery() {
        if !block.isOpen {
            if !portals.isEmpty { portals = [:] }
            endCursors(committing: !hasFailedSinceSync)
            if !heard.isEmpty { tellHeard() }
        }
        hasFailedSinceSync = false
        if !notices.isEmpty { notices = [:] }
        activity.ended(isInBlock: block.isOpen)
        writer.readyForQuery(block.status)
        if heard.end != nil, !block.isOpen {
            flush()
            output.close()
        }
    }

    /// Nothing but Sync follows what is being answered.
    var isSyncNext: Bool { pending.first?.kind == .sync }

    // MARK: Frames of COPY

    /// The next frame if it is here and is data of a COPY.
    func nextCopyData() -> FrontendFrame? {
        guard let frame = pending.first, frame.kind == .copyData else { return nil }
        pending.removeFirst()
        output.processed(bytes: frame.byteCount)
        return frame
    }

    /// The next frame, waiting for the client; nil when it is gone.
    func nextFrame() async -> FrontendFrame? {
        flush()
        while pending.isEmpty, !isGone {
            await withUnsafeContinuation { frameWaiter = $0 }
        }
        guard let frame = pending.popFirst() else { return nil }
        output.processed(bytes: frame.byteCount)
        return frame
    }
}

extension ErrorFields {
    /// An error with what else the shard said of it, and where it is in the statement's text.
    init(_ error: TransactionError, position: Int?) {
        self.init(error)
        if let position { fields.append(Field(.position, String(position))) }
    }
}
