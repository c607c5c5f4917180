import NIOCore
import PostgresWire
import SimulationKit

/// One thing that a fuzzing client sends, and what PostgreSQL's protocol has for an answer.
struct FuzzMessage: Sendable {
    enum Answer: Sendable {
        /// Anything that a query is answered by, to the ReadyForQuery.
        case query
        /// An error or a result, and a ReadyForQuery.
        case functionCall
        case parse, bind, describeStatement, describePortal, execute, close
        /// A ReadyForQuery, perhaps behind the error of a commit.
        case sync
        /// Nothing.
        case flush
        /// An error of the extended protocol.
        case error
        /// Nothing: data for a COPY that there may be.
        case copyData
        /// A ReadyForQuery if there was a COPY, else nothing.
        case copyEnd
        /// The connection's end, behind a FATAL error.
        case fatal
        /// The connection's end, without a word.
        case end

        /// One of the extended protocol's, passed over behind an error up to the next Sync.
        var isSkippable: Bool {
            switch self {
            case .fatal, .end, .sync: false
            default: true
            }
        }
    }

    let bytes: [UInt8]
    let answer: Answer
    /// What it is about, if it is one.
    var portal: String?
    /// For people.
    let text: String
}

/// Makes what fuzzing clients send, one script for one connection after its login.
struct FuzzGenerator {
    private var chance: SeededGenerator

    /// What every script finds: `fuzz (id int PRIMARY KEY, n int, s text)` with three rows.
    static let table = "CREATE TABLE fuzz (id int PRIMARY KEY, n int, s text)"
    static let reset = "DELETE FROM fuzz; INSERT INTO fuzz VALUES (1, 10, 'a'), (2, 20, 'b'), (3, 30, NULL)"

    init(seed: UInt64) { chance = SeededGenerator(seed: seed) }

    /// Messages that are framed well, and end with a Sync or the end of the connection.
    mutating func script() -> [FuzzMessage] {
        var script: [FuzzMessage] = []
        for _ in 0..<number(1...12) { script += makeMessages() }
        switch number(0...19) {
        case 0: script.append(badFrame())
        case 1: script.append(FuzzMessage(.terminate, .end))
        default: script.append(FuzzMessage(.sync, .sync))
        }
        return Self.withoutStalePortals(script)
    }

    /// What is left when nothing is asked of the unnamed portal that may be a Query's.
    ///
    /// A statement of a Query that fails in a block leaves its portal behind, and PostgreSQL 15 looks there for a
    /// statement whose memory it has freed: it answers 25P02 most of the time, and crashes sometimes.
    private static func withoutStalePortals(_ script: [FuzzMessage]) -> [FuzzMessage] {
        var (mayBeQuerys, isBound) = (false, false)
        return script.filter { message in
            switch message.answer {
            case .query: (mayBeQuerys, isBound) = (true, false)
            // The Bind may have failed.
            case .sync: isBound = false
            case .bind where message.portal == "": isBound = true
            case .execute, .describePortal: return message.portal != "" || !mayBeQuerys || isBound
            default: break
            }
            return true
        }
    }

    /// Bytes that begin as a script and go wrong somewhere.
    mutating func mutatedBytes() -> [UInt8] {
        var bytes = script().flatMap(\.bytes)
        for _ in 0..<number(1...4) where !bytes.isEmpty {
            let place = number(0...(bytes.count - 1))
            switch number(0...4) {
            case 0: bytes[place] = UInt8.random(in: .min ... .max, using: &chance)
            case 1: bytes.insert(UInt8.random(in: .min ... .max, using: &chance), at: place)
            case 2: bytes.remove(at: place)
            case 3: bytes.removeLast(min(bytes.count, number(1...40)))
            default: bytes[place] ^= 1 << UInt8(number(0...7))
            }
        }
        return bytes
    }

    /// Something to say before there is a session.
    mutating func startupBytes() -> [UInt8] {
        var buffer = ByteBuffer()
        let parameters = [
            StartupMessage.Parameter("user", any(["meridian", "", "nobody", "\u{7f}é"])),
            StartupMessage.Parameter("database", any(["meridian", "", "other"])),
            StartupMessage.Parameter(any(["options", "DateStyle", "search_path", "_pq_.x", "a b"]), any(Self.values)),
        ]
        StartupPacket.startup(StartupMessage(parameters: parameters)).write(to: &buffer)
        var bytes = Array(buffer.readableBytesView)
        for _ in 0..<number(0...3) {
            bytes[number(0...(bytes.count - 1))] = UInt8.random(in: .min ... .max, using: &chance)
        }
        return bytes + (number(0...1) == 0 ? mutatedBytes() : [])
    }

    mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &chance) }

    mutating func any<Element>(_ elements: [Element]) -> Element { elements[number(0...(elements.count - 1))] }

    // MARK: Messages

    private mutating func makeMessages() -> [FuzzMessage] {
        switch number(0...19) {
        case 0..<5: return [query()]
        case 5..<10: return extendedRun()
        case 10..<16: return [extendedMessage()]
        case 16: return [FuzzMessage(.sync, .sync)]
        case 17: return [malformed()]
        case 18: return copy()
        default: return [strayMessage()]
        }
    }

    private mutating func query() -> FuzzMessage {
        FuzzMessage(.query(statement()), .query)
    }

    /// What a driver sends for a statement, with a name or two that may be wrong.
    private mutating func extendedRun() -> [FuzzMessage] {
        let (name, portal) = (any(Self.names), any(Self.names))
        var run = [
            FuzzMessage(.parse(.init(statement: name, query: statement())), .parse), bind(name, portal),
            FuzzMessage(.describe(.portal(portal)), .describePortal),
            FuzzMessage(.execute(.init(portal: portal, rowsMax: any([0, 0, 1, 2, -1]))), .execute),
        ]
        if number(0...3) == 0 { run.remove(at: number(0...3)) }
        if number(0...3) == 0 { run.swapAt(0, run.count - 1) }
        if number(0...2) > 0 { run.append(FuzzMessage(.sync, .sync)) }
        return run
    }

    private mutating func extendedMessage() -> FuzzMessage {
        let name = any(Self.names)
        switch number(0...6) {
        case 0:
            return FuzzMessage(
                .parse(
                    .init(statement: name, query: statement(), parameterTypes: any([[], [23], [25, 0], [2_249]]))),
                .parse)
        case 1: return bind(name, any(Self.names))
        case 2: return FuzzMessage(.describe(.statement(name)), .describeStatement)
        case 3: return FuzzMessage(.describe(.portal(name)), .describePortal)
        case 4: return FuzzMessage(.execute(.init(portal: name, rowsMax: Int32(number(-2...3)))), .execute)
        case 5:
            return FuzzMessage(.close(number(0...1) == 0 ? .statement(name) : .portal(name)), .close)
        default: return FuzzMessage(.flush, .flush)
        }
    }

    private mutating func bind(_ statement: String, _ portal: String) -> FuzzMessage {
        let count = any([0, 0, 1, 1, 2, number(0...40) == 0 ? 65_535 : 3])
        let parameters = (0..<count).map { _ in number(0...5) == 0 ? nil : ByteBuffer(string: any(Self.values)) }
        return FuzzMessage(
            .bind(
                .init(
                    portal: portal, statement: statement, parameterFormats: any([[], [], [.text], [.binary]]),
                    parameters: parameters, resultFormats: any([[], [], [.text], [.binary]]))),
            .bind)
    }

    private mutating func copy() -> [FuzzMessage] {
        let rows = any(["7\t8\tnine\n", "x\n", "", "1\t1\tdouble\n", "\\.\n", "8\t\\N\t\\N\n9\t9"])
        let end: FrontendMessage = number(0...2) == 0 ? .copyFail("no more") : .copyDone
        return [
            FuzzMessage(
                .query(any(["COPY fuzz FROM STDIN", "COPY fuzz (id) FROM STDIN", "COPY no FROM STDIN"])), .query),
            FuzzMessage(.copyData(ByteBuffer(string: rows)), .copyData), FuzzMessage(end, .copyEnd),
        ]
    }

    /// Copy messages without a COPY are ignored; the function call protocol hardly anybody speaks.
    private mutating func strayMessage() -> FuzzMessage {
        switch number(0...3) {
        case 0: FuzzMessage(.copyDone, .copyEnd)
        case 1: FuzzMessage(.copyData(ByteBuffer(bytes: [0, 255, 7])), .copyData)
        case 2: FuzzMessage(.copyFail("why"), .copyEnd)
        default: FuzzMessage(.functionCall(.init(function: 1_598)), .functionCall)
        }
    }

    // MARK: What is wrong inside a frame

    private mutating func malformed() -> FuzzMessage {
        switch number(0...11) {
        case 0: frame("Q", Array("SELECT 1".utf8), .query, "without its NUL")
        case 1: frame("Q", Array("SELECT 1\0SELECT 2\0".utf8), .query, "with a NUL in it")
        case 2: frame("Q", Array("SELECT '".utf8) + [0xC3, 0x28, 0xFF] + Array("'\0".utf8), .query, "not UTF-8")
        case 3: frame("P", Array("a\0SELECT 1\0".utf8) + [0xFF, 0xFF, 0, 0], .parse, "with too many types")
        case 4: frame("P", Array("a\0SELECT".utf8), .parse, "cut short")
        case 5: frame("B", [0, 0, 0, 0, 0, 1, 0xFF, 0xFF, 0xFF, 0xF0, 0, 0], .bind, "with a length of -16")
        case 6: frame("B", [0, 0, 0, 0, 0xFF, 0xFF], .bind, "with parameters that are not there")
        case 7: frame("D", Array("X\0".utf8), .describeStatement, "of neither kind")
        case 8: frame("C", Array("Q\0".utf8), .close, "of neither kind")
        case 9: frame("E", [0, 0, 0], .execute, "cut short")
        case 10: frame("S", [1, 2, 3], .sync, "with a body")
        default: frame("H", [0], .error, "with a body")
        }
    }

    /// A frame that is none: the connection ends.
    private mutating func badFrame() -> FuzzMessage {
        let kinds = Array("QPBDECSHF".utf8)
        let type = kinds[number(0...(kinds.count - 1))]
        let length = any([0, 1, 3, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x8000_0000, 0x4000_0000] as [UInt32])
        guard number(0...2) > 0 else {
            let type = any([0, 0x21, 0x7A, 0xFF, 0x70] as [UInt8])
            return FuzzMessage(bytes: [type, 0, 0, 0, 4], answer: .fatal, text: "type \(type)")
        }
        return FuzzMessage(
            bytes: [type] + Array(ByteBuffer(integer: length).readableBytesView), answer: .end,
            text: "length \(length) of \(Character(UnicodeScalar(type)))")
    }

    private func frame(_ type: Character, _ body: [UInt8], _ answer: FuzzMessage.Answer, _ what: String) -> FuzzMessage
    {
        FuzzMessage(
            bytes: [type.asciiValue ?? 0] + Array(ByteBuffer(integer: UInt32(body.count + 4)).readableBytesView) + body,
            answer: answer, text: "\(type) \(what)")
    }

    // MARK: SQL

    private mutating func statement() -> String {
        let text = any(Self.statements)
        switch number(0...29) {
        case 0: return text + "; " + any(Self.statements)
        case 1: return any(Self.statements) + ";;" + text + "; -- end"
        case 2: return String(text.prefix(number(0...text.count)))
        case 3, 4: return scrambled(text)
        case 5 where number(0...9) == 0: return "SELECT length('\(String(repeating: "x", count: 4 << 20))')"
        case 6 where number(0...4) == 0:
            return "SELECT n FROM fuzz WHERE id IN (\((1...10_000).map { "$\($0)" }.joined(separator: ", ")))"
        case 7 where number(0...4) == 0:
            return "SELECT \(String(repeating: "(", count: 20_000))1\(String(repeating: ")", count: 20_000))"
        default: return text
        }
    }

    private mutating func scrambled(_ text: String) -> String {
        var scalars = Array(text.unicodeScalars)
        for _ in 0..<number(1...3) where !scalars.isEmpty {
            let place = number(0...(scalars.count - 1))
            switch number(0...2) {
            case 0: scalars.remove(at: place)
            case 1: scalars.insert(any(Array("'\"$();,.*:\\-/ \u{e9}\u{1F600}0a".unicodeScalars)), at: place)
            default: scalars.swapAt(place, number(0...(scalars.count - 1)))
            }
        }
        return String(String.UnicodeScalarView(scalars))
    }

    private static let names = ["", "", "a", "b", "é", "a b\"c"]
    private static let values = ["1", "2", "99", "", "abc", "-3", "1e400", "\u{1F600}", "{1,2}", "NaN", "' OR 1=1"]

    private static let statements = [
        "", ";", "-- nothing", "SELECT 1", "SELECT $1::int", "SELECT n FROM fuzz WHERE id = 1",
        "SELECT id, n, s FROM fuzz WHERE id = $1", "SELECT * FROM fuzz ORDER BY id",
        "SELECT count(*), sum(n) FROM fuzz",
        "SELECT s, count(*) FROM fuzz GROUP BY s ORDER BY s", "SELECT id FROM fuzz ORDER BY n DESC LIMIT 2 OFFSET 1",
        "SELECT id FROM fuzz WHERE id IN (1, 2, 77) ORDER BY id", "SELECT n FROM fuzz WHERE id = 2 FOR UPDATE",
        "INSERT INTO fuzz VALUES (4, 40, 'd')", "INSERT INTO fuzz VALUES (1, 1, 'again')",
        "INSERT INTO fuzz VALUES ($1, $2, 'p')", "INSERT INTO fuzz (id) VALUES (5), (6), (7) RETURNING id",
        "INSERT INTO fuzz VALUES (1, 2) ON CONFLICT (id) DO UPDATE SET n = fuzz.n + 1", "INSERT INTO fuzz VALUES ('x')",
        "INSERT INTO fuzz VALUES (1, 2, 3, 4)", "INSERT INTO fuzz (nope) VALUES (1)", "INSERT INTO fuzz VALUES (NULL)",
        "UPDATE fuzz SET n = n + 1 WHERE id = 1", "UPDATE fuzz SET n = n / 0 WHERE id = 1",
        "UPDATE fuzz SET n = $1 WHERE id = $2", "UPDATE fuzz SET n = 0", "UPDATE fuzz SET nope = 1 WHERE id = 1",
        "DELETE FROM fuzz WHERE id = 3", "DELETE FROM fuzz WHERE id = $1 RETURNING s", "DELETE FROM fuzz WHERE n > 15",
        "BEGIN", "BEGIN READ ONLY", "START TRANSACTION ISOLATION LEVEL SERIALIZABLE", "COMMIT", "COMMIT", "ROLLBACK",
        "ROLLBACK", "END", "ABORT", "COMMIT AND CHAIN", "SAVEPOINT s", "RELEASE s", "ROLLBACK TO s",
        "ROLLBACK TO nope",
        "SELECT 1/0", "SELECT 'x'::int", "SELECT nope FROM fuzz", "SELECT * FROM nope", "SELECT nope()", "SELEC 1",
        "SELECT (", "SELECT 'abc", "SELECT $$", "SELECT 1 FROM fuzz WHERE", "SELECT 1; SELEC", "/* open", "\\d",
        "SELECT 99999999999999999999999::int", "SELECT E'\\xff'", "SELECT 'é', U&'\\0000'", "SELECT $0",
        "INSERT INTO fuzz VALUES ($0, 1)", "SELECT count(*) FROM fuzz WHERE n = $4294967297", "EXPLAIN SELECT $1::int",
        "SET TimeZone = 'UTC'", "SET nope = 1", "SET statement_timeout = 'x'", "SHOW TimeZone", "SHOW nope",
        "RESET TimeZone", "SET LOCAL DateStyle = 'ISO'", "DISCARD ALL", "DEALLOCATE a", "DEALLOCATE nope",
        "DEALLOCATE ALL", "EXPLAIN SELECT n FROM fuzz WHERE id = 1", "EXPLAIN SELEC", "PREPARE q AS SELECT 1",
        "EXECUTE q", "FETCH c", "CLOSE c", "LISTEN l", "NOTIFY l", "LOCK TABLE fuzz",
        "CREATE TEMP TABLE tt (a int)", "DO 'BEGIN END'", "VACUUM fuzz", "TRUNCATE nope", "DROP TABLE nope",
        "SELECT pg_sleep(0.001)", "SELECT repeat('x', 100000)", "SELECT generate_series(1, 2000)", "TABLE fuzz",
        "VALUES (1, 'a'), (2, 'b')", "SELECT a.n FROM fuzz a JOIN fuzz b ON a.id = b.id WHERE a.id = 1",
        "WITH w AS (SELECT 1 AS x) SELECT x FROM w", "SELECT current_setting('nope')",
        "SET SESSION CHARACTERISTICS AS x",
    ]
}

extension FuzzMessage {
    init(_ message: FrontendMessage, _ answer: Answer) {
        var buffer = ByteBuffer()
        message.write(to: &buffer)
        let text = "\(message)"
        self.init(
            bytes: Array(buffer.readableBytesView), answer: answer,
            text: text.count > 200 ? text.prefix(200) + "…" : text)
        switch message {
        case .bind(let bind): portal = bind.portal
        case .execute(let execute): portal = execute.portal
        case .describe(.portal(let name)): portal = name
        default: break
        }
    }
}
