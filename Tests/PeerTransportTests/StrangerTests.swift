import Foundation
import NIOCore
import TestSupport
import Testing
import TransactionCore

@testable import PeerTransport

/// Who is no node of the cluster, or does not behave like one, does no harm.
@Suite struct StrangerTests {
    @Test(
        "a node of another cluster, with another number or of another time is refused, and both sides say why",
        arguments: ["cluster", "number", "version"])
    func refusal(of what: String) async throws {
        let node = try TestNode(nodes[0])
        let stranger = try TestNode(nodes[1], cluster: what == "cluster" ? "other" : "test") { configuration in
            if what == "version" { configuration.versions = 2...3 }
        }
        await stranger.connect(to: what == "number" ? nodes[2] : nodes[0], at: node.address)
        let reasons = [
            "cluster": "this is a node of cluster test, and not of other",
            "number": "this is node 1, and not 3, which node 2 wants",
            "version": "this node speaks versions 1 to 1, and not 2 to 3",
        ]
        let reason = try #require(reasons[what])
        #expect(await eventually { stranger.log.text.contains("it refused: \(reason)") })
        #expect(await eventually { node.log.text.contains("node 2 was refused: \(reason)") })
        #expect(stranger.changes(of: nodes[0]) == [] && stranger.changes(of: nodes[2]) == [])
        await stranger.close()
        await node.close()
    }

    @Test("garbage, a frame out of turn or too long, and silence end their connection, and no other one")
    func garbage() async throws {
        let change: (inout PeerConfiguration) -> Void = { configuration in
            configuration.frameBytesMax = 10_000
            configuration.pingInterval = .milliseconds(20)
            configuration.connectTimeout = .milliseconds(200)
        }
        let (first, second) = (try TestNode(nodes[0], change), try TestNode(nodes[1], change))
        let hello = makeHello(from: nodes[2], to: nodes[0])
        let message = Array(PeerFrame.message(kind: 1, [1]).encoded.readableBytesView)
        let welcome = Array(PeerFrame.welcome(version: 1).encoded.readableBytesView)
        let strangers: [([UInt8], String)] = [
            (Array("GET / HTTP/1.1\r\n\r\n".utf8), "it sent a frame of"),
            ([0, 0, 0, 1, 77], "it sent a frame of type 77"),
            (message, "it sent a frame out of turn"),
            (welcome, "it sent a frame out of turn"),
            (hello + hello, "it sent a frame out of turn"),
            (hello + [0, 0, 0x27, 0x11], "it sent a frame of 10001 bytes"),
            (hello + [0, 0, 0, 2, 7, 1], "it sent a frame too short"),
            (Array(hello.prefix(9)), "it did not introduce itself in time"),
            (hello, "nothing has come from it"),
        ]
        try await withNodes(first, second) {
            for (bytes, reason) in strangers {
                let client = try RawClient(port: first.port)
                await client.send(bytes)
                _ = try await client.receiveToEnd()
                #expect(await eventually { first.log.text.contains(reason) }, "\(reason): \(first.log.text)")
                #expect(await second.request([1], of: nodes[0]) == .success([1, 1]))
            }
            #expect(second.changes(of: nodes[0]) == [true])
            #expect(first.changes(of: nodes[1]) == [true])
            #expect(first.received.isEmpty)
        }
    }

    @Test("what comes one byte at a time is the same as what comes at once")
    func byteAtATime() async throws {
        let node = try TestNode(nodes[0])
        let client = try RawClient(port: node.port)
        let frames: [PeerFrame] = [.message(kind: 2, [5, 6]), .request(id: 77, kind: 8, [9])]
        for byte in makeHello(from: nodes[1], to: nodes[0]) + frames.flatMap({ Array($0.encoded.readableBytesView) }) {
            await client.send([byte])
        }
        #expect(await eventually { node.received == [Received(sender: nodes[1], kind: 2, payload: [5, 6])] })
        var buffer = ByteBuffer()
        var answers: [PeerFrame] = []
        while answers.count < 2 {
            buffer.writeBytes(try await client.receive())
            while let frame = try PeerFrame.next(from: &buffer, lengthMax: 1_000) { answers.append(frame) }
        }
        #expect(answers == [.welcome(version: 1), .answer(id: 77, [9, 8])])
        client.hangUp()
        await node.close()
    }

