import ClientAuthentication
import PostgresWire
import TransactionCore

/// Who an authenticated client is, and what it wants to begin with.
public struct ClientStartup: Hashable, Sendable {
    public var user: String
    public var database: String
    /// Settings in the order in which they are to be made: those of `options` first, the later of two counts.
    public var settings: [StartupMessage.Parameter]
    public var isEncrypted: Bool
    /// Where it connects from: an address without the port.
    public var address: String
    /// The port that it connects from.
    public var port: Int

    public init(
        user: String, database: String, settings: [StartupMessage.Parameter] = [], isEncrypted: Bool = false,
        address: String, port: Int
    ) {
        self.user = user
        self.database = database
        self.settings = settings
        self.isEncrypted = isEncrypted
        self.address = address
        self.port = port
    }
}

/// How a client went.
public enum Departure: Hashable, Sendable {
    /// It said so (Terminate). As in PostgreSQL, what it had sent before that is carried out and answered; the session
    /// then closes its ``ClientOutput``.
    case terminated
    /// The connection is gone: the client died, broke the protocol, or was sent away, be it by its own session.
    case lost
}

/// One client's session, behind the wire.
///
/// All calls come from the connection's event loop, one after the other; none may block.
public protocol ClientSession: AnyObject, Sendable {
    /// Frames came in, in order and never none: those that one turn of the event loop read.
    ///
    /// The session decodes them (``PostgresWire/FrontendFrame/decode()``), answers through its ``ClientOutput``, and
    /// says there when it is done with them (``ClientOutput/processed(bytes:)``). Terminate is not among them.
    func receive(_ frames: [FrontendFrame])

    /// Whether something may have been committed of which the client has not been told: if it is sent away now, it must
    /// not take that for a failure.
    var mayHaveCommitted: Bool { get }

    /// The client is gone, or has said that it goes. Called once, and last.
    func disconnected(_ departure: Departure)
}

/// A session that was opened, and what its client is told first.
public struct OpenedSession: Sendable {
    public var session: any ClientSession
    /// What to report (ParameterStatus), in this order: `server_version`, `client_encoding` and so on.
    public var parameters: [StartupMessage.Parameter]

    public init(_ session: any ClientSession, parameters: [StartupMessage.Parameter]) {
        self.session = session
        self.parameters = parameters
    }
}

/// Who may be a client, and what it then gets. Called from event loops: nothing but ``open(_:key:output:)`` may wait.
public protocol ClientSessionProvider: Sendable {
    /// What is kept of a user's password; nil when it has none or does not exist, which the client is not told.
    func verifier(ofUser user: String) -> PasswordVerifier?

    /// Opens the session of an authenticated client.
    ///
    /// What it throws (3D000 for an unknown database, 53300 when there is no room) is sent as FATAL. The client may go
    /// meanwhile: the task is then cancelled, and a session opened in spite of that is told that it is
    /// ``ClientSession/disconnected(_:)``. What is written to `output` before this returns is sent after it has, behind
    /// the first ReadyForQuery.
    ///
    /// - Parameters:
    ///   - key: what the client sends to have a statement cancelled; the process's number is the session's, unique in
    ///     this gateway among those that are connected.
    ///   - output: the way back to the client.
    func open(
        _ startup: ClientStartup, key: CancelRequest, output: ClientOutput
    ) async throws(TransactionError) -> OpenedSession

    /// A cancel request came in whose key is this session's, which may have been ``ClientSession/disconnected(_:)``
    /// just before.
    func cancel(_ session: any ClientSession)
}
