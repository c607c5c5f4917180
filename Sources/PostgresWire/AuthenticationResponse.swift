import NIOCore
import TransactionCore

/// A password, or the digest of one: a ``FrontendFrame/Kind/authenticationResponse`` to AuthenticationMD5Password or
/// AuthenticationCleartextPassword.
public struct PasswordResponse: Hashable, Sendable {
    /// A slice of the message, without the NUL at its end.
    public let password: ByteBuffer

    /// Every error ends the connection.
    public init(_ body: ByteBuffer) throws(WireError) {
        var body = body
        let length = body.readableBytes - 1
        let view = body.readableBytesView
        guard length >= 0, view.firstIndex(of: 0) == view.startIndex + length,
            let password = body.readSlice(length: length)
        else { throw WireError("invalid password packet size", consequence: .endsConnection) }
        if length == 0 {
            throw WireError(
                .invalidPassword, "empty password returned by client", consequence: .endsConnection)
        }
        self.password = password
    }

    /// The body of the message for a password.
    public static func body(_ password: String) -> ByteBuffer {
        var body = ByteBuffer()
        body.writeText(password)
        return body
    }
}

/// A client's choice of a mechanism: the first ``FrontendFrame/Kind/authenticationResponse`` to AuthenticationSASL.
/// The ones that follow are the mechanism's own, and have no frame of their own.
public struct SASLInitialResponse: Hashable, Sendable {
    public let mechanism: String
    /// A slice of the message; nil when the client waits for an empty challenge first.
    public let response: ByteBuffer?

    public init(mechanism: String, response: ByteBuffer?) {
        self.mechanism = mechanism
        self.response = response
    }

    /// Every error ends the connection.
    public init(_ body: ByteBuffer) throws(WireError) {
        var reader = MessageReader(body)
        do {
            mechanism = try reader.string()
            response = try reader.value()
            try reader.end()
        } catch {
            throw error.asFatal
        }
    }

    /// The body of the message.
    public var body: ByteBuffer {
        var body = ByteBuffer()
        body.writeText(mechanism)
        body.writeValue(response)
        return body
    }
}
