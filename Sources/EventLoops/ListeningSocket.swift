import CLinux
import Glibc
import NIOCore

/// A TCP socket that listens, and makes a NIO channel on its ``EventLoop`` of each connection.
public final class ListeningSocket: @unchecked Sendable {
    /// Adds the handlers of a new channel; called on the loop. A channel for which it throws is closed.
    public typealias Initializer = @Sendable (any Channel) throws -> Void

    private static let backlog: Int32 = 1_024
    /// How many connections are accepted before other sockets have their turn.
    private static let connectionsPerTurnMax = 16
    /// Without file descriptors left, accepting again at once would only keep a processor busy.
    private static let pauseAfterFailure = Duration.milliseconds(500)

    /// What its channels and their promises run on.
    public var eventLoop: any NIOCore.EventLoop { channelLoop }
    /// The port that it listens on.
    public let port: Int

    private let loop: EventLoop
    private let channelLoop: ChannelLoop
    private let socket: Int32
    private let initializer: Initializer
    /// On the loop only.
    private var isClosed = false

    /// Begins to listen.
    ///
    /// - Throws: `IOError` when the system refuses the address.
    public init(on address: SocketAddress, loop: EventLoop, initializer: @escaping Initializer) throws {
        self.loop = loop
        self.initializer = initializer
        channelLoop = ChannelLoop(loop)
        socket = try TCPSocket.listen(on: address, backlog: Self.backlog)
        port = TCPSocket.localAddress(of: socket)?.port ?? 0
        loop.execute { [self] in resume() }
    }

    /// Stops listening. Connections that were made go on.
    public func close() async {
        await withUnsafeContinuation { (continuation: UnsafeContinuation<Void, Never>) in
            loop.execute { [self] in
                defer { continuation.resume() }
                guard !isClosed else { return }
                isClosed = true
                loop.unwatch(socket)
                Glibc.close(socket)
            }
        }
    }

    private func resume() {
        if !isClosed { loop.watch(socket, for: .readable, handler: self) }
    }
}

extension ListeningSocket: ReadinessHandler {
    package func becameReady(_ readiness: Readiness) {
        for _ in 0..<Self.connectionsPerTurnMax where !isClosed {
            var connection: Int32 = -1
            let remote = TCPSocket.makeAddress { address, length in
                connection = accept4(socket, address, length, Int32(SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue))
                return connection
            }
            guard connection >= 0 else {
                switch errno {
                case EAGAIN, EWOULDBLOCK: return
                case EMFILE, ENFILE, ENOBUFS, ENOMEM: return pause()
                // It went before it was accepted, or the network has something against it.
                default: continue
                }
            }
            TCPSocket.configure(connection)
            accept(connection, remote)
        }
    }

    package func watchFailed(_ error: Int32) {
        if !isClosed { pause() }
    }

    private func accept(_ connection: Int32, _ remote: SocketAddress?) {
        let channel = SocketChannel(
            connection, on: channelLoop, local: TCPSocket.localAddress(of: connection), remote: remote)
        do {
            try initializer(channel)
            channel.start()
        } catch {
            channel.close(promise: nil)
        }
    }

    private func pause() {
        loop.unwatch(socket)
        loop.schedule(at: .now + Self.pauseAfterFailure) { [self] in resume() }
    }
}
