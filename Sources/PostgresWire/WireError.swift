import TransactionCore

/// Bytes that are not what the protocol says they should be, in the words PostgreSQL has for it.
///
/// Codes, messages and what becomes of the connection are those of PostgreSQL 15 (pqcomm.c, pqformat.c, postgres.c,
/// postmaster.c), which drivers and their tests know.
public struct WireError: Error, Hashable, Sendable {
    /// What becomes of the connection.
    public enum Consequence: Hashable, Sendable {
        /// An ERROR: the message was framed well and has been read, so the next one can be. After a message of the
        /// extended protocol everything up to the next Sync is skipped (``FrontendFrame/Kind/skipsToSync``).
        case failsMessage
        /// A FATAL: it is sent, and the connection is closed.
        case endsConnection
        /// Nothing is sent, since nobody knows what the other side would take it for: the error goes to the log, and
        /// the connection is closed.
        case endsConnectionSilently
    }

    public var sqlState: SQLState
    public var message: String
    public var detail: String?
    public var hint: String?
    public var consequence: Consequence

    /// Makes an error; by default one that fails one message.
    public init(
        _ sqlState: SQLState, _ message: String, detail: String? = nil, hint: String? = nil,
        consequence: Consequence = .failsMessage
    ) {
        self.sqlState = sqlState
        self.message = message
        self.detail = detail
        self.hint = hint
        self.consequence = consequence
    }

    /// Makes a violation of the protocol.
    public init(_ message: String, detail: String? = nil, consequence: Consequence = .failsMessage) {
        self.init(.protocolViolation, message, detail: detail, consequence: consequence)
    }

    /// The connection ends with this error.
    public var isFatal: Bool { consequence != .failsMessage }

    /// The same error where every error ends the connection: before the session has begun.
    public var asFatal: WireError {
        var error = self
        if consequence == .failsMessage { error.consequence = .endsConnection }
        return error
    }
}

extension WireError: CustomStringConvertible {
    public var description: String {
        [
            "\(sqlState): \(message)", detail.map { "DETAIL:  \($0)" }, hint.map { "HINT:  \($0)" },
        ].compactMap(\.self).joined(separator: "\n")
    }
}

/// Errors that this module's decoders throw, or that a session throws for what it alone can see.
extension WireError {
    static let noDataLeft = WireError("no data left in message")
    static let insufficientData = WireError("insufficient data left in message")
    static let invalidString = WireError("invalid string in message")
    static let invalidFormat = WireError("invalid message format")

    static let invalidStartupLength = WireError(
        "invalid length of startup packet", consequence: .endsConnectionSilently)
    static let invalidStartupLayout = WireError(
        "invalid startup packet layout: expected terminator as last byte", consequence: .endsConnection)
    static let invalidLength = WireError("invalid message length", consequence: .endsConnectionSilently)

    static func unknownFormat(_ code: Int16) -> WireError {
        WireError(.invalidParameterValue, "unsupported format code: \(code)")
    }

    /// A message of a type that does not exist, or that has no place in a session.
    public static func invalidFrontendMessageType(_ type: UInt8) -> WireError {
        WireError("invalid frontend message type \(type)", consequence: .endsConnection)
    }

    /// A message other than CopyData, CopyDone, CopyFail, Flush and Sync while the client copies in. A session of
    /// PostgreSQL ends with ``lostSynchronisation`` after it.
    public static func unexpectedDuringCopy(_ kind: FrontendFrame.Kind) -> WireError {
        let type = String(kind.rawValue, radix: 16, uppercase: true)
        return WireError("unexpected message type 0x\(type) during COPY from stdin")
    }

    /// The session no longer knows where it is in the stream of messages.
    public static let lostSynchronisation = WireError(
        "terminating connection because protocol synchronization was lost", consequence: .endsConnection)

    /// Bytes came with or right after an SSLRequest, before TLS began: what an attacker in between would inject.
    public static let unencryptedDataAfterSSLRequest = WireError(
        "received unencrypted data after SSL request",
        detail: "This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.",
        consequence: .endsConnection)

    /// The client chose no mechanism that it was offered.
    public static let invalidMechanism = WireError(
        "client selected an invalid SASL authentication mechanism", consequence: .endsConnection)
}
