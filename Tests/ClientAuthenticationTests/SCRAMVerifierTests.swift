import ClientAuthentication
import Foundation
import Testing

/// Passwords and what PostgreSQL 15.18 keeps for them.
private let postgresVerifiers: [(password: String, text: String)] = [
    (
        "pencil",
        "SCRAM-SHA-256$4096:e07G+GnGlcumdABtuLO2jg==$PPZl/C81Kx7PIwx3jqsLBBDYouPkeimCouuOteMXDhs="
            + ":uAWIm/E/erCyYqRqe/Y8wwJuW67/Jle2VGCq00DN3Cc="
    ),
    // A soft hyphen is mapped to nothing.
    (
        "I\u{AD}X",
        "SCRAM-SHA-256$4096:pxfnVIxfRphLz2z3RCNC4Q==$LirVvkbk4mDtsh2COATPmAqh+BUeCECh1BpXI653oGQ="
            + ":q7p+C6vSnNxLd8/xoh9PAefQq1DfP6Xz/BLLt64hTek="
    ),
    // Compatibility forms are composed: a feminine ordinal, a Roman nine.
    (
        "\u{AA}",
        "SCRAM-SHA-256$4096:OGgh6ByWqrG8XMgBQFxW0w==$YkhScQD6p+4Z3EWtPDlroGOKy5igOsDXSMZYsBAGldk="
            + ":foGXmqLbJQsSPg/nUkWBBS5CvUHIPrKsT+KB7wHr0js="
    ),
    (
        "\u{2168}",
        "SCRAM-SHA-256$4096:MSOGuDmMsUeFE5p/0+dZJw==$r7zcj4bUGSa9j+EpaGzAPKs/N65OQJCPBG+dl9k4sqk="
            + ":4SUz849HtrNrOClmvvwCkcfhPIDLjOlCMCQnwS1ugnw="
    ),
    // A control character, and Arabic that ends with a digit, are refused by SASLprep and hashed as they are.
    (
        "\u{7}",
        "SCRAM-SHA-256$4096:7APw+b6e7upwntYOJjSC8g==$joTG51nEC5j9kM/9pMVSyInC2QNfkGyyQWhGIEYWksM="
            + ":dADT/8Fr2Uc06Yi/Yk+GO7K3GuQV1hVrqWT7oi6vH8Q="
    ),
    (
        "\u{627}1",
        "SCRAM-SHA-256$4096:36LAFBIpowBxJH1AxI8ueg==$M9Xgi/C1qOOfnB/cpjzXEUdN9LNoJcvrtKHZHOM6PXM="
            + ":iQbFkK6BbnBnUrIX2DXbfP5p9XeGKanYwwrMXAsGmQ8="
    ),
    // A face is not in Unicode 3.2: the ligature next to it stays one.
    (
        "p\u{1F600}\u{FB01}",
        "SCRAM-SHA-256$4096:bstidIO94SwtlQS8az9EYw==$cNoxrvoQGsBTrSikIfRH+DyWhv2fwB0UFZypA5w4HhM="
            + ":xxKTyB+o0nP12FpKy8WMxYV1ReicA7cJNlSlKIY6DQw="
    ),
    // A space that is not ASCII's becomes one; a zero-width space goes; the ligature is taken apart.
    (
        "a\u{A0}b\u{200B}c\u{FB01}",
        "SCRAM-SHA-256$4096:L653b+N4/54uVgMxlU6W7A==$ipEKBkjdUfqMzzWIXgJRKZa/yhNkyZ1oDQqq0teEfHM="
            + ":dFHpa8FFpBMsyBeJ6ZwkF30bJp3QWUOHf4xuVH5nH9E="
    ),
    (
        "\u{627}1\u{628} ",
        "SCRAM-SHA-256$4096:NAUhTJkOo1HXCSWq8Yn9hA==$lL30H4sl8LpLjGozVes95MLhzOLhcBtIKm6GVWYDa0o="
            + ":DQDOHWVAhmpjIfCVCjVTiwG9yj3Mu5tTU20d0YCeZfM="
    ),
    (
        "x\u{FB01}\u{627}",
        "SCRAM-SHA-256$4096:OM485JPRZi10v/lcmTin2Q==$S9otrZR7+NkS6MtF12OdqSPz8aiNKhecD1T3hTUSnE0="
            + ":uG7TSDDmNK/BeQseQDwgIwtCF3VFQM8a/zXieKkD8p0="
    ),
    (
        "\u{E9}e\u{301}\u{212B}",
        "SCRAM-SHA-256$4096:xQ23vjfgBfYT/LixZNiucQ==$vgIDmTj9ctm1YC2WKrqJzF/hJPeXmrSfikBwQo+UfbY="
            + ":w2o8sMCukRpzUwpwUAYhQqBKcMJFj+oyeclqyOx0Cg0="
    ),
]

