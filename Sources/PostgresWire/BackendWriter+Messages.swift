import NIOCore

// MARK: The session's messages

extension BackendWriter {
    public mutating func readyForQuery(_ status: TransactionStatus) {
        message(UInt8(ascii: "Z")) { $0.writeInteger(status.rawValue) }
    }

    public mutating func parseComplete() { empty(UInt8(ascii: "1")) }

    public mutating func bindComplete() { empty(UInt8(ascii: "2")) }

    public mutating func closeComplete() { empty(UInt8(ascii: "3")) }

    public mutating func noData() { empty(UInt8(ascii: "n")) }

    public mutating func emptyQueryResponse() { empty(UInt8(ascii: "I")) }

    public mutating func portalSuspended() { empty(UInt8(ascii: "s")) }

    /// The tag is PostgreSQL's: `BEGIN`, `INSERT 0 1`, `SELECT 5`.
    public mutating func commandComplete(_ tag: String) {
        message(UInt8(ascii: "C")) { $0.writeText(tag) }
    }

    /// The tag as a libpq result has it; it has no NUL or ends at it.
    public mutating func commandComplete(_ tag: UnsafeRawBufferPointer) {
        message(UInt8(ascii: "C")) { $0.writeText(tag) }
    }

    /// A tag that ends with a number of rows: `commandComplete("INSERT 0", rows: 1)`.
    public mutating func commandComplete(_ command: StaticString, rows: Int) {
        message(UInt8(ascii: "C")) { buffer in
            buffer.writeStaticString(command)
            buffer.writeInteger(UInt8(ascii: " "))
            buffer.writeDecimal(rows)
            buffer.writeInteger(UInt8(0))
        }
    }

    /// The types of a prepared statement's parameters.
    public mutating func parameterDescription(_ types: [UInt32]) {
        message(UInt8(ascii: "t")) { buffer in
            buffer.writeCount(types.count)
            for type in types { buffer.writeInteger(type) }
        }
    }

    public mutating func errorResponse(_ fields: ErrorFields) {
        message(UInt8(ascii: "E")) { $0.writeErrorFields(fields) }
    }

    public mutating func noticeResponse(_ fields: ErrorFields) {
        message(UInt8(ascii: "N")) { $0.writeErrorFields(fields) }
    }

    public mutating func parameterStatus(_ name: String, _ value: String) {
        message(UInt8(ascii: "S")) { buffer in
            buffer.writeText(name)
            buffer.writeText(value)
        }
    }

    public mutating func notificationResponse(processID: Int32, channel: String, payload: String) {
        message(UInt8(ascii: "A")) { buffer in
            buffer.writeInteger(processID)
            buffer.writeText(channel)
            buffer.writeText(payload)
        }
    }

    /// The result of a ``FrontendMessage/functionCall(_:)``, nil for NULL.
    public mutating func functionCallResponse(_ value: ByteBuffer?) {
        message(UInt8(ascii: "V")) { $0.writeValue(value) }
    }
}

// MARK: COPY

extension BackendWriter {
    /// The client may copy in: a format for all, and one for each column.
    public mutating func copyInResponse(_ format: FormatCode, columns: [FormatCode]) {
        message(UInt8(ascii: "G")) { $0.writeCopyFormats(format, columns) }
    }

    /// The server copies out: a format for all, and one for each column.
    public mutating func copyOutResponse(_ format: FormatCode, columns: [FormatCode]) {
        message(UInt8(ascii: "H")) { $0.writeCopyFormats(format, columns) }
    }

    public mutating func copyData(_ bytes: ByteBuffer) {
        message(UInt8(ascii: "d")) { $0.writeImmutableBuffer(bytes) }
    }

    /// The bytes may be those that libpq gave: they are copied.
    public mutating func copyData(_ bytes: UnsafeRawBufferPointer) {
        message(UInt8(ascii: "d")) { $0.writeBytes(bytes) }
    }

    public mutating func copyDone() { empty(UInt8(ascii: "c")) }
}

// MARK: The start of a session

extension BackendWriter {
    /// The client asked for a newer minor version, or for options, than there are.
    ///
    /// The version is written whole, with its major half, as PostgreSQL does.
    public mutating func negotiateProtocolVersion(
        newest: ProtocolVersion = .newest, unrecognisedOptions: [String]
    ) {
        message(UInt8(ascii: "v")) { buffer in
            buffer.writeInteger(newest.rawValue)
            buffer.writeInteger(Int32(unrecognisedOptions.count))
            for option in unrecognisedOptions { buffer.writeText(option) }
        }
    }

    public mutating func authentication(_ request: AuthenticationRequest) {
        message(UInt8(ascii: "R")) { buffer in
            buffer.writeInteger(request.code)
            switch request {
            case .ok, .cleartextPassword: break
            case .md5Password(let salt): buffer.writeInteger(salt)
            case .sasl(let mechanisms):
                for mechanism in mechanisms { buffer.writeText(mechanism) }
                buffer.writeInteger(UInt8(0))
            case .saslContinue(let bytes), .saslFinal(let bytes): buffer.writeImmutableBuffer(bytes)
            }
        }
    }

    /// What a CancelRequest for this session has to say.
    public mutating func backendKeyData(_ key: CancelRequest) {
        message(UInt8(ascii: "K")) { $0.writeMultipleIntegers(key.processID, key.secret) }
    }
}

/// What the server wants from a client that connects, or that it is satisfied.
public enum AuthenticationRequest: Hashable, Sendable {
    case ok
    case cleartextPassword
    /// With the four bytes of salt, first byte uppermost.
    case md5Password(salt: UInt32)
    /// The mechanisms to choose from, the preferred first.
    case sasl(mechanisms: [String])
    case saslContinue(ByteBuffer)
    case saslFinal(ByteBuffer)

    var code: UInt32 {
        switch self {
        case .ok: 0
        case .cleartextPassword: 3
        case .md5Password: 5
        case .sasl: 10
        case .saslContinue: 11
        case .saslFinal: 12
        }
    }
}

extension ByteBuffer {
    fileprivate mutating func writeErrorFields(_ fields: ErrorFields) {
        for field in fields.fields {
            // A zero would end the message.
            guard field.code.rawValue != 0 else { continue }
            writeInteger(field.code.rawValue)
            writeText(field.value)
        }
        writeInteger(UInt8(0))
    }

    fileprivate mutating func writeCopyFormats(_ format: FormatCode, _ columns: [FormatCode]) {
        writeInteger(UInt8(format.rawValue))
        writeFormats(columns)
    }

    /// The digits of a number that is not negative.
    fileprivate mutating func writeDecimal(_ number: Int) {
        precondition(number >= 0, "\(number) rows")
        var power = 1
        while number / power >= 10 { power *= 10 }
        while power > 0 {
            writeInteger(UInt8(ascii: "0") + UInt8(number / power % 10))
            power /= 10
        }
    }
}
