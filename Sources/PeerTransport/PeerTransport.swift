import EventLoops
import Logging
import Metrics
import NIOCore
import TransactionCore

/// What a ``PeerTransport`` calls, on the loop.
public struct PeerEvents: Sendable {
    /// A message came: who sent it, its kind, and what it says.
    public var received: @Sendable (NodeID, UInt8, [UInt8]) -> Void
    /// A request came, which wants an answer.
    public var requested: @Sendable (NodeID, UInt8, [UInt8], PeerAnswer) -> Void
    /// From now on messages to the node are sent, or dropped.
    public var connectionChanged: @Sendable (NodeID, Bool) -> Void

    public init(
        received: @escaping @Sendable (NodeID, UInt8, [UInt8]) -> Void,
        requested: @escaping @Sendable (NodeID, UInt8, [UInt8], PeerAnswer) -> Void = { _, _, _, _ in },
        connectionChanged: @escaping @Sendable (NodeID, Bool) -> Void = { _, _ in }
    ) {
        self.received = received
        self.requested = requested
        self.connectionChanged = connectionChanged
    }
}

/// The way back for one request's answer. Without one, the request ends by its deadline.
public struct PeerAnswer: Sendable {
    let send: @Sendable ([UInt8]) -> Void

    /// Answers, from any thread, once. Where the connection is gone or takes nothing more, the answer is dropped.
    public func callAsFunction(_ payload: [UInt8]) { send(payload) }
}

/// A node's connections to the other nodes: it keeps one to each, over which it sends, and listens for theirs.
///
/// Messages may be lost, when there is no connection or too much waits for it; those that arrive come in the order in
/// which they were sent, and once, as long as the connection lasts. All functions are to be called on the loop, and
/// none blocks.
public final class PeerTransport: @unchecked Sendable {
    let configuration: PeerConfiguration
    let loop: EventLoops.EventLoop
    let logger: Logger
    let tls: PeerTLSMaterial?
    let connector: SocketConnector
    private let events: PeerEvents
    private var listener: ListeningSocket?

    private var links: [NodeID: PeerLink] = [:]
    /// Every connection; with its link, where this node has made it.
    private var connections: [ObjectIdentifier: (connection: PeerConnection, link: PeerLink?)] = [:]
    private var requests: [ObjectIdentifier: [UInt64: PendingRequest]] = [:]
    private var lastRequest: UInt64 = 0
    private var isClosed = false
    private var whenEmpty: UnsafeContinuation<Void, Never>?
    /// How many messages there was no connection or no room for.
    public private(set) var droppedCount = 0
    private let dropped = Counter(label: "meridian_peer_messages_dropped")

    private struct PendingRequest {
        let timer: ScheduledTimer
        let completion: @Sendable (Result<[UInt8], PeerRequestError>) -> Void
    }

    /// Whoever connects and says nothing takes no more than this away from the others.
    private static let strangersMax = 64
    /// As many people and programs as look after a cluster, and more.
    private static let clientsMax = 256

    private init(
        _ configuration: PeerConfiguration, tls: PeerTLSMaterial?, loop: EventLoops.EventLoop, logger: Logger,
        events: PeerEvents
    ) {
        self.configuration = configuration
        self.tls = tls
        self.loop = loop
        self.logger = logger
        self.events = events
        connector = SocketConnector(loop: loop)
    }

    /// Begins to listen for other nodes; without an address, nobody can connect to it (``NodeID/client``). Reads files
    /// and looks up a name, so it may block; from any thread.
    public static func start(
        _ configuration: PeerConfiguration, listeningOn address: PeerAddress?, loop: EventLoops.EventLoop,
        logger: Logger, events: PeerEvents
    ) throws(PeerTransportError) -> PeerTransport {
        let tls = try configuration.tls.map { (paths) throws(PeerTransportError) in try PeerTLSMaterial(paths) }
        let transport = PeerTransport(configuration, tls: tls, loop: loop, logger: logger, events: events)
        guard let address else { return transport }
        do {
            let resolved = try SocketAddress.makeAddressResolvingHost(address.host, port: address.port)
            transport.listener = try ListeningSocket(on: resolved, loop: loop) { [weak transport] channel in
                try transport?.accept(channel)
            }
        } catch {
            throw PeerTransportError(
                message: "could not listen for other nodes on \(address)", detail: "\(error)",
                hint: "is another process using that port, and is the address one of this machine's?")
        }
        return transport
    }

