import NIOCore
import PostgresWire
import Testing
import TransactionCore

/// The frame's types that a session takes, with the most that their length word may say.
private let lengthMax: [(type: Character, length: UInt32)] =
    "BPQFd".map { ($0, 0x3FFF_FFFE) } + "CDEHSXcf".map { ($0, 10_000) }

@Suite struct FrontendDecoderTests {
    @Test(
        "a message is the same whether it comes whole or one byte at a time", arguments: Samples.sessionMessages)
    func roundTrip(message: FrontendMessage) {
        let bytes = makeWritten([message])
        for pieceLength in [Int.max, 1, 2, 7] {
            #expect(feedSession(bytes, pieceLength: pieceLength) == Decoded(messages: [message]))
        }
    }

    @Test("many messages at once, and any cut through them, give the same messages")
    func coalesced() {
        let bytes = makeWritten(Samples.sessionMessages)
        for pieceLength in [Int.max, 1, 5, 64] {
            #expect(feedSession(bytes, pieceLength: pieceLength) == Decoded(messages: Samples.sessionMessages))
        }
    }

    @Test("a message that is not all there is waited for, and left in the buffer", arguments: Samples.sessionMessages)
    func truncated(message: FrontendMessage) {
        let bytes = makeWritten([message])
        for length in 1..<bytes.readableBytes {
            let start = bytes.getSlice(at: 0, length: length) ?? bytes
            #expect(feedSession(start) == Decoded(bytesLeft: length))
        }
    }

    @Test("what psql and pgbench send is read, and written again byte for byte")
    func recorded() throws {
        for recording in [RecordedSessions.psqlClient, RecordedSessions.pgbenchClient] {
            var (buffer, written) = (recording, ByteBuffer())
            var startup = StartupDecoder()
            #expect(try startup.nextPacket(from: &buffer) == .sslRequest)
            StartupPacket.sslRequest.write(to: &written)
            let packet = try #require(try startup.nextPacket(from: &buffer))
            packet.write(to: &written)
            var decoder = FrontendDecoder(phase: .sasl)
            var count = 0
            while let frame = try decoder.nextFrame(from: &buffer) {
                try frame.decode().write(to: &written)
                count += 1
                if count == 2 { decoder.phase = .session }
            }
            #expect(buffer.readableBytes == 0)
            #expect(written == recording)
        }
    }

    @Test("a length that a message of its type can't have ends the connection without a word", arguments: lengthMax)
    func badLength(type: Character, max: UInt32) {
        for length in [0, 1, 3, max + 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF] {
            let decoded = feedSession(makeFrame(type, length: length))
            #expect(decoded.error == WireError("invalid message length", consequence: .endsConnectionSilently))
            #expect(decoded.bytesLeft == 5)
        }
        for length in [6, max] {
            #expect(feedSession(makeFrame(type, length: length)) == Decoded(bytesLeft: 5))
        }
    }

