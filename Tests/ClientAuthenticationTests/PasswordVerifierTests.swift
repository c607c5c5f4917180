import ClientAuthentication
import Testing

/// What PostgreSQL 15.18 keeps for the password `pencil` of the user `md`.
private let postgresVerifier = "md5890621e9f597c9a65ae6d9b8db02e14c"

@Suite struct MD5VerifierTests {
    @Test("a verifier of PostgreSQL's is read, written alike, and made alike of its password and user")
    func postgres() throws {
        let verifier = try #require(MD5Verifier(postgresVerifier))
        #expect(verifier.text == postgresVerifier)
        #expect(MD5Verifier(password: "pencil", user: "md") == verifier)
        #expect(MD5Verifier(password: "pencil", user: "me") != verifier)
    }

    @Test("only the answer to the salt that was sent is accepted")
    func response() {
        let verifier = MD5Verifier(password: "pencil", user: "md")
        let response = verifier.response(salt: 0x0102_0304)
        #expect(response == "md5a2fa43f5719e67bbf1a8a10adedc6b19")
        #expect(verifier.accepts(response.utf8, salt: 0x0102_0304))
        #expect(!verifier.accepts(response.utf8, salt: 0x0102_0305))
        #expect(!verifier.accepts(response.dropLast().utf8, salt: 0x0102_0304))
        #expect(!verifier.accepts(postgresVerifier.utf8, salt: 0x0102_0304))
        #expect(!verifier.accepts("pencil".utf8, salt: 0x0102_0304))
        #expect(!verifier.accepts([UInt8](), salt: 0x0102_0304))
    }

    @Test(
        "what is no verifier is not read as one",
        arguments: [
            "", "md5", "md5890621e9f597c9a65ae6d9b8db02e14", "md5890621e9f597c9a65ae6d9b8db02e14c0",
            "MD5890621e9f597c9a65ae6d9b8db02e14c", "md5890621E9f597c9a65ae6d9b8db02e14c",
            "md5890621e9f597c9a65ae6d9b8db02e14g",
        ])
    func noVerifier(text: String) {
        #expect(MD5Verifier(text) == nil)
    }

    @Test("no description shows the digest")
    func redacted() throws {
        let verifier = try #require(MD5Verifier(postgresVerifier))
        var dumped = ""
        dump(PasswordVerifier.md5(verifier), to: &dumped)
        for text in ["\(verifier)", String(reflecting: verifier), "\(PasswordVerifier.md5(verifier))", dumped] {
            #expect(!text.contains("890621"))
        }
    }
}

@Suite struct PasswordVerifierTests {
    @Test("a verifier tells its kind; a password is none")
    func kinds() throws {
        let scram = SCRAMVerifier(password: "pencil", salt: [1], iterations: 1)
        #expect(PasswordVerifier(scram.text) == .scram(scram))
        #expect(PasswordVerifier.scram(scram).text == scram.text)
        let md5 = MD5Verifier(password: "pencil", user: "md")
        #expect(PasswordVerifier(md5.text) == .md5(md5))
        #expect(PasswordVerifier.md5(md5).text == md5.text)
        #expect(PasswordVerifier("pencil") == nil)
    }
}
