import CLibPQ
import Glibc

extension ShardConnection {
    /// Runs `statements` as one pipeline with one Sync at its end: one round trip.
    ///
    /// Outside BEGIN … COMMIT the pipeline is one transaction. Pipelines of several tasks may be under way together;
    /// an error in one leaves the others alone.
    ///
    /// - Parameter deadline: when the server is told to stop. It then has ``ConnectionSettings/cancelGrace`` to do so.
    /// - Returns: one result per statement.
    /// - Throws: ``ShardError`` with the index of the statement that failed; none after it was executed. Cancelling the
    ///   task is like reaching the deadline. A result that arrives in spite of either is returned, not thrown away.
    public func run(
        _ statements: [SQLStatement], deadline: ContinuousClock.Instant? = nil
    ) async throws(ShardError) -> [SQLResult] {
        for (index, statement) in statements.enumerated() { try statement.check(index: index) }
        return try await performTwiceIfStale(Exchange(.pipeline(statements), deadline: deadline))
    }

    /// Runs one statement; see ``run(_:deadline:)``.
    public func run(
        _ statement: SQLStatement, deadline: ContinuousClock.Instant? = nil
    ) async throws(ShardError) -> SQLResult {
        try await run([statement], deadline: deadline)[0]
    }

    /// A request that was begun and not waited for.
    public struct BegunRequest: Sendable {
        fileprivate let exchange: Exchange
    }

    /// Runs `statements` as ``run(_:deadline:)`` does, for who is on the loop and would be called rather than wait: a
    /// task costs more than a small statement.
    ///
    /// A statement whose plan has gone stale fails; what ``run(_:deadline:)`` does then is left to the caller.
    ///
    /// - Parameter completion: is called on the loop, once, maybe before this returns, and may use the connection.
    @discardableResult
    public func begin(
        _ statements: [SQLStatement], deadline: ContinuousClock.Instant,
        completion: @escaping @Sendable (Result<[SQLResult], ShardError>) -> Void
    ) -> BegunRequest {
        let exchange = Exchange(.pipeline(statements), deadline: deadline)
        do throws(ShardError) {
            for (index, statement) in statements.enumerated() { try statement.check(index: index) }
            exchange.recipient = .callback(completion)
            submit(exchange)
        } catch {
            completion(.failure(error))
        }
        return BegunRequest(exchange: exchange)
    }

    /// Cancels a request, if it is not over: its completion gets ``ShardError/Kind/cancelled``.
    public func cancel(_ request: BegunRequest) {
        interrupt(request.exchange, .cancelled)
    }

    /// Runs the statements of one text, which has no parameters, by the simple query protocol.
    ///
    /// Unless it says BEGIN or COMMIT itself, the text is one transaction.
    ///
    /// - Returns: one result per statement, in text format.
    public func runSimple(
        _ text: String, deadline: ContinuousClock.Instant? = nil
    ) async throws(ShardError) -> [SQLResult] {
        try SQLStatement.check(text: text)
        return try await perform(.script(text), deadline: deadline)
    }

    /// Asks what a statement takes and returns, without running it: one round trip, or none when it was described
    /// before and is still prepared.
    ///
    /// Values of parameters are not needed. After a change of the schema the answer may be an old one, until running
    /// the statement has failed for that reason.
    public func describe(
        _ statement: SQLStatement, deadline: ContinuousClock.Instant? = nil
    ) async throws(ShardError) -> StatementDescription {
        try statement.checkDeclaration()
        let key = StatementCache.Key(statement, appliedSettings: appliedSettings)
        if statement.isPrepared, let description = statements.description(of: key) { return description }
        let exchange = Exchange(.description(statement), deadline: deadline)
        let description = StatementDescription(try await performTwiceIfStale(exchange)[0])
        statements.described(exchange.key(of: statement), description)
        return description
    }

    /// Tells the server to stop what it is doing for this connection; its caller gets ``ShardError/Kind/cancelled``.
    public func cancel() {
        if let front = inFlight.first { interrupt(front, .cancelled) }
    }

    /// Waits in line, sends, and waits for the outcome.
    func perform(
        _ request: Exchange.Request, deadline: ContinuousClock.Instant?
    ) async throws(ShardError) -> [SQLResult] {
        try await perform(Exchange(request, deadline: deadline))
    }

    private func performTwiceIfStale(_ exchange: Exchange) async throws(ShardError) -> [SQLResult] {
        let isFirstWork = transactionStatus == .idle
        do {
            return try await perform(exchange)
        } catch {
            guard isFirstWork, exchange.isRepeatable(after: error) else { throw error }
            exchange.reset()
            return try await perform(exchange)
        }
    }

