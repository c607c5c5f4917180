import CLibPQ

extension ShardConnection: ReadinessHandler {
    nonisolated func becameReady(_ readiness: Readiness) {
        assumeIsolated { $0.ready(readiness) }
    }

    private func ready(_ readiness: Readiness) {
        switch phase {
        case .closed: return
        case .connecting(let handle, let continuation): continueConnecting(handle, continuation)
        case .open(let handle):
            if readiness.contains(.writable) { flush(handle) }
            if readiness.contains(.readable) { read(handle) }
        }
    }

    /// Writes what the socket takes; the rest goes when it is writable.
    func flush(_ handle: LibPQHandle) {
        switch PQflush(handle.pointer) {
        case 0:
            watch(handle, for: interest.subtracting(.writable))
            if inFlight.first?.isSession == true { resumeSessionWaiter() }
        case 1: watch(handle, for: interest.union(.writable))
        default: lost(handle)
        }
    }

    func watch(_ handle: LibPQHandle, for interest: Readiness) {
        guard self.interest != interest else { return }
        self.interest = interest
        // Even when watched for nothing, epoll reports a hang-up; it would do so all the time.
        if interest.isEmpty {
            loop.unwatch(handle.socket)
        } else {
            loop.watch(handle.socket, for: interest, handler: self)
        }
    }

    private func read(_ handle: LibPQHandle) {
        if let front = inFlight.first, front.isSession, front.failure == nil, sessionWaiter == nil {
            // Its owner is slow: leave the bytes in the socket, so that the server is slowed down too.
            return watch(handle, for: interest.subtracting(.readable))
        }
        let isAlive = PQconsumeInput(handle.pointer) == 1
        takeResults(handle)
        while let notification = PQnotifies(handle.pointer) {
            handlers.notification(Notification(notification.pointee))
            PQfreemem(notification)
        }
        if isOpen, !isAlive || PQstatus(handle.pointer) == CONNECTION_BAD { lost(handle) }
    }

    /// The connection broke; libpq knows how.
    func lost(_ handle: LibPQHandle) {
        end(ShardError(.connectionLost, handle.errorMessage))
    }

    // MARK: Answers

    private func takeResults(_ handle: LibPQHandle) {
        while let front = inFlight.first, isOpen {
            switch front.request {
            case .pipeline(let statements):
                guard takePipelineResults(of: front, statements, handle) else { return }
            case .script:
                guard takeScriptResults(of: front, handle) else { return }
            case .session:
                if front.failure == nil { return resumeSessionWaiter() }
                guard drain(handle) else { return }
            }
            finish(front)
        }
    }

    /// Returns whether the exchange is over.
    private func takePipelineResults(
        of exchange: Exchange, _ statements: [SQLStatement], _ handle: LibPQHandle
    ) -> Bool {
        while isOpen, PQisBusy(handle.pointer) == 0 {
            // Each answer is followed by a null, so two nulls in a row can't be.
            guard let result = PQgetResult(handle.pointer) ?? PQgetResult(handle.pointer) else {
                lost(handle)
                return false
            }
            let status = PQresultStatus(result)
            guard status != PGRES_PIPELINE_SYNC else {
                PQclear(result)
                return true
            }
            guard let step = exchange.steps.popLast() else {
                PQclear(result)
                end(ShardError(.connectionLost, "the server answered more than it was asked"))
                return false
            }
            take(result, status, for: step, statements[step.statement], of: exchange)
        }
        return false
    }

    private func take(
        _ result: OpaquePointer, _ status: ExecStatusType, for step: Exchange.Step, _ statement: SQLStatement,
        of exchange: Exchange
    ) {
        switch status {
        case PGRES_FATAL_ERROR, PGRES_PIPELINE_ABORTED:
            if let name = step.parsedName { statements.notPrepared(statement.text, as: name) }
            guard status == PGRES_FATAL_ERROR else { return PQclear(result) }
            let fields = take(errorOf: result, of: exchange, statementIndex: step.statement)
            if fields?.isStalePreparedStatement == true, let name = statements.forget(statement.text) {
                discardedNames.append(name)
            }
        case PGRES_COPY_IN, PGRES_COPY_OUT, PGRES_COPY_BOTH:
            // libpq has no way back from here.
            PQclear(result)
            end(ShardError(.connectionLost, "COPY can't be run in a pipeline"))
        default:
            if let name = step.parsedName {
                statements.prepared(statement.text, as: name)
                PQclear(result)
            } else {
                exchange.results.append(SQLResult(owning: result))
            }
        }
    }

    /// Returns whether the exchange is over.
    private func takeScriptResults(of exchange: Exchange, _ handle: LibPQHandle) -> Bool {
        while isOpen, PQisBusy(handle.pointer) == 0 {
            guard let result = PQgetResult(handle.pointer) else { return true }
            switch PQresultStatus(result) {
            case PGRES_FATAL_ERROR:
                take(errorOf: result, of: exchange, statementIndex: exchange.results.count)
            case PGRES_COPY_IN, PGRES_COPY_OUT, PGRES_COPY_BOTH:
                if exchange.failure == nil {
                    exchange.failure = ShardError(
                        .invalidUse, "COPY can't be run in a script", statementIndex: exchange.results.count)
                }
                guard endCopy(handle, result) else { return false }
            default: exchange.results.append(SQLResult(owning: result))
            }
        }
        return false
    }

    /// Keeps the first error of an exchange. One without a SQLSTATE is libpq's: the connection is broken.
    @discardableResult
    func take(errorOf result: OpaquePointer, of exchange: Exchange, statementIndex: Int?) -> PostgresErrorFields? {
        defer { PQclear(result) }
        guard PQresultErrorField(result, Int32(PostgresErrorFields.Field.sqlState.rawValue)) != nil else {
            end(ShardError(.connectionLost, LibPQHandle.oneLine(PQresultErrorMessage(result))))
            return nil
        }
        let fields = PostgresErrorFields(result)
        if exchange.failure == nil { exchange.failure = ShardError(fields, statementIndex: statementIndex) }
        return fields
    }

    /// The exchange in front has its whole answer.
    func finish(_ exchange: Exchange) {
        inFlight.removeFirst()
        defer { if exchange.isSession { resumeSessionWaiter() } }
        if let failure = exchange.failure {
            over(exchange, .failure(exchange.explain(failure)))
        } else {
            over(exchange, .success(exchange.results))
        }
        if !isCancelUnderWay { cancelExpiry = nil }
        if let front = inFlight.first, front.interruption != nil { sendCancelRequest() }
        sendWaiting()
    }
}

extension ShardConnection.Notification {
    fileprivate init(_ notification: PGnotify) {
        channel = String(cString: notification.relname)
        payload = String(cString: notification.extra)
        processID = notification.be_pid
    }
}
