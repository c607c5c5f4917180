import NIOCore
import PostgresWire
import Testing
import TransactionCore

private let version3: UInt32 = 3 << 16
private let sslCode: UInt32 = 1234 << 16 | 5679
private let gssCode: UInt32 = 1234 << 16 | 5680

@Suite struct StartupDecoderTests {
    @Test("a packet is the same whether it comes whole or one byte at a time", arguments: Samples.startupPackets)
    func roundTrip(packet: StartupPacket) {
        let bytes = makeWritten(packet)
        for pieceLength in [Int.max, 1, 3] {
            #expect(feedStartup(bytes, pieceLength: pieceLength) == Decoded(messages: [packet]))
        }
    }

    @Test("a packet that is not all there is waited for, and left in the buffer", arguments: Samples.startupPackets)
    func truncated(packet: StartupPacket) {
        let bytes = makeWritten(packet)
        for length in 1..<bytes.readableBytes {
            #expect(feedStartup(bytes.getSlice(at: 0, length: length) ?? bytes) == Decoded(bytesLeft: length))
        }
    }

    @Test("requests for encryption come before the startup packet, in one stream with it")
    func coalesced() {
        var bytes = ByteBuffer()
        let packets = [Samples.startupPackets[1], Samples.startupPackets[0], Samples.startupPackets[3]]
        for packet in packets { packet.write(to: &bytes) }
        #expect(feedStartup(bytes) == Decoded(messages: packets))
    }

    @Test("what follows a request for encryption stays in the buffer, for the owner to refuse")
    func bytesAfterSSLRequest() throws {
        var bytes = makeWritten(.sslRequest)
        bytes.writeBytes([0, 0])
        var decoder = StartupDecoder()
        #expect(try decoder.nextPacket(from: &bytes) == .sslRequest)
        #expect(bytes.readableBytes == 2)
        #expect(WireError.unencryptedDataAfterSSLRequest.consequence == .endsConnection)
    }

