import NIOCore
import PostgresWire
import TestSupport
import Testing

@testable import Gateway

/// What is kept for clients that do not read, or do not wait.
@Suite struct FlowTests {
    @Test("a client that stops reading has a bounded number of bytes kept for it, and gets all of them in the end")
    func stopsReading() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            let session = try await test.firstSession()
            await client.send(.query("rows 40000"))
            // The kernel's buffers take some megabytes; then nothing moves any more.
            let produced = try await settled { session.producedBytes }
            #expect(produced < 24 << 20)
            #expect(session.queuedBytes >= 64 << 10)
            #expect(rows(try await client.messagesToReady()).count == 40_000)
            // 256 kB, and one more write.
            #expect(session.mostQueued < 300 << 10)
            #expect(session.queuedBytes == 0)
        }
    }

    @Test("a session that waits for a client to read is told when the client goes instead")
    func goesWithoutReading() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            let session = try await test.firstSession()
            await client.send(.query("rows 1000000"))
            _ = try await settled { session.producedBytes }
            #expect(session.queuedBytes >= 64 << 10)
            client.hangUp()
            #expect(await eventually { session.departures == [.lost] })
            #expect(await eventually { session.queuedBytes == 0 })
        }
    }

    @Test("a client that stops reading does not keep a gateway from stopping")
    func stopsWithoutReading() async throws {
        try await TestGateway.with(tls: nil, { $0.closeTimeout = .milliseconds(300) }) { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            let session = try await test.firstSession()
            await client.send(.query("rows 1000000"))
            _ = try await settled { session.producedBytes }
            #expect(session.queuedBytes >= 64 << 10)
            let duration = await ContinuousClock().measure { await test.gateway.shutdown(grace: .zero) }
            #expect(duration < .seconds(10))
            #expect(session.departures == [.lost])
        }
    }

    @Test("a session that closes is not kept by a client that stops reading")
    func closesWithoutReading() async throws {
        try await TestGateway.with(tls: nil, { $0.closeTimeout = .milliseconds(300) }) { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            let session = try await test.firstSession()
            await client.send(.query("rows 1000000"))
            _ = try await settled { session.producedBytes }
            #expect(session.queuedBytes >= 64 << 10)
            await client.send(.query("close"))
            #expect(await eventually(within: .seconds(10)) { session.departures == [.lost] })
        }
    }

    @Test(
        "a client that sends and does not wait is not read further than the bound, and read on when it has been served")
    func sendsWithoutWaiting() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            let session = try await test.firstSession()
            session.holdBack(true)
            // Copy data, which is not answered: the client never needs to read.
            let piece = FrontendMessage.copyData(ByteBuffer(repeating: 0x78, count: 9_995))
            let message = FrontendMessage.query("done")
            var bytes = ByteBuffer()
            for _ in 0..<3_200 { piece.write(to: &bytes) }
            let whole = bytes.readableBytes
            message.write(to: &bytes)
            let sent = Array(bytes.readableBytesView)
            async let upload: Void = client.send(sent)
            let received = try await settled { session.receivedBytes }
            #expect(received > 1 << 20)
            #expect(received < (1 << 20) + (512 << 10))
            session.holdBack(false)
            await upload
            #expect(rows(try await client.messagesToReady()) == ["done"])
            #expect(session.receivedBytes == whole + 10)
        }
    }

    @Test("a client that goes while it is not read is noticed all the same")
    func goesWhilePaused() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            let session = try await test.firstSession()
            session.holdBack(true)
            // Little beyond the bound: what the socket can't take keeps the client's end from getting here.
            var bytes = ByteBuffer()
            for _ in 0..<106 { FrontendMessage.copyData(ByteBuffer(repeating: 0x78, count: 9_995)).write(to: &bytes) }
            await client.send(Array(bytes.readableBytesView))
            #expect(await eventually { session.receivedBytes > 1 << 20 })
            client.hangUp()
            #expect(await eventually { session.departures == [.lost] })
        }
    }

    @Test("one message may be longer than the bound")
    func longMessage() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            let text = String(repeating: "long ", count: 1_000_000)
            async let upload: Void = client.send(.query(text), .query("short"))
            let first = try await client.messagesToReady()
            #expect(rows(first) == [text])
            await upload
            #expect(rows(try await client.messagesToReady()) == ["short"])
        }
    }

    @Test("frames reach the session in order and whole, however they were cut")
    func cut() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            var bytes = ByteBuffer()
            let texts = (0..<40).map { String(repeating: "\($0).", count: $0 * 5 + 1) }
            for text in texts { FrontendMessage.query(text).write(to: &bytes) }
            let all = Array(bytes.readableBytesView)
            var start = 0
            for length in [1, 2, 3, 5, 7, 700, 1, 1, 4, 2_000, all.count] {
                let end = min(start + length, all.count)
                await client.send(Array(all[start..<end]))
                try await Task.sleep(for: .milliseconds(5))
                start = end
            }
            for text in texts { #expect(rows(try await client.messagesToReady()) == [text]) }
        }
    }
}

