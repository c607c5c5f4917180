import NIOCore

/// What a server says, as a client reads it: for tests, which talk to the server side of this module.
public enum BackendMessage: Hashable, Sendable {
    case authentication(AuthenticationRequest)
    case backendKeyData(CancelRequest)
    case bindComplete
    case closeComplete
    case commandComplete(String)
    case copyData(ByteBuffer)
    case copyDone
    case copyInResponse(FormatCode, columns: [FormatCode])
    case copyOutResponse(FormatCode, columns: [FormatCode])
    case dataRow([ByteBuffer?])
    case emptyQueryResponse
    case errorResponse(ErrorFields)
    case functionCallResponse(ByteBuffer?)
    case negotiateProtocolVersion(newest: ProtocolVersion, unrecognisedOptions: [String])
    case noData
    case noticeResponse(ErrorFields)
    case notificationResponse(processID: Int32, channel: String, payload: String)
    case parameterDescription([UInt32])
    case parameterStatus(String, String)
    case parseComplete
    case portalSuspended
    case readyForQuery(TransactionStatus)
    case rowDescription([FieldDescription])
}

extension BackendMessage {
    /// Takes the next message off `buffer`; nil, and nothing taken, when it is not all there yet. Every error ends the
    /// connection.
    public static func next(from buffer: inout ByteBuffer) throws(WireError) -> BackendMessage? {
        let start = buffer.readerIndex
        guard let type = buffer.getInteger(at: start, as: UInt8.self),
            let length = buffer.getInteger(at: start + 1, as: UInt32.self).map(Int.init)
        else { return nil }
        guard (4...FrontendDecoder.largeLengthMax).contains(length) else { throw .invalidLength }
        guard let body = buffer.getSlice(at: start + 5, length: length - 4) else { return nil }
        var reader = MessageReader(body)
        let message: BackendMessage
        do {
            message = try decode(type, &reader)
            try reader.end()
        } catch {
            throw error.asFatal
        }
        buffer.moveReaderIndex(forwardBy: length + 1)
        return message
    }

    private static func decode(_ type: UInt8, _ reader: inout MessageReader) throws(WireError) -> BackendMessage {
        switch type {
        case UInt8(ascii: "R"): return .authentication(try authenticationRequest(&reader))
        case UInt8(ascii: "K"):
            return .backendKeyData(CancelRequest(processID: try reader.integer(), secret: try reader.integer()))
        case UInt8(ascii: "2"): return .bindComplete
        case UInt8(ascii: "3"): return .closeComplete
        case UInt8(ascii: "C"): return .commandComplete(try reader.string())
        case UInt8(ascii: "d"): return .copyData(reader.rest())
        case UInt8(ascii: "c"): return .copyDone
        case UInt8(ascii: "G"): return .copyInResponse(try overallFormat(&reader), columns: try reader.formats())
        case UInt8(ascii: "H"): return .copyOutResponse(try overallFormat(&reader), columns: try reader.formats())
        case UInt8(ascii: "D"): return .dataRow(try row(&reader))
        case UInt8(ascii: "I"): return .emptyQueryResponse
        case UInt8(ascii: "E"): return .errorResponse(try errorFields(&reader))
        case UInt8(ascii: "V"): return .functionCallResponse(try reader.value())
        case UInt8(ascii: "v"): return try negotiation(&reader)
        case UInt8(ascii: "n"): return .noData
        case UInt8(ascii: "N"): return .noticeResponse(try errorFields(&reader))
        case UInt8(ascii: "A"):
            return .notificationResponse(
                processID: try reader.integer(), channel: try reader.string(), payload: try reader.string())
        case UInt8(ascii: "t"): return .parameterDescription(try parameterTypes(&reader))
        case UInt8(ascii: "S"): return .parameterStatus(try reader.string(), try reader.string())
        case UInt8(ascii: "1"): return .parseComplete
        case UInt8(ascii: "s"): return .portalSuspended
        case UInt8(ascii: "Z"): return .readyForQuery(try transactionStatus(&reader))
        case UInt8(ascii: "T"): return .rowDescription(try fieldDescriptions(&reader))
        default: throw WireError("invalid backend message type \(type)")
        }
    }
}

// MARK: Bodies

private func authenticationRequest(_ reader: inout MessageReader) throws(WireError) -> AuthenticationRequest {
    let code = try reader.integer(as: UInt32.self)
    switch code {
    case AuthenticationRequest.ok.code: return .ok
    case AuthenticationRequest.cleartextPassword.code: return .cleartextPassword
    case AuthenticationRequest.md5Password(salt: 0).code: return .md5Password(salt: try reader.integer())
    case AuthenticationRequest.sasl(mechanisms: []).code:
        var mechanisms: [String] = []
        while true {
            let mechanism = try reader.string()
            if mechanism.isEmpty { return .sasl(mechanisms: mechanisms) }
            mechanisms.append(mechanism)
        }
    case AuthenticationRequest.saslContinue(ByteBuffer()).code: return .saslContinue(reader.rest())
    case AuthenticationRequest.saslFinal(ByteBuffer()).code: return .saslFinal(reader.rest())
    default: throw WireError("unsupported authentication request \(code)")
    }
}

private func overallFormat(_ reader: inout MessageReader) throws(WireError) -> FormatCode {
    let code = Int16(try reader.byte())
    guard let format = FormatCode(rawValue: code) else { throw .unknownFormat(code) }
    return format
}

private func row(_ reader: inout MessageReader) throws(WireError) -> [ByteBuffer?] {
    let count = try reader.count(bytesEach: 4)
    var columns: [ByteBuffer?] = []
    for _ in 0..<count { columns.append(try reader.value()) }
    return columns
}

private func errorFields(_ reader: inout MessageReader) throws(WireError) -> ErrorFields {
    var fields = ErrorFields(fields: [])
    while true {
        let code = try reader.byte()
        if code == 0 { return fields }
        fields.fields.append(ErrorFields.Field(ErrorFields.Code(rawValue: code), try reader.string()))
    }
}

private func negotiation(_ reader: inout MessageReader) throws(WireError) -> BackendMessage {
    let newest = ProtocolVersion(rawValue: try reader.integer())
    let count = try reader.integer(as: UInt32.self)
    // An option has at least the NUL that ends it.
    guard count <= reader.bytesLeft else { throw .insufficientData }
    var options: [String] = []
    for _ in 0..<count { options.append(try reader.string()) }
    return .negotiateProtocolVersion(newest: newest, unrecognisedOptions: options)
}

private func parameterTypes(_ reader: inout MessageReader) throws(WireError) -> [UInt32] {
    let count = try reader.count(bytesEach: 4)
    var types: [UInt32] = []
    for _ in 0..<count { types.append(try reader.integer()) }
    return types
}

private func transactionStatus(_ reader: inout MessageReader) throws(WireError) -> TransactionStatus {
    let letter = try reader.byte()
    guard let status = TransactionStatus(rawValue: letter) else {
        throw WireError("invalid transaction status \(letter)")
    }
    return status
}

private func fieldDescriptions(_ reader: inout MessageReader) throws(WireError) -> [FieldDescription] {
    // The name's NUL, and 18 bytes.
    let count = try reader.count(bytesEach: 19)
    var fields: [FieldDescription] = []
    for _ in 0..<count {
        fields.append(
            FieldDescription(
                name: try reader.string(), table: try reader.integer(), attribute: try reader.integer(),
                type: try reader.integer(), typeSize: try reader.integer(), typeModifier: try reader.integer(),
                format: try reader.format()))
    }
    return fields
}
