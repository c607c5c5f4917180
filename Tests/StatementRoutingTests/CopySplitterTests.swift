import Placement
import StatementRouting
import Testing
import TransactionCore

@Suite struct CopySplitterTests {
    private static let buckets = BucketMap(shards: [shardA, shardB, shardC])

    /// What each shard is sent, and what was wrong, when data comes in pieces of a size.
    private struct Outcome: Equatable {
        var outputs: [[UInt8]] = [[], [], []]
        var preamble: [UInt8] = []
        var postamble: [UInt8] = []
        var error: StatementError?
        var unknown: [String] = []
    }

    private static func split(
        _ data: [UInt8], _ options: [String: String] = [:], key: ColumnDefinition, at column: Int = 0, pieces: Int
    ) throws -> Outcome {
        var splitter = CopySplitter(try #require(CopyDialect(options)), key: key, at: column, buckets: buckets)
        var outcome = Outcome()
        var parts = [CopyPart(), CopyPart(), CopyPart()]
        func drain() throws(StatementError) {
            while case .unknown(let key) = try splitter.split(into: &parts) {
                outcome.unknown.append(String(decoding: key, as: UTF8.self))
                splitter.decide(.hash(ShardKeyHash.hash(Int64(0))))
            }
        }
        do throws(StatementError) {
            for start in stride(from: 0, to: data.count, by: pieces) {
                splitter.append(data[start..<min(start + pieces, data.count)])
                try drain()
            }
            splitter.finish()
            try drain()
        } catch {
            outcome.error = error
        }
        outcome.outputs = parts.map(\.bytes)
        (outcome.preamble, outcome.postamble) = (splitter.preamble, splitter.postamble)
        return outcome
    }

    /// The outcome, which must be the same whatever pieces the data comes in.
    private static func outcome(
        _ data: [UInt8], _ options: [String: String] = [:], key: ColumnDefinition, at column: Int = 0
    ) throws -> Outcome {
        let whole = try split(data, options, key: key, at: column, pieces: max(1, data.count))
        for pieces in [1, 2, 3, 7] {
            var inPieces = try split(data, options, key: key, at: column, pieces: pieces)
            // What was put out before an error depends on how much was there.
            if whole.error != nil { inPieces.outputs = whole.outputs }
            #expect(inPieces == whole, "in pieces of \(pieces)")
        }
        return whole
    }

    private static let number = ColumnDefinition("id", type: 20, typeName: "bigint", isNotNull: true)
    private static let word = ColumnDefinition("w", type: 25, typeName: "text", isNotNull: true)

    private static func place(_ key: Int64) -> Int {
        buckets.shards.firstIndex(of: buckets.shard(forHash: ShardKeyHash.hash(key)))!
    }

    private static func place(_ key: String) -> Int {
        buckets.shards.firstIndex(of: buckets.shard(forHash: ShardKeyHash.hash(Array(key.utf8))))!
    }

    /// What the shards get of rows that are listed with their places.
    private static func expected(_ rows: [(place: Int, text: String)]) -> [[UInt8]] {
        var outputs: [[UInt8]] = [[], [], []]
        for row in rows { outputs[row.place] += row.text.utf8 }
        return outputs
    }

    @Test("rows of text go unchanged to the shard of their key, in their sequence")
    func text() throws {
        let rows = (1...200).map { id in (Self.place(Int64(id * 7919)), "\(id * 7919)\tvalue \(id)\\n\tx\n") }
        let outcome = try Self.outcome(Array(rows.map(\.1).joined().utf8), key: Self.number)
        #expect(outcome.outputs == Self.expected(rows) && outcome.error == nil)
        #expect(Set(rows.map(\.0)).count == 3)
    }

    @Test(
        "a text key is decoded as PostgreSQL does before it is hashed",
        arguments: [
            ("plain", "plain"), ("tab\\there", "tab\there"), ("back\\\\slash", "back\\slash"), ("nl\\nx", "nl\nx"),
            ("nl\\\nx", "nl\nx"), ("octal\\101", "octalA"), ("hex\\x41g", "hexAg"), ("hex\\xg", "hexxg"),
            ("delim\\|x", "delim|x"), ("\\N", nil), ("x\\N", "xN"), ("\\b\\f\\r\\v\\q", "\u{8}\u{c}\r\u{b}q"), ("", ""),
        ] as [(String, String?)])
    func textKeys(written: String, key: String?) throws {
        let row = "other|\(written)|last\n"
        let outcome = try Self.outcome(Array(row.utf8), ["delimiter": "|"], key: Self.word, at: 1)
        #expect(outcome.outputs == Self.expected([(key.map { Self.place($0) } ?? 0, row)]))
    }

    @Test(
        "a key in a CSV is found and decoded as PostgreSQL does",
        arguments: [
            ("a,plain,b", "plain", [:]), ("a,\"quoted\",b", "quoted", [:]), ("\"a,b\",k,c", "k", [:]),
            ("\"a\nb\",k,c", "k", [:]), ("a,\"with \"\"quotes\"\"\",b", "with \"quotes\"", [:]),
            ("a,half\"quo,ted\"x,b", "halfquo,tedx", [:]), ("a,\"two\nlines\",b", "two\nlines", [:]),
            ("a,,b", nil, [:]), ("a,\"\",b", "", [:]), ("a,,b", "", ["force_not_null": "w"]),
            ("a,\"\",b", nil, ["force_null": "x,w"]), ("a,NULL,b", nil, ["null": "NULL"]),
            ("a;k;b", "k", ["delimiter": ";"]), ("a,'k''s',b", "k's", ["quote": "'"]),
            ("a,\"e\\\"s\\\\c\",b", "e\"s\\c", ["escape": "\\"]), ("a,\\.,b", "\\.", [:]), ("\\.a,k,b", "k", [:]),
        ] as [(String, String?, [String: String])])
    func csvKeys(row: String, key: String?, options: [String: String]) throws {
        let options = options.merging(["format": "csv"]) { $1 }
        let outcome = try Self.outcome(Array("\(row)\n".utf8), options, key: Self.word, at: 1)
        #expect(outcome.error == nil)
        #expect(outcome.outputs == Self.expected([(key.map { Self.place($0) } ?? 0, row + "\n")]))
    }

    @Test("lines may end by LF, CR or both, all alike, and the last one by nothing")
    func newlines() throws {
        for end in ["\n", "\r", "\r\n"] {
            for format in ["text", "csv"] {
                let delimiter = format == "csv" ? "," : "\t"
                let rows = (1...20).map { id in
                    (Self.place(Int64(id)), "\(id)\(delimiter)v" + (id == 20 ? "" : end))
                }
                let outcome = try Self.outcome(
                    Array(rows.map(\.1).joined().utf8), ["format": format], key: Self.number)
                #expect(outcome.outputs == Self.expected(rows) && outcome.error == nil)
            }
        }
    }

    @Test(
        "what breaks the order of lines is refused with 22P04 and PostgreSQL's words",
        arguments: [
            ("text", "1\tx\n2\ty\r\n", "literal carriage return found in data"),
            ("text", "1\tx\r\n2\ty\n", "literal newline found in data"),
            ("csv", "1,x\n2,y\r\n", "unquoted carriage return found in data"),
            ("csv", "1,x\r2,y\n", "unquoted newline found in data"),
            ("text", "1\tx\n\\.x\n", "end-of-copy marker corrupt"),
            ("binary", "1\tx\n", "COPY file signature not recognized"),
        ])
    func disorder(format: String, data: String, message: String) throws {
        let outcome = try Self.outcome(Array(data.utf8), ["format": format], key: Self.number)
        #expect(outcome.error?.sqlState == .badCopyFileFormat && outcome.error?.message == message)
    }

    @Test("nothing behind the end marker counts")
    func endMarker() throws {
        for (format, delimiter) in [("text", "\t"), ("csv", ",")] {
            for marker in ["\\.\n", "\\.", "\\.\nrubbish\t\n"] {
                let rows = (1...5).map { (Self.place(Int64($0)), "\($0)\(delimiter)v\n") }
                let data = rows.map(\.1).joined() + marker
                let outcome = try Self.outcome(Array(data.utf8), ["format": format], key: Self.number)
                #expect(outcome.outputs == Self.expected(rows) && outcome.error == nil)
            }
        }
    }

    @Test("the line of names stands before the rows of every shard, and is no row")
    func header() throws {
        let rows = (1...5).map { (Self.place(Int64($0)), "\($0),v\n") }
        let data = "id,\"the\nvalue\"\n" + rows.map(\.1).joined()
        let outcome = try Self.outcome(Array(data.utf8), ["format": "csv", "header": "match"], key: Self.number)
        #expect(outcome.preamble == Array("id,\"the\nvalue\"\n".utf8))
        #expect(outcome.outputs == Self.expected(rows))
    }

    @Test("binary rows go unchanged to the shard of their key, header and end to all")
    func binary() throws {
        func bytes<Value: FixedWidthInteger>(_ value: Value) -> [UInt8] {
            withUnsafeBytes(of: value.bigEndian, Array.init)
        }
        let header = Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0x00] + bytes(Int32(0)) + bytes(Int32(3)) + [1, 2, 3]
        var expected: [[UInt8]] = [[], [], []]
        var data = header
        for id in Int64(1)...50 {
            let row =
                bytes(Int16(3)) + bytes(Int32(2)) + [0xFF, 0xFF] + bytes(Int32(8)) + bytes(id) + bytes(Int32(-1))
            expected[Self.place(id)] += row
            data += row
        }
        data += [0xFF, 0xFF]
        let outcome = try Self.outcome(data, ["format": "binary"], key: Self.number, at: 1)
        #expect(outcome.error == nil && outcome.outputs == expected)
        #expect(outcome.preamble == header && outcome.postamble == [0xFF, 0xFF])
    }