@Suite struct SCRAMVerifierTests {
    @Test(
        "a verifier of PostgreSQL's is read, written alike, and made alike of its password",
        arguments: postgresVerifiers)
    func postgres(password: String, text: String) throws {
        let verifier = try #require(SCRAMVerifier(text))
        #expect(verifier.iterations == 4_096)
        #expect(verifier.salt.count == SCRAMVerifier.saltLength)
        #expect(verifier.text == text)
        #expect(SCRAMVerifier(password: password, salt: verifier.salt) == verifier)
        #expect(SCRAMVerifier(password: password + "x", salt: verifier.salt) != verifier)
    }

    @Test("iterations and salt are kept, and make another verifier")
    func cost() throws {
        let verifier = SCRAMVerifier(password: "pencil", salt: [1, 2, 3], iterations: 2)
        let read = try #require(SCRAMVerifier(verifier.text))
        #expect(read == verifier)
        #expect(read.iterations == 2)
        #expect(read.salt == [1, 2, 3])
        #expect(SCRAMVerifier(password: "pencil", salt: [1, 2, 3], iterations: 3).text != verifier.text)
        #expect(SCRAMVerifier(password: "pencil", salt: [1, 2, 4], iterations: 2).text != verifier.text)
    }

    @Test(
        "what is no verifier is not read as one",
        arguments: [
            "", "pencil", "md5890621e9f597c9a65ae6d9b8db02e14c", "SCRAM-SHA-256$", "SCRAM-SHA-256$4096:$:",
            "SCRAM-SHA-1$1:AQ==$KEY:KEY", "SCRAM-SHA-256$1:AQ==$KEY", "SCRAM-SHA-256$0:AQ==$KEY:KEY",
            "SCRAM-SHA-256$-1:AQ==$KEY:KEY", "SCRAM-SHA-256$x:AQ==$KEY:KEY", "SCRAM-SHA-256$2147483648:AQ==$KEY:KEY",
            "SCRAM-SHA-256$1:$KEY:KEY", "SCRAM-SHA-256$1:AQ$KEY:KEY", "SCRAM-SHA-256$1:AQ==$AQ==:KEY",
            "SCRAM-SHA-256$1:AQ==$KEY:AQ==", "SCRAM-SHA-256$1:AQ==$KEY:KEY$", "SCRAM-SHA-256$1:AQ==$KEY:KEY:",
            "SCRAM-SHA-256$1:AQ==:AQ==$KEY:KEY", " SCRAM-SHA-256$1:AQ==$KEY:KEY",
        ])
    func noVerifier(text: String) {
        let key = Data(repeating: 7, count: 32).base64EncodedString()
        #expect(SCRAMVerifier("SCRAM-SHA-256$1:AQ==$\(key):\(key)") != nil)
        #expect(SCRAMVerifier(text.replacing("KEY", with: key)) == nil)
    }

    @Test("no description shows a key")
    func redacted() throws {
        let verifier = try #require(SCRAMVerifier(postgresVerifiers[0].text))
        var dumped = ""
        dump(PasswordVerifier.scram(verifier), to: &dumped)
        for text in ["\(verifier)", String(reflecting: verifier), "\([PasswordVerifier.scram(verifier)])", dumped] {
            #expect(!text.contains("PPZl"))
            #expect(!text.contains("246, 101"))
        }
    }
}
