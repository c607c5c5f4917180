import Glibc
import NIOCore
import Synchronization
import TestSupport
import Testing

@testable import EventLoops

/// What the other end of a channel does, seen by the handlers of its pipeline.
@Suite struct SocketChannelTests {
    @Test("what a client sends arrives, what the channel writes gets there, in order, however it was cut")
    func echo() async throws {
        try await TestPeer.with { peer, recorder in
            try peer.send("one")
            #expect(await eventually { recorder.received == "one" })
            let channel = try #require(recorder.channel)
            let pieces = (0..<200).map { "piece \($0);" }
            channel.eventLoop.execute {
                for piece in pieces { channel.write(ByteBuffer(string: piece), promise: nil) }
                channel.flush()
            }
            let expected = pieces.joined()
            #expect(try peer.read(expected.utf8.count) == expected)
        }
    }

    @Test("a client that does not read makes the channel unwritable, and writable again when it does")
    func slowClient() async throws {
        try await TestPeer.with { peer, recorder in
            try peer.send("x")
            #expect(await eventually { recorder.channel != nil })
            let channel = try #require(recorder.channel)
            let piece = String(repeating: "x", count: 1 << 14)
            // More than the kernel holds for two sockets.
            let count = 1_600
            let written = Mutex(0)
            channel.eventLoop.execute {
                for _ in 0..<count {
                    let promise = channel.eventLoop.makePromise(of: Void.self)
                    promise.futureResult.whenSuccess { written.withLock { $0 += 1 } }
                    channel.writeAndFlush(ByteBuffer(string: piece), promise: promise)
                }
            }
            #expect(await eventually { !channel.isWritable })
            #expect(written.withLock { $0 } < count)
            var read = 0
            while read < count * piece.utf8.count { read += try peer.readSome().count }
            #expect(await eventually { channel.isWritable && written.withLock { $0 } == count })
            #expect(recorder.writabilityChanges == [false, true])
        }
    }

    @Test("that a client has gone is noticed while nobody reads, and what it said before is handed on")
    func pausedReader() async throws {
        try await TestPeer.with(readsAtFirst: false) { peer, recorder in
            #expect(await eventually { recorder.channel != nil })
            try peer.send("last words")
            // Long enough for it to be read, were it wanted.
            try await Task.sleep(for: .milliseconds(50))
            #expect(recorder.received == "")
            peer.close()
            #expect(await eventually { recorder.isInactive })
            #expect(recorder.received == "last words")
            // Handlers of TLS hand on what they have read only then.
            #expect(recorder.events == ["active", "read", "read complete", "inactive"])
        }
    }

    @Test("news of a socket's end that was another's of the same number leaves a channel as it was")
    func staleNews() async throws {
        try await TestPeer.with { peer, recorder in
            try peer.send("one")
            #expect(await eventually { recorder.received == "one" })
            let channel = try #require(recorder.channel as? SocketChannel)
            try peer.send("two")
            channel.eventLoop.execute { channel.becameReady([.hungUp, .readable]) }
            #expect(await eventually { recorder.received == "onetwo" })
            channel.eventLoop.execute { channel.becameReady([.hungUp, .readable, .writable]) }
            try peer.send("three")
            #expect(await eventually { recorder.received == "onetwothree" })
            #expect(!recorder.isInactive)
        }
    }

    @Test("what a client said before it broke the connection is handed on, though answers to it can't be sent")
    func saidBeforeReset() async throws {
        try await TestPeer.with(readsAtFirst: false) { peer, recorder in
            #expect(await eventually { recorder.channel != nil })
            let channel = try #require(recorder.channel)
            channel.eventLoop.execute {
                for _ in 0..<400 { channel.writeAndFlush(ByteBuffer(repeating: 0, count: 1 << 16), promise: nil) }
            }
            #expect(await eventually { !channel.isWritable })
            try peer.send("last words")
            peer.close()
            #expect(await eventually { recorder.isInactive })
            #expect(recorder.received == "last words")
        }
    }

    @Test("a reset ends the channel with an error, and breaks the promises of what was not written")
    func reset() async throws {
        try await TestPeer.with { peer, recorder in
            try peer.send("x")
            #expect(await eventually { recorder.channel != nil })
            let channel = try #require(recorder.channel)
            let isBroken = Mutex(false)
            channel.eventLoop.execute {
                for _ in 0..<200 { channel.write(ByteBuffer(repeating: 0, count: 1 << 16), promise: nil) }
                let promise = channel.eventLoop.makePromise(of: Void.self)
                promise.futureResult.whenFailure { _ in isBroken.withLock { $0 = true } }
                channel.writeAndFlush(ByteBuffer(string: "never"), promise: promise)
            }
            #expect(await eventually { !channel.isWritable })
            peer.reset()
            #expect(await eventually { recorder.isInactive && isBroken.withLock { $0 } })
            try await channel.closeFuture.get()
            // Whatever is asked of it afterwards fails, and nothing else happens.
            await #expect(throws: ChannelError.self) { try await channel.writeAndFlush(ByteBuffer(string: "x")).get() }
            await #expect(throws: ChannelError.self) { try await channel.close().get() }
        }
    }

