import Glibc
import NIOCore

/// Makes TCP connections to others, each a NIO channel on an ``EventLoop``.
public final class SocketConnector: Sendable {
    private let loop: EventLoop
    private let channelLoop: ChannelLoop

    public init(loop: EventLoop) {
        self.loop = loop
        channelLoop = ChannelLoop(loop)
    }

    /// Connects to `address`. On the loop.
    ///
    /// - Parameters:
    ///   - timeout: after so long it is given up.
    ///   - initializer: adds the handlers of the channel once there is a connection, before anything is read.
    ///   - failed: is called instead, later, when there will be none.
    public func connect(
        to address: SocketAddress, within timeout: Duration, initializer: @escaping ListeningSocket.Initializer,
        failed: @escaping @Sendable (any Error) -> Void
    ) {
        do throws(IOError) {
            let socket = try TCPSocket.connect(to: address)
            let attempt = Attempt(
                socket: socket, address: address, channelLoop: channelLoop, initializer: initializer, failed: failed)
            loop.watch(socket, for: .writable, handler: attempt)
            attempt.timer = loop.addTimer(at: .now + timeout) { attempt.end(with: ETIMEDOUT) }
        } catch {
            loop.execute { failed(error) }
        }
    }

    /// A connection that is being made; on the loop only.
    private final class Attempt: ReadinessHandler, @unchecked Sendable {
        private let socket: Int32
        private let address: SocketAddress
        private let channelLoop: ChannelLoop
        private let initializer: ListeningSocket.Initializer
        private let failed: @Sendable (any Error) -> Void
        var timer: TimerQueue.ID?
        private var isOver = false

        init(
            socket: Int32, address: SocketAddress, channelLoop: ChannelLoop,
            initializer: @escaping ListeningSocket.Initializer, failed: @escaping @Sendable (any Error) -> Void
        ) {
            self.socket = socket
            self.address = address
            self.channelLoop = channelLoop
            self.initializer = initializer
            self.failed = failed
        }

        func becameReady(_ readiness: Readiness) {
            // News of another socket that had the number before may come early: there is no other side yet then.
            let remote = TCPSocket.makeAddress { getpeername(socket, $0, $1) }
            let code = TCPSocket.pendingError(of: socket)
            guard remote != nil || code != 0 else { return }
            end(with: code)
        }

        func watchFailed(_ error: Int32) { end(with: error) }

        /// The value of `errno`, 0 when the connection is there.
        func end(with code: Int32) {
            guard !isOver else { return }
            isOver = true
            channelLoop.loop.unwatch(socket)
            if let timer { channelLoop.loop.removeTimer(timer) }
            guard code == 0 else {
                close(socket)
                return failed(IOError(errnoCode: code, reason: "connect"))
            }
            TCPSocket.configure(socket)
            let channel = SocketChannel(
                socket, on: channelLoop, local: TCPSocket.localAddress(of: socket), remote: address)
            do {
                try initializer(channel)
                channel.start()
            } catch {
                channel.close(promise: nil)
                failed(error)
            }
        }
    }
}
