import ShardBackend
import TestSupport
import Testing

@testable import TransactionEngine

/// What clients get of results that come from several shards.
@Suite(.serialized) struct SessionResultTests {
    @Test("INSERT … RETURNING gives the rows in the order in which they were inserted, whichever shards they went to")
    func returning() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id bigint PRIMARY KEY, v text, serial bigserial)")
                let keys = (1...30).map { $0 * 7 % 31 }
                let rows = keys.map { "(\($0), 'v\($0)')" }.joined(separator: ", ")
                let result = try await client.runSimple("INSERT INTO t (id, v) VALUES \(rows) RETURNING id, v")
                #expect(result[0].commandTag == "INSERT 0 30")
                #expect(try result[0].map { Int(try $0.int64(0)) } == keys)
                #expect(try result[0].map { try $0.text(1) } == keys.map { "v\($0)" })
                let prepared = SQLStatement(
                    "INSERT INTO t (id) VALUES ($1), ($2), ($3), ($4), ($5), ($6) RETURNING id, v",
                    [206, 102, 105, 101, 204, 203])
                let returned = try await client.run(prepared)
                #expect(try returned.map { try $0.int64(0) } == [206, 102, 105, 101, 204, 203])
                #expect(try returned.allSatisfy { try $0.isNull(1) })
                // Those that are left out can't be told, but those that came are all there.
                let some = try await client.runSimple(
                    "INSERT INTO t (id) VALUES (1), (301), (302), (2), (303) ON CONFLICT DO NOTHING RETURNING id")
                #expect(Set(try some[0].map { try $0.int64(0) }) == [301, 302, 303])
            }
        }
    }

    @Test("rows of several shards that are sorted keep arrays, padded characters and empty values as they are")
    func sorted() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text(
                    """
                    CREATE TABLE t (id int PRIMARY KEY, a int[], b text[][], c char(5), d bit(3), e varchar(3),
                        f text[])
                    """)
                for id in 1...12 {
                    try await client.text(
                        """
                        INSERT INTO t VALUES (\(id), '{1,NULL,3}', '{{"a,b",""},{NULL,"\\"q"}}', 'ab', B'101', '', '{}')
                        """)
                }
                let row = #"{1,NULL,3},{{"a,b",""},{NULL,"\"q"}},ab   ,101,,{}"#
                #expect(
                    try await client.text("SELECT * FROM t ORDER BY id DESC LIMIT 7 OFFSET 1")
                        == (5...11).reversed().map { "\($0),\(row)" }.joined(separator: "\n"))
                let statement = SQLStatement("SELECT c, id FROM t ORDER BY id", resultFormat: .binary)
                let binary = try await client.run(statement)
                #expect(try binary.map { try $0.int64(1) } == Array(1...12))
                #expect(try binary.allSatisfy { try $0.text(0) == "ab   " })
            }
        }
    }

    @Test("rows of several shards are put together under the client's settings, in which their values are written")
    func settings() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id int PRIMARY KEY, d date, at timestamp)")
                let days = ["2024-02-29", "2024-02-28", "2024-01-31", "2024-01-30", "2024-01-29"]
                let rows = days.enumerated().map { "(\($0), '\($1)', '\($1) 12:00')" }.joined(separator: ", ")
                try await client.text("INSERT INTO t VALUES \(rows)")
                for (style, dates, greatest) in [
                    ("SQL, DMY", ["30/01/2024", "31/01/2024", "28/02/2024"], "29/02/2024 12:00:00"),
                    ("German", ["30.01.2024", "31.01.2024", "28.02.2024"], "29.02.2024 12:00:00"),
                    ("Postgres, DMY", ["30-01-2024", "31-01-2024", "28-02-2024"], "Thu 29 Feb 12:00:00 2024"),
                ] {
                    try await client.text("SET DateStyle = '\(style)'")
                    #expect(
                        try await client.text("SELECT d FROM t ORDER BY at OFFSET 1 LIMIT 3").split(separator: "\n")
                            .map(String.init) == dates)
                    #expect(try await client.text("SELECT max(at) FROM t WHERE d < '2025-01-01'") == greatest)
                    try await client.text("BEGIN; UPDATE t SET at = at WHERE id = 1")
                    #expect(try await client.text("SELECT d FROM t ORDER BY d OFFSET 1 LIMIT 1") == dates[0])
                    try await client.text("ROLLBACK")
                }
            }
        }
    }

    @Test("a prepared statement whose columns have become others is prepared anew, and described as they are now")
    func changedColumns() async throws {
        try await ServedShards.with(3) { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id int PRIMARY KEY, v int); INSERT INTO t VALUES (1, 5)")
                let statement = SQLStatement("SELECT v FROM t WHERE id = $1", [1])
                #expect(try await client.describe(statement).fields.map(\.typeOID) == [23])
                _ = try await served.session { try await $0.text("ALTER TABLE t ALTER COLUMN v TYPE text") }
                // The connection prepares anew what the node refuses as PostgreSQL would.
                let result = try await client.run(statement)
                #expect(try result[0].text(0) == "5" && result.fields.map(\.typeOID) == [25])
            }
        }
    }
}

