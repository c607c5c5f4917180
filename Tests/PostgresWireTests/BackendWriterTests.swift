import NIOCore
import PostgresWire
import Testing
import TransactionCore

@Suite struct BackendWriterTests {
    @Test(
        "a message is the same whether it comes whole or one byte at a time", arguments: Samples.backendMessages)
    func roundTrip(message: BackendMessage) {
        let bytes = makeWritten([message])
        for pieceLength in [Int.max, 1, 3] {
            #expect(feedBackend(bytes, pieceLength: pieceLength) == Decoded(messages: [message]))
        }
        for length in 1..<bytes.readableBytes {
            #expect(feedBackend(bytes.getSlice(at: 0, length: length) ?? bytes) == Decoded(bytesLeft: length))
        }
    }

    @Test("many messages at once give the same messages")
    func coalesced() {
        let bytes = makeWritten(Samples.backendMessages)
        for pieceLength in [Int.max, 1, 5, 64] {
            #expect(feedBackend(bytes, pieceLength: pieceLength) == Decoded(messages: Samples.backendMessages))
        }
    }

    @Test("what PostgreSQL sends to psql and pgbench is read, and written again byte for byte")
    func recorded() {
        for recording in [RecordedSessions.psqlServer, RecordedSessions.pgbenchServer] {
            var bytes = recording
            // It refuses TLS first.
            #expect(bytes.readInteger(as: UInt8.self) == UInt8(ascii: "N"))
            let decoded = feedBackend(bytes)
            #expect(decoded.error == nil)
            #expect(decoded.bytesLeft == 0)
            #expect(makeWritten(decoded.messages) == bytes)
        }
    }

    @Test("bodies that are wrong are refused, wherever they are cut", arguments: Samples.backendMessages)
    func truncatedBody(message: BackendMessage) {
        var bytes = makeWritten([message])
        let body = Array(bytes.readableBytesView.dropFirst(5))
        let type = bytes.readInteger(as: UInt8.self) ?? 0
        switch message {
        case .copyData, .authentication(.saslContinue), .authentication(.saslFinal): return
        default: break
        }
        for length in 0..<body.count {
            let decoded = feedBackend(makeFrame(Character(Unicode.Scalar(type)), Array(body.prefix(length))))
            #expect(decoded.error?.isFatal == true, "\(length) of \(body.count) bytes")
        }
        let longer = feedBackend(makeFrame(Character(Unicode.Scalar(type)), body + [0]))
        #expect(longer.error != nil)
    }

    @Test("a row is written column by column, from memory, buffers, text and NULL")
    func dataRow() {
        var writer = BackendWriter()
        writer.beginDataRow(columns: 5)
        [UInt8](arrayLiteral: 1, 0, 2).withUnsafeBytes { writer.column($0) }
        writer.column(nil as UnsafeRawBufferPointer?)
        writer.column(makeBytes("b"))
        writer.column(nil as ByteBuffer?)
        writer.column("é")
        writer.endDataRow()
        let values: [UInt8] = [
            0, 0, 0, 3, 1, 0, 2, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 1, 0x62, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 2, 0xC3,
            0xA9,
        ]
        #expect(writer.take() == makeFrame("D", [0, 5] + values))
    }

    @Test("a row written at once is the row written column by column", arguments: [0, 1, 3, 300])
    func wholeRow(columns: Int) {
        let values: [[UInt8]?] = (0..<columns).map { $0 % 3 == 1 ? nil : Array(repeating: UInt8($0 % 251), count: $0) }
        let memory = values.map { $0.map { UnsafeRawBufferPointer(copy($0)) } }
        defer { for value in memory { value?.deallocate() } }
        var writers = (BackendWriter(), BackendWriter())
        for _ in 0..<2 {
            writers.0.dataRow(columns: columns) { memory[$0] }
            writers.1.beginDataRow(columns: columns)
            for value in memory { writers.1.column(value) }
            writers.1.endDataRow()
        }
        #expect(writers.0.take() == writers.1.take())
    }

    private func copy(_ bytes: [UInt8]) -> UnsafeMutableRawBufferPointer {
        let memory = UnsafeMutableRawBufferPointer.allocate(byteCount: bytes.count, alignment: 1)
        memory.copyBytes(from: bytes)
        return memory
    }

    @Test("a description is the same from pointers and from values")
    func rowDescription() {
        let field = FieldDescription(
            name: "amount", table: 16_384, attribute: 2, type: 1_700, typeSize: -1, typeModifier: 655_366,
            format: .binary)
        var writer = BackendWriter()
        writer.beginRowDescription(fields: 1)
        Array("amount\0ignored".utf8).withUnsafeBytes { name in
            writer.field(
                name: name, table: 16_384, attribute: 2, type: 1_700, typeSize: -1, typeModifier: 655_366,
                format: .binary)
        }
        writer.endRowDescription()
        #expect(writer.take() == makeWritten([.rowDescription([field])]))
    }

