import ClientAuthentication
import NIOCore
import PostgresWire
import TransactionCore

/// What happens on a connection before its session: encryption, the startup packet, authentication.
///
/// A value without I/O: whoever owns it hands it what arrived and carries out its actions, one by one, until there is
/// none or the client is to be let in, refused, or served its cancel request.
struct ClientLogin {
    enum Action {
        /// Send this byte: there is no encryption of the kind that the client asked for.
        case declineEncryption
        /// Send that there is TLS, begin it, and call ``encrypted(certificateHash:)``.
        case beginTLS
        case cancel(CancelRequest)
        /// A client asks in; go on only when there is room.
        case admit
        case send(ByteBuffer)
        /// The client is who it says: send this, which tells it so, and open its session.
        case open(ClientStartup, ByteBuffer)
        case refuse(Refusal)
    }

    /// Why a client may not in.
    struct Refusal: Error {
        /// What it is told; nil for nothing.
        var fields: ErrorFields?
        /// What the log is told.
        var reason: String
    }

    /// What a login goes by.
    struct Terms {
        var rules: HostRules
        var offersTLS: Bool
        var mockSecret: [UInt8]
        /// The client's address and port, and the address as rules know it.
        var address: String
        var port: Int
        var host: HostAddress
    }

    /// Each case says what the client is to send.
    private enum State {
        case startup(StartupDecoder)
        /// Nothing: it waits to be admitted.
        case admission(StartupMessage)
        case password(StartupMessage, MD5Verifier, salt: UInt32)
        case mechanism(StartupMessage, SCRAMServer)
        case response(StartupMessage, SCRAMServer)
        /// Nothing: the login is over.
        case over
    }

    private let terms: Terms
    private let verifier: (_ user: String) -> PasswordVerifier?
    private var state = State.startup(StartupDecoder())
    private var isEncrypted = false
    private var certificateHash: [UInt8]?

    init(_ terms: Terms, verifier: @escaping (_ user: String) -> PasswordVerifier?) {
        self.terms = terms
        self.verifier = verifier
    }

    // MARK: Inputs

    /// TLS has begun, with this certificate.
    mutating func encrypted(certificateHash: [UInt8]?) {
        isEncrypted = true
        self.certificateHash = certificateHash
        state = .startup(StartupDecoder(isEncrypted: true))
    }

    /// What to do next; nil when more has to arrive for that.
    mutating func next(from received: inout ByteBuffer) -> Action? {
        do {
            return try step(&received)
        } catch let error as WireError {
            return refuse(error)
        } catch let error as AuthenticationError {
            let fields = ErrorFields(.fatal, error.sqlState, error.message, detail: error.detail, hint: error.hint)
            let reason = [error.message, error.detail, error.logDetail].compactMap(\.self).joined(separator: ": ")
            state = .over
            return .refuse(Refusal(fields: fields, reason: reason))
        } catch {
            return refuse(WireError(.internalError, "\(error)", consequence: .endsConnection))
        }
    }

    private mutating func refuse(_ error: WireError) -> Action {
        state = .over
        let isSilent = error.consequence == .endsConnectionSilently
        return .refuse(
            Refusal(
                fields: isSilent ? nil : ErrorFields(error.asFatal),
                reason: [error.message, error.detail].compactMap(\.self).joined(separator: ": ")))
    }

    private mutating func step(_ received: inout ByteBuffer) throws -> Action? {
        switch state {
        case .startup(var decoder):
            guard let packet = try decoder.nextPacket(from: &received) else { return nil }
            state = .startup(decoder)
            return try packetReceived(packet, leftBytes: received.readableBytes)
        case .admission(let startup):
            return try begin(startup)
        case .password(let startup, let verifier, let salt):
            guard let body = try nextResponse(.password, &received) else { return nil }
            guard verifier.accepts(try PasswordResponse(body).password.readableBytesView, salt: salt) else {
                throw AuthenticationError.passwordFailed(user: startup.user)
            }
            return try open(startup, ClientLogin.writer())
        case .mechanism(let startup, var server):
            guard let body = try nextResponse(.sasl, &received) else { return nil }
            let choice = try SASLInitialResponse(body)
            let response = choice.response.map { Array($0.readableBytesView) }
            return try answer(server.mechanismChosen(choice.mechanism, response: response), startup, server)
        case .response(let startup, var server):
            guard let body = try nextResponse(.sasl, &received) else { return nil }
            return try answer(server.responseReceived(Array(body.readableBytesView)), startup, server)
        case .over:
            return nil
        }
    }

