import EventLoops
import NIOCore
import NIOHTTP1

/// An HTTP/1.1 server for operators and their tools: few connections, short requests, some of them long answers.
public final class AdminServer: Sendable {
    public typealias Routes = @Sendable (AdminRequest) async -> AdminResponse

    /// How many connections there may be at once.
    static let connectionsMax = 64
    /// How long a request's body may be, and what a value of metadata may be with it.
    static let bodyMax = 1 << 20

    private let listener: ListeningSocket
    private let connections: AdminConnections
    private let loop: EventLoops.EventLoop
    /// The port that it listens on.
    public var port: Int { listener.port }

    private init(_ listener: ListeningSocket, _ connections: AdminConnections, _ loop: EventLoops.EventLoop) {
        (self.listener, self.connections, self.loop) = (listener, connections, loop)
    }

    /// Begins to listen and to answer. Looks up a name, so it may block.
    ///
    /// - Throws: ``AdminError`` when the address can't be had.
    public static func start(
        host: String, port: Int, on loop: EventLoops.EventLoop, _ routes: @escaping Routes
    ) throws(AdminError) -> AdminServer {
        let connections = AdminConnections()
        do {
            let address = try SocketAddress.makeAddressResolvingHost(host, port: port)
            let listener = try ListeningSocket(on: address, loop: loop) { channel in
                try connections.add(channel)
                let pipeline = channel.pipeline.syncOperations
                try pipeline.configureHTTPServerPipeline(withPipeliningAssistance: true, withErrorHandling: true)
                try pipeline.addHandler(NIOHTTPServerRequestAggregator(maxContentLength: bodyMax))
                try pipeline.addHandler(AdminHandler(routes))
            }
            return AdminServer(listener, connections, loop)
        } catch {
            throw AdminError(
                "the admin interface could not listen on \(host), port \(port)", detail: "\(error)",
                hint: "is another server using that port, and is the address one of this machine's?")
        }
    }

    /// Stops listening, ends the connections, and returns when they have ended.
    public func shutdown() async {
        await listener.close()
        await withUnsafeContinuation { continuation in
            loop.execute { [connections] in connections.endAll { continuation.resume() } }
        }
    }
}

/// The connections there are; on the loop only.
private final class AdminConnections: @unchecked Sendable {
    private struct TooManyConnections: Error {}

    private var channels: [ObjectIdentifier: any Channel] = [:]
    private var whenEmpty: (() -> Void)?

    func add(_ channel: any Channel) throws {
        guard whenEmpty == nil, channels.count < AdminServer.connectionsMax else { throw TooManyConnections() }
        channels[ObjectIdentifier(channel)] = channel
        let bound = NIOLoopBound((self, ObjectIdentifier(channel)), eventLoop: channel.eventLoop)
        channel.closeFuture.whenComplete { _ in
            let (connections, id) = bound.value
            connections.channels[id] = nil
            if connections.channels.isEmpty { connections.whenEmpty?() }
        }
    }

    func endAll(_ body: @escaping () -> Void) {
        whenEmpty = body
        guard !channels.isEmpty else { return body() }
        for channel in channels.values { channel.close(promise: nil) }
    }
}
