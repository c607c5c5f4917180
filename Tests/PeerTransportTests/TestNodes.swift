import EventLoops
import Foundation
import NIOCore
import Synchronization
import TestSupport
import Testing
import TransactionCore

@testable import PeerTransport

let nodes = (1...3).map { NodeID(rawValue: $0)! }

/// What came to a node.
struct Received: Hashable {
    var sender: NodeID
    var kind: UInt8
    var payload: [UInt8]
}

/// One node's transport on a loop of its own, and what came over it.
final class TestNode: Sendable {
    let node: NodeID
    let loop: EventLoops.EventLoop
    let log = RecordingLog()
    let transport: PeerTransport
    private let record: Record

    private final class Record: Sendable {
        let received = Mutex<[Received]>([])
        let changes = Mutex<[NodeID: [Bool]]>([:])
        let unanswered = Mutex<[PeerAnswer]>([])
    }

    /// - Parameter port: where it listens; 0 is any that is free.
    init(
        _ node: NodeID, port: Int = 0, cluster: String = "test", tls: PeerTLS? = nil,
        _ change: (inout PeerConfiguration) -> Void = { _ in }
    ) throws {
        self.node = node
        loop = try EventLoop(name: "peer-test-\(node)")
        var configuration = PeerConfiguration(cluster: cluster, node: node, tls: tls)
        configuration.backOff = .milliseconds(5)...Duration.milliseconds(40)
        change(&configuration)
        let record = Record()
        self.record = record
        transport = try PeerTransport.start(
            configuration, listeningOn: PeerAddress(host: "127.0.0.1", port: port), loop: loop, logger: log.logger,
            events: PeerEvents(
                received: { sender, kind, payload in
                    record.received.withLock {
                        $0.append(Received(sender: sender, kind: kind, payload: payload))
                    }
                },
                requested: { _, kind, payload, answer in
                    // A request of kind 0 is never answered.
                    if kind == 0 { record.unanswered.withLock { $0.append(answer) } } else { answer(payload + [kind]) }
                },
                connectionChanged: { peer, isConnected in
                    record.changes.withLock { $0[peer, default: []].append(isConnected) }
                }))
    }

    deinit { loop.shutdown() }

    var port: Int { transport.port }
    var address: PeerAddress { PeerAddress(host: "127.0.0.1", port: port) }
    var received: [Received] { record.received.withLock { $0 } }
    var unansweredCount: Int { record.unanswered.withLock { $0.count } }

    /// What was said of the connection to `peer`, one after the other.
    func changes(of peer: NodeID) -> [Bool] { record.changes.withLock { $0[peer] ?? [] } }

    func isConnected(to peer: NodeID) -> Bool { changes(of: peer).last == true }

    /// Runs `body` on the loop.
    func onLoop<Value: Sendable>(_ body: @escaping @Sendable (PeerTransport) -> Value) async -> Value {
        await withCheckedContinuation { continuation in
            loop.execute { [transport] in continuation.resume(returning: body(transport)) }
        }
    }

    func connect(to peer: NodeID, at address: PeerAddress) async {
        await onLoop { $0.setPeer(peer, at: address) }
    }

    func connect(to other: TestNode) async { await connect(to: other.node, at: other.address) }

    @discardableResult
    func send(_ payload: [UInt8], kind: UInt8 = 1, to peer: NodeID) async -> Bool {
        await onLoop { $0.send(payload, kind: kind, to: peer) }
    }

    func request(
        _ payload: [UInt8], kind: UInt8 = 1, of peer: NodeID, within duration: Duration = .seconds(20)
    ) async -> Result<[UInt8], PeerRequestError> {
        await withCheckedContinuation { continuation in
            loop.execute { [transport] in
                transport.request(payload, kind: kind, of: peer, within: duration) {
                    continuation.resume(returning: $0)
                }
            }
        }
    }

    func close() async { await transport.close() }
}

/// Runs a test with nodes that all keep connections to each other.
func withNodes(_ nodes: TestNode..., body: () async throws -> Void) async throws {
    for node in nodes {
        for other in nodes where other !== node { await node.connect(to: other) }
    }
    let areConnected = await eventually {
        nodes.allSatisfy { node in nodes.allSatisfy { $0 === node || node.isConnected(to: $0.node) } }
    }
    #expect(areConnected)
    let result: Result<Void, any Error>
    do { result = .success(try await body()) } catch { result = .failure(error) }
    for node in nodes { await node.close() }
    try result.get()
}

/// A node by hand: it listens, and does with each frame what the test says.
final class ScriptedNode: Sendable {
    private let loop: EventLoops.EventLoop
    private let listener: ListeningSocket
    private let shared: Shared

    fileprivate final class Shared: Sendable {
        let answer: @Sendable (PeerFrame) -> [PeerFrame]
        let frames = Mutex<[PeerFrame]>([])
        let isReading = Mutex(true)
        let channels = Mutex<[any Channel]>([])

        init(_ answer: @escaping @Sendable (PeerFrame) -> [PeerFrame]) { self.answer = answer }
    }

    /// - Parameter answer: what it says to a frame.
    init(_ answer: @escaping @Sendable (PeerFrame) -> [PeerFrame]) throws {
        loop = try EventLoop(name: "scripted-test")
        let shared = Shared(answer)
        self.shared = shared
        listener = try ListeningSocket(on: SocketAddress(ipAddress: "127.0.0.1", port: 0), loop: loop) { channel in
            shared.channels.withLock { $0.append(channel) }
            try channel.pipeline.syncOperations.addHandler(Handler(shared))
        }
    }

    deinit { loop.shutdown() }

    var address: PeerAddress { PeerAddress(host: "127.0.0.1", port: listener.port) }
    var frames: [PeerFrame] { shared.frames.withLock { $0 } }
    var connectionCount: Int { shared.channels.withLock { $0.count } }

    /// Whether it reads what comes.
    func reads(_ isReading: Bool) {
        shared.isReading.withLock { $0 = isReading }
        if isReading { for channel in shared.channels.withLock({ $0 }) { channel.read() } }
    }

    func close() async {
        await listener.close()
        for channel in shared.channels.withLock({ $0 }) { try? await channel.close() }
    }

    private final class Handler: ChannelInboundHandler, ChannelOutboundHandler {
        typealias InboundIn = ByteBuffer
        typealias OutboundIn = ByteBuffer
        typealias OutboundOut = ByteBuffer

        private let shared: Shared
        private var buffer = ByteBuffer()

        init(_ shared: Shared) { self.shared = shared }

        func channelRead(context: ChannelHandlerContext, data: NIOAny) {
            buffer.writeImmutableBuffer(unwrapInboundIn(data))
            while let frame = try? PeerFrame.next(from: &buffer, lengthMax: 1 << 24) {
                shared.frames.withLock { $0.append(frame) }
                for answer in shared.answer(frame) {
                    context.writeAndFlush(wrapOutboundOut(answer.encoded), promise: nil)
                }
            }
        }

        func read(context: ChannelHandlerContext) {
            if shared.isReading.withLock({ $0 }) { context.read() }
        }

        func errorCaught(context: ChannelHandlerContext, error: any Error) {}
    }
}