    private func nextResponse(_ phase: FrontendDecoder.Phase, _ received: inout ByteBuffer) throws -> ByteBuffer? {
        try FrontendDecoder(phase: phase).nextFrame(from: &received)?.body
    }

    // MARK: The startup packet

    private mutating func packetReceived(_ packet: StartupPacket, leftBytes: Int) throws -> Action {
        switch packet {
        case .sslRequest where terms.offersTLS:
            guard leftBytes == 0 else { throw WireError.unencryptedDataAfterSSLRequest }
            return .beginTLS
        case .sslRequest, .gssEncryptionRequest:
            return .declineEncryption
        case .cancelRequest(let key):
            state = .over
            return .cancel(key)
        case .startup(let startup):
            try ClientLogin.checkReplication(startup)
            state = .admission(startup)
            return .admit
        }
    }

    /// A client may say that it wants no replication.
    private static func checkReplication(_ startup: StartupMessage) throws(WireError) {
        guard let value = startup["replication"]?.lowercased() else { return }
        let isOff = ["false", "off", "no", "0", "f", "n"].contains(value)
        guard !isOff else { return }
        throw WireError(
            .featureNotSupported, "replication connections are not supported",
            hint: "replicate each shard from its own server", consequence: .endsConnection)
    }

    // MARK: Authentication

    private mutating func begin(_ startup: StartupMessage) throws -> Action {
        let origin = HostRules.Origin.network(terms.host, isEncrypted: isEncrypted)
        let method = try terms.rules.method(
            for: HostRules.Connection(from: origin, user: startup.user, database: startup.database))
        var writer = ClientLogin.writer()
        if startup.needsNegotiation {
            writer.negotiateProtocolVersion(unrecognisedOptions: startup.unrecognisedOptions)
        }
        if method == .trust { return try open(startup, writer) }
        let verifier = verifier(startup.user)
        switch (method.exchange(with: verifier), verifier) {
        case (.none, _):
            return try open(startup, writer)
        case (.md5, .md5(let verifier)):
            let salt = UInt32.random(in: .min ... .max)
            state = .password(startup, verifier, salt: salt)
            writer.authentication(.md5Password(salt: salt))
            return .send(writer.take())
        case (.md5, _), (.scram, _):
            let server = SCRAMServer(
                user: startup.user, verifier: verifier?.scram, mockSecret: terms.mockSecret,
                certificateHash: certificateHash,
                nonce: SCRAMServer.nonce(
                    of: (0..<SCRAMServer.nonceLength).map { _ in UInt8.random(in: .min ... .max) }))
            state = .mechanism(startup, server)
            writer.authentication(.sasl(mechanisms: server.mechanisms.map(\.rawValue)))
            return .send(writer.take())
        }
    }

    private mutating func answer(
        _ action: SCRAMServer.Action, _ startup: StartupMessage, _ server: SCRAMServer
    ) throws -> Action {
        var writer = ClientLogin.writer()
        switch action {
        case .challenge(let bytes):
            state = .response(startup, server)
            writer.authentication(.saslContinue(ByteBuffer(bytes: bytes)))
            return .send(writer.take())
        case .authenticated(let bytes):
            writer.authentication(.saslFinal(ByteBuffer(bytes: bytes)))
            return try open(startup, writer)
        }
    }

    /// Lets the client in, which is told so behind what `writer` has.
    private mutating func open(_ startup: StartupMessage, _ writer: BackendWriter) throws(WireError) -> Action {
        var writer = writer
        let settings = try StartupOptions.settings(startup["options"] ?? "") + startup.settings
        writer.authentication(.ok)
        state = .over
        return .open(
            ClientStartup(
                user: startup.user, database: startup.database, settings: settings, isEncrypted: isEncrypted,
                address: terms.address, port: terms.port), writer.take())
    }

    private static func writer() -> BackendWriter { BackendWriter(capacity: 256) }
}

extension PasswordVerifier {
    fileprivate var scram: SCRAMVerifier? {
        switch self {
        case .scram(let verifier): verifier
        case .md5: nil
        }
    }
}
