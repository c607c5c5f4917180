import ClientAuthentication
import Logging
import NIOCore
import NIOSSL
import PostgresWire
import TransactionCore

/// One client's connection: the handler at the end of its channel.
///
/// It owns the ``ClientLogin`` and then the session, cuts what arrives into frames, and sends what waits in the
/// ``ClientOutput`` as far as the channel takes it. All of it runs on the connection's event loop.
final class ClientConnection {
    /// Where the connection stands; each case says what may follow.
    private enum Phase {
        /// Next: `login`, `closed`.
        case new
        /// Next: `opening`, `closing`, `closed`.
        case login(ClientLogin)
        /// The provider opens the session. Next: `session`, `closing`, `closed`.
        case opening(Task<Void, Never>)
        /// Next: `leaving`, `closing`, `closed`.
        case session(any ClientSession)
        /// The client has said Terminate: the session answers what came before that, then closes the output. Nothing is
        /// read meanwhile. Next: `closing`, `closed`.
        case leaving
        /// What arrives is dropped; the connection is closed when what waits for the client is sent. Next: `closed`.
        case closing
        case closed
    }

    private let shared: GatewayShared
    private let eventLoop: any EventLoop
    private let output: ClientOutput
    private var key = CancelRequest(processID: 0, secret: 0)
    private var context: ChannelHandlerContext?
    private var phase = Phase.new
    private var decoder: FrontendDecoder
    private var address = ""

    /// What arrived and is no whole packet or frame yet; without storage of its own while that is nothing.
    private var received = ByteBuffer()
    /// Frames of this turn of the event loop, which the session gets at its end.
    private var frames: [FrontendFrame] = []
    private var frameBytes = 0

    /// It counts among the clients.
    private var isAdmitted = false
    /// The provider is still at the opening of a session.
    private var isOpening = false
    /// The channel is gone.
    private var hasEnded = false
    /// The channel is being read: what the session writes meanwhile is sent at the end of that.
    private var isInTurn = false
    private var isOutputWaiting = false
    private var isSending = false
    /// Reading pauses, and the channel has asked for it meanwhile.
    private var isReadingPaused = false
    private var isReadWanted = false
    /// Ends the login, later the closing; nil between them.
    private var timer: Scheduled<Void>?
    private let client: SocketAddress?

    /// Makes the connection of a channel. Throws when there are too many.
    ///
    /// - Parameter client: where the client is, when another node handed it on; else the channel's other end.
    init(_ channel: any Channel, of shared: GatewayShared, from client: SocketAddress? = nil) throws {
        self.shared = shared
        self.client = client
        eventLoop = channel.eventLoop
        output = ClientOutput(eventLoop: eventLoop, configuration: shared.configuration)
        decoder = FrontendDecoder(phase: .session, lengthMax: shared.configuration.messageLengthMax)
        guard let key = shared.clients.enter(NIOLoopBound(self, eventLoop: eventLoop)) else {
            shared.refused.increment()
            throw TooManyConnections()
        }
        self.key = key
        output.attach(self)
    }
}

/// Thrown where only the listening socket hears of it, which closes the channel.
private struct TooManyConnections: Error {}

// MARK: The channel's events

extension ClientConnection: ChannelInboundHandler, ChannelOutboundHandler {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer
    typealias OutboundOut = ByteBuffer

    func handlerAdded(context: ChannelHandlerContext) {
        self.context = context
    }

    func handlerRemoved(context: ChannelHandlerContext) {
        // A channel that never became active has no other end.
        ended()
        self.context = nil
    }

