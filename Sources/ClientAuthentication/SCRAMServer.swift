import Crypto
import TransactionCore

/// The server's side of one SCRAM-SHA-256 exchange (RFC 5802 §3, RFC 7677), saying what PostgreSQL says.
///
/// A value without I/O or chance: the nonce is handed in, each input is what the client sent, each result what to
/// answer. A user without a verifier goes through the same exchange and fails at its end, so that nobody learns who
/// exists. The exchange is over with the first error.
public struct SCRAMServer: Sendable {
    /// What the client may choose from; the raw value is the mechanism's name.
    public enum Mechanism: String, Hashable, Sendable, CaseIterable {
        /// With channel binding: only where there is TLS.
        case sha256Plus = "SCRAM-SHA-256-PLUS"
        case sha256 = "SCRAM-SHA-256"
    }

    /// What to send.
    public enum Action: Hashable, Sendable {
        /// In an AuthenticationSASLContinue; the exchange goes on.
        case challenge([UInt8])
        /// In an AuthenticationSASLFinal, and AuthenticationOk after it: the client has proved that it knows the
        /// password.
        case authenticated([UInt8])
    }

    /// Where the exchange stands; each case says what the client is to send.
    private enum State: Hashable {
        /// Its choice of a mechanism. Next: `challenged`, or `chosen` when it sent nothing with it.
        case offered
        /// Its first message.
        case chosen(Mechanism)
        /// Its last message.
        case challenged(ClientFirstMessage, serverFirst: [UInt8])
        case finished
    }

    private let user: String
    private let verifier: SCRAMVerifier
    /// No password will do.
    private let isDoomed: Bool
    private let certificateHash: [UInt8]?
    private let nonce: [UInt8]
    private var state = State.offered

    /// Makes the server's side of an exchange with `user`.
    ///
    /// - Parameters:
    ///   - verifier: the user's, nil when there is no such user or it has none.
    ///   - mockSecret: what the salts of users without a verifier are made of. The same for all nodes and for a long
    ///     time, and unknown outside: else a salt that changes, or can be foretold, tells that there is no such user.
    ///   - certificateHash: of the certificate that this server showed to the client, by the hash function of the
    ///     certificate's signature, SHA-256 in place of MD5 and SHA-1 (RFC 5929 §4.1); nil without TLS.
    ///   - nonce: visible ASCII without a comma, never used before; ``nonce(of:)`` makes it.
    public init(
        user: String, verifier: SCRAMVerifier?, mockSecret: [UInt8], certificateHash: [UInt8]?, nonce: String
    ) {
        precondition(
            !nonce.isEmpty && nonce.utf8.allSatisfy { (0x21...0x7E).contains($0) && $0 != UInt8(ascii: ",") },
            "a nonce of \(nonce.utf8.count) bytes that are not all visible ASCII without a comma")
        self.user = user
        self.verifier = verifier ?? SCRAMServer.mockVerifier(user: user, secret: mockSecret)
        self.isDoomed = verifier == nil
        self.certificateHash = certificateHash
        self.nonce = Array(nonce.utf8)
    }

    /// How many bytes of chance a nonce has: PostgreSQL's `SCRAM_RAW_NONCE_LEN`.
    public static let nonceLength = 18

    /// The nonce that stands for these bytes, which the caller has from a good source of chance.
    public static func nonce(of bytes: [UInt8]) -> String { bytes.base64 }

    /// What to offer in AuthenticationSASL, the preferred first.
    public var mechanisms: [Mechanism] { certificateHash == nil ? [.sha256] : [.sha256Plus, .sha256] }

    // MARK: Inputs

    /// The client chose a mechanism, and may have sent its first message with it.
    public mutating func mechanismChosen(
        _ name: String, response: [UInt8]?
    ) throws(AuthenticationError) -> Action {
        guard state == .offered else { throw outOfTurn() }
        guard let mechanism = Mechanism(rawValue: name), mechanisms.contains(mechanism) else {
            state = .finished
            throw AuthenticationError(
                .protocolViolation, "client selected an invalid SASL authentication mechanism")
        }
        state = .chosen(mechanism)
        guard let response else { return .challenge([]) }
        return try responseReceived(response)
    }

    /// The client answered.
    public mutating func responseReceived(_ response: [UInt8]) throws(AuthenticationError) -> Action {
        let before = state
        // Holds when what follows throws.
        state = .finished
        switch before {
        case .chosen(let mechanism):
            let first = try ClientFirstMessage(
                response, mechanism: mechanism, isBindingOffered: certificateHash != nil)
            let challenge = serverFirst(first)
            state = .challenged(first, serverFirst: challenge)
            return .challenge(challenge)
        case .challenged(let first, let serverFirst):
            return try finish(response, first, serverFirst)
        case .offered, .finished:
            throw outOfTurn()
        }
    }

    // MARK: Private

    private func serverFirst(_ first: ClientFirstMessage) -> [UInt8] {
        Array("r=".utf8) + first.nonce + nonce + Array(",s=\(verifier.salt.base64),i=\(verifier.iterations)".utf8)
    }

    private func finish(
        _ response: [UInt8], _ first: ClientFirstMessage, _ serverFirst: [UInt8]
    ) throws(AuthenticationError) -> Action {
        let final = try ClientFinalMessage(
            response, binding: first.binding, certificateHash: certificateHash)
        guard final.nonce == first.nonce + nonce else {
            throw AuthenticationError(.protocolViolation, "invalid SCRAM response", detail: "Nonce does not match.")
        }
        let comma = [UInt8(ascii: ",")]
        let transcript = first.bare + comma + serverFirst + comma + final.withoutProof
        // Computed for a user without a verifier too: how long it takes tells nothing.
        let isProved = isProof(final.proof, over: transcript)
        guard isProved && !isDoomed else {
            throw .passwordFailed(
                user: user, logDetail: isDoomed ? "user \"\(user)\" has no SCRAM verifier" : nil)
        }
        return .authenticated(Array("v=\(SCRAMVerifier.hmac(verifier.serverKey, over: transcript).base64)".utf8))
    }

    /// Whether the proof was made by somebody who knows a key of which ours is the hash (RFC 5802 §3).
    private func isProof(_ proof: [UInt8], over transcript: [UInt8]) -> Bool {
        let signature = SCRAMVerifier.hmac(verifier.storedKey, over: transcript)
        let clientKey = zip(proof, signature).map { $0 ^ $1 }
        return isEqualInConstantTime(Array(SHA256.hash(data: clientKey)), verifier.storedKey)
    }

    private func outOfTurn() -> AuthenticationError {
        AuthenticationError(.internalError, "invalid SCRAM exchange state")
    }

    /// A verifier that no password fits, whose salt is the same whenever this user is asked for.
    private static func mockVerifier(user: String, secret: [UInt8]) -> SCRAMVerifier {
        let salt = SHA256.hash(data: Array(user.utf8) + secret).prefix(SCRAMVerifier.saltLength)
        let key = [UInt8](repeating: 0, count: SHA256.byteCount)
        return SCRAMVerifier(
            iterations: SCRAMVerifier.defaultIterations, salt: Array(salt), storedKey: key, serverKey: key)
    }
}