    func perform(_ exchange: Exchange) async throws(ShardError) -> [SQLResult] {
        let outcome = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                exchange.recipient = .task(continuation)
                // A task that was cancelled on its way here sends nothing.
                if Task.isCancelled, exchange.interruption == nil { exchange.interruption = .cancelled }
                submit(exchange)
            }
        } onCancel: {
            loop.execute { [self] in
                onLoop { $0.interrupt(exchange, .cancelled) }
            }
        }
        return try outcome.get()
    }

    // MARK: Sending

    private func submit(_ exchange: Exchange) {
        if case .closed(let reason) = phase {
            return over(exchange, .failure(ShardError(.closed, reason.message)))
        }
        if let interruption = exchange.interruption {
            return over(exchange, .failure(ShardError(interruption, Exchange.message(of: interruption))))
        }
        if let deadline = exchange.deadline { armTimer(at: deadline) }
        exchange.appliedSettings = appliedSettings
        waiting.append(exchange)
        sendWaiting()
    }

    /// Sends what is at the front of the line as far as that may be sent now.
    func sendWaiting() {
        while let exchange = waiting.first {
            deallocateDiscarded()
            guard let handle, maySend(exchange) else { return }
            waiting.removeFirst()
            inFlight.append(exchange)
            switch exchange.request {
            case .pipeline(let statements): sendPipeline(statements, of: exchange, handle)
            case .description(let statement): sendDescription(of: statement, for: exchange, handle)
            case .stream(let statements):
                sendPipeline(statements, of: exchange, handle)
                exchange.resume(with: .success([]))
            case .script(let text):
                guard handle.setPipelineMode(false), PQsendQuery(handle.pointer, text) == 1 else {
                    return lost(handle)
                }
                flush(handle)
            case .session: exchange.resume(with: .success([]))
            }
        }
    }

    private func maySend(_ exchange: Exchange) -> Bool {
        guard !isCancelUnderWay, interruptedCount == 0 else { return false }
        guard let last = inFlight.last else { return true }
        return exchange.isPipeline && last.isPipeline
    }

    /// Has the server forget statements that gave way to others, in a pipeline of its own whose outcome nobody minds.
    private func deallocateDiscarded() {
        guard !discardedNames.isEmpty, !isCancelUnderWay, inFlight.isEmpty, let handle,
            PQtransactionStatus(handle.pointer) == PQTRANS_IDLE
        else { return }
        let deallocations = discardedNames.map { SQLStatement("DEALLOCATE \($0)", isPrepared: false) }
        discardedNames = []
        let exchange = Exchange(.pipeline(deallocations), deadline: nil)
        inFlight.append(exchange)
        sendPipeline(deallocations, of: exchange, handle)
    }

    private func sendDescription(of statement: SQLStatement, for exchange: Exchange, _ handle: LibPQHandle) {
        guard handle.setPipelineMode(true) else { return lost(handle) }
        var name = ""
        switch use(statement, of: exchange) {
        case .execute(let known): name = known
        case .prepare(let new, let evicted):
            if let evicted { discardedNames.append(evicted) }
            name = new
            fallthrough
        case .sendUnnamed:
            guard prepare(statement, 0, as: name, of: exchange, handle.pointer) else { return lost(handle) }
        }
        exchange.steps.append(Exchange.Step(statement: 0, parsedName: nil))
        guard PQsendDescribePrepared(handle.pointer, name) == 1 else { return lost(handle) }
        sync(exchange, handle)
    }

    private func sendPipeline(_ statements: [SQLStatement], of exchange: Exchange, _ handle: LibPQHandle) {
        let connection = handle.pointer
        guard handle.setPipelineMode(true) else { return lost(handle) }
        exchange.results.reserveCapacity(statements.count)
        exchange.steps.reserveCapacity(statements.count * 2)
        for (index, statement) in statements.enumerated() {
            guard send(statement, index, of: exchange, connection) else { return lost(handle) }
        }
        sync(exchange, handle)
    }

    /// Ends what is sent for `exchange`.
    private func sync(_ exchange: Exchange, _ handle: LibPQHandle) {
        exchange.steps.reverse()
        // Further back in the pipeline, libpq can be told only when the answers before have been taken.
        if exchange.isBeforeStreamedRows, PQsetSingleRowMode(handle.pointer) != 1 { return lost(handle) }
        guard PQpipelineSync(handle.pointer) == 1 else { return lost(handle) }
        flush(handle)
    }

    private func use(_ statement: SQLStatement, of exchange: Exchange) -> StatementCache.Action {
        guard statement.isPrepared else { return .sendUnnamed }
        return statements.use(exchange.key(of: statement))
    }

    private func prepare(
        _ statement: SQLStatement, _ index: Int, as name: String, of exchange: Exchange, _ connection: OpaquePointer
    ) -> Bool {
        let types = statement.parameterTypes
        exchange.steps.append(Exchange.Step(statement: index, parsedName: name))
        return PQsendPrepare(connection, name, statement.text, Int32(types.count), types.isEmpty ? nil : types) == 1
    }

    private func send(
        _ statement: SQLStatement, _ index: Int, of exchange: Exchange, _ connection: OpaquePointer
    ) -> Bool {
        var preparedName: String?
        switch use(statement, of: exchange) {
        case .sendUnnamed: break
        case .execute(let name): preparedName = name
        case .prepare(let name, let evicted):
            if let evicted { discardedNames.append(evicted) }
            guard prepare(statement, index, as: name, of: exchange, connection) else { return false }
            preparedName = name
        }
        exchange.steps.append(Exchange.Step(statement: index, parsedName: nil))
        return parameterBuffer.withArrays(of: statement.parameters) { arrays in
            if let preparedName {
                PQsendQueryPrepared(
                    connection, preparedName, arrays.count, arrays.values, arrays.lengths, arrays.formats,
                    statement.resultFormat.rawValue)
            } else {
                PQsendQueryParams(
                    connection, statement.text, arrays.count, statement.paddedParameterTypes, arrays.values,
                    arrays.lengths, arrays.formats, statement.resultFormat.rawValue)
            }
        } == 1
    }

    // MARK: Deadlines

    /// Makes sure that ``checkDeadlines()`` runs at `deadline`. It runs seldom: a timer is left to fire although the
    /// exchange it was set for is over.
    func armTimer(at deadline: ContinuousClock.Instant) {
        if let timer {
            guard deadline < timer.deadline else { return }
            loop.removeTimer(timer.id)
        }
        let id = loop.addTimer(at: deadline) { [self] in
            onLoop { $0.checkDeadlines() }
        }
        timer = (id, deadline)
    }

    private func checkDeadlines() {
        timer = nil
        let now = ContinuousClock.now
        if let cancelExpiry, cancelExpiry <= now {
            return end(
                ShardError(.connectionLost, "the shard did not stop within \(settings.cancelGrace) of being told to"))
        }
        for exchange in Array(waiting) + Array(inFlight) where exchange.deadline.map({ $0 <= now }) == true {
            interrupt(exchange, .timedOut)
        }
        let pending = (waiting + inFlight).filter { $0.interruption == nil }.compactMap(\.deadline)
        if let soonest = (pending + [cancelExpiry].compactMap(\.self)).min() { armTimer(at: soonest) }
    }

    func startGrace() {
        let expiry = ContinuousClock.now + settings.cancelGrace
        cancelExpiry = expiry
        armTimer(at: expiry)
    }

    /// The caller of `exchange` no longer wants it.
    func interrupt(_ exchange: Exchange, _ reason: ShardError.Kind) {
        guard !exchange.isOver, exchange.interruption == nil else { return }
        exchange.interruption = reason
        if let position = waiting.firstIndex(where: { $0 === exchange }) {
            waiting.remove(at: position)
            return over(exchange, .failure(ShardError(reason, Exchange.message(of: reason))))
        }
        guard inFlight.contains(where: { $0 === exchange }) else { return }
        interruptedCount += 1
        if cancelExpiry == nil { startGrace() }
        if exchange.isSession { abandon(exchange) }
        // A cancel request stops whatever runs; it has to wait until that is this exchange.
        if inFlight.first === exchange { sendCancelRequest() }
    }
}