    /// The port that it listens on; from any thread.
    public var port: Int { listener?.port ?? 0 }

    /// Ends all connections, and when they have ended. From any thread.
    public func close() async {
        await listener?.close()
        await withUnsafeContinuation { continuation in
            loop.execute { [self] in
                isClosed = true
                for link in links.values { link.end() }
                links = [:]
                for entry in connections.values { entry.connection.close("this node ends") }
                whenEmpty = continuation
                resumeWhenEmpty()
            }
        }
    }

    private func resumeWhenEmpty() {
        guard connections.isEmpty, let whenEmpty else { return }
        self.whenEmpty = nil
        whenEmpty.resume()
    }

    // MARK: Peers

    /// Keeps a connection to `peer` from now on; where it has one to another address, that ends.
    public func setPeer(_ peer: NodeID, at address: PeerAddress) {
        loop.checkIsolated()
        precondition(peer != configuration.node, "node \(peer) is no peer of its own")
        guard !isClosed, links[peer]?.address != address else { return }
        removePeer(peer)
        let link = PeerLink(to: peer, at: address, of: self)
        links[peer] = link
        link.start()
    }

    /// Keeps no connection to `peer` any more. It may still connect itself.
    public func removePeer(_ peer: NodeID) {
        loop.checkIsolated()
        links.removeValue(forKey: peer)?.end()
    }

    /// The nodes that messages are sent to.
    public var connectedPeers: [NodeID] { links.keys.sorted().filter(isConnected) }

    /// Whether messages to `peer` are sent.
    public func isConnected(to peer: NodeID) -> Bool { version(of: peer) != nil }

    /// Why there is no connection to `peer`; nil where there is one, and until the first attempt has failed.
    public func failure(of peer: NodeID) -> String? {
        loop.checkIsolated()
        return links[peer]?.failure
    }

    /// The newest version that this node and `peer` both understand; nil without a connection.
    public func version(of peer: NodeID) -> UInt16? {
        loop.checkIsolated()
        return links[peer]?.connection?.version
    }

    // MARK: Sending

    /// Sends a message of the caller's `kind`.
    ///
    /// - Returns: false when it was dropped: there is no connection, too much waits for it, or the message is too long.
    @discardableResult
    public func send(_ payload: [UInt8], kind: UInt8, to peer: NodeID) -> Bool {
        loop.checkIsolated()
        guard let connection = links[peer]?.connection, hasValidLength(payload),
            connection.send(PeerFrame.message(kind: kind, payload).encoded)
        else {
            droppedCount += 1
            dropped.increment()
            return false
        }
        return true
    }

    private func hasValidLength(_ payload: [UInt8]) -> Bool {
        if payload.count + PeerFrame.overheadBytes <= configuration.frameBytesMax { return true }
        logger.error(
            "a message to another node is too long",
            metadata: ["bytes": "\(payload.count)", "max": "\(configuration.frameBytesMax)"])
        return false
    }

