import Placement
import TestSupport
import Testing

/// The hashes of ``Placement`` against a server's own.
@Suite struct ShardKeyHashServerTests {
    /// SQL for random values of a type; `n` is the row's number.
    private static let values: [(type: ShardKeyType, sql: String)] = [
        (.smallint, "(random() * 65535 - 32768)::int2"),
        (.integer, "((random() * 4294967295) - 2147483648)::int4"),
        (.bigint, "((random() - 0.5) * power(2, 1 + n % 62))::int8"),
        (
            .bigint,
            "(ARRAY[0, -1, 9223372036854775807, '-9223372036854775808'::int8, 4294967296, -4294967296])[1 + n % 6]"
        ),
        (.oid, "(random() * 4294967295)::int8::oid"),
        (.text, "left(repeat(md5(n::text), 3) || 'ä€𝄞', n % 100)"),
        (.text, "right(md5(n::text) || 'ä€𝄞 ', n % 30)"),
        (.varchar, "left(md5(n::text), n % 32)::varchar"),
        (.bpchar, "left(md5(n::text), n % 12)::char(12)"),
        (.name, "left(md5(n::text) || md5(n::text), n % 64)::name"),
        (.char, "chr(1 + n % 127)::\"char\""),
        (.boolean, "n % 2 = 0"),
        (.uuid, "gen_random_uuid()"),
        (.date, "date '0001-01-01' + (random() * 3652058)::int"),
        (.timestamp, "timestamp '0001-01-01' + random() * interval '9990 years'"),
        (.timestamp, "date_trunc('second', timestamp '1900-01-01' + random() * interval '200 years')"),
        (.timestamptz, "timestamptz '1850-01-01' + random() * interval '300 years'"),
        (.numeric, "((random() - 0.5) * power(10, n % 20))::numeric"),
        (.numeric, "round(random()::numeric, n % 15) * power(10::numeric, n % 40 - 20)"),
        (.numeric, "(ARRAY[0, 0.00, 1, 10000, 100000000, 0.0001, 0.00010, 1e-20, 1e50, -12.50])[1 + n % 10]"),
    ]

    @Test("hash and bucket are the server's own, for random values of every type", arguments: values.indices)
    func agrees(index: Int) async throws {
        let (type, sql) = Self.values[index]
        try await TestCluster.withShards { shards in
            let hash = type.bucketExpression("v").split(separator: " & ")[0].dropFirst()
            let rows = try await shards[0].psql(
                """
                SET TimeZone = 'Asia/Kolkata';
                CREATE TABLE random_values AS SELECT \(sql) AS v FROM generate_series(1, 500) AS n;
                SELECT \(hash), \(type.bucketExpression("v")), encode(convert_to(v::text, 'UTF8'), 'hex') || ':'
                FROM random_values;
                """)
            let lines = rows.split(separator: "\n")
            #expect(lines.count == 500)
            for line in lines {
                let parts = line.split(separator: "|")
                let hex = Array(parts[2].dropLast().utf8)
                let text = stride(from: 0, to: hex.count, by: 2).map {
                    UInt8(String(decoding: hex[$0..<($0 + 2)], as: UTF8.self), radix: 16)!
                }
                let computed = type.hash(text, .text)
                let shown = "\(type) \(String(decoding: text, as: UTF8.self))"
                #expect(computed == Int64(parts[0]), "\(shown)")
                #expect(computed.map { BucketMap.bucket(ofHash: $0) } == Int(parts[1]), "\(shown)")
            }
        }
    }

    @Test("binary values hash as text ones do", arguments: values.indices)
    func binary(index: Int) async throws {
        let (type, sql) = Self.values[index]
        let send: [ShardKeyType: String] = [
            .smallint: "int2send", .integer: "int4send", .bigint: "int8send", .oid: "oidsend", .text: "textsend",
            .varchar: "varcharsend", .bpchar: "bpcharsend", .name: "namesend", .char: "charsend", .boolean: "boolsend",
            .uuid: "uuid_send", .date: "date_send", .timestamp: "timestamp_send",
            .timestamptz: "timestamptz_send", .numeric: "numeric_send",
        ]
        let function = try #require(send[type])
        try await TestCluster.withShards { shards in
            let hash = type.bucketExpression("v").split(separator: " & ")[0].dropFirst()
            let rows = try await shards[0].psql(
                """
                SELECT \(hash), encode(\(function)(v), 'hex') || ':' FROM
                (SELECT \(sql) AS v FROM generate_series(1, 200) AS n) AS s;
                """)
            for line in rows.split(separator: "\n") {
                let parts = line.split(separator: "|")
                let hex = Array(parts[1].dropLast().utf8)
                let value = stride(from: 0, to: hex.count, by: 2).map {
                    UInt8(String(decoding: hex[$0..<($0 + 2)], as: UTF8.self), radix: 16)!
                }
                #expect(type.hash(value, .binary) == Int64(parts[0]), "\(type) \(parts[1])")
            }
        }
    }
}
