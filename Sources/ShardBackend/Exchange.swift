import CLibPQ

/// Something a connection does for one caller: what is sent, and what comes back until it is over.
///
/// Only its connection's actor touches it.
final class Exchange: @unchecked Sendable {
    enum Request {
        /// Statements and one Sync, in pipeline mode. Several such exchanges may be under way one behind the other.
        case pipeline([SQLStatement])
        /// What a statement takes and returns, likewise.
        case description(SQLStatement)
        /// Statements in one text, by the simple query protocol.
        case script(String)
        /// Like a pipeline, but the connection as a whole is for the rows of the last statement. Its having been sent
        /// is its first outcome; it is over when its answers have been taken.
        case stream([SQLStatement])
        /// The connection as a whole, for COPY. Its turn having come is its first outcome; it is over when the answers
        /// to what the caller sent have been taken.
        case session
    }

    /// One message of a pipeline that has an answer of its own.
    struct Step {
        let statement: Int
        /// The name under which the statement is parsed; nil when it is executed or described.
        let parsedName: String?
    }

    typealias Outcome = Result<[SQLResult], ShardError>

    /// Who is told of an outcome.
    enum Recipient {
        case task(UnsafeContinuation<Outcome, Never>)
        case callback(@Sendable (Outcome) -> Void)
    }

    let request: Request
    var deadline: ContinuousClock.Instant?
    /// How long its owner waits for the server each time; its own pauses between two waits don't count.
    var patience: Duration?
    /// Takes the outcome; nil when nobody waits for it.
    var recipient: Recipient?
    /// ``ShardConnection/appliedSettings`` when it was submitted.
    var appliedSettings: UInt64 = 0

    /// What was sent and is not answered yet, in reverse.
    var steps: [Step] = []
    var results: [SQLResult] = []
    var failure: ShardError?
    /// Why the server is to stop: ``ShardError/Kind/timedOut`` or ``ShardError/Kind/cancelled``.
    var interruption: ShardError.Kind?
    var isOver = false
    /// A stream began outside any transaction, and no row has been handed out.
    var isFirstWork = false
    /// COPY data that libpq has and the socket may not have taken yet.
    var unflushedBytes = 0

    init(_ request: Request, deadline: ContinuousClock.Instant?) {
        self.request = request
        self.deadline = deadline
    }

    /// Others of that kind may be sent behind it.
    var isPipeline: Bool {
        switch request {
        case .pipeline, .description: true
        case .script, .stream, .session: false
        }
    }

    /// Its owner takes the answers.
    var isSession: Bool {
        switch request {
        case .stream, .session: true
        case .pipeline, .description, .script: false
        }
    }

    /// The next answer is that of the statement whose rows are to come one by one.
    var isBeforeStreamedRows: Bool {
        if case .stream = request { steps.count == 1 } else { false }
    }

    /// Hands the outcome to the caller, once.
    func resume(with outcome: Outcome) {
        let recipient = recipient
        self.recipient = nil
        switch recipient {
        case .task(let continuation): continuation.resume(returning: outcome)
        case .callback(let body): body(outcome)
        case nil: break
        }
    }

    func key(of statement: SQLStatement) -> StatementCache.Key {
        StatementCache.Key(statement, appliedSettings: appliedSettings)
    }

    /// Whether the owner of a session takes a result itself: of a stream the single rows, of COPY all but an error.
    func isForOwner(_ status: ExecStatusType) -> Bool {
        if case .stream = request { status == PGRES_SINGLE_TUPLE } else { status != PGRES_FATAL_ERROR }
    }

    /// Whether it failed in a way that a second try mends, without having done anything: nothing was executed before,
    /// in or after a first statement whose plan had gone stale.
    func isRepeatable(after error: ShardError) -> Bool {
        error.statementIndex == 0 && interruption == nil && error.serverFields?.isStalePreparedStatement == true
    }

    /// Makes it ready to be submitted again.
    func reset() {
        precondition(isOver, "an exchange is repeated that is not over")
        (steps, results, failure, isOver) = ([], [], nil, false)
    }

    /// What the caller of an interrupted exchange is told when the server obeyed.
    func explain(_ error: ShardError) -> ShardError {
        guard let interruption, error.sqlState == .queryCanceled else { return error }
        return ShardError(interruption, Self.message(of: interruption), statementIndex: error.statementIndex)
    }

    static func message(of interruption: ShardError.Kind) -> String {
        interruption == .timedOut ? "the deadline passed before the shard had answered" : "the request was cancelled"
    }
}
