import Glibc
import NIOCore
import Synchronization
import TestSupport
import Testing

@testable import EventLoops

/// Connections that a loop makes.
@Suite struct SocketConnectorTests {
    /// What became of attempts to connect.
    private final class Attempts: Sendable {
        private let channels = Mutex<[any Channel]>([])
        private let errors = Mutex<[any Error]>([])

        var channel: (any Channel)? { channels.withLock { $0.first } }
        var codes: [Int32] { errors.withLock { $0.map { ($0 as? IOError)?.errnoCode ?? -1 } } }

        func connect(
            to port: Int, of host: String = "127.0.0.1", within timeout: Duration = .seconds(20),
            with connector: SocketConnector, on loop: EventLoops.EventLoop,
            initializer: @escaping ListeningSocket.Initializer = { _ in }
        ) throws {
            let address = try SocketAddress(ipAddress: host, port: port)
            loop.execute { [self] in
                connector.connect(to: address, within: timeout) { [self] channel in
                    try initializer(channel)
                    channels.withLock { $0.append(channel) }
                } failed: { [self] error in
                    errors.withLock { $0.append(error) }
                }
            }
        }
    }

    /// Sends back what comes.
    private final class Echo: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            context.writeAndFlush(data, promise: nil)
        }
    }

    private final class Collector: ChannelInboundHandler, Sendable {
        typealias InboundIn = ByteBuffer
        let text = Mutex("")

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            let bytes = String(buffer: unwrapInboundIn(data))
            text.withLock { $0 += bytes }
        }
    }

    @Test("a connection that a loop makes is a channel like one that comes in")
    func connects() async throws {
        let loop = try EventLoop(name: "connector-test")
        defer { loop.shutdown() }
        let listener = try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: 0), loop: loop) { channel in
            try channel.pipeline.syncOperations.addHandler(Echo())
        }
        let (attempts, collector) = (Attempts(), Collector())
        try attempts.connect(to: listener.port, with: SocketConnector(loop: loop), on: loop) { channel in
            try channel.pipeline.syncOperations.addHandler(collector)
        }
        #expect(await eventually { attempts.channel?.isActive == true })
        let channel = try #require(attempts.channel)
        #expect(channel.remoteAddress?.port == listener.port && channel.localAddress?.port != nil)
        try await channel.writeAndFlush(ByteBuffer(string: "hello")).get()
        #expect(await eventually { collector.text.withLock { $0 } == "hello" })
        try await channel.close()
        await listener.close()
        #expect(attempts.codes == [])
    }

    @Test("where nobody listens, nobody answers, or the handlers can't be had, it says so once")
    func fails() async throws {
        let loop = try EventLoop(name: "connector-test")
        defer { loop.shutdown() }
        let connector = SocketConnector(loop: loop)
        let listener = try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: 0), loop: loop) { _ in }
        let refused = Attempts()
        struct Refusal: Error {}
        try refused.connect(to: listener.port, with: connector, on: loop) { _ in throw Refusal() }
        #expect(await eventually { refused.codes == [-1] })
        await listener.close()
        let closed = Attempts()
        try closed.connect(to: listener.port, with: connector, on: loop)
        #expect(await eventually { closed.codes == [ECONNREFUSED] })

        // One that listens and accepts nobody: its line of those who wait is soon full.
        let silent = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        defer { Glibc.close(silent) }
        let any: Int32 = try SocketAddress(ipAddress: "127.0.0.1", port: 0).withSockAddr {
            bind(silent, $0, socklen_t($1))
        }
        try #require(any == 0 && listen(silent, 0) == 0)
        let port = try #require(TCPSocket.localAddress(of: silent)?.port)
        let ignored = Attempts()
        for _ in 0..<4 { try ignored.connect(to: port, within: .milliseconds(50), with: connector, on: loop) }
        #expect(await eventually { ignored.codes.contains(ETIMEDOUT) })
    }
}