    @Test("a message of the largest small kind is read")
    func largestSmall() {
        let name = String(repeating: "n", count: 10_000 - 4 - 2)
        let message = FrontendMessage.describe(.statement(name))
        #expect(feedSession(makeWritten([message])).messages == [message])
        #expect(
            feedSession(makeWritten([.describe(.statement(name + "n"))])).error?.message == "invalid message length")
    }

    @Test("a type that does not exist ends the connection before its length has come")
    func unknownType() {
        let known = Set("BCDEFHPQSXcdf".utf8)
        for type in UInt8.min...UInt8.max where !known.contains(type) {
            let decoded = feedSession(makeBytes([type]))
            #expect(
                decoded.error == WireError("invalid frontend message type \(type)", consequence: .endsConnection))
        }
    }

    @Test("while a password is waited for, nothing else is, and little of it")
    func password() {
        let decoder = FrontendDecoder(phase: .password)
        func error(_ bytes: ByteBuffer) -> WireError? {
            feed(bytes) { buffer throws(WireError) in try decoder.nextFrame(from: &buffer) }.error
        }
        #expect(
            error(makeBytes("Q"))
                == WireError("expected password response, got message type 81", consequence: .endsConnection))
        #expect(error(makeFrame("p", length: 65_535)) == nil)
        #expect(error(makeFrame("p", length: 65_536))?.message == "invalid message length")
    }

    @Test("while a SASL response is waited for, nothing else is, and less of it")
    func sasl() {
        let decoder = FrontendDecoder(phase: .sasl)
        func error(_ bytes: ByteBuffer) -> WireError? {
            feed(bytes) { buffer throws(WireError) in try decoder.nextFrame(from: &buffer) }.error
        }
        #expect(
            error(makeBytes("X"))
                == WireError("expected SASL response, got message type 88", consequence: .endsConnection))
        #expect(error(makeFrame("p", length: 1_024)) == nil)
        #expect(error(makeFrame("p", length: 1_025))?.message == "invalid message length")
    }

    @Test("an operator's limit is told to the client, and holds for the session only")
    func operatorLimit() {
        var decoder = FrontendDecoder(phase: .session, lengthMax: 20_000)
        func error(_ bytes: ByteBuffer) -> WireError? {
            feed(bytes) { buffer throws(WireError) in try decoder.nextFrame(from: &buffer) }.error
        }
        #expect(error(makeFrame("Q", length: 20_000)) == nil)
        #expect(error(makeFrame("Q", length: 20_001))?.sqlState == .configurationLimitExceeded)
        #expect(error(makeFrame("Q", length: 20_001))?.consequence == .endsConnection)
        #expect(error(makeFrame("S", length: 10_001))?.message == "invalid message length")
        decoder.phase = .password
        #expect(error(makeFrame("p", length: 65_535)) == nil)
    }

    @Test("an error leaves the buffer alone and comes again")
    func errorStays() {
        var buffer = makeFrame("z")
        let decoder = FrontendDecoder(phase: .session)
        for _ in 0..<2 {
            #expect(throws: WireError.self) { try decoder.nextFrame(from: &buffer) }
            #expect(buffer == makeFrame("z"))
        }
    }

    @Test("a frame that can't be decoded has been taken: the next one comes after it")
    func goesOnBehindError() throws {
        var buffer = makeFrame("D", Array("X\0".utf8)) + makeWritten([.sync])
        let decoder = FrontendDecoder(phase: .session)
        let frame = try #require(try decoder.nextFrame(from: &buffer))
        #expect(frame.kind.skipsToSync)
        #expect(throws: WireError("invalid DESCRIBE message subtype 88")) { try frame.decode() }
        #expect(try decoder.nextFrame(from: &buffer)?.decode() == .sync)
    }

    @Test("errors in messages of the extended protocol, and in no others, have what follows skipped up to Sync")
    func skipsToSync() {
        let skipping = FrontendFrame.Kind.allCases.filter(\.skipsToSync)
        #expect(Set(skipping) == [.bind, .close, .describe, .execute, .flush, .parse])
    }

    @Test("a parameter is a slice of what arrived, not a copy")
    func zeroCopy() throws {
        let value = makeBytes([UInt8](repeating: 7, count: 100))
        var buffer = makeWritten([.bind(.init(parameters: [value]))])
        let decoder = FrontendDecoder(phase: .session)
        let storage = buffer.withUnsafeReadableBytes { Storage($0) }
        guard case .bind(let bind) = try decoder.nextFrame(from: &buffer)?.decode() else {
            Issue.record("no Bind")
            return
        }
        let slice = try #require(bind.parameters[0]).withUnsafeReadableBytes { Storage($0) }
        #expect(storage.start < slice.start && slice.end < storage.end)
    }
}

/// Where bytes are in memory.
private struct Storage {
    let start: UInt
    let end: UInt

    init(_ bytes: UnsafeRawBufferPointer) {
        start = UInt(bitPattern: bytes.baseAddress)
        end = start + UInt(bytes.count)
    }
}
