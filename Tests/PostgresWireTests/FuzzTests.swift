import NIOCore
import PostgresWire
import Testing

/// Random bytes and broken messages: nothing may crash, read on behind a frame, or depend on how the bytes are cut.
@Suite struct FuzzTests {
    @Test("random bytes decode the same however they are cut", arguments: UInt64(1)...80)
    func randomBytes(seed: UInt64) {
        var random = SplitMix(state: seed)
        for _ in 0..<20 {
            var bytes = ByteBuffer()
            for _ in 0..<Int.random(in: 0...200, using: &random) {
                bytes.writeInteger(interestingByte(&random))
            }
            check(bytes, &random)
        }
    }

    @Test(
        "valid messages with some bytes changed, lost or doubled decode the same however they are cut",
        arguments: UInt64(1)...80)
    func mutatedMessages(seed: UInt64) {
        var random = SplitMix(state: seed)
        for _ in 0..<20 {
            check(mutated(makeWritten(someOf(Samples.sessionMessages, &random)), &random), &random)
            check(mutated(makeWritten(someOf(Samples.backendMessages, &random)), &random), &random)
            check(mutated(makeWritten(someOf(Samples.startupPackets, &random)[0]), &random), &random)
        }
    }

    @Test(
        "a well-framed message of random content is decoded or refused, and the next one comes behind it",
        arguments: UInt64(1)...80)
    func framedGarbage(seed: UInt64) throws {
        var random = SplitMix(state: seed)
        let decoder = FrontendDecoder(phase: .session)
        let kinds = FrontendFrame.Kind.allCases.filter { $0 != .authenticationResponse }
        for _ in 0..<50 {
            let kind = kinds[Int.random(in: 0..<kinds.count, using: &random)]
            let body = (0..<Int.random(in: 0...60, using: &random)).map { _ in interestingByte(&random) }
            var buffer = makeFrame(Character(Unicode.Scalar(kind.rawValue)), body) + makeFrame("S")
            let frame = try #require(try decoder.nextFrame(from: &buffer))
            #expect(frame == FrontendFrame(kind: kind, body: makeBytes(body)))
            do throws(WireError) {
                let message = try frame.decode()
                if case .bind(let bind) = message {
                    let bytes = bind.parameters.reduce(0) { $0 + ($1?.readableBytes ?? 0) }
                    #expect(bytes + 4 * bind.parameters.count <= body.count)
                }
            } catch {
                #expect(!error.isFatal)
            }
            #expect(try decoder.nextFrame(from: &buffer)?.kind == .sync)
            _ = try? PasswordResponse(makeBytes(body))
            _ = try? SASLInitialResponse(makeBytes(body))
        }
    }

    @Test("UTF-8 is told from other bytes as the standard library does", arguments: UInt64(1)...80)
    func text(seed: UInt64) {
        var random = SplitMix(state: seed)
        for _ in 0..<50 {
            var bytes = (0..<Int.random(in: 0...30, using: &random)).map { _ in
                // Mostly what UTF-8 has many of.
                Bool.random(using: &random)
                    ? UInt8.random(in: 1...0x7F, using: &random) : UInt8.random(in: 0x80...0xFF, using: &random)
            }
            if Bool.random(using: &random) { bytes += Array("aé漢😀".utf8) }
            let isValid = String(validating: bytes, as: UTF8.self) != nil
            let bind = FrontendMessage.Bind(parameters: [makeBytes(bytes)])
            #expect(((try? bind.checkText()) != nil) == isValid, "\(bytes)")
            let query = Result { () throws(WireError) in
                try FrontendFrame(kind: .query, body: makeBytes(bytes + [0])).decode()
            }
            #expect(((try? query.get()) != nil) == isValid, "\(bytes)")
        }
    }

    // MARK: Private

    /// Feeds the bytes to each decoder whole and cut, and compares.
    private func check(_ bytes: ByteBuffer, _ random: inout SplitMix) {
        let pieceLength = Int.random(in: 1...20, using: &random)
        #expect(feedSession(bytes) == feedSession(bytes, pieceLength: pieceLength), "\(Array(bytes.readableBytesView))")
        #expect(feedStartup(bytes) == feedStartup(bytes, pieceLength: pieceLength), "\(Array(bytes.readableBytesView))")
        #expect(feedBackend(bytes) == feedBackend(bytes, pieceLength: pieceLength), "\(Array(bytes.readableBytesView))")
    }

    /// A byte that lengths, counts, letters and text are made of more often than chance has it.
    private func interestingByte(_ random: inout SplitMix) -> UInt8 {
        switch UInt8.random(in: 0..<8, using: &random) {
        case 0...2: 0
        case 3: UInt8.random(in: 1...8, using: &random)
        case 4: Array("BCDEFHPQSXcdfpRZT".utf8)[Int.random(in: 0..<17, using: &random)]
        case 5: [0x7F, 0x80, 0xFF][Int.random(in: 0..<3, using: &random)]
        default: UInt8.random(in: 0...255, using: &random)
        }
    }

    private func someOf<Message>(_ messages: [Message], _ random: inout SplitMix) -> [Message] {
        (0..<Int.random(in: 1...4, using: &random)).map { _ in
            messages[Int.random(in: 0..<messages.count, using: &random)]
        }
    }

    private func mutated(_ bytes: ByteBuffer, _ random: inout SplitMix) -> ByteBuffer {
        var bytes = Array(bytes.readableBytesView)
        for _ in 0..<Int.random(in: 1...4, using: &random) where !bytes.isEmpty {
            let index = Int.random(in: 0..<bytes.count, using: &random)
            switch UInt8.random(in: 0..<5, using: &random) {
            case 0: bytes[index] = interestingByte(&random)
            case 1: bytes[index] ^= 1 << UInt8.random(in: 0..<8, using: &random)
            case 2: bytes.remove(at: index)
            case 3: bytes.insert(interestingByte(&random), at: index)
            default: bytes.removeLast(bytes.count - index)
            }
        }
        return makeBytes(bytes)
    }
}
