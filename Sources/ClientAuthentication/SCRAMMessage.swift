/// Reads the attributes of a client's SCRAM message one by one, with PostgreSQL's errors (auth-scram.c).
struct SCRAMReader {
    private let bytes: [UInt8]
    /// Where the next attribute begins.
    private(set) var position = 0

    init(_ bytes: [UInt8]) throws(AuthenticationError) {
        if bytes.isEmpty { throw .malformed("The message is empty.") }
        if bytes.contains(0) { throw .malformed("Message length does not match input length.") }
        self.bytes = bytes
    }

    var isAtEnd: Bool { position == bytes.count }

    /// The byte that comes next; zero at the end, as in C.
    var next: UInt8 { isAtEnd ? 0 : bytes[position] }

    /// The bytes from `start` up to where the next attribute begins, without a comma before it.
    func bytes(from start: Int, to end: Int) -> [UInt8] { Array(bytes[start..<end]) }

    /// All that has not been read.
    var rest: [UInt8] { Array(bytes[position...]) }

    mutating func skip() { position += 1 }

    mutating func comma() throws(AuthenticationError) {
        guard next == UInt8(ascii: ",") else {
            throw .malformed("Comma expected, but found character \"\(shown(next))\".")
        }
        skip()
    }

    /// The value of the next attribute, which must be this one; a comma after it is skipped.
    mutating func value(of name: Unicode.Scalar) throws(AuthenticationError) -> [UInt8] {
        guard next == UInt8(ascii: name) else {
            throw .malformed("Expected attribute \"\(name)\" but found \"\(shown(next))\".")
        }
        return try value()
    }

    /// The next attribute, whichever it is.
    mutating func attribute() throws(AuthenticationError) -> (name: Unicode.Scalar, value: [UInt8]) {
        if isAtEnd { throw .malformed("Attribute expected, but found end of string.") }
        let name = Unicode.Scalar(next)
        guard ("A"..."Z").contains(name) || ("a"..."z").contains(name) else {
            throw .malformed("Attribute expected, but found invalid character \"\(shown(next))\".")
        }
        return (name, try value())
    }

    /// What stands behind the name, which is not looked at, and its `=`.
    private mutating func value() throws(AuthenticationError) -> [UInt8] {
        let name = Unicode.Scalar(next)
        skip()
        guard next == UInt8(ascii: "=") else { throw .malformed("Expected character \"=\" for attribute \"\(name)\".") }
        skip()
        let value = Array(bytes[position...].prefix { $0 != UInt8(ascii: ",") })
        position += value.count
        if !isAtEnd { skip() }
        return value
    }
}

/// A byte for an error message, such that nothing but visible ASCII gets into it.
func shown(_ byte: UInt8) -> String {
    if isVisible(byte) { return "'\(Unicode.Scalar(byte))'" }
    let digits = String(byte, radix: 16)
    return digits.utf8.count < 2 ? "0x0\(digits)" : "0x\(digits)"
}

/// A text for an error message: its first bytes, with a question mark for what is not visible ASCII.
func shown(_ bytes: [UInt8]) -> String {
    String(decoding: bytes.prefix(30).map { isVisible($0) ? $0 : UInt8(ascii: "?") }, as: UTF8.self)
}

private func isVisible(_ byte: UInt8) -> Bool { (0x21...0x7E).contains(byte) }

/// What a client says first (RFC 5802 §7, `client-first-message`).
struct ClientFirstMessage: Hashable, Sendable {
    /// What the client thinks of channel binding.
    enum BindingFlag: Hashable, Sendable {
        /// `n`: it has none, or wants none.
        case notSupported
        /// `y`: it has, and thinks that the server has none.
        case notOffered
        /// `p`: it uses it.
        case used
    }

    let binding: BindingFlag
    /// `client-first-message-bare`.
    let bare: [UInt8]
    let nonce: [UInt8]