    @Test("closing ends the client's connection once, and a channel whose handlers can't be had is closed at once")
    func closing() async throws {
        try await TestPeer.with { peer, recorder in
            try peer.send("x")
            #expect(await eventually { recorder.channel != nil })
            try await #require(recorder.channel).close().get()
            #expect(try peer.readSome() == "")
            #expect(recorder.isInactive)
        }
        let loop = try EventLoop(name: "refusal-test")
        defer { loop.shutdown() }
        struct Refusal: Error {}
        let listener = try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: 0), loop: loop) { _ in
            throw Refusal()
        }
        let peer = try TestPeer(port: listener.port)
        #expect((try? peer.readSome()) ?? "" == "")
        peer.close()
        await listener.close()
    }

    @Test("an address that is taken can't be listened on")
    func takenAddress() async throws {
        let loop = try EventLoop(name: "address-test")
        defer { loop.shutdown() }
        let first = try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: 0), loop: loop) { _ in }
        #expect(throws: IOError.self) {
            try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: first.port), loop: loop) { _ in }
        }
        await first.close()
        await first.close()
    }
}

/// Remembers what happened to its channel.
private final class Recorder: ChannelInboundHandler, ChannelOutboundHandler, Sendable {
    typealias InboundIn = ByteBuffer
    typealias OutboundIn = ByteBuffer

    private struct State {
        var channel: (any Channel)?
        var received = ""
        var writabilityChanges: [Bool] = []
        var isInactive = false
        var events: [String] = []
    }

    private let reads: Bool
    private let state = Mutex(State())

    init(reads: Bool) {
        self.reads = reads
    }

    var channel: (any Channel)? { state.withLock { $0.channel } }
    var received: String { state.withLock { $0.received } }
    var writabilityChanges: [Bool] { state.withLock { $0.writabilityChanges } }
    var isInactive: Bool { state.withLock { $0.isInactive } }
    var events: [String] { state.withLock { $0.events } }

    func channelActive(context: ChannelHandlerContext) {
        let channel = context.channel
        state.withLock { state in
            state.channel = channel
            state.events.append("active")
        }
    }

    func channelInactive(context: ChannelHandlerContext) {
        state.withLock { state in
            state.events.append("inactive")
            state.isInactive = true
        }
    }

    func channelReadComplete(context: ChannelHandlerContext) {
        state.withLock { $0.events.append("read complete") }
    }

    func channelRead(context: ChannelHandlerContext, data: NIOAny) {
        let text = String(buffer: unwrapInboundIn(data))
        state.withLock { state in
            state.received += text
            state.events.append("read")
        }
    }

    func channelWritabilityChanged(context: ChannelHandlerContext) {
        let isWritable = context.channel.isWritable
        state.withLock { $0.writabilityChanges.append(isWritable) }
    }

    func errorCaught(context: ChannelHandlerContext, error: any Error) {}

    func read(context: ChannelHandlerContext) {
        if reads { context.read() }
    }
}

/// A client with a socket that blocks.
private final class TestPeer: Sendable {
    private let socket: Int32
    private let isClosed = Mutex(false)

    init(port: Int) throws {
        socket = Glibc.socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        let address = try SocketAddress(ipAddress: "127.0.0.1", port: port)
        let result: Int32 = address.withSockAddr { connect(socket, $0, socklen_t($1)) }
        try #require(result == 0)
        // A test that fails should not hang.
        var limit = timeval(tv_sec: 20, tv_usec: 0)
        setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &limit, socklen_t(MemoryLayout<timeval>.size))
    }

    deinit { close() }

    /// Runs a test with a client of a listening socket whose channels have a recorder.
    static func with(readsAtFirst reads: Bool = true, _ body: (TestPeer, Recorder) async throws -> Void) async throws {
        let loop = try EventLoop(name: "channel-test")
        defer { loop.shutdown() }
        let recorder = Recorder(reads: reads)
        let listener = try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: 0), loop: loop) { channel in
            try channel.pipeline.syncOperations.addHandler(recorder)
        }
        let peer = try TestPeer(port: listener.port)
        do {
            try await body(peer, recorder)
        } catch {
            peer.close()
            await listener.close()
            throw error
        }
        peer.close()
        await listener.close()
    }

    func send(_ text: String) throws {
        let bytes = Array(text.utf8)
        try #require(Glibc.send(socket, bytes, bytes.count, Int32(MSG_NOSIGNAL)) == bytes.count)
    }

    /// What is there, at least one byte; nothing at the end.
    func readSome() throws -> String {
        var bytes = [UInt8](repeating: 0, count: 1 << 16)
        let count = recv(socket, &bytes, bytes.count, 0)
        try #require(count >= 0)
        return String(decoding: bytes[..<count], as: UTF8.self)
    }

    func read(_ count: Int) throws -> String {
        var text = ""
        while text.utf8.count < count {
            let more = try readSome()
            guard !more.isEmpty else { break }
            text += more
        }
        return text
    }

    /// Ends both directions, with what the other side sent unread if there is any.
    func reset() {
        var linger = linger(l_onoff: 1, l_linger: 0)
        setsockopt(socket, SOL_SOCKET, SO_LINGER, &linger, socklen_t(MemoryLayout<linger>.size))
        close()
    }

    func close() {
        let wasClosed = isClosed.withLock { isClosed in
            defer { isClosed = true }
            return isClosed
        }
        if !wasClosed { Glibc.close(socket) }
    }
}
