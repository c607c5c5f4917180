import NIOCore

/// One message of a client, cut out of the stream but not looked into.
///
/// Two steps, because PostgreSQL has two: a frame that is wrong ends the connection, while what is wrong inside one
/// fails that message only, and what a session skips (after an error, up to Sync) is never looked into.
public struct FrontendFrame: Hashable, Sendable {
    /// The message's type; the raw value is its letter.
    public enum Kind: UInt8, CaseIterable, Sendable {
        case bind = 0x42
        case close = 0x43
        case describe = 0x44
        case execute = 0x45
        case functionCall = 0x46
        case flush = 0x48
        case parse = 0x50
        case query = 0x51
        case sync = 0x53
        case terminate = 0x58
        case copyDone = 0x63
        case copyData = 0x64
        case copyFail = 0x66
        /// PasswordMessage, SASLInitialResponse or SASLResponse: which one, only the authentication under way knows.
        case authenticationResponse = 0x70

        /// An error in such a message has everything up to the next Sync skipped: those of the extended protocol.
        public var skipsToSync: Bool {
            switch self {
            case .bind, .close, .describe, .execute, .flush, .parse: true
            case .authenticationResponse, .copyData, .copyDone, .copyFail, .functionCall, .query, .sync, .terminate:
                false
            }
        }

        /// The most that the length word of such a message in a session may say.
        var lengthMax: Int {
            switch self {
            case .bind, .copyData, .functionCall, .parse, .query: FrontendDecoder.largeLengthMax
            case .close, .copyDone, .copyFail, .describe, .execute, .flush, .sync, .terminate:
                FrontendDecoder.smallLengthMax
            case .authenticationResponse: FrontendDecoder.passwordLengthMax
            }
        }
    }

    public let kind: Kind
    /// What follows the length word: a slice of the buffer that the frame was read from.
    public let body: ByteBuffer

    /// How long the message is on the wire.
    public var byteCount: Int { body.readableBytes + 5 }

    public init(kind: Kind, body: ByteBuffer) {
        self.kind = kind
        self.body = body
    }
}

/// Cuts the messages that follow the startup packet out of what a client sent.
///
/// A value without a buffer of its own: the owner gathers what arrives, asks for frames until there is none, and says
/// which phase the connection is in. A length is believed only as far as a limit, and nothing is allocated by it.
public struct FrontendDecoder: Hashable, Sendable {
    /// What the client may send now.
    public enum Phase: Hashable, Sendable {
        /// A PasswordMessage.
        case password
        /// A SASLInitialResponse or SASLResponse.
        case sasl
        /// Everything but the above.
        case session
    }

    /// `PQ_LARGE_MESSAGE_LIMIT`, PostgreSQL's largest allocation less one.
    public static let largeLengthMax = 0x3FFF_FFFE
    /// `PQ_SMALL_MESSAGE_LIMIT`.
    public static let smallLengthMax = 10_000
    /// `PG_MAX_AUTH_TOKEN_LENGTH`.
    public static let passwordLengthMax = 65_535
    /// `PG_MAX_SASL_MESSAGE_LENGTH`.
    public static let saslLengthMax = 1_024

    public var phase: Phase
    /// The operator's limit on the length word of a session's messages, for less than PostgreSQL would take.
    public let lengthMax: Int

    public init(phase: Phase, lengthMax: Int = FrontendDecoder.largeLengthMax) {
        precondition(
            (FrontendDecoder.smallLengthMax...FrontendDecoder.largeLengthMax).contains(lengthMax),
            "a limit of \(lengthMax) bytes is outside \(FrontendDecoder.smallLengthMax)"
                + " to \(FrontendDecoder.largeLengthMax)")
        self.phase = phase
        self.lengthMax = lengthMax
    }

    /// Takes the next frame off `buffer`; nil, and nothing taken, when it is not all there yet.
    ///
    /// Every error ends the connection. It is thrown as soon as the bytes that it is about are there, and leaves the
    /// buffer as it is.
    public func nextFrame(from buffer: inout ByteBuffer) throws(WireError) -> FrontendFrame? {
        let start = buffer.readerIndex
        guard let type = buffer.getInteger(at: start, as: UInt8.self) else { return nil }
        let kind = try checkedKind(type)
        guard let length = buffer.getInteger(at: start + 1, as: UInt32.self) else { return nil }
        try check(length: Int(length), of: kind)
        guard buffer.readableBytes > Int(length) else { return nil }
        buffer.moveReaderIndex(forwardBy: 5)
        return buffer.readSlice(length: Int(length) - 4).map { FrontendFrame(kind: kind, body: $0) }
    }

    private func checkedKind(_ type: UInt8) throws(WireError) -> FrontendFrame.Kind {
        let kind = FrontendFrame.Kind(rawValue: type)
        switch phase {
        case .password where kind != .authenticationResponse:
            throw WireError("expected password response, got message type \(type)", consequence: .endsConnection)
        case .sasl where kind != .authenticationResponse:
            throw WireError("expected SASL response, got message type \(type)", consequence: .endsConnection)
        case .session where kind == .authenticationResponse:
            throw .invalidFrontendMessageType(type)
        case .password, .sasl, .session:
            guard let kind else { throw .invalidFrontendMessageType(type) }
            return kind
        }
    }

    private func check(length: Int, of kind: FrontendFrame.Kind) throws(WireError) {
        let protocolMax = phase == .sasl ? FrontendDecoder.saslLengthMax : kind.lengthMax
        guard (4...protocolMax).contains(length) else { throw .invalidLength }
        guard phase != .session || length <= lengthMax else {
            throw WireError(
                .configurationLimitExceeded, "message is too long",
                detail: "it has \(length) bytes, the limit is \(lengthMax)",
                hint: "send less at once, or raise the limit", consequence: .endsConnection)
        }
    }
}
