import NIOCore

/// What a client says in a session, and while it authenticates.
///
/// Source: PostgreSQL documentation, "Message Formats".
public enum FrontendMessage: Hashable, Sendable {
    case query(String)
    case parse(Parse)
    case bind(Bind)
    case describe(Named)
    case execute(Execute)
    case close(Named)
    case flush
    case sync
    case functionCall(FunctionCall)
    case copyData(ByteBuffer)
    case copyDone
    /// With the client's reason.
    case copyFail(String)
    case terminate
    /// For ``PasswordResponse`` or ``SASLInitialResponse``, or a SASLResponse as it is.
    case authenticationResponse(ByteBuffer)
}

extension FrontendMessage {
    /// A prepared statement or a portal; an empty name is the unnamed one's.
    public enum Named: Hashable, Sendable {
        case statement(String)
        case portal(String)
    }

    /// A statement to prepare.
    public struct Parse: Hashable, Sendable {
        /// Empty for the unnamed statement.
        public var statement: String
        public var query: String
        /// Type oids, zero where the client leaves it to the server; there may be fewer than parameters.
        public var parameterTypes: [UInt32]

        public init(statement: String = "", query: String, parameterTypes: [UInt32] = []) {
            self.statement = statement
            self.query = query
            self.parameterTypes = parameterTypes
        }
    }

    /// A portal to make of a prepared statement.
    public struct Bind: Hashable, Sendable {
        /// Empty for the unnamed portal.
        public var portal: String
        /// Empty for the unnamed statement.
        public var statement: String
        /// None: all text; one: for all; else one for each parameter.
        public var parameterFormats: [FormatCode]
        /// Slices of the message; nil for NULL. Text among them is checked by ``checkText()`` only.
        public var parameters: [ByteBuffer?]
        /// None: all text; one: for all; else one for each column of the result.
        public var resultFormats: [FormatCode]

        public init(
            portal: String = "", statement: String = "", parameterFormats: [FormatCode] = [],
            parameters: [ByteBuffer?] = [], resultFormats: [FormatCode] = []
        ) {
            self.portal = portal
            self.statement = statement
            self.parameterFormats = parameterFormats
            self.parameters = parameters
            self.resultFormats = resultFormats
        }

        /// The format of the parameter with this index.
        public func parameterFormat(at index: Int) -> FormatCode {
            parameterFormats.count > 1 ? parameterFormats[index] : parameterFormats.first ?? .text
        }

        /// Holds the parameters in text format to being UTF-8 without a NUL, as PostgreSQL does when it gets to them.
        public func checkText() throws(WireError) {
            for (index, parameter) in parameters.enumerated() where parameterFormat(at: index) == .text {
                let error = parameter?.withUnsafeReadableBytes { bytes in
                    UTF8Check.firstInvalid(in: bytes).map { UTF8Check.error(for: bytes, at: $0) }
                }
                if let error = error ?? nil { throw error }
            }
        }
    }

    /// A portal to run.
    public struct Execute: Hashable, Sendable {
        /// Empty for the unnamed portal.
        public var portal: String
        /// After how many rows to suspend the portal; zero or less for never.
        public var rowsMax: Int32

        public init(portal: String = "", rowsMax: Int32 = 0) {
            self.portal = portal
            self.rowsMax = rowsMax
        }
    }

    /// A function to call by its oid, as libpq's `PQfn` does.
    public struct FunctionCall: Hashable, Sendable {
        public var function: UInt32
        /// None: all text; one: for all; else one for each argument.
        public var argumentFormats: [FormatCode]
        /// Slices of the message; nil for NULL.
        public var arguments: [ByteBuffer?]
        public var resultFormat: FormatCode

        public init(
            function: UInt32, argumentFormats: [FormatCode] = [], arguments: [ByteBuffer?] = [],
            resultFormat: FormatCode = .text
        ) {
            self.function = function
            self.argumentFormats = argumentFormats
            self.arguments = arguments
            self.resultFormat = resultFormat
        }
    }
}

// MARK: Decoding

extension FrontendFrame {
    /// Looks into the frame. An error fails this message only: the stream goes on behind it.
    ///
    /// As in PostgreSQL, what follows in CopyDone, Terminate and behind CopyFail's reason is not looked at. Outside of
    /// COPY a session ignores the three Copy messages, whatever they hold, and so doesn't decode them.
    public func decode() throws(WireError) -> FrontendMessage {
        var reader = MessageReader(body)
        let message: FrontendMessage
        switch kind {
        case .query: message = .query(try reader.string())
        case .parse: message = .parse(try FrontendMessage.Parse(&reader))
        case .bind: message = .bind(try FrontendMessage.Bind(&reader))
        case .describe: message = .describe(try FrontendMessage.Named(&reader, of: "DESCRIBE"))
        case .execute: message = .execute(.init(portal: try reader.string(), rowsMax: try reader.integer()))
        case .close: message = .close(try FrontendMessage.Named(&reader, of: "CLOSE"))
        case .flush: message = .flush
        case .sync: message = .sync
        case .functionCall: message = .functionCall(try FrontendMessage.FunctionCall(&reader))
        case .copyData: return .copyData(body)
        case .copyDone: return .copyDone
        case .copyFail: return .copyFail(try reader.string())
        case .terminate: return .terminate
        case .authenticationResponse: return .authenticationResponse(body)
        }
        try reader.end()
        return message
    }
}

extension FrontendMessage.Named {
    fileprivate init(_ reader: inout MessageReader, of message: String) throws(WireError) {
        let subtype = try reader.byte()
        let name = try reader.string()
        // PostgreSQL reads to the end before it looks at the subtype.
        try reader.end()
        switch subtype {
        case UInt8(ascii: "S"): self = .statement(name)
        case UInt8(ascii: "P"): self = .portal(name)
        default: throw WireError("invalid \(message) message subtype \(subtype)")
        }
    }
}

extension FrontendMessage.Parse {
    fileprivate init(_ reader: inout MessageReader) throws(WireError) {
        self.init(statement: try reader.string(), query: try reader.string())
        let count = try reader.count(bytesEach: 4)
        parameterTypes.reserveCapacity(count)
        for _ in 0..<count { parameterTypes.append(try reader.integer()) }
    }
}

extension FrontendMessage.Bind {
    fileprivate init(_ reader: inout MessageReader) throws(WireError) {
        self.init(portal: try reader.string(), statement: try reader.string())
        parameterFormats = try reader.formats()
        let count = try reader.count(bytesEach: 4)
        guard parameterFormats.count <= 1 || parameterFormats.count == count else {
            throw WireError(
                "bind message has \(parameterFormats.count) parameter formats but \(count) parameters")
        }
        parameters.reserveCapacity(count)
        for _ in 0..<count { parameters.append(try reader.value()) }
        resultFormats = try reader.formats()
    }
}

extension FrontendMessage.FunctionCall {
    fileprivate init(_ reader: inout MessageReader) throws(WireError) {
        self.init(function: try reader.integer())
        argumentFormats = try reader.formats()
        let count = try reader.count(bytesEach: 4)
        guard argumentFormats.count <= 1 || argumentFormats.count == count else {
            throw WireError(
                "function call message contains \(argumentFormats.count) argument formats but \(count) arguments")
        }
        arguments.reserveCapacity(count)
        for _ in 0..<count {
            let length = try reader.integer(as: Int32.self)
            guard length >= -1 else { throw WireError("invalid argument size \(length) in function call message") }
            arguments.append(length == -1 ? nil : try reader.bytes(Int(length)))
        }
        resultFormat = try reader.format()
    }
}
