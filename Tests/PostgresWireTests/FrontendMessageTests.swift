import NIOCore
import PostgresWire
import Testing
import TransactionCore

private let insufficient = WireError("insufficient data left in message")
private let invalidString = WireError("invalid string in message")
private let invalidFormat = WireError("invalid message format")

/// Decodes one frame.
private func decode(_ type: Character, _ body: [UInt8]) -> Result<FrontendMessage, WireError> {
    let kind = type.asciiValue.flatMap(FrontendFrame.Kind.init) ?? .sync
    let frame = FrontendFrame(kind: kind, body: makeBytes(body))
    return Result { () throws(WireError) in try frame.decode() }
}

private func decode(_ type: Character, _ body: String) -> Result<FrontendMessage, WireError> {
    decode(type, Array(body.utf8))
}

@Suite struct FrontendMessageTests {
    /// What PostgreSQL 15 was seen to answer to the same bytes.
    @Test(
        "what is wrong inside a frame gets PostgreSQL's error, and fails this message only",
        arguments: [
            ("Q", "", invalidString), ("Q", "select 1", invalidString), ("Q", "select 1\0x", invalidFormat),
            ("P", "", invalidString), ("P", "abc", invalidString), ("P", "a\0select 1\0", insufficient),
            ("P", "a\0select 1\0\0", insufficient), ("P", "\0select 1\0\0\u{1}\0\0\0", insufficient),
            ("P", "\0select 1\0\0\0x", invalidFormat),
            ("B", "\0\0\0", insufficient), ("B", "\0\0\0\0\0\u{1}\0\0\0\u{2}a\0\0", insufficient),
            ("B", "\0\0\0\0\0\u{1}\0\0\0\u{1}a\0\0x", invalidFormat),
            (
                "B", "\0\0\0\u{2}\0\0\0\0\0\u{1}\0\0\0\u{1}a\0\0",
                WireError("bind message has 2 parameter formats but 1 parameters")
            ),
            (
                "B", "\0\0\0\u{1}\0\u{7}\0\u{1}\0\0\0\u{1}a\0\0",
                WireError(.invalidParameterValue, "unsupported format code: 7")
            ),
            (
                "B", "\0\0\0\0\0\0\0\u{1}\0\u{7}", WireError(.invalidParameterValue, "unsupported format code: 7")
            ),
            ("D", "", WireError("no data left in message")), ("D", "S", invalidString),
            ("D", "X\0", WireError("invalid DESCRIBE message subtype 88")), ("D", "X\0x", invalidFormat),
            ("C", "X\0", WireError("invalid CLOSE message subtype 88")),
            ("E", "\0\0\0", insufficient), ("E", "p", invalidString), ("E", "\0\0\0\0\0x", invalidFormat),
            ("H", "x", invalidFormat), ("S", "x", invalidFormat),
            ("F", "\0\0", insufficient), ("F", "\0\0\0\u{1}\0\u{2}\0\0", insufficient),
            (
                "F", "\0\0\0\u{1}\0\u{2}\0\0\0\0\0\u{1}\0\0\0\0\0\0",
                WireError("function call message contains 2 argument formats but 1 arguments")
            ),
            ("F", "\0\0\0\u{1}\0\0\0\0\0\u{7}", WireError(.invalidParameterValue, "unsupported format code: 7")),
            ("F", "\0\0\0\u{1}\0\0\0\0\0\0x", invalidFormat),
            ("f", "abc", invalidString),
        ] as [(Character, String, WireError)])
    func malformed(type: Character, body: String, error: WireError) {
        #expect(decode(type, body) == .failure(error))
        #expect(error.consequence == .failsMessage)
    }