    func channelActive(context: ChannelHandlerContext) {
        guard let remote = client ?? context.remoteAddress, let text = remote.ipAddress, let host = HostAddress(text)
        else {
            // It has gone already.
            context.close(promise: nil)
            return
        }
        address = host.description
        let terms = ClientLogin.Terms(
            rules: shared.hostRules.withLock { $0 }, offersTLS: shared.configuration.tls != nil,
            mockSecret: shared.configuration.mockSecret, address: address, port: remote.port ?? 0, host: host)
        let provider = shared.provider
        phase = .login(ClientLogin(terms) { provider.verifier(ofUser: $0) })
        // As in PostgreSQL, which says nothing either: nobody knows what the client would take it for.
        arm(shared.configuration.authenticationTimeout) { $0.abandon("authentication timed out") }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        var bytes = unwrapInboundIn(data)
        isInTurn = true
        switch phase {
        case .leaving, .closing, .closed: return
        case .new, .login, .opening, .session:
            if received.readableBytes == 0 { received = bytes } else { received.writeBuffer(&bytes) }
        }
        proceed()
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        endTurn()
    }

    func read(context: ChannelHandlerContext) {
        if isReadingPaused {
            isReadWanted = true
        } else {
            context.read()
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        if context.channel.isWritable { sendQueued() }
    }

    func channelInactive(context: ChannelHandlerContext) {
        endTurn()
        ended()
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {
        // That TLS did not come about is worth knowing; that somebody hung up, hardly.
        shared.logger.log(
            level: isAdmitted ? .debug : .info, "client connection failed", metadata: metadata(["error": "\(error)"]))
        context.close(promise: nil)
    }
}

// MARK: What arrives

extension ClientConnection {
    /// Does what the bytes at hand are good for.
    private func proceed() {
        while case .login(var login) = phase {
            let action = login.next(from: &received)
            phase = .login(login)
            guard let action else { break }
            perform(action)
        }
        if case .session(let session) = phase { cutFrames(for: session) }
        letGoOfStorage()
    }

    private func cutFrames(for session: any ClientSession) {
        do {
            while let frame = try decoder.nextFrame(from: &received) {
                if frame.kind == .terminate {
                    deliverFrames(to: session)
                    return leave(session)
                }
                frames.append(frame)
                frameBytes += frame.byteCount
            }
        } catch {
            deliverFrames(to: session)
            let isSilent = error.consequence == .endsConnectionSilently
            refuse(
                ClientLogin.Refusal(
                    fields: isSilent ? nil : ErrorFields(error.asFatal),
                    reason: [error.message, error.detail].compactMap(\.self).joined(separator: ": ")))
        }
    }

    /// Keeps no more than what is left, and lets frames keep what they are slices of: appending to storage that is
    /// shared would copy all of it.
    private func letGoOfStorage() {
        if received.readableBytes == 0 {
            received = ByteBuffer()
        } else if received.readerIndex > 0 {
            received = ByteBuffer(buffer: received)
        }
    }

    private func endTurn() {
        if case .session(let session) = phase { deliverFrames(to: session) }
        isInTurn = false
        if isOutputWaiting { sendQueued() }
    }

    private func deliverFrames(to session: any ClientSession) {
        guard !frames.isEmpty else { return }
        let delivered = frames
        frames = []
        if output.received(frameBytes) { isReadingPaused = true }
        frameBytes = 0
        session.receive(delivered)
    }

    /// The session has caught up.
    func resumeReading() {
        isReadingPaused = false
        guard isReadWanted else { return }
        isReadWanted = false
        context?.read()
    }
}

// MARK: The login

extension ClientConnection {
    private func perform(_ action: ClientLogin.Action) {
        switch action {
        case .declineEncryption: send(ByteBuffer(bytes: [UInt8(ascii: "N")]))
        case .beginTLS: beginTLS()
        case .cancel(let key):
            if let session = shared.clients.session(for: key) { shared.provider.cancel(session) }
            close()
        case .admit: admit()
        case .send(let bytes): send(bytes)
        case .open(let startup, let bytes):
            send(bytes)
            open(startup)
        case .refuse(let refusal): refuse(refusal)
        }
    }

    private func send(_ bytes: ByteBuffer) {
        context?.writeAndFlush(wrapOutboundOut(bytes), promise: nil)
    }

    private func beginTLS() {
        guard let context, let material = shared.tls.withLock({ $0 }), case .login(var login) = phase else { return }
        send(ByteBuffer(bytes: [UInt8(ascii: "S")]))
        do {
            let handler = NIOSSLServerHandler(context: material.context)
            try context.pipeline.syncOperations.addHandler(handler, position: .before(self))
        } catch {
            return abandon("TLS did not begin: \(error)")
        }
        login.encrypted(certificateHash: material.certificateHash)
        phase = .login(login)
    }

    private func admit() {
        switch shared.clients.admit() {
        case .admitted: isAdmitted = true
        case .tooMany: refuse(.tooManyConnections, "sorry, too many clients already")
        case .stopping: stopping()
        }
    }

    private func open(_ startup: ClientStartup) {
        isOpening = true
        // Until the session is there, what the client sends would only pile up.
        isReadingPaused = true
        let connection = NIOLoopBound(self, eventLoop: eventLoop)
        let (provider, key, output) = (shared.provider, key, output)
        let task = Task {
            let result: Result<OpenedSession, TransactionError>
            do throws(TransactionError) {
                result = .success(try await provider.open(startup, key: key, output: output))
            } catch {
                result = .failure(error)
            }
            connection.eventLoop.execute { connection.value.opened(result, startup) }
        }
        phase = .opening(task)
    }

    private func opened(_ result: Result<OpenedSession, TransactionError>, _ startup: ClientStartup) {
        isOpening = false
        guard case .opening = phase else {
            if case .success(let opened) = result { opened.session.disconnected(.lost) }
            return leaveIfGone()
        }
        switch result {
        case .success(let opened):
            timer?.cancel()
            timer = nil
            isReadingPaused = false
            var writer = BackendWriter(capacity: 512)
            for parameter in opened.parameters { writer.parameterStatus(parameter.name, parameter.value) }
            writer.backendKeyData(key)
            writer.readyForQuery(.idle)
            send(writer.take())
            phase = .session(opened.session)
            shared.clients.opened(opened.session, for: key)
            shared.logger.debug(
                "client connected", metadata: metadata(["user": "\(startup.user)", "database": "\(startup.database)"]))
            sendQueued()
            proceed()
            endTurn()
            if !isReadingPaused { resumeReading() }
        case .failure(let error):
            refuse(ClientLogin.Refusal(fields: ErrorFields(error, severity: .fatal), reason: error.message))
        }
    }
}

// MARK: What is sent

extension ClientConnection {
    /// The output has something: it is sent now, or at the end of the turn of which it is the answer.
    func outputIsWaiting() {
        if isInTurn {
            isOutputWaiting = true
        } else {
            sendQueued()
        }
    }

    private func sendQueued() {
        guard !isSending, let context else { return }
        switch phase {
        // The queue keeps its turn until it can be sent.
        case .new, .login, .opening, .closed: return
        case .session, .leaving, .closing: break
        }
        isSending = true
        isOutputWaiting = false
        defer { isSending = false }
        // Under TLS only a flush shows what the channel holds.
        let flushBytes = 64 << 10
        var unflushedBytes = 0
        while true {
            if unflushedBytes >= flushBytes || (unflushedBytes > 0 && !context.channel.isWritable) {
                context.flush()
                unflushedBytes = 0
            }
            switch output.next(channelTakesMore: context.channel.isWritable) {
            case .send(let bytes):
                unflushedBytes += bytes.readableBytes
                context.write(wrapOutboundOut(bytes), promise: nil)
            case .wait(let isClosing):
                // In a session there is no other timer.
                if isClosing, timer == nil { armClosing() }
                return
            case .nothing:
                if unflushedBytes > 0 { context.flush() }
                return
            case .close:
                return closeBehindSent(context)
            }
        }
    }

    /// Closes when the channel has sent everything.
    private func closeBehindSent(_ context: ChannelHandlerContext) {
        let sent = eventLoop.makePromise(of: Void.self)
        let connection = NIOLoopBound(self, eventLoop: eventLoop)
        context.writeAndFlush(wrapOutboundOut(ByteBuffer()), promise: sent)
        sent.futureResult.whenComplete { _ in connection.value.close() }
        startClosing()
    }

    /// The client has said goodbye.
    private func leave(_ session: any ClientSession) {
        phase = .leaving
        received = ByteBuffer()
        isReadingPaused = true
        session.disconnected(.terminated)
    }

    /// From here on the connection closes, at the latest when the time for that is over.
    private func startClosing() {
        guard !isClosing else { return }
        endSession()
        received = ByteBuffer()
        isReadingPaused = false
        resumeReading()
        armClosing()
    }

    private func armClosing() { arm(shared.configuration.closeTimeout) { $0.close() } }
}

// MARK: The end

extension ClientConnection {
    private var isClosing: Bool {
        switch phase {
        case .new, .login, .opening, .session, .leaving: false
        case .closing, .closed: true
        }
    }

    /// Tells the client why, if it is to know, and closes.
    private func refuse(_ refusal: ClientLogin.Refusal) {
        guard !isClosing else { return }
        shared.refused.increment()
        shared.logger.info("client refused", metadata: metadata(["reason": "\(refusal.reason)"]))
        guard let fields = refusal.fields else { return close() }
        sayGoodbye(fields)
    }

    private func refuse(_ sqlState: SQLState, _ message: String) {
        refuse(ClientLogin.Refusal(fields: ErrorFields(.fatal, sqlState, message), reason: message))
    }

    private func sayGoodbye(_ fields: ErrorFields) {
        var writer = BackendWriter(capacity: 256)
        writer.errorResponse(fields)
        // First: the session may close the output, too, when it is told.
        output.close(last: writer.take())
        startClosing()
        sendQueued()
    }

    /// The gateway is stopping, and the client not in yet.
    func stopping() {
        switch phase {
        case .login, .opening: refuse(.cannotConnectNow, "the database system is shutting down")
        case .new, .session, .leaving, .closing, .closed: break
        }
    }

    /// The gateway has stopped.
    func sendAway() {
        switch phase {
        case .session(let session): sayGoodbye(session.mayHaveCommitted ? .outcomeUnknown : .shutdown)
        // What came before Terminate is carried out.
        case .leaving: sayGoodbye(.outcomeUnknown)
        case .new, .login, .opening: sayGoodbye(.shutdown)
        case .closing, .closed: break
        }
    }

    /// Closes without a word.
    private func abandon(_ reason: String) { refuse(ClientLogin.Refusal(fields: nil, reason: reason)) }

    private func close() {
        startClosing()
        context?.close(promise: nil)
    }

    /// Ends the session, or the opening of one, if there is any.
    private func endSession() {
        let before = phase
        phase = .closing
        switch before {
        case .opening(let task): task.cancel()
        case .session(let session): session.disconnected(.lost)
        case .new, .login, .leaving, .closing, .closed: break
        }
    }

    /// The channel is gone.
    private func ended() {
        guard !hasEnded else { return }
        hasEnded = true
        endSession()
        phase = .closed
        timer?.cancel()
        timer = nil
        received = ByteBuffer()
        output.connectionLost()
        leaveIfGone()
    }

    /// Leaves the clients when nothing of the connection is under way any more.
    private func leaveIfGone() {
        if hasEnded, !isOpening { shared.clients.leave(key, wasAdmitted: isAdmitted) }
    }

    private func arm(_ duration: Duration, _ body: @escaping (ClientConnection) -> Void) {
        let connection = NIOLoopBound((self, body), eventLoop: eventLoop)
        timer?.cancel()
        timer = eventLoop.scheduleTask(in: TimeAmount(duration)) {
            let (connection, body) = connection.value
            body(connection)
        }
    }

    private func metadata(_ more: Logger.Metadata) -> Logger.Metadata {
        more.merging(["client": "\(address)", "session": "\(key.processID)"]) { one, _ in one }
    }
}
