import CLibPQ
import EventLoops
import Glibc

extension ShardConnection: ReadinessHandler {
    package nonisolated func becameReady(_ readiness: Readiness) {
        onLoop { $0.ready(readiness) }
    }

    package nonisolated func watchFailed(_ error: Int32) {
        assumeIsolated {
            $0.end(ShardError(.connectionLost, "the socket can't be watched: \(String(cString: strerror(error)))"))
        }
    }

    private func ready(_ readiness: Readiness) {
        switch phase {
        case .closed: return
        case .connecting(let handle, let continuation): continueConnecting(handle, continuation)
        case .open(let handle):
            // First what came: who reads is told that the connection is broken, while what is written counts as sent.
            if readiness.contains(.readable) { read(handle) }
            if readiness.contains(.writable), isOpen { flush(handle) }
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

    /// Reads on for the owner of a session, who takes more than libpq reads at a time; returns whether there was
    /// something for him.
    func readAgain(_ handle: LibPQHandle) -> Bool {
        if PQconsumeInput(handle.pointer) != 1 { lost(handle) }
        return !isOpen || PQisBusy(handle.pointer) == 0
    }

    /// The connection broke; libpq knows how.
    func lost(_ handle: LibPQHandle) {
        end(ShardError(.connectionLost, handle.errorMessage))
    }

    // MARK: Answers

    /// Takes what has arrived for the exchanges in front, as far as it is not for the owner of a session to take.
    func takeResults(_ handle: LibPQHandle) {
        while let front = inFlight.first, isOpen {
            if front.isSession, front.failure == nil { return resumeSessionWaiter() }
            switch handle.takeResult(inSingleRows: front.isBeforeStreamedRows) {
            case .nothing: return
            case .end: finish(front)
            case .disorder: lost(handle)
            case .result(let result):
                guard take(result, of: front, handle) else { return }
            }
        }
    }

    /// Returns whether to go on taking results.
    func take(_ result: OpaquePointer, of exchange: Exchange, _ handle: LibPQHandle) -> Bool {
        switch exchange.request {
        case .pipeline(let statements), .stream(let statements):
            takePipelineResult(result, of: exchange, statements)
            return true
        case .description(let statement):
            takePipelineResult(result, of: exchange, [statement])
            return true
        case .script: return takeScriptResult(result, of: exchange, handle)
        case .session: return drop(result, of: exchange, handle)
        }
    }

    private func takePipelineResult(_ result: OpaquePointer, of exchange: Exchange, _ statements: [SQLStatement]) {
        // A row whose owner no longer wants it.
        guard PQresultStatus(result) != PGRES_SINGLE_TUPLE else { return PQclear(result) }
        guard let step = exchange.steps.popLast() else {
            PQclear(result)
            return end(ShardError(.connectionLost, "the server answered more than it was asked"))
        }
        take(result, PQresultStatus(result), for: step, statements[step.statement], of: exchange)
    }

    private func take(
        _ result: OpaquePointer, _ status: ExecStatusType, for step: Exchange.Step, _ statement: SQLStatement,
        of exchange: Exchange
    ) {
        switch status {
        case PGRES_FATAL_ERROR, PGRES_PIPELINE_ABORTED:
            if let name = step.parsedName { statements.notPrepared(exchange.key(of: statement), as: name) }
            guard status == PGRES_FATAL_ERROR else { return PQclear(result) }
            let fields = take(errorOf: result, of: exchange, statementIndex: step.statement)
            if fields?.isStalePreparedStatement == true, let name = statements.forget(exchange.key(of: statement)) {
                discardedNames.append(name)
            }
        case PGRES_COPY_IN, PGRES_COPY_OUT, PGRES_COPY_BOTH:
            // libpq has no way back from here.
            PQclear(result)
            end(ShardError(.connectionLost, "COPY can't be run in a pipeline"))
        default:
            if let name = step.parsedName {
                statements.prepared(exchange.key(of: statement), as: name)
                PQclear(result)
            } else {
                exchange.results.append(SQLResult(owning: result))
            }
        }
    }

    private func takeScriptResult(_ result: OpaquePointer, of exchange: Exchange, _ handle: LibPQHandle) -> Bool {
        switch PQresultStatus(result) {
        case PGRES_FATAL_ERROR:
            take(errorOf: result, of: exchange, statementIndex: exchange.results.count)
            return true
        case PGRES_COPY_IN, PGRES_COPY_OUT, PGRES_COPY_BOTH:
            if exchange.failure == nil {
                exchange.failure = ShardError(
                    .invalidUse, "COPY can't be run in a script", statementIndex: exchange.results.count)
            }
            return drop(result, of: exchange, handle)
        default:
            exchange.results.append(SQLResult(owning: result))
            return true
        }
    }

    /// Makes an unwanted answer go away. Returns false when the rest of it is still to come.
    private func drop(_ result: OpaquePointer, of exchange: Exchange, _ handle: LibPQHandle) -> Bool {
        let status = PQresultStatus(result)
        guard status != PGRES_FATAL_ERROR else {
            take(errorOf: result, of: exchange, statementIndex: 0)
            return true
        }
        PQclear(result)
        if status == PGRES_COPY_IN {
            guard PQputCopyEnd(handle.pointer, "the client gave up") == 1 else {
                lost(handle)
                return false
            }
            flush(handle)
        }
        guard status == PGRES_COPY_OUT else { return true }
        while true {
            var buffer: UnsafeMutablePointer<CChar>?
            let count = PQgetCopyData(handle.pointer, &buffer, 1)
            guard count > 0 else { return count != 0 }
            PQfreemem(buffer)
        }
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
        if exchange.interruption != nil { interruptedCount -= 1 }
        // Its owner may have been slow, and then read its end without waiting for the socket.
        if exchange.isSession, let handle { watch(handle, for: interest.union(.readable)) }
        defer { if exchange.isSession { resumeSessionWaiter() } }
        if let failure = exchange.failure {
            over(exchange, .failure(exchange.explain(failure)))
        } else {
            over(exchange, .success(exchange.results))
        }
        if inFlight.first?.interruption != nil {
            // It could not be stopped before; its grace begins now.
            startGrace()
            sendCancelRequest()
        } else if !isCancelUnderWay {
            cancelExpiry = nil
        }
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
