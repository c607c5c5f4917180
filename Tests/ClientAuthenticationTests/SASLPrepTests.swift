import Testing

@testable import ClientAuthentication

@Suite struct SASLPrepTests {
    @Test(
        "RFC 4013's examples",
        arguments: [
            ("I\u{AD}X", "IX"), ("user", "user"), ("USER", "USER"), ("\u{AA}", "a"), ("\u{2168}", "IX"),
        ])
    func examples(password: String, prepared: String) {
        #expect(SASLPrep.prepared(password) == prepared)
    }

    @Test(
        "what SASLprep refuses is hashed as it is",
        arguments: ["\u{627}1", "\u{E9}\u{7}", "\u{E000}", "\u{AD}", "\u{1F600}", "x\u{627}", "\u{2028}", "\u{206A}"])
    func refused(password: String) {
        #expect(SASLPrep.prepared(password) == nil)
        #expect(SASLPrep.bytes(of: password) == Array(password.utf8))
    }

    @Test("ASCII stays as it is, as in PostgreSQL, control characters too")
    func ascii() {
        #expect(SASLPrep.prepared("a\u{7} b") == "a\u{7} b")
        #expect(SASLPrep.prepared("") == "")
    }

    @Test("text from right to left may have neutral characters within")
    func rightToLeft() {
        #expect(SASLPrep.prepared("\u{627}1\u{628}") == "\u{627}1\u{628}")
    }

    @Test("the tables have as many scalars as RFC 3454 lists")
    func tables() {
        let scalars = (UInt32(0)...0x10FFFF).compactMap(Unicode.Scalar.init)
        func count(_ table: ScalarTable) -> Int { scalars.count(where: table.contains) }
        #expect(count(.mappedToSpace) == 17)
        #expect(count(.mappedToNothing) == 27)
        #expect(count(.rightToLeft) == 1_044)
        #expect(count(.leftToRight) == 227_925)
        #expect(count(.prohibited) == 137_765)
        #expect(scalars.count { SASLPrep.isUnassigned($0) || ScalarTable.prohibited.contains($0) } == 1_017_074)
    }

    @Test("a table has the ends of its ranges and nothing beyond")
    func bounds() {
        let table = ScalarTable([0x10, 0x12, 0x20, 0x20])
        let within = (UInt32(0)...0x30).compactMap(Unicode.Scalar.init).filter(table.contains).map(\.value)
        #expect(within == [0x10, 0x11, 0x12, 0x20])
    }
}