/// What a count comes to when it does not grow any more, once it has begun to.
func settled(_ count: () -> Int) async throws -> Int {
    _ = await eventually { count() > 0 }
    var last = -1
    while last != count() {
        last = count()
        try await Task.sleep(for: .milliseconds(300))
    }
    return last
}

@Suite struct OutputQueueTests {

    private func isSend(_ next: OutputQueue.Next, _ bytes: Int) -> Bool {
        if case .send(let buffer) = next { buffer.readableBytes == bytes } else { false }
    }

    private func isNothing(_ next: OutputQueue.Next) -> Bool { if case .nothing = next { true } else { false } }

    private func isWait(_ next: OutputQueue.Next, isClosing: Bool) -> Bool {
        if case .wait(isClosing) = next { true } else { false }
    }

    private func isClose(_ next: OutputQueue.Next) -> Bool { if case .close = next { true } else { false } }

    private func bytes(_ count: Int) -> ByteBuffer { ByteBuffer(repeating: 0, count: count) }

    @Test("only the first of several writes has the event loop come")
    func oneHop() {
        let queue = SharedQueue()
        #expect(!queue.write(bytes(0)))
        #expect(queue.write(bytes(1)))
        #expect(!queue.write(bytes(2)))
        #expect(isSend(queue.next(channelTakesMore: true), 1))
        #expect(!queue.write(bytes(3)))
        #expect(isSend(queue.next(channelTakesMore: true), 2))
        #expect(isSend(queue.next(channelTakesMore: true), 3))
        #expect(isNothing(queue.next(channelTakesMore: true)))
        #expect(queue.write(bytes(4)))
    }

    @Test("while the channel takes nothing more, writes wait without a hop")
    func stalled() {
        let queue = SharedQueue()
        #expect(queue.write(bytes(20)))
        #expect(isWait(queue.next(channelTakesMore: false), isClosing: false))
        #expect(!queue.write(bytes(5)))
        #expect(queue.queuedBytes == 25)
        #expect(queue.answer == nil)
        #expect(isSend(queue.next(channelTakesMore: true), 20))
        #expect(queue.answer == true)
    }

    @Test("closing comes behind what is queued, once, and nothing after it")
    func close() {
        let queue = SharedQueue()
        #expect(queue.write(bytes(20)))
        #expect(isWait(queue.next(channelTakesMore: false), isClosing: false))
        #expect(queue.close(last: bytes(7)))
        #expect(!queue.close(last: bytes(8)))
        #expect(isWait(queue.next(channelTakesMore: false), isClosing: true))
        #expect(!queue.write(bytes(9)))
        #expect(queue.answer == false)
        #expect(isSend(queue.next(channelTakesMore: true), 20))
        #expect(isSend(queue.next(channelTakesMore: true), 7))
        #expect(isClose(queue.next(channelTakesMore: false)))
        #expect(isNothing(queue.next(channelTakesMore: true)))
    }

    @Test("nothing is kept for a client that is gone")
    func discard() {
        let queue = SharedQueue()
        #expect(queue.write(bytes(20)))
        queue.discard()
        #expect(queue.queuedBytes == 0)
        #expect(!queue.write(bytes(1)))
        #expect(isNothing(queue.next(channelTakesMore: true)))
    }

    @Test("reading pauses above the bound, and goes on at half of it")
    func reading() {
        let queue = SharedQueue()
        #expect(!queue.received(100))
        #expect(queue.received(1))
        #expect(!queue.processed(50))
        #expect(queue.processed(1))
        #expect(!queue.processed(50))
        // One frame above the bound.
        #expect(queue.received(1_000))
        #expect(queue.processed(1_000))
    }
}

/// A queue whose inputs may stand in expectations.
private final class SharedQueue {
    private var queue = OutputQueue(lowWaterBytes: 10, unprocessedBytesMax: 100)

    var queuedBytes: Int { queue.queuedBytes }
    var answer: Bool? { queue.answer }

    func write(_ bytes: ByteBuffer) -> Bool { queue.write(bytes) }
    func close(last: ByteBuffer) -> Bool { queue.close(last: last) }
    func next(channelTakesMore: Bool) -> OutputQueue.Next { queue.next(channelTakesMore: channelTakesMore) }
    func discard() { queue.discard() }
    func received(_ bytes: Int) -> Bool { queue.received(bytes) }
    func processed(_ bytes: Int) -> Bool { queue.processed(bytes) }
}
