import Crypto

/// What a server keeps instead of a password for the method `md5`: `md5` and the digest of password and user, as
/// `pg_authid.rolpassword` has it.
///
/// MD5 is broken, and who knows the verifier can log in with it: it is here for clients that speak nothing else.
public struct MD5Verifier: Hashable, Sendable {
    /// The digest's 32 digits.
    private let digest: [UInt8]

    /// Makes the verifier of a user's password.
    public init(password: String, user: String) {
        digest = MD5Verifier.digits(Array(password.utf8) + Array(user.utf8))
    }

    /// Reads a verifier as `pg_authid.rolpassword` has it; nil when the text is none.
    public init?(_ text: String) {
        let bytes = Array(text.utf8)
        guard bytes.count == 35, bytes.starts(with: "md5".utf8),
            bytes.dropFirst(3).allSatisfy({ (0x30...0x39).contains($0) || (0x61...0x66).contains($0) })
        else { return nil }
        digest = Array(bytes.dropFirst(3))
    }

    /// The verifier as `pg_authid.rolpassword` has it. Who knows it can log in: keep it like a password.
    public var text: String { "md5" + String(decoding: digest, as: UTF8.self) }

    /// What a client that knows the password answers to AuthenticationMD5Password.
    public func response(salt: UInt32) -> String {
        let saltBytes = (0..<4).map { UInt8(truncatingIfNeeded: salt >> (24 - 8 * $0)) }
        return "md5" + String(decoding: MD5Verifier.digits(digest + saltBytes), as: UTF8.self)
    }

    /// Whether the client's answer to AuthenticationMD5Password with this salt is right.
    public func accepts(_ response: some Collection<UInt8>, salt: UInt32) -> Bool {
        isEqualInConstantTime(response, self.response(salt: salt).utf8)
    }

    private static func digits(_ bytes: [UInt8]) -> [UInt8] {
        let hexadecimal = Array("0123456789abcdef".utf8)
        return Insecure.MD5.hash(data: bytes).flatMap { [hexadecimal[Int($0 >> 4)], hexadecimal[Int($0 & 15)]] }
    }
}

extension MD5Verifier: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// Without the digest, which is a secret.
    public var description: String { "md5 verifier" }
    public var debugDescription: String { description }
    public var customMirror: Mirror { Mirror(self, children: []) }
}

/// What a server keeps instead of a password, of either kind.
public enum PasswordVerifier: Hashable, Sendable {
    case scram(SCRAMVerifier)
    case md5(MD5Verifier)

    /// Reads a verifier as `pg_authid.rolpassword` has it; nil when the text is none, such as a password itself.
    public init?(_ text: String) {
        if let verifier = SCRAMVerifier(text) {
            self = .scram(verifier)
        } else if let verifier = MD5Verifier(text) {
            self = .md5(verifier)
        } else {
            return nil
        }
    }

    /// The verifier as `pg_authid.rolpassword` has it.
    public var text: String {
        switch self {
        case .scram(let verifier): verifier.text
        case .md5(let verifier): verifier.text
        }
    }
}