    @Test("a node that connects once more takes the place of its older connection")
    func secondConnection() async throws {
        let node = try TestNode(nodes[0])
        let (older, newer) = (try RawClient(port: node.port), try RawClient(port: node.port))
        await older.send(makeHello(from: nodes[1], to: nodes[0]))
        _ = try await older.receive()
        await newer.send(makeHello(from: nodes[1], to: nodes[0]))
        _ = try await newer.receive()
        #expect(try await older.receiveToEnd() == [])
        await newer.send(Array(PeerFrame.message(kind: 1, [3]).encoded.readableBytesView))
        #expect(await eventually { node.received.map(\.payload) == [[3]] })
        await node.close()
    }

    @Test("those who say nothing are let in up to a bound, and nodes when one of them has gone")
    func crowd() async throws {
        let node = try TestNode(nodes[0]) { $0.connectTimeout = .seconds(60) }
        let crowd = try (0..<64).map { _ in try RawClient(port: node.port) }
        let refused = try RawClient(port: node.port)
        #expect(try await refused.receiveToEnd() == [])
        crowd[5].hangUp()
        let other = try TestNode(nodes[1])
        await other.connect(to: node)
        #expect(await eventually { other.isConnected(to: nodes[0]) })
        await other.close()
        await node.close()
    }

    @Test("with TLS nodes whose certificates the cluster's authority signed talk, and others do not")
    func certificates() async throws {
        let (authority, other) = (try await TestAuthority(), try await TestAuthority())
        let first = try TestNode(nodes[0], tls: try await authority.issue())
        let second = try TestNode(nodes[1], tls: try await authority.issue())
        try await withNodes(first, second) {
            #expect(await first.request([1], of: nodes[1]) == .success([1, 1]))
            let long = [UInt8](repeating: 7, count: 1 << 20)
            #expect(await first.send(long, to: nodes[1]))
            #expect(await eventually { second.received.map(\.payload) == [long] })

            // One that trusts our authority, but has a certificate of its own; one that trusts another; one without.
            var selfMade = try await other.issue()
            selfMade.trustRoots = authority.certificate
            for tls in [selfMade, try await other.issue(), nil] {
                let stranger = try TestNode(nodes[2], tls: tls)
                await stranger.connect(to: first)
                await first.connect(to: stranger)
                #expect(await eventually { stranger.log.text.contains("no connection to a node") })
                #expect(await eventually { first.log.text.contains("from a node ended") })
                #expect(await first.onLoop { $0.isConnected(to: nodes[2]) } == false)
                await first.onLoop { $0.removePeer(nodes[2]) }
                #expect(stranger.changes(of: nodes[0]) == [] && first.changes(of: nodes[2]) == [])
                await stranger.close()
            }
            #expect(await second.request([1], of: nodes[0]) == .success([1, 1]))
        }
        #expect(throws: PeerTransportError.self) {
            try TestNode(nodes[0], tls: PeerTLS(certificateChain: "/nowhere", privateKey: "/nowhere", trustRoots: ""))
        }
        let taken = try TestNode(nodes[0])
        #expect(throws: PeerTransportError.self) { try TestNode(nodes[1], port: taken.port) }
        await taken.close()
    }

    private func makeHello(from sender: NodeID, to recipient: NodeID) -> [UInt8] {
        let hello = PeerHello(versions: 1...1, sender: sender, recipient: recipient, cluster: "test")
        return Array(PeerFrame.hello(hello).encoded.readableBytesView)
    }
}

/// An authority that signs certificates, by openssl.
private final class TestAuthority: Sendable {
    private let directory: TemporaryDirectory

    var certificate: String { "\(directory.path)/authority.crt" }

    init() async throws {
        directory = try TemporaryDirectory()
        try await make("authority", [])
    }

    func issue() async throws -> PeerTLS {
        let name = "node-\(UUID().uuidString)"
        try await make(name, ["-CA", certificate, "-CAkey", "\(directory.path)/authority.key"])
        return PeerTLS(
            certificateChain: "\(directory.path)/\(name).crt", privateKey: "\(directory.path)/\(name).key",
            trustRoots: certificate)
    }

    private func make(_ name: String, _ signer: [String]) async throws {
        let openssl = try RunningCommand(
            [
                "openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=\(name.prefix(20))", "-newkey", "ec",
                "-pkeyopt", "ec_paramgen_curve:prime256v1", "-out", "\(directory.path)/\(name).crt",
                "-keyout", "\(directory.path)/\(name).key",
            ] + signer, program: "/usr/bin/env")
        try #require(await openssl.exitStatus() == 0, "openssl: \(openssl.errors)")
    }
}