extension SQLStatement {
    /// What libpq would cut off or refuse must not reach it.
    func check(index: Int) throws(ShardError) {
        try checkDeclaration(index: index)
        guard parameters.count <= Int(UInt16.max) else {
            throw ShardError(.invalidUse, "a statement has at most 65535 parameters", statementIndex: index)
        }
        guard parameterTypes.count <= parameters.count else {
            throw ShardError(
                .invalidUse, "\(parameterTypes.count) types are declared for \(parameters.count) parameters",
                statementIndex: index)
        }
        for case .text(let value) in parameters where value.hasNUL {
            throw ShardError(.invalidUse, "text can't hold a NUL character", statementIndex: index)
        }
    }

    func checkDeclaration(index: Int? = nil) throws(ShardError) {
        try Self.check(text: text, index: index)
        guard parameterTypes.count <= Int(UInt16.max) else {
            throw ShardError(.invalidUse, "a statement has at most 65535 parameters", statementIndex: index)
        }
    }

    /// One type for each parameter, as libpq takes them; nil when none is declared.
    fileprivate var paddedParameterTypes: [UInt32]? {
        guard !parameterTypes.isEmpty else { return nil }
        return parameterTypes + Array(repeating: 0, count: parameters.count - parameterTypes.count)
    }

    static func check(text: String, index: Int? = nil) throws(ShardError) {
        guard !text.hasNUL else {
            throw ShardError(.invalidUse, "the text of a statement can't hold a NUL character", statementIndex: index)
        }
    }
}

extension String {
    fileprivate var hasNUL: Bool {
        utf8.withContiguousStorageIfAvailable { bytes in
            bytes.baseAddress.map { memchr($0, 0, bytes.count) != nil } ?? false
        } ?? utf8.contains(0)
    }
}