    @Test("a key that only a server can read stops the splitting until it is known")
    func unknownKeys() throws {
        let day = ColumnDefinition("d", type: 1082, typeName: "date", isNotNull: true)
        let price = ColumnDefinition("p", type: 1700, typeName: "numeric(10,2)", isNotNull: true)
        let place = Self.place(0)
        let days = try Self.outcome(Array("tomorrow\t1\nyesterday\t2\n".utf8), key: day)
        #expect(days.unknown == ["tomorrow", "yesterday"])
        #expect(days.outputs[place] == Array("tomorrow\t1\nyesterday\t2\n".utf8))
        #expect(try Self.outcome(Array("1.005\t1\n".utf8), key: price).unknown == ["1.005"])
        #expect(try Self.outcome(Array("abc\t1\n".utf8), key: Self.number).unknown == ["abc"])
        #expect(try Self.outcome(Array(" 17 \t1\n".utf8), key: Self.number).unknown.isEmpty)
    }

    @Test("a row that ends before its key, and one cut off, go to a shard that refuses them")
    func shortRows() throws {
        let short = try Self.outcome(Array("1\n".utf8), key: Self.word, at: 1)
        #expect(short.outputs == Self.expected([(0, "1\n")]))
        let open = try Self.outcome(Array("1,\"open\n".utf8), ["format": "csv"], key: Self.word, at: 1)
        #expect(open.outputs.reduce([], +) == Array("1,\"open\n".utf8) && open.error == nil)
    }