    @Test("each kind of encryption can be asked for once, and none once there is one")
    func encryptionOnce() {
        let twice = feedStartup(makeStartup(sslCode) + makeStartup(sslCode))
        #expect(twice.messages == [.sslRequest])
        #expect(
            twice.error
                == WireError(
                    .featureNotSupported, "unsupported frontend protocol 1234.5679: server supports 3.0 to 3.0",
                    consequence: .endsConnection))
        #expect(feedStartup(makeStartup(gssCode) + makeStartup(gssCode)).error?.sqlState == .featureNotSupported)
        for code in [sslCode, gssCode] {
            let within = feedStartup(makeStartup(code), isEncrypted: true)
            #expect(within.error?.sqlState == .featureNotSupported)
        }
    }

    @Test("PostgreSQL does not look behind a request for encryption, nor do we")
    func paddedSSLRequest() {
        #expect(feedStartup(makeStartup(sslCode, [1, 2, 3, 4])).messages == [.sslRequest])
    }

    @Test(
        "a length out of bounds ends the connection without a word, before the rest has come",
        arguments: [0, 1, 7, 10_005, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1603_0100] as [UInt32])
    func badLength(length: UInt32) {
        var bytes = ByteBuffer()
        bytes.writeInteger(length)
        let decoded = feedStartup(bytes)
        #expect(
            decoded.error == WireError("invalid length of startup packet", consequence: .endsConnectionSilently))
        #expect(decoded.bytesLeft == 4)
    }

    @Test("the longest packet is read")
    func longest() {
        let value = String(repeating: "x", count: 10_000 - 4 - "user".utf8.count - "a".utf8.count - 2 - 2 - 1 - 1)
        let longest = StartupPacket.startup(StartupMessage(parameters: [.init("user", "a"), .init("b", value)]))
        let bytes = makeWritten(longest)
        #expect(bytes.readableBytes == 10_004)
        #expect(feedStartup(bytes).messages == [longest])
        let longer = StartupPacket.startup(StartupMessage(parameters: [.init("user", "a"), .init("b", value + "x")]))
        #expect(feedStartup(makeWritten(longer)).error?.message == "invalid length of startup packet")
    }

    @Test("a cancel request has exactly its two words", arguments: [0, 4, 7, 9, 12])
    func cancelLength(length: Int) {
        let bytes = makeStartup(1234 << 16 | 5678, [UInt8](repeating: 1, count: length))
        #expect(feedStartup(bytes).error?.consequence == .endsConnectionSilently)
    }

    @Test(
        "another major version is refused by name",
        arguments: [(0, "0.0"), (2 << 16, "2.0"), (4 << 16, "4.0"), (1234 << 16 | 9, "1234.9")] as [(UInt32, String)])
    func otherMajorVersion(code: UInt32, name: String) {
        #expect(
            feedStartup(makeStartup(code, [0])).error
                == WireError(
                    .featureNotSupported, "unsupported frontend protocol \(name): server supports 3.0 to 3.0",
                    consequence: .endsConnection))
    }

    @Test(
        "parameters end with a NUL that is the packet's last byte",
        arguments: ["", "user\0a\0", "user\0a", "user\0a\0b\0", "user\0a\0b", "user\0a\0\0x", "user\0a\0\0\0", "user"])
    func layout(body: String) {
        #expect(
            feedStartup(makeStartup(version3, Array(body.utf8))).error
                == WireError(
                    "invalid startup packet layout: expected terminator as last byte", consequence: .endsConnection))
    }

    @Test("there is no session without a user", arguments: ["\0", "database\0x\0\0", "user\0\0\0"])
    func noUser(body: String) {
        #expect(
            feedStartup(makeStartup(version3, Array(body.utf8))).error
                == WireError(
                    .invalidAuthorizationSpecification, "no PostgreSQL user name specified in startup packet",
                    consequence: .endsConnection))
    }

    @Test("a parameter that is no UTF-8 ends the connection")
    func invalidText() {
        let bytes = makeStartup(version3, Array("user\0a".utf8) + [0xFF, 0, 0])
        #expect(
            feedStartup(bytes).error
                == WireError(
                    .characterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0xff",
                    consequence: .endsConnection))
    }
}

@Suite struct StartupMessageTests {
    @Test("the database is the user's unless it is named; of two equal names the later counts")
    func names() {
        #expect(StartupMessage(parameters: [.init("user", "a")]).database == "a")
        #expect(StartupMessage(parameters: [.init("user", "a"), .init("database", "")]).database == "a")
        let message = StartupMessage(parameters: [.init("user", "a"), .init("database", "d"), .init("user", "b")])
        #expect(message.user == "b")
        #expect(message.database == "d")
    }

    @Test("settings are what is left without user, database, options, replication and protocol options")
    func settings() {
        let message = StartupMessage(parameters: [
            .init("user", "a"), .init("TimeZone", "UTC"), .init("replication", "true"), .init("_pq_.x", "1"),
            .init("options", "-c a=b"), .init("application_name", "psql"),
        ])
        #expect(message.settings == [.init("TimeZone", "UTC"), .init("application_name", "psql")])
        #expect(message["options"] == "-c a=b")
        #expect(message["none"] == nil)
    }

    @Test("a newer minor version or a protocol option is negotiated, and nothing else is")
    func negotiation() {
        let user = StartupMessage.Parameter("user", "a")
        #expect(!StartupMessage(parameters: [user]).needsNegotiation)
        #expect(StartupMessage(version: .init(major: 3, minor: 1), parameters: [user]).needsNegotiation)
        #expect(StartupMessage(version: .init(major: 3, minor: 9_999), parameters: [user]).needsNegotiation)
        let options = StartupMessage(parameters: [user, .init("_pq_.x", ""), .init("_pq_.yy", "")])
        #expect(options.needsNegotiation)
        #expect(options.unrecognisedOptions == ["_pq_.x", "_pq_.yy"])
    }
}

func + (one: ByteBuffer, other: ByteBuffer) -> ByteBuffer {
    var sum = one
    sum.writeImmutableBuffer(other)
    return sum
}
