import ClientAuthentication
import Foundation
import Testing
import TransactionCore

private let mockSecret = [UInt8](repeating: 42, count: 32)
private let certificateHash = Array("a certificate's hash".utf8)
private let verifier = SCRAMVerifier(password: "pencil", salt: Array("0123456789abcdef".utf8), iterations: 3)
private let failed = AuthenticationError.passwordFailed(user: "alice")

private func makeServer(
    user: String = "alice", verifier: SCRAMVerifier? = verifier, certificateHash: [UInt8]? = nil,
    nonce: String = "servernonce"
) -> SCRAMServer {
    SCRAMServer(
        user: user, verifier: verifier, mockSecret: mockSecret, certificateHash: certificateHash, nonce: nonce)
}

/// What the challenge says.
private func challenge(_ action: SCRAMServer.Action) -> String {
    guard case .challenge(let bytes) = action else { return "\(action)" }
    return bytes.text
}

/// The whole exchange; the server's last message when it lets the client in.
private func exchange(
    _ client: SimulatedClient, _ server: SCRAMServer, mechanism: SCRAMServer.Mechanism = .sha256,
    tampering: (String) -> String = { $0 }
) throws(AuthenticationError) -> (serverFinal: SCRAMServer.Action, expected: String) {
    var server = server
    let serverFirst = challenge(
        try server.mechanismChosen(mechanism.rawValue, response: Array(client.first.utf8)))
    let final = client.final(after: serverFirst)
    return (try server.responseReceived(Array(tampering(final.message).utf8)), final.serverFinal)
}

/// The error that the first message ends with.
private func firstError(
    _ message: [UInt8], _ mechanism: String = "SCRAM-SHA-256", certificateHash: [UInt8]? = nil
) -> AuthenticationError? {
    var server = makeServer(certificateHash: certificateHash)
    do throws(AuthenticationError) {
        _ = try server.mechanismChosen(mechanism, response: message)
        return nil
    } catch {
        return error
    }
}

/// The error that the last message ends with.
private func finalError(_ message: [UInt8], first: String = "n,,n=,r=abc") -> AuthenticationError? {
    var server = makeServer()
    do throws(AuthenticationError) {
        _ = try server.mechanismChosen("SCRAM-SHA-256", response: Array(first.utf8))
        _ = try server.responseReceived(message)
        return nil
    } catch {
        return error
    }
}

