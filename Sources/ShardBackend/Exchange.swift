/// Something a connection does for one caller: what is sent, and what comes back until it is over.
///
/// Only its connection's actor touches it.
final class Exchange: @unchecked Sendable {
    enum Request {
        /// Statements and one Sync, in pipeline mode. Several such exchanges may be under way one behind the other.
        case pipeline([SQLStatement])
        /// Statements in one text, by the simple query protocol.
        case script(String)
        /// The connection as a whole, for a stream or COPY. Its turn having come is its result; it is over when the
        /// caller says so.
        case session
    }

    /// One message of a pipeline that has an answer of its own.
    struct Step {
        let statement: Int
        /// The name under which the statement is parsed; nil when it is executed.
        let parsedName: String?
    }

    /// How many rows a stream hands over at a time.
    static let rowsPerBatchMax = 128

    typealias Outcome = Result<[SQLResult], ShardError>

    let request: Request
    var deadline: ContinuousClock.Instant?
    /// Takes the outcome; nil when nobody waits for it.
    var continuation: UnsafeContinuation<Outcome, Never>?

    /// What was sent and is not answered yet, in reverse.
    var steps: [Step] = []
    var results: [SQLResult] = []
    var failure: ShardError?
    /// Why the server is to stop: ``ShardError/Kind/timedOut`` or ``ShardError/Kind/cancelled``.
    var interruption: ShardError.Kind?
    var isOver = false
    /// COPY data that libpq has and the socket may not have taken yet.
    var unflushedBytes = 0

    init(_ request: Request, deadline: ContinuousClock.Instant?) {
        self.request = request
        self.deadline = deadline
    }

    var isPipeline: Bool {
        if case .pipeline = request { true } else { false }
    }

    var isSession: Bool {
        if case .session = request { true } else { false }
    }

    /// Hands the outcome to the caller, once.
    func resume(with outcome: Outcome) {
        continuation?.resume(returning: outcome)
        continuation = nil
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