    /// Sends a request of the caller's `kind`, and hands on the answer.
    ///
    /// - Parameter completion: is called once, on the loop, in `duration` at most, and never before this returns.
    public func request(
        _ payload: [UInt8], kind: UInt8, of peer: NodeID, within duration: Duration,
        then completion: @escaping @Sendable (Result<[UInt8], PeerRequestError>) -> Void
    ) {
        loop.checkIsolated()
        guard let connection = links[peer]?.connection else {
            return loop.execute { completion(.failure(.notConnected)) }
        }
        lastRequest += 1
        let id = lastRequest
        guard hasValidLength(payload), connection.send(PeerFrame.request(id: id, kind: kind, payload).encoded) else {
            return loop.execute { completion(.failure(.notSent)) }
        }
        let identity = ObjectIdentifier(connection)
        let timer = loop.schedule(at: .now + duration) { [self] in
            requests[identity]?.removeValue(forKey: id)?.completion(.failure(.timedOut))
        }
        requests[identity, default: [:]][id] = PendingRequest(timer: timer, completion: completion)
    }

    private func answer(_ id: UInt64, _ payload: [UInt8], over connection: PeerConnection) {
        if hasValidLength(payload) { _ = connection.send(PeerFrame.answer(id: id, payload).encoded) }
    }
}

// MARK: Connections

extension PeerTransport: PeerConnectionOwner {
    private struct TooManyStrangers: Error {}

    private func accept(_ channel: any Channel) throws {
        guard !isClosed, connections.values.count(where: { $0.connection.peer == nil }) < Self.strangersMax else {
            throw TooManyStrangers()
        }
        let connection = PeerConnection(.server, channel, loop: loop, owner: self)
        if let tls { try channel.pipeline.syncOperations.addHandler(tls.makeServerHandler()) }
        try channel.pipeline.syncOperations.addHandler(connection)
        enter(connection, link: nil)
    }

    /// There is a connection; ``ended(_:to:reason:)`` tells when it is there no more.
    func enter(_ connection: PeerConnection, link: PeerLink?) {
        connections[ObjectIdentifier(connection)] = (connection, link)
    }

    func opened(_ connection: PeerConnection, to peer: NodeID) {
        if let link = connections[ObjectIdentifier(connection)]?.link {
            link.opened(connection)
            logger.info("connected to a node", metadata: ["peer": "\(peer)", "address": "\(connection.address)"])
            return events.connectionChanged(peer, true)
        }
        let earlier = connections.values.filter { $0.link == nil && $0.connection.peer == peer }
            .map(\.connection).filter { $0 !== connection }
        if peer == .client {
            if earlier.count >= Self.clientsMax { connection.close("there are \(earlier.count) clients already") }
            return
        }
        // The node was started again, or has given the other one up.
        for other in earlier { other.close("node \(peer) has connected again, from \(connection.address)") }
    }

    func received(_ frame: PeerFrame, from peer: NodeID, over connection: PeerConnection) {
        switch frame {
        case .message(let kind, let payload): events.received(peer, kind, payload)
        case .request(let id, let kind, let payload):
            let bound = NIOLoopBound(connection, eventLoop: connection.channel.eventLoop)
            events.requested(
                peer, kind, payload,
                PeerAnswer { [self] answer in
                    loop.execute { [self] in self.answer(id, answer, over: bound.value) }
                })
        case .answer(let id, let payload):
            guard let pending = requests[ObjectIdentifier(connection)]?.removeValue(forKey: id) else { return }
            pending.timer.cancel()
            pending.completion(.success(payload))
        case .hello, .welcome, .refusal, .ping, .pong: break
        }
    }

    func ended(_ connection: PeerConnection, to peer: NodeID?, reason: String) {
        let identity = ObjectIdentifier(connection)
        let entry = connections.removeValue(forKey: identity)
        for pending in (requests.removeValue(forKey: identity) ?? [:]).values {
            pending.timer.cancel()
            pending.completion(.failure(.connectionLost))
        }
        if let link = entry?.link {
            link.failed(reason)
            if let peer { events.connectionChanged(peer, false) }
        } else {
            logger.info(
                "a connection from a node ended",
                metadata: [
                    "peer": "\(peer.map(\.description) ?? "unknown")", "address": "\(connection.address)",
                    "reason": "\(reason)",
                ])
        }
        resumeWhenEmpty()
    }
}