    @Test("lengths of values other than -1 are not negative")
    func negativeLengths() {
        let minusTwo: [UInt8] = [0xFF, 0xFF, 0xFF, 0xFE]
        #expect(decode("B", [0, 0, 0, 0, 0, 1] + minusTwo + [0, 0]) == .failure(insufficient))
        #expect(
            decode("F", [0, 0, 0, 1, 0, 0, 0, 1] + minusTwo + [0, 0])
                == .failure(WireError("invalid argument size -2 in function call message")))
    }

    @Test("a count of -1 is one of 65535, which a short body does not have")
    func negativeCounts() {
        #expect(decode("P", Array("a\0b\0".utf8) + [0xFF, 0xFF]) == .failure(insufficient))
        #expect(decode("B", [0, 0, 0xFF, 0xFF, 0, 0]) == .failure(insufficient))
        #expect(decode("B", [0, 0, 0, 0, 0xFF, 0xFF, 0, 0]) == .failure(insufficient))
        #expect(decode("B", [0, 0, 0, 0, 0, 0, 0xFF, 0xFF]) == .failure(insufficient))
        #expect(decode("F", [0, 0, 0, 1, 0xFF, 0xFF]) == .failure(insufficient))
    }

    @Test(
        "text that is no UTF-8 is shown up to what its first byte claims",
        arguments: [
            ([0xFF], "0xff"), ([0xE2, 0x28, 0x27], "0xe2 0x28 0x27"), ([0xE2, 0x82], "0xe2 0x82"),
            ([0xED, 0xA0, 0x80], "0xed 0xa0 0x80"), ([0xF4, 0x90, 0x80, 0x80], "0xf4 0x90 0x80 0x80"),
            ([0xC0, 0x80], "0xc0 0x80"), ([0x61, 0x62, 0x80], "0x80"),
        ] as [([UInt8], String)])
    func invalidText(bytes: [UInt8], shown: String) {
        let error = WireError(
            .characterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": \(shown)")
        #expect(decode("Q", bytes + [0]) == .failure(error))
        #expect(decode("P", [0] + bytes + [0, 0, 0]) == .failure(error))
        #expect(decode("B", bytes + [0, 0, 0, 0, 0, 0, 0, 0]) == .failure(error))
        #expect(decode("D", [0x53] + bytes + [0]) == .failure(error))
        #expect(decode("E", bytes + [0, 0, 0, 0, 0]) == .failure(error))
        #expect(decode("f", bytes + [0]) == .failure(error))
    }

    @Test("no message can be cut anywhere and still be one", arguments: Samples.sessionMessages)
    func truncatedBody(message: FrontendMessage) {
        let bytes = makeWritten([message])
        let body = Array(bytes.readableBytesView.dropFirst(5))
        let frame = FrontendFrame(kind: message.kind, body: makeBytes(body))
        #expect((try? frame.decode()) == message)
        guard message.kind != .copyData else { return }
        for length in 0..<body.count {
            let cut = FrontendFrame(kind: message.kind, body: makeBytes(Array(body.prefix(length))))
            #expect(throws: WireError.self, "\(length) of \(body.count) bytes") { try cut.decode() }
        }
    }

    @Test("nothing may follow in a message, where PostgreSQL looks for it", arguments: Samples.sessionMessages)
    func trailingByte(message: FrontendMessage) {
        let body = Array(makeWritten([message]).readableBytesView.dropFirst(5)) + [0]
        let decoded = Result { () throws(WireError) in
            try FrontendFrame(kind: message.kind, body: makeBytes(body)).decode()
        }
        switch message {
        case .copyDone, .copyFail, .terminate: #expect(decoded == .success(message))
        case .copyData: #expect(decoded == .success(.copyData(makeBytes(body))))
        default: #expect(decoded == .failure(invalidFormat))
        }
    }

    @Test("a message has up to 65535 parameters")
    func manyParameters() throws {
        let parameters = (0..<65_535).map { $0 % 3 == 0 ? nil : makeBytes([UInt8(truncatingIfNeeded: $0)]) }
        let messages: [FrontendMessage] = [
            .bind(.init(parameters: parameters)),
            .bind(
                .init(
                    parameterFormats: parameters.map { _ in .binary }, parameters: parameters,
                    resultFormats: parameters.map { _ in .text })),
            .parse(.init(query: "", parameterTypes: (0..<65_535).map(UInt32.init))),
            .functionCall(.init(function: 1, arguments: parameters)),
        ]
        #expect(feedSession(makeWritten(messages)) == Decoded(messages: messages))
    }

    @Test("a parameter has the only format, the one at its index, or text")
    func parameterFormats() {
        let values = [makeBytes("a"), makeBytes("b")] as [ByteBuffer?]
        let text = FrontendMessage.Bind(parameters: values)
        #expect([0, 1].map(text.parameterFormat) == [.text, .text])
        let binary = FrontendMessage.Bind(parameterFormats: [.binary], parameters: values)
        #expect([0, 1].map(binary.parameterFormat) == [.binary, .binary])
        let mixed = FrontendMessage.Bind(parameterFormats: [.binary, .text], parameters: values)
        #expect([0, 1].map(mixed.parameterFormat) == [.binary, .text])
    }

    @Test("text parameters are held to UTF-8 without NUL on request, binary ones to nothing")
    func checkText() throws {
        let values = [makeBytes("é"), nil, makeBytes([0x61, 0, 0x62])] as [ByteBuffer?]
        try FrontendMessage.Bind(parameterFormats: [.binary], parameters: values).checkText()
        try FrontendMessage.Bind(parameterFormats: [.text, .text, .binary], parameters: values).checkText()
        #expect(
            throws: WireError(.characterNotInRepertoire, "invalid byte sequence for encoding \"UTF8\": 0x00")
        ) { try FrontendMessage.Bind(parameters: values).checkText() }
    }

    @Test("a text that is written ends at its first NUL, so that nothing is smuggled in behind it")
    func embeddedNUL() {
        #expect(feedSession(makeWritten([.query("select 1\0; drop table t")])).messages == [.query("select 1")])
    }
}

