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
        socket = try Self.listen(on: address)
        port = Self.localAddress(of: socket)?.port ?? 0
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

    // MARK: Sockets

    private static func listen(on address: SocketAddress) throws -> Int32 {
        let kind = Int32(SOCK_STREAM.rawValue | SOCK_NONBLOCK.rawValue | SOCK_CLOEXEC.rawValue)
        let socket = Glibc.socket(Int32(address.protocol.rawValue), kind, 0)
        try check(socket, "socket")
        do {
            set(SOL_SOCKET, SO_REUSEADDR, 1, on: socket)
            let bound: Int32 = address.withSockAddr { bind(socket, $0, socklen_t($1)) }
            try check(bound, "bind")
            try check(Glibc.listen(socket, backlog), "listen")
        } catch {
            Glibc.close(socket)
            throw error
        }
        return socket
    }

    private static func check(_ result: Int32, _ call: String) throws {
        if result < 0 { throw IOError(errnoCode: errno, reason: call) }
    }

    private static func set(_ level: Int32, _ option: Int32, _ value: Int32, on socket: Int32) {
        withUnsafeBytes(of: value) { value in
            _ = setsockopt(socket, level, option, value.baseAddress, socklen_t(value.count))
        }
    }

    /// Answers leave at once. A host that is gone without a word is noticed after about two minutes, so that its
    /// transaction ends; PostgreSQL leaves that to the kernel's own default, which is two hours.
    private static func configure(_ socket: Int32) {
        let tcp = Int32(IPPROTO_TCP)
        set(tcp, TCP_NODELAY, 1, on: socket)
        set(SOL_SOCKET, SO_KEEPALIVE, 1, on: socket)
        set(tcp, TCP_KEEPIDLE, 60, on: socket)
        set(tcp, TCP_KEEPINTVL, 10, on: socket)
        set(tcp, TCP_KEEPCNT, 6, on: socket)
    }

    private static func localAddress(of socket: Int32) -> SocketAddress? {
        makeAddress { getsockname(socket, $0, $1) }
    }

    /// Nil for an address of another kind than IPv4 and IPv6.
    private static func makeAddress(
        _ fill: (UnsafeMutablePointer<sockaddr>, UnsafeMutablePointer<socklen_t>) -> Int32
    ) -> SocketAddress? {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        return withUnsafeMutablePointer(to: &storage) { pointer in
            let raw = UnsafeMutableRawPointer(pointer)
            guard fill(raw.assumingMemoryBound(to: sockaddr.self), &length) >= 0 else { return nil }
            return switch Int32(pointer.pointee.ss_family) {
            case AF_INET: SocketAddress(raw.load(as: sockaddr_in.self))
            case AF_INET6: SocketAddress(raw.load(as: sockaddr_in6.self))
            default: nil
            }
        }
    }
}

extension ListeningSocket: ReadinessHandler {
    package func becameReady(_ readiness: Readiness) {
        for _ in 0..<Self.connectionsPerTurnMax where !isClosed {
            var connection: Int32 = -1
            let remote = Self.makeAddress { address, length in
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
            Self.configure(connection)
            accept(connection, remote)
        }
    }

    private func accept(_ connection: Int32, _ remote: SocketAddress?) {
        let channel = SocketChannel(
            connection, on: channelLoop, local: Self.localAddress(of: connection), remote: remote)
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
