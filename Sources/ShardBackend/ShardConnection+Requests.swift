import CLibPQ

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
        let isFirstWork = transactionStatus == .idle
        do {
            return try await perform(.pipeline(statements), deadline: deadline)
        } catch {
            // Nothing was executed before, in or after the statement whose plan had gone stale.
            guard isFirstWork, error.statementIndex == 0, error.serverFields?.isStalePreparedStatement == true else {
                throw error
            }
            return try await perform(.pipeline(statements), deadline: deadline)
        }
    }

    /// Runs one statement; see ``run(_:deadline:)``.
    public func run(
        _ statement: SQLStatement, deadline: ContinuousClock.Instant? = nil
    ) async throws(ShardError) -> SQLResult {
        try await run([statement], deadline: deadline)[0]
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

    func perform(_ exchange: Exchange) async throws(ShardError) -> [SQLResult] {
        let outcome = await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                exchange.continuation = continuation
                submit(exchange)
            }
        } onCancel: {
            loop.execute { [self] in
                assumeIsolated { $0.interrupt(exchange, .cancelled) }
            }
        }
        return try outcome.get()
    }

    // MARK: Sending

    private func submit(_ exchange: Exchange) {
        if case .closed(let reason) = phase {
            return over(exchange, .failure(ShardError(.closed, reason.message)))
        }
        // A task that was cancelled on its way here sends nothing.
        if let interruption = exchange.interruption ?? (Task.isCancelled ? .cancelled : nil) {
            return over(exchange, .failure(ShardError(interruption, Exchange.message(of: interruption))))
        }
        if let deadline = exchange.deadline { armTimer(at: deadline) }
        waiting.append(exchange)
        sendWaiting()
    }

    /// Sends what is at the front of the line as far as that may be sent now.
    func sendWaiting() {
        while let exchange = waiting.first, maySend(exchange) {
            if exchange.isPipeline { deallocateDiscarded() }
            guard let handle else { return }
            waiting.removeFirst()
            inFlight.append(exchange)
            switch exchange.request {
            case .pipeline(let statements): sendPipeline(statements, of: exchange, handle)
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
        guard !isCancelUnderWay else { return false }
        guard let last = inFlight.last else { return true }
        return exchange.isPipeline && last.isPipeline
    }

    /// Has the server forget statements that gave way to others, in a pipeline of its own whose outcome nobody minds.
    private func deallocateDiscarded() {
        guard !discardedNames.isEmpty, inFlight.isEmpty, let handle,
            PQtransactionStatus(handle.pointer) == PQTRANS_IDLE
        else { return }
        let deallocations = discardedNames.map { SQLStatement("DEALLOCATE \($0)", isPrepared: false) }
        discardedNames = []
        let exchange = Exchange(.pipeline(deallocations), deadline: nil)
        inFlight.append(exchange)
        sendPipeline(deallocations, of: exchange, handle)
    }

    private func sendPipeline(_ statements: [SQLStatement], of exchange: Exchange, _ handle: LibPQHandle) {
        let connection = handle.pointer
        guard handle.setPipelineMode(true) else { return lost(handle) }
        exchange.results.reserveCapacity(statements.count)
        exchange.steps.reserveCapacity(statements.count * 2)
        for (index, statement) in statements.enumerated() {
            guard send(statement, index, of: exchange, connection) else { return lost(handle) }
        }
        exchange.steps.reverse()
        guard PQpipelineSync(connection) == 1 else { return lost(handle) }
        flush(handle)
    }

    private func send(
        _ statement: SQLStatement, _ index: Int, of exchange: Exchange, _ connection: OpaquePointer
    ) -> Bool {
        var preparedName: String?
        switch statement.isPrepared ? self.statements.use(statement.text) : .sendUnnamed {
        case .sendUnnamed: break
        case .execute(let name): preparedName = name
        case .prepare(let name, let evicted):
            if let evicted { discardedNames.append(evicted) }
            guard PQsendPrepare(connection, name, statement.text, 0, nil) == 1 else { return false }
            exchange.steps.append(Exchange.Step(statement: index, parsedName: name))
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
                    connection, statement.text, arrays.count, nil, arrays.values, arrays.lengths, arrays.formats,
                    statement.resultFormat.rawValue)
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
            assumeIsolated { $0.checkDeadlines() }
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
        if cancelExpiry == nil { startGrace() }
        if exchange.isSession { abandon(exchange) }
        // A cancel request stops whatever runs; it has to wait until that is this exchange.
        if inFlight.first === exchange { sendCancelRequest() }
    }
}

extension SQLStatement {
    /// What libpq would cut off or refuse must not reach it.
    func check(index: Int) throws(ShardError) {
        try Self.check(text: text, index: index)
        guard parameters.count <= Int(UInt16.max) else {
            throw ShardError(.invalidUse, "a statement has at most 65535 parameters", statementIndex: index)
        }
        for case .text(let value) in parameters where value.utf8.contains(0) {
            throw ShardError(.invalidUse, "text can't hold a NUL character", statementIndex: index)
        }
    }

    static func check(text: String, index: Int? = nil) throws(ShardError) {
        guard !text.utf8.contains(0) else {
            throw ShardError(.invalidUse, "the text of a statement can't hold a NUL character", statementIndex: index)
        }
    }
}
