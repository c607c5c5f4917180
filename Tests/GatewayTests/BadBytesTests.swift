import Foundation
import NIOCore
import PostgresWire
import TestSupport
import Testing

/// What is not the protocol ends that connection and no other.
@Suite struct BadBytesTests {
    @Test(
        "a startup packet of an impossible length ends the connection without a word",
        arguments: [0, 1, 7, 10_005, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x5458_2000] as [UInt32])
    func startupLength(length: UInt32) async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            await client.send(ByteBuffer(integer: length).readableBytesView + [0, 3, 0, 0])
            #expect(try await client.receiveToEnd() == [])
            try await test.checkServes()
        }
    }

    @Test("HTTP, TLS without asking, and a packet without an end are no startup packets")
    func otherProtocols() async throws {
        try await TestGateway.with { test in
            for bytes in [Array("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".utf8), [0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC]] {
                let client = try RawClient(port: test.port)
                await client.send(bytes)
                #expect(try await client.receiveToEnd() == [])
            }
            let client = try RawClient(port: test.port)
            await client.send([0, 0, 0, 13, 0, 3, 0, 0] + Array("user\0".utf8))
            let fields = try error(try await client.receiveToEnd())
            #expect(fields?[.message] == "invalid startup packet layout: expected terminator as last byte")
            try await test.checkServes()
        }
    }

    @Test("ten gigabytes of startup are not kept")
    func endlessStartup() async throws {
        try await TestGateway.with { test in
            let before = residentBytes()
            let clients = try (0..<20).map { _ in try RawClient(port: test.port) }
            for client in clients {
                await client.send([0, 0, 0x27, 0x10, 0, 3, 0, 0] + [UInt8](repeating: 0x61, count: 9_000))
            }
            let flood = try RawClient(port: test.port)
            // A first length that is possible, and no end of what follows.
            await flood.send([0, 0, 0x27, 0x10] + [UInt8](repeating: 0x61, count: 64 << 20))
            _ = try? await flood.receiveToEnd()
            #expect(residentBytes() - before < 200 << 20)
            try await test.checkServes()
        }
    }

    @Test(
        "a message of an impossible length ends the session without a word",
        arguments: [0, 3, 0x7FFF_FFFF, 0xFFFF_FFFF] as [UInt32])
    func messageLength(length: UInt32) async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            await client.send([UInt8(ascii: "Q")] + ByteBuffer(integer: length).readableBytesView)
            #expect(try await client.receiveToEnd() == [])
            let session = try await test.firstSession()
            #expect(await eventually { session.departures == [.lost] })
            try await test.checkServes()
        }
    }

    @Test("an unknown message is answered behind the answers to those before it, and ends the session")
    func unknownMessage() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            var bytes = ByteBuffer()
            FrontendMessage.query("before").write(to: &bytes)
            bytes.writeBytes([UInt8(ascii: "!"), 0, 0, 0, 4])
            FrontendMessage.query("after").write(to: &bytes)
            await client.send(Array(bytes.readableBytesView))
            #expect(rows(try await client.messagesToReady()) == ["before"])
            let fields = error(try await client.messagesToReady())
            #expect(fields?[.message] == "invalid frontend message type 33")
            #expect(fields?[.sqlState] == "08P01")
            let session = try await test.firstSession()
            #expect(await eventually { session.departures == [.lost] })
        }
    }

    @Test("what is wrong inside a frame is the session's to answer")
    func badContent() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            await client.send([UInt8(ascii: "Q"), 0, 0, 0, 6, 0xFF, 0])
            #expect(error(try await client.messagesToReady())?[.sqlState] == "22021")
            await client.send(.query("goes on"))
            #expect(rows(try await client.messagesToReady()) == ["goes on"])
        }
    }

    @Test("the operator's limit on messages holds")
    func lengthMax() async throws {
        try await TestGateway.with(tls: nil, { $0.messageLengthMax = 10_000 }) { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            await client.send(.query(String(repeating: "x", count: 20_000)))
            #expect(error(try await client.messagesToReady())?[.sqlState] == "53400")
        }
    }

    @Test("random bytes, at every stage, do no harm")
    func random() async throws {
        let seed = UInt64.random(in: .min ... .max)
        var generator = SplitMix(state: seed)
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            for round in 0..<60 {
                let client = try RawClient(port: test.port, timeout: 2)
                switch round % 4 {
                case 0: break
                case 1: await client.send(.sslRequest)
                case 2: await client.send(.startup(StartupMessage(parameters: [.init("user", "alice")])))
                default: try await client.logIn()
                }
                let count = Int.random(in: 1...2_000, using: &generator)
                await client.send((0..<count).map { _ in UInt8.random(in: .min ... .max, using: &generator) })
            }
            try await test.checkServes()
        }
        print("BadBytesTests.random: seed \(seed)")
    }
}

/// A source of chance that a seed repeats.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}

/// How much memory this process has.
func residentBytes() -> Int {
    let status = (try? String(contentsOfFile: "/proc/self/statm", encoding: .utf8)) ?? ""
    return (status.split(separator: " ").dropFirst().first.flatMap { Int($0) } ?? 0) * Int(getpagesize())
}