    @Test(
        "a tag is the same from text, from memory and with a number of rows",
        arguments: [0, 1, 9, 10, 1_234_567, Int.max])
    func commandComplete(rows: Int) {
        var writer = BackendWriter()
        writer.commandComplete("INSERT 0", rows: rows)
        let counted = writer.take()
        writer.commandComplete("INSERT 0 \(rows)")
        #expect(writer.take() == counted)
        Array("INSERT 0 \(rows)\0".utf8).withUnsafeBytes { writer.commandComplete($0) }
        #expect(writer.take() == counted)
    }

    @Test("COPY data is the same from a buffer and from memory")
    func copyData() {
        var writer = BackendWriter()
        [UInt8](arrayLiteral: 1, 0, 2).withUnsafeBytes { writer.copyData($0) }
        #expect(writer.take() == makeFrame("d", [1, 0, 2]))
    }

    @Test("taking gives all that was written, and only once")
    func take() {
        var writer = BackendWriter(capacity: 16)
        #expect(writer.take().readableBytes == 0)
        writer.parseComplete()
        writer.readyForQuery(.idle)
        #expect(writer.bytesWritten == 11)
        let first = writer.take()
        writer.bindComplete()
        #expect(first == makeFrame("1") + makeFrame("Z", [0x49]))
        #expect(writer.take() == makeFrame("2"))
        #expect(writer.bytesWritten == 0)
    }

    @Test("versions are negotiated with the whole number, as PostgreSQL 15 does")
    func negotiation() {
        var writer = BackendWriter()
        writer.negotiateProtocolVersion(unrecognisedOptions: ["_pq_.x", "_pq_.yy"])
        #expect(writer.take() == makeFrame("v", [0, 3, 0, 0, 0, 0, 0, 2] + Array("_pq_.x\0_pq_.yy\0".utf8)))
    }
}

@Suite struct ErrorFieldsTests {
    @Test("every field is written in its place exactly as given, one of an unknown letter too")
    func passedThrough() {
        let fields = ErrorFields(
            fields: [.init(.message, "été"), .init(.init(rawValue: 0x58), ""), .init(.sqlState, "23505")])
        #expect(
            makeWritten([.errorResponse(fields)])
                == makeFrame("E", Array("Mété\0X\0C23505\0\0".utf8)))
        #expect(feedBackend(makeWritten([.errorResponse(fields)])).messages == [.errorResponse(fields)])
    }

    @Test("PostgreSQL's letters, in its order")
    func letters() {
        #expect(String(decoding: ErrorFields.Code.all.map(\.rawValue), as: UTF8.self) == "SVCMDHPpqWstcdnFLR")
    }

    @Test("an error that PostgreSQL sent has all its fields")
    func recorded() throws {
        var bytes = RecordedSessions.psqlServer
        bytes.moveReaderIndex(forwardBy: 1)
        let errors = feedBackend(bytes).messages.compactMap { message -> ErrorFields? in
            if case .errorResponse(let fields) = message { return fields }
            return nil
        }
        let duplicate = try #require(errors.first)
        #expect(duplicate[.sqlState] == SQLState.uniqueViolation.rawValue)
        #expect(duplicate[.localizedSeverity] == "ERROR")
        #expect(duplicate[.severity] == "ERROR")
        #expect(duplicate[.detail] == "Key (a)=(1) already exists.")
        #expect(duplicate[.table] == "t")
        #expect(duplicate[.constraint] == "t_pkey")
        #expect(duplicate[.hint] == nil)
        #expect(errors[1][.position] == "13")
    }

    @Test("an error of a transaction has its code, message, detail and hint, and both severities")
    func fromTransactionError() {
        let error = TransactionError(.serializationFailure, "a", detail: "b", hint: "c")
        #expect(
            makeWritten([.errorResponse(ErrorFields(error))])
                == makeFrame("E", Array("SERROR\0VERROR\0C40001\0Ma\0Db\0Hc\0\0".utf8)))
        #expect(ErrorFields(TransactionError(.adminShutdown, "a"), severity: .fatal)[.severity] == "FATAL")
    }

    @Test("an error of the wire is FATAL when it ends the connection")
    func fromWireError() {
        let fields = ErrorFields(WireError("invalid message format"))
        #expect(fields == ErrorFields(.error, .protocolViolation, "invalid message format"))
        #expect(ErrorFields(WireError.unencryptedDataAfterSSLRequest)[.severity] == "FATAL")
    }
}