@Suite struct SCRAMServerTests {
    @Test("RFC 7677's example")
    func rfc7677() throws {
        let salt = try #require(Data(base64Encoded: "W22ZaJ0SNY7soEsUEjb6gQ=="))
        var server = makeServer(
            user: "user", verifier: SCRAMVerifier(password: "pencil", salt: Array(salt)),
            nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0")
        #expect(
            challenge(
                try server.mechanismChosen(
                    "SCRAM-SHA-256", response: Array("n,,n=user,r=rOprNGfwEbeRWgbNEkqO".utf8)))
                == "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096")
        let final =
            "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
            + "p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
        #expect(
            try server.responseReceived(Array(final.utf8))
                == .authenticated(Array("v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=".utf8)))
    }

    @Test("psql's exchange with PostgreSQL 15, as it was recorded")
    func recorded() throws {
        let salt = try #require(Data(base64Encoded: "zMKvHWY/ipngjQ495Z8MMA=="))
        var server = makeServer(
            user: "postgres", verifier: SCRAMVerifier(password: "pencil", salt: Array(salt)),
            nonce: "dKOjEXetPDlxt1sBjLvZB5vS")
        let nonces = "lzqdIplJQaPhxDrNvynSA4rldKOjEXetPDlxt1sBjLvZB5vS"
        #expect(
            challenge(
                try server.mechanismChosen(
                    "SCRAM-SHA-256", response: Array("n,,n=,r=lzqdIplJQaPhxDrNvynSA4rl".utf8)))
                == "r=\(nonces),s=zMKvHWY/ipngjQ495Z8MMA==,i=4096")
        let final = "c=biws,r=\(nonces),p=6/u36hlAdgCKrXd/benssOEJAzSHDloMC/LIF1SiLwc="
        #expect(
            try server.responseReceived(Array(final.utf8))
                == .authenticated(Array("v=LUXh0Zwt9te97QXbjyvSNvKiX5ONIx9IX5HB9g2EZPo=".utf8)))
    }

    @Test("a client that knows the password gets in, and the server proves itself", arguments: ["n,,", "y,,"])
    func success(header: String) throws {
        let client = SimulatedClient(password: "pencil", header: header)
        let (final, expected) = try exchange(client, makeServer())
        #expect(final == .authenticated(Array(expected.utf8)))
    }

    @Test("with TLS channel binding is offered first, and used or not as the client likes")
    func channelBinding() throws {
        let server = makeServer(certificateHash: certificateHash)
        #expect(server.mechanisms == [.sha256Plus, .sha256])
        #expect(makeServer().mechanisms == [.sha256])
        let bound = SimulatedClient(
            password: "pencil", header: "p=tls-server-end-point,,", certificateHash: certificateHash)
        let (final, expected) = try exchange(bound, server, mechanism: .sha256Plus)
        #expect(final == .authenticated(Array(expected.utf8)))
        let (unbound, unboundExpected) = try exchange(SimulatedClient(password: "pencil"), server)
        #expect(unbound == .authenticated(Array(unboundExpected.utf8)))
    }

    @Test("a client that saw another certificate is refused")
    func otherCertificate() {
        let client = SimulatedClient(
            password: "pencil", header: "p=tls-server-end-point,,", certificateHash: [1, 2, 3])
        #expect(
            throws: AuthenticationError(.invalidAuthorizationSpecification, "SCRAM channel binding check failed")
        ) { try exchange(client, makeServer(certificateHash: certificateHash), mechanism: .sha256Plus) }
    }

    @Test("a client that was made to believe that the server can't bind is refused")
    func downgrade() {
        #expect(
            firstError(Array("y,,n=,r=abc".utf8), certificateHash: certificateHash)
                == AuthenticationError(
                    .invalidAuthorizationSpecification, "SCRAM channel binding negotiation error",
                    detail: "The client supports SCRAM channel binding but thinks the server does not.  "
                        + "However, this server does support channel binding."))
    }

    @Test(
        "a header that was changed on the way shows in the last message", arguments: [("n,,", "y,,"), ("y,,", "n,,")])
    func changedHeader(sent: String, meant: String) {
        let client = SimulatedClient(password: "pencil", header: meant)
        var server = makeServer()
        #expect(
            throws: AuthenticationError(
                .protocolViolation, "unexpected SCRAM channel-binding attribute in client-final-message")
        ) {
            let first = try server.mechanismChosen(
                "SCRAM-SHA-256", response: Array((sent + client.first.dropFirst(3)).utf8))
            _ = try server.responseReceived(Array(client.final(after: challenge(first)).message.utf8))
        }
    }

    @Test("a wrong password and an unknown user end alike, with PostgreSQL's error")
    func wrongPassword() {
        #expect(throws: failed) { try exchange(SimulatedClient(password: "pencil "), makeServer()) }
        var unknown = failed
        unknown.logDetail = "user \"alice\" has no SCRAM verifier"
        #expect(throws: unknown) { try exchange(SimulatedClient(password: "pencil"), makeServer(verifier: nil)) }
        #expect("\(unknown)" == "\(failed)")
        #expect("\(failed)" == "28P01: password authentication failed for user \"alice\"")
    }

    @Test("an unknown user is shown the same salt every time, another than other users are")
    func mock() throws {
        func salt(_ user: String, secret: [UInt8] = mockSecret, nonce: String) throws -> String {
            var server = SCRAMServer(
                user: user, verifier: nil, mockSecret: secret, certificateHash: nil, nonce: nonce)
            let first = challenge(try server.mechanismChosen("SCRAM-SHA-256", response: Array("n,,n=,r=abc".utf8)))
            #expect(first.hasPrefix("r=abc\(nonce),s="))
            #expect(first.hasSuffix(",i=4096"))
            return String(first.split(separator: ",")[1].dropFirst(2))
        }
        let first = try salt("mallory", nonce: "x")
        #expect(Data(base64Encoded: first)?.count == SCRAMVerifier.saltLength)
        #expect(try salt("mallory", nonce: "y") == first)
        #expect(try salt("mallet", nonce: "x") != first)
        #expect(try salt("mallory", secret: [1], nonce: "x") != first)
    }

    @Test("a verifier of zeros, which the mock has, lets nobody in")
    func mockKeys() {
        // A proof that equals the signature makes a client key of zeros, of which the stored key would be the hash.
        let zeros = Data(repeating: 0, count: 32).base64EncodedString()
        #expect(throws: AuthenticationError.self) {
            try exchange(SimulatedClient(password: ""), makeServer(verifier: nil)) { message in
                String(message.split(separator: ",p=")[0]) + ",p=\(zeros)"
            }
        }
    }

    @Test("a client may wait for an empty challenge before its first message")
    func noInitialResponse() throws {
        var server = makeServer()
        #expect(try server.mechanismChosen("SCRAM-SHA-256", response: nil) == .challenge([]))
        let client = SimulatedClient(password: "pencil")
        let first = challenge(try server.responseReceived(Array(client.first.utf8)))
        let final = client.final(after: first)
        #expect(
            try server.responseReceived(Array(final.message.utf8)) == .authenticated(Array(final.serverFinal.utf8)))
    }

    @Test("extensions that are optional are ignored in both messages")
    func extensions() throws {
        var client = SimulatedClient(password: "pencil")
        client.nonce = "clientnonce,x=1"
        var server = makeServer()
        let first = challenge(try server.mechanismChosen("SCRAM-SHA-256", response: Array(client.first.utf8)))
        #expect(first.hasPrefix("r=clientnonceservernonce,"))
        // What follows is signed with the extensions in it.
        let message = client.final(after: first).message
        let isIn = (try? server.responseReceived(Array(message.utf8))) != nil
        #expect(isIn)
    }

    @Test("after an error or the end the exchange is over")
    func over() throws {
        var server = makeServer()
        let outOfTurn = AuthenticationError(.internalError, "invalid SCRAM exchange state")
        #expect(throws: outOfTurn) { try server.responseReceived([0x6E]) }
        #expect(throws: outOfTurn) { try server.mechanismChosen("SCRAM-SHA-256", response: nil) }
        server = makeServer()
        #expect(throws: AuthenticationError.self) { try server.mechanismChosen("SCRAM-SHA-256", response: [0x78]) }
        #expect(throws: outOfTurn) { try server.responseReceived(Array("n,,n=,r=abc".utf8)) }
    }

    @Test("one byte changed anywhere in the last message, or lost from it, lets nobody in")
    func tampered() throws {
        let client = SimulatedClient(password: "pencil")
        var server = makeServer()
        let first = challenge(try server.mechanismChosen("SCRAM-SHA-256", response: Array(client.first.utf8)))
        let message = Array(client.final(after: first).message.utf8)
        for index in message.indices {
            // Two bits of the last base64 digit before the padding stand for nothing.
            let changes: [UInt8] = index == message.count - 2 ? [0x08, 0x20, 0x80] : [1, 2, 0x20, 0x80]
            for change in changes {
                var (changed, attempt) = (message, server)
                changed[index] ^= change
                #expect(throws: AuthenticationError.self, "\(changed.text)") { try attempt.responseReceived(changed) }
            }
            var (shorter, attempt) = (message, server)
            shorter.remove(at: index)
            #expect(throws: AuthenticationError.self, "\(shorter.text)") { try attempt.responseReceived(shorter) }
            var cut = server
            #expect(throws: AuthenticationError.self) { try cut.responseReceived(Array(message.prefix(index))) }
        }
        #expect(try server.responseReceived(message) != .challenge([]))
    }

    @Test("a proof does not fit another exchange")
    func replay() throws {
        let client = SimulatedClient(password: "pencil")
        var first = makeServer(nonce: "one")
        let challenged = challenge(try first.mechanismChosen("SCRAM-SHA-256", response: Array(client.first.utf8)))
        let message = client.final(after: challenged).message
        _ = try first.responseReceived(Array(message.utf8))
        #expect(
            throws: AuthenticationError(
                .protocolViolation, "invalid SCRAM response", detail: "Nonce does not match.")
        ) { try exchange(client, makeServer(nonce: "two")) { _ in message } }
    }

    @Test("a nonce is the base64 of the caller's bytes")
    func nonce() {
        #expect(SCRAMServer.nonce(of: [UInt8](repeating: 0xFF, count: SCRAMServer.nonceLength)).count == 24)
        #expect(SCRAMServer.nonce(of: [0, 1, 2]) == "AAEC")
    }
}

