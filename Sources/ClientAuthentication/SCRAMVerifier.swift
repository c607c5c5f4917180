import Crypto

/// What a server keeps instead of a password, for SCRAM-SHA-256 (RFC 5802 §3, RFC 7677).
///
/// Its text is that of `pg_authid.rolpassword`, so verifiers can be taken over from a PostgreSQL server and back:
/// `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`.
public struct SCRAMVerifier: Hashable, Sendable {
    /// PostgreSQL's `SCRAM_SHA_256_DEFAULT_ITERATIONS`, the least that RFC 7677 §4 allows.
    public static let defaultIterations = 4_096
    /// PostgreSQL's `SCRAM_DEFAULT_SALT_LEN`, in bytes.
    public static let saltLength = 16

    public let iterations: Int
    public let salt: [UInt8]
    /// H(ClientKey): what a proof is checked against.
    let storedKey: [UInt8]
    /// What the server proves with that it knows the verifier.
    let serverKey: [UInt8]

    init(iterations: Int, salt: [UInt8], storedKey: [UInt8], serverKey: [UInt8]) {
        self.iterations = iterations
        self.salt = salt
        self.storedKey = storedKey
        self.serverKey = serverKey
    }

    /// Makes the verifier of a password. Takes some milliseconds of processor time on purpose.
    ///
    /// `salt` is the caller's, from a good source of chance: ``saltLength`` bytes.
    public init(password: String, salt: [UInt8], iterations: Int = SCRAMVerifier.defaultIterations) {
        precondition(iterations > 0 && !salt.isEmpty, "\(iterations) iterations, \(salt.count) bytes of salt")
        let salted = SCRAMVerifier.saltedPassword(SASLPrep.bytes(of: password), salt: salt, iterations: iterations)
        let clientKey = SCRAMVerifier.hmac(salted, over: Array("Client Key".utf8))
        self.init(
            iterations: iterations, salt: salt, storedKey: Array(SHA256.hash(data: clientKey)),
            serverKey: SCRAMVerifier.hmac(salted, over: Array("Server Key".utf8)))
    }

    /// Reads a verifier as `pg_authid.rolpassword` has it; nil when the text is none.
    public init?(_ text: String) {
        let parts = text.split(separator: "$", omittingEmptySubsequences: false)
        guard parts.count == 3, parts[0] == SCRAMServer.Mechanism.sha256.rawValue else { return nil }
        let cost = parts[1].split(separator: ":", omittingEmptySubsequences: false)
        let keys = parts[2].split(separator: ":", omittingEmptySubsequences: false)
        guard cost.count == 2, keys.count == 2, let iterations = Int32(cost[0]), iterations > 0,
            let salt = [UInt8](base64: cost[1]), !salt.isEmpty,
            let storedKey = [UInt8](base64: keys[0]), storedKey.count == SHA256.byteCount,
            let serverKey = [UInt8](base64: keys[1]), serverKey.count == SHA256.byteCount
        else { return nil }
        self.init(iterations: Int(iterations), salt: salt, storedKey: storedKey, serverKey: serverKey)
    }

    /// The verifier as `pg_authid.rolpassword` has it. Who knows it can pass for the server: keep it like a password.
    public var text: String {
        "\(SCRAMServer.Mechanism.sha256.rawValue)$\(iterations):\(salt.base64)$\(storedKey.base64):\(serverKey.base64)"
    }

    // MARK: The functions of RFC 5802 §2.2

    /// `Hi`: PBKDF2 with HMAC-SHA-256 and one block of output.
    static func saltedPassword(_ password: [UInt8], salt: [UInt8], iterations: Int) -> [UInt8] {
        // Holds the hashed key, which every iteration begins with.
        let keyed = HMAC<SHA256>(key: SymmetricKey(data: password))
        var result = [UInt8](repeating: 0, count: SHA256.byteCount)
        var block = salt + [0, 0, 0, 1]
        for _ in 0..<iterations {
            var code = keyed
            code.update(data: block)
            block = Array(code.finalize())
            for index in result.indices { result[index] ^= block[index] }
        }
        return result
    }

    static func hmac(_ key: [UInt8], over bytes: [UInt8]) -> [UInt8] {
        Array(HMAC<SHA256>.authenticationCode(for: bytes, using: SymmetricKey(data: key)))
    }
}

extension SCRAMVerifier: CustomStringConvertible, CustomDebugStringConvertible, CustomReflectable {
    /// Without the keys, which are secrets.
    public var description: String { "SCRAM-SHA-256 verifier of \(iterations) iterations" }
    public var debugDescription: String { description }
    public var customMirror: Mirror { Mirror(self, children: []) }
}
