import Placement
import Testing

@Suite struct ShardKeyHashTests {
    /// What PostgreSQL 15 answers on an x86-64 server.
    @Test("hashes are PostgreSQL's own")
    func known() {
        #expect(ShardKeyHash.hash(Int64(0)) == 4_154_612_158_245_552_303)
        #expect(ShardKeyHash.hash(Int64(1)) == -3_670_598_878_359_251_130)
        #expect(ShardKeyHash.hash(Int64(-1)) == -1_888_257_769_727_981_238)
        #expect(ShardKeyType.text.hash("meridian".utf8, .text) == 2_902_285_046_734_173_456)
        #expect(ShardKeyType.numeric.hash("12345.678".utf8, .text) == -7_224_554_725_567_017_098)
    }

    @Test(
        "integers of one value hash alike, whatever their width and format",
        arguments: [Int64(0), 1, -1, 42, 32767, -32768])
    func integers(value: Int64) {
        let text = Array(String(value).utf8)
        let expected = ShardKeyHash.hash(value)
        for type in [ShardKeyType.smallint, .integer, .bigint] {
            #expect(type.hash(text, .text) == expected)
            for width in [2, 4, 8] {
                let binary = (0..<width).map { UInt8(truncatingIfNeeded: value >> Int64(8 * (width - 1 - $0))) }
                #expect(type.hash(binary, .binary) == expected)
            }
        }
    }

    @Test(
        "what is no value of the type, or takes a session to read, has no hash",
        arguments: [
            (ShardKeyType.bigint, "5.0"), (.bigint, ""), (.bigint, "9223372036854775808"), (.bigint, "0x1"),
            (.integer, "2147483648"), (.smallint, "40000"), (.oid, "-1"), (.boolean, "o"), (.boolean, "2"),
            (.uuid, "00000000-0000-0000-0000-00000000000"), (.uuid, "0-0000000000000000000000000000000-0"),
            (.date, "tomorrow"), (.date, "2023-02-29"), (.date, "1/2/2023"), (.date, "2023-1-2"), (.date, "infinity"),
            (.timestamp, "2023-01-02 24:00"), (.timestamp, "2023-01-02 03:04+01"), (.timestamp, "now"),
            (.timestamptz, "2023-01-02 03:04"), (.timestamptz, "2023-01-02"), (.timestamptz, "2023-01-02 03:04 CET"),
            (.numeric, "1_000"), (.numeric, "NaN"), (.numeric, "1e"), (.numeric, "."), (.numeric, ""),
            (.name, String(repeating: "x", count: 64)), (.char, "ab"),
        ])
    func unreadable(type: ShardKeyType, text: String) {
        #expect(type.hash(text.utf8, .text) == nil)
    }

    @Test("a binary value of the wrong length has no hash", arguments: ShardKeyType.allCases)
    func truncated(type: ShardKeyType) {
        guard ![.text, .varchar, .bpchar, .name].contains(type) else { return }
        #expect(type.hash([1, 2, 3], .binary) == nil)
        #expect(type.hash([], .binary) == nil)
    }

    @Test(
        "equal values in different spellings hash alike",
        arguments: [
            (ShardKeyType.bigint, "5", " 5 "), (.bigint, "5", "+5"), (.bigint, "0", "-0"), (.boolean, "t", "YES"),
            (.numeric, "1", "1.000"), (.numeric, "0.0012", "12e-4"), (.numeric, "120000", "1.2E5"),
            (.numeric, "0", "-0.00"), (.bpchar, "a", "a   "),
            (
                .uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
                "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}"
            ),
            (.timestamp, "2023-01-02", "2023-01-02T00:00:00.000"),
            (.timestamptz, "2023-01-02 03:04:05+01", "2023-01-02 02:04:05Z"),
            (.timestamptz, "2023-01-01 23:30:00-03:30", "2023-01-02 03:00+00"),
        ])
    func spellings(type: ShardKeyType, one: String, other: String) {
        #expect(type.hash(one.utf8, .text) != nil)
        #expect(type.hash(one.utf8, .text) == type.hash(other.utf8, .text))
    }

    @Test("text is hashed with its blanks, char(n) without")
    func blanks() {
        #expect(ShardKeyType.text.hash("a ".utf8, .text) != ShardKeyType.text.hash("a".utf8, .text))
        #expect(ShardKeyType.bpchar.hash("a ".utf8, .text) == ShardKeyType.text.hash("a".utf8, .text))
    }
}