    @Test("the keys of rows are noted as literals of arrays, with their shard's rows")
    func keys() throws {
        var splitter = CopySplitter(CopyDialect(), to: 1, noting: [("w", 2), ("id", 0)])
        var parts = [CopyPart(), CopyPart(keyColumns: 2)]
        splitter.append(Array("1\tx\ta b\n-2\tx\tq\"\\\\\n3\tx\tNULL\n4\tx\t\n".utf8))
        #expect(try splitter.split(into: &parts) == nil)
        #expect(parts[1].keys.take() == [["{\"a b\",\"q\\\"\\\\\",\"NULL\",\"\"}", "{1,-2,3,4}"]])
        #expect(parts[1].keys.take() == [] && parts[1].keys.byteCount == 0 && parts[0].bytes.isEmpty)
        splitter.append(Array((100..<1_100).map { "\($0)\tx\t7\n" }.joined().utf8))
        #expect(try splitter.split(into: &parts) == nil)
        let literals = parts[1].keys.take()
        #expect(literals.count > 2 && literals.allSatisfy { $0[0].utf8.count + $0[1].utf8.count < 2_000 })
        let ids = literals.map { $0[1].dropFirst().dropLast() }.joined(separator: ",")
        #expect(ids == (100..<1_100).map { "\($0)" }.joined(separator: ","))
    }

    @Test("no more than an incomplete row is kept")
    func memory() throws {
        var splitter = CopySplitter(
            try #require(CopyDialect([:])), key: Self.number, at: 0, buckets: Self.buckets)
        var outputs = [CopyPart(), CopyPart(), CopyPart()]
        for id in 0..<10_000 {
            splitter.append(Array("\(id)\tsome value\n\(id)".utf8))
            #expect(try splitter.split(into: &outputs) == nil)
            #expect(splitter.keptBytes < 16)
            splitter.append(Array("\tanother\n".utf8))
        }
    }
}