@Suite struct AuthenticationResponseTests {
    @Test("a password ends with the only NUL in its message")
    func password() throws {
        #expect(try PasswordResponse(makeBytes("secret\0")).password == makeBytes("secret"))
        #expect(try PasswordResponse(makeBytes([0xFF, 0])).password == makeBytes([0xFF]))
        #expect(try PasswordResponse(PasswordResponse.body("é")).password == makeBytes("é"))
        for body in ["", "x", "x\0y", "x\0\0", "\0x\0"] {
            #expect(
                throws: WireError("invalid password packet size", consequence: .endsConnection), "\(body)"
            ) { try PasswordResponse(makeBytes(body)) }
        }
        #expect(
            throws: WireError(
                .invalidPassword, "empty password returned by client", consequence: .endsConnection)
        ) { try PasswordResponse(makeBytes("\0")) }
    }

    @Test("a SASL response has its mechanism, and nil or bytes", arguments: [nil, "", "n,,n=,r=a\0b"])
    func saslInitialResponse(text: String?) throws {
        let response = SASLInitialResponse(mechanism: "SCRAM-SHA-256", response: text.map { makeBytes($0) })
        #expect(try SASLInitialResponse(response.body) == response)
        let body = response.body
        for length in 0..<body.readableBytes {
            let cut = body.getSlice(at: 0, length: length) ?? body
            #expect(throws: WireError.self) { try SASLInitialResponse(cut) }
        }
    }

    @Test(
        "a SASL response that is wrong ends the connection",
        arguments: [
            ([], invalidString), ([0x41, 0, 0xFF, 0xFF, 0xFF, 0xFE], insufficient),
            ([0x41, 0, 0, 0, 0, 1], insufficient), ([0x41, 0, 0, 0, 0, 0, 1], invalidFormat),
        ] as [([UInt8], WireError)])
    func malformed(body: [UInt8], error: WireError) {
        #expect(throws: error.asFatal) { try SASLInitialResponse(makeBytes(body)) }
    }
}

@Suite struct WireErrorTests {
    @Test("an error fails its message unless it says otherwise; before the session all end the connection")
    func consequences() {
        let error = WireError("invalid message format")
        #expect(error.sqlState == .protocolViolation)
        #expect(!error.isFatal)
        #expect(error.asFatal.consequence == .endsConnection)
        let silent = WireError("invalid message length", consequence: .endsConnectionSilently)
        #expect(silent.isFatal)
        #expect(silent.asFatal == silent)
    }

    @Test("an error prints its code and message, then each fact it has on a line of its own")
    func description() {
        #expect("\(WireError("invalid message format"))" == "08P01: invalid message format")
        #expect(
            "\(WireError(.featureNotSupported, "a", detail: "b", hint: "c"))" == "0A000: a\nDETAIL:  b\nHINT:  c")
    }

    @Test("a message that has no place in a COPY is named by its letter")
    func duringCopy() {
        #expect(
            WireError.unexpectedDuringCopy(.query) == WireError("unexpected message type 0x51 during COPY from stdin"))
        #expect(WireError.lostSynchronisation.consequence == .endsConnection)
    }
}