/// What PostgreSQL 15 was seen to answer to the same bytes.
@Suite struct SCRAMErrorTests {
    @Test(
        "a mechanism that was not offered is refused", arguments: ["", "PLAIN", "SCRAM-SHA-256-PLUS", "scram-sha-256"])
    func mechanism(name: String) {
        #expect(
            firstError(Array("n,,n=,r=abc".utf8), name)
                == AuthenticationError(
                    .protocolViolation, "client selected an invalid SASL authentication mechanism"))
    }

    @Test(
        "a first message that is malformed is refused, saying what is wrong",
        arguments: [
            ("", "The message is empty."), ("n,,n=\0,r=a", "Message length does not match input length."),
            ("x,,n=,r=abc", "Unexpected channel-binding flag \"'x'\"."),
            ("\u{1}", "Unexpected channel-binding flag \"0x01\"."),
            ("n;", "Comma expected, but found character \"';'\"."),
            ("n", "Comma expected, but found character \"0x00\"."),
            ("n,x", "Unexpected attribute \"'x'\" in client-first-message."),
            ("n,,r=abc", "Expected attribute \"n\" but found \"'r'\"."),
            ("n,,n", "Expected character \"=\" for attribute \"n\"."),
            ("n,,n=a", "Expected attribute \"r\" but found \"0x00\"."),
            ("n,,n=,r=abc,1=2", "Attribute expected, but found invalid character \"'1'\"."),
            ("n,,n=,r=abc,x", "Expected character \"=\" for attribute \"x\"."),
            (
                "p=tls-server-end-point,,n=,r=abc",
                "The client selected SCRAM-SHA-256 without channel binding, but the SCRAM message includes channel "
                    + "binding data."
            ),
        ])
    func malformedFirst(message: String, detail: String) {
        #expect(
            firstError(Array(message.utf8))
                == AuthenticationError(.protocolViolation, "malformed SCRAM message", detail: detail))
    }

    @Test("a byte that is not ASCII is shown by its number")
    func notASCII() {
        #expect(firstError([0xFF])?.detail == "Unexpected channel-binding flag \"0xff\".")
    }

    @Test("what the protocol has but PostgreSQL does not do is refused by name")
    func unsupported() {
        #expect(
            firstError(Array("n,a=foo,n=,r=abc".utf8))
                == AuthenticationError(
                    .featureNotSupported, "client uses authorization identity, but it is not supported"))
        #expect(
            firstError(Array("n,,m=1,n=,r=a".utf8))
                == AuthenticationError(
                    .featureNotSupported, "client requires an unsupported SCRAM extension"))
        #expect(
            firstError(Array("n,,n=,r=a\u{1}".utf8))
                == AuthenticationError(.protocolViolation, "non-printable characters in SCRAM nonce"))
        #expect(
            firstError(
                Array("p=tls-uniq".utf8) + [0xFF] + Array("ue,,n=,r=a".utf8), "SCRAM-SHA-256-PLUS",
                certificateHash: certificateHash)
                == AuthenticationError(
                    .protocolViolation, "unsupported SCRAM channel-binding type \"tls-uniq?ue\""))
    }

    @Test("who chose channel binding must use it", arguments: ["n,,n=,r=abc", "y,,n=,r=abc"])
    func bindingMissing(message: String) {
        #expect(
            firstError(Array(message.utf8), "SCRAM-SHA-256-PLUS", certificateHash: certificateHash)
                == AuthenticationError(
                    .protocolViolation, "malformed SCRAM message",
                    detail: "The client selected SCRAM-SHA-256-PLUS, but the SCRAM message does not include channel "
                        + "binding data."))
    }

    @Test("an empty nonce and a comma at the end are taken, as PostgreSQL does", arguments: ["n,,n=,r=", "n,,n=,r=a,"])
    func lenient(message: String) {
        #expect(firstError(Array(message.utf8)) == nil)
    }

    @Test(
        "a last message that is malformed is refused, saying what is wrong",
        arguments: [
            ("", "The message is empty."), ("r=abc", "Expected attribute \"c\" but found \"'r'\"."),
            ("c=biws", "Expected attribute \"r\" but found \"0x00\"."),
            ("c=biws,r=abc", "Attribute expected, but found end of string."),
            ("c=biws,r=abc,p=x", "Malformed proof in client-final-message."),
            ("c=biws,r=abc,p=AAAA", "Malformed proof in client-final-message."),
            (
                "c=biws,r=abc,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=,x",
                "Garbage found at the end of client-final-message."
            ),
        ])
    func malformedFinal(message: String, detail: String) {
        #expect(
            finalError(Array(message.utf8))
                == AuthenticationError(.protocolViolation, "malformed SCRAM message", detail: detail))
    }

    @Test("channel-binding data must be that of the first message", arguments: ["xxxx", "eSws", ""])
    func otherBinding(data: String) {
        #expect(
            finalError(Array("c=\(data),r=abc,p=x".utf8))
                == AuthenticationError(
                    .protocolViolation, "unexpected SCRAM channel-binding attribute in client-final-message"))
    }

    @Test("random messages let nobody in and crash nothing", arguments: UInt64(1)...100)
    func random(seed: UInt64) {
        var random = SplitMix(state: seed)
        let letters = Array("ncrpaymx,==,biws=AZ/+".utf8) + [0, 0xFF]
        for _ in 0..<100 {
            let message = (0..<Int.random(in: 0...40, using: &random)).map { _ in
                letters[Int.random(in: 0..<letters.count, using: &random)]
            }
            _ = firstError(message)
            _ = firstError(message, "SCRAM-SHA-256-PLUS", certificateHash: certificateHash)
            #expect(finalError(message) != nil)
        }
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
