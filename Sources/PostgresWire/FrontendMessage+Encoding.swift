import NIOCore

extension FrontendMessage {
    public var kind: FrontendFrame.Kind {
        switch self {
        case .query: .query
        case .parse: .parse
        case .bind: .bind
        case .describe: .describe
        case .execute: .execute
        case .close: .close
        case .flush: .flush
        case .sync: .sync
        case .functionCall: .functionCall
        case .copyData: .copyData
        case .copyDone: .copyDone
        case .copyFail: .copyFail
        case .terminate: .terminate
        case .authenticationResponse: .authenticationResponse
        }
    }

    /// Writes the message as a client sends it.
    public func write(to buffer: inout ByteBuffer) {
        let start = buffer.beginMessage(kind.rawValue)
        switch self {
        case .query(let text), .copyFail(let text): buffer.writeText(text)
        case .parse(let parse):
            buffer.writeText(parse.statement)
            buffer.writeText(parse.query)
            buffer.writeCount(parse.parameterTypes.count)
            for type in parse.parameterTypes { buffer.writeInteger(type) }
        case .bind(let bind):
            buffer.writeText(bind.portal)
            buffer.writeText(bind.statement)
            buffer.writeFormats(bind.parameterFormats)
            buffer.writeCount(bind.parameters.count)
            for parameter in bind.parameters { buffer.writeValue(parameter) }
            buffer.writeFormats(bind.resultFormats)
        case .describe(.statement(let name)), .close(.statement(let name)):
            buffer.writeInteger(UInt8(ascii: "S"))
            buffer.writeText(name)
        case .describe(.portal(let name)), .close(.portal(let name)):
            buffer.writeInteger(UInt8(ascii: "P"))
            buffer.writeText(name)
        case .execute(let execute):
            buffer.writeText(execute.portal)
            buffer.writeInteger(execute.rowsMax)
        case .functionCall(let call):
            buffer.writeInteger(call.function)
            buffer.writeFormats(call.argumentFormats)
            buffer.writeCount(call.arguments.count)
            for argument in call.arguments { buffer.writeValue(argument) }
            buffer.writeInteger(call.resultFormat.rawValue)
        case .copyData(let bytes), .authenticationResponse(let bytes): buffer.writeImmutableBuffer(bytes)
        case .copyDone, .flush, .sync, .terminate: break
        }
        buffer.endMessage(start)
    }
}