/// Types' numbers, which differ from shard to shard.
@Suite struct ObjectNumbersTests {
    private static func make() -> ObjectNumbers {
        ObjectNumbers(
            cluster: [
                .init(name: "mood", number: 20_001, shape: nil), .init(name: "mood[]", number: 20_002, shape: .array),
                .init(name: "place", number: 20_003, shape: .composite),
                .init(name: "place[]", number: 20_004, shape: .array), .init(name: "same", number: 20_005, shape: nil),
            ],
            shard: [
                .init(name: "mood", number: 30_001, shape: nil), .init(name: "mood[]", number: 30_002, shape: .array),
                .init(name: "place", number: 30_003, shape: .composite),
                .init(name: "place[]", number: 30_004, shape: .array), .init(name: "same", number: 20_005, shape: nil),
            ])
    }

    private static func bytes(_ words: UInt32...) -> [UInt8] {
        words.flatMap { word in (0..<4).map { UInt8(truncatingIfNeeded: word >> UInt32(24 - 8 * $0)) } }
    }

    /// A `place` of two columns, a mood and an integer, whose bytes look like a number of ours.
    private static func place(_ mood: UInt32) -> [UInt8] {
        bytes(2, mood, 4) + [1, 2, 3, 4] + bytes(23, 4, 30_001)
    }

    @Test("numbers of types are translated there and back, PostgreSQL's own and equal ones are not")
    func numbers() {
        let numbers = Self.make()
        #expect(numbers.translated(20_001, .toShard) == 30_001)
        #expect(numbers.translated(30_004, .toCluster) == 20_004)
        #expect(numbers.translated(20_005, .toShard) == 20_005 && numbers.translated(23, .toShard) == 23)
        #expect(!numbers.isSame && numbers.knows(30_001) && numbers.knows(20_005) && !numbers.knows(40_000))
        #expect(ObjectNumbers(cluster: [], shard: []).isSame)
    }

    @Test("in binary arrays of composite values each type's number is translated, and nothing else")
    func values() {
        let numbers = Self.make()
        func array(_ place: UInt32, _ mood: UInt32) -> [UInt8] {
            Self.bytes(1, 1, place, 3, 1) + Self.bytes(28) + Self.place(mood) + Self.bytes(.max) + Self.bytes(28)
                + Self.place(mood)
        }
        #expect(Self.place(1).count == 28)
        var value = array(20_003, 20_001)
        numbers.translate(&value, of: 20_004, .toShard)
        #expect(value == array(30_003, 30_001))
        numbers.translate(&value, of: 30_004, .toCluster)
        #expect(value == array(20_003, 20_001))
        var record = Self.place(20_001)
        numbers.translate(&record, of: 2249, .toShard)
        #expect(record == Self.place(30_001))
        var plain = Self.bytes(20_001)
        numbers.translate(&plain, of: 20_001, .toShard)
        #expect(plain == Self.bytes(20_001))
    }

    @Test("in ranges over users' types, and in multiranges of them, the bounds are translated")
    func ranges() {
        let cluster: [ObjectNumbers.TypeRow] = [
            .init(name: "mood", number: 20_001, shape: nil), .init(name: "place", number: 20_003, shape: .composite),
            .init(name: "route", number: 20_006, shape: .range(of: 20_003)),
            .init(name: "routes", number: 20_007, shape: .multirange(of: 20_006)),
        ]
        let shard: [ObjectNumbers.TypeRow] = [
            .init(name: "mood", number: 30_001, shape: nil), .init(name: "place", number: 30_003, shape: .composite),
            .init(name: "route", number: 30_006, shape: .range(of: 30_003)),
            .init(name: "routes", number: 30_007, shape: .multirange(of: 30_006)),
        ]
        let numbers = ObjectNumbers(cluster: cluster, shard: shard)
        func bound(_ mood: UInt32) -> [UInt8] { Self.bytes(28) + Self.place(mood) }
        // Both bounds, none below, none above, empty.
        func ranges(_ mood: UInt32) -> [[UInt8]] {
            [[0x02] + bound(mood) + bound(mood), [0x08] + bound(mood), [0x12] + bound(mood), [0x01]]
        }
        for (range, translated) in zip(ranges(20_001), ranges(30_001)) {
            var value = range
            numbers.translate(&value, of: 20_006, .toShard)
            #expect(value == translated)
            numbers.translate(&value, of: 30_006, .toCluster)
            #expect(value == range)
            for count in 0..<range.count {
                var part = Array(range.prefix(count))
                numbers.translate(&part, of: 20_006, .toShard)
                #expect(part.count == count)
            }
        }
        func several(_ mood: UInt32) -> [UInt8] {
            Self.bytes(4) + ranges(mood).flatMap { Self.bytes(UInt32($0.count)) + $0 }
        }
        var value = several(20_001)
        numbers.translate(&value, of: 20_007, .toShard)
        #expect(value == several(30_001))
    }

    @Test("a value that is cut short or nonsense does no harm")
    func nonsense() {
        let numbers = Self.make()
        let whole = Self.bytes(1, 0, 20_003, 1, 1) + Self.bytes(28) + Self.place(20_001)
        for count in 0...whole.count {
            var part = Array(whole.prefix(count))
            numbers.translate(&part, of: 20_004, .toShard)
            #expect(part.count == count)
        }
        for value in [Self.bytes(.max, .max, .max), Self.bytes(3, 20_001, .max, 20_001, 1 << 30), Self.bytes(7, 0, 0)] {
            for type: UInt32 in [20_003, 20_004] {
                var bytes = value
                numbers.translate(&bytes, of: type, .toShard)
                #expect(bytes.count == value.count)
            }
        }
    }
}