    /// `certificateHash` says that channel binding was offered.
    init(
        _ bytes: [UInt8], mechanism: SCRAMServer.Mechanism, isBindingOffered: Bool
    ) throws(AuthenticationError) {
        var reader = try SCRAMReader(bytes)
        binding = try ClientFirstMessage.bindingFlag(&reader, mechanism, isBindingOffered)
        if reader.next == UInt8(ascii: "a") {
            throw AuthenticationError(
                .featureNotSupported, "client uses authorization identity, but it is not supported")
        }
        guard reader.next == UInt8(ascii: ",") else {
            throw .malformed("Unexpected attribute \"\(shown(reader.next))\" in client-first-message.")
        }
        reader.skip()
        bare = reader.rest
        if reader.next == UInt8(ascii: "m") {
            throw AuthenticationError(.featureNotSupported, "client requires an unsupported SCRAM extension")
        }
        // The user is the startup message's; this name is not looked at.
        _ = try reader.value(of: "n")
        nonce = try reader.value(of: "r")
        guard nonce.allSatisfy({ (0x21...0x7E).contains($0) }) else {
            throw AuthenticationError(.protocolViolation, "non-printable characters in SCRAM nonce")
        }
        while !reader.isAtEnd { _ = try reader.attribute() }
    }

    /// Reads the flag and the comma behind it.
    private static func bindingFlag(
        _ reader: inout SCRAMReader, _ mechanism: SCRAMServer.Mechanism, _ isBindingOffered: Bool
    ) throws(AuthenticationError) -> BindingFlag {
        switch reader.next {
        case UInt8(ascii: "n"), UInt8(ascii: "y"):
            let flag: BindingFlag = reader.next == UInt8(ascii: "n") ? .notSupported : .notOffered
            guard mechanism == .sha256 else {
                throw .malformed(
                    "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel "
                        + "binding data.")
            }
            // Somebody in between may have taken the offer away (RFC 5802 §6).
            guard flag == .notSupported || !isBindingOffered else {
                throw AuthenticationError(
                    .invalidAuthorizationSpecification, "SCRAM channel binding negotiation error",
                    detail: "The client supports SCRAM channel binding but thinks the server does not.  "
                        + "However, this server does support channel binding.")
            }
            reader.skip()
            try reader.comma()
            return flag
        case UInt8(ascii: "p"):
            guard mechanism == .sha256Plus else {
                throw .malformed(
                    "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes "
                        + "channel binding data.")
            }
            let type = try reader.value(of: "p")
            guard type == Array(ChannelBinding.type.utf8) else {
                throw AuthenticationError(
                    .protocolViolation, "unsupported SCRAM channel-binding type \"\(shown(type))\"")
            }
            return .used
        default:
            throw .malformed("Unexpected channel-binding flag \"\(shown(reader.next))\".")
        }
    }
}

/// What a client says last (RFC 5802 §7, `client-final-message`).
struct ClientFinalMessage: Hashable, Sendable {
    let nonce: [UInt8]
    let proof: [UInt8]
    /// `client-final-message-without-proof`.
    let withoutProof: [UInt8]

    init(
        _ bytes: [UInt8], binding: ClientFirstMessage.BindingFlag, certificateHash: [UInt8]?
    ) throws(AuthenticationError) {
        var reader = try SCRAMReader(bytes)
        try ChannelBinding.check(try reader.value(of: "c"), binding, certificateHash)
        nonce = try reader.value(of: "r")
        var end: Int
        var attribute: (name: Unicode.Scalar, value: [UInt8])
        repeat {
            // The comma before an attribute is no part of what comes before it.
            end = reader.position - 1
            attribute = try reader.attribute()
        } while attribute.name != "p"
        guard let proof = [UInt8](base64: String(decoding: attribute.value, as: UTF8.self)), proof.count == 32 else {
            throw .malformed("Malformed proof in client-final-message.")
        }
        guard reader.isAtEnd else { throw .malformed("Garbage found at the end of client-final-message.") }
        self.proof = proof
        withoutProof = reader.bytes(from: 0, to: end)
    }
}

/// Channel binding by the server's certificate (RFC 5929 §4).
enum ChannelBinding {
    static let type = "tls-server-end-point"

    /// Whether the client saw the certificate that this server showed, and began the exchange as it now says it did.
    static func check(
        _ value: [UInt8], _ flag: ClientFirstMessage.BindingFlag, _ certificateHash: [UInt8]?
    ) throws(AuthenticationError) {
        switch flag {
        case .notSupported, .notOffered:
            let header = flag == .notSupported ? "n,," : "y,,"
            guard value == Array(header.utf8.base64.utf8) else {
                throw AuthenticationError(
                    .protocolViolation, "unexpected SCRAM channel-binding attribute in client-final-message")
            }
        case .used:
            let expected = Array("p=\(type),,".utf8) + (certificateHash ?? [])
            guard value == Array(expected.base64.utf8) else {
                throw AuthenticationError(
                    .invalidAuthorizationSpecification, "SCRAM channel binding check failed")
            }
        }
    }
}
