import Foundation
import StatementRouting
import Testing
import TransactionCore

@Suite struct ParsedTextTests {
    private func failure(of text: String) -> StatementError? {
        do {
            _ = try ParsedText(text)
            return nil
        } catch {
            return error
        }
    }

    @Test("a text is cut into its statements, without semicolons, comments and blanks around them")
    func statements() throws {
        let text = "SELECT 1; ;  select 'é;' as \"a;b\" ; /* x; */ INSERT INTO t VALUES ($$;$$) -- end;\n;"
        let parsed = try ParsedText(text)
        #expect(
            parsed.statements.map(\.text) == [
                "SELECT 1", "select 'é;' as \"a;b\"", "INSERT INTO t VALUES ($$;$$)",
            ])
        #expect(parsed.statements.map(\.kind) == [.query, .query, .insert])
        for statement in parsed.statements {
            let bytes = Array(text.utf8)[statement.range]
            #expect(String(decoding: bytes, as: UTF8.self) == statement.text)
        }
    }

    @Test("blanks and comments are no statement", arguments: ["", "  ", ";;", "-- x", "/* /* y */ */ ;"])
    func empty(text: String) throws {
        #expect(try ParsedText(text).statements.isEmpty)
    }

    @Test(
        "a syntax error is PostgreSQL's, with its position in characters",
        arguments: [
            ("SELECT 1; SELECT 'é' frm x", "syntax error at or near \"x\"", 26),
            ("SELECT 'abc", "unterminated quoted string at or near \"'abc\"", 8),
            ("SELECT 1 +", "syntax error at end of input", 11),
            ("SELECT /* x", "unterminated /* comment at or near \"/* x\"", 8),
        ])
    func syntaxErrors(text: String, message: String, position: Int) {
        #expect(failure(of: text) == StatementError(.syntaxError, message, position: position))
    }

    @Test("a NUL byte is an error of the encoding, not the text's end")
    func nulByte() {
        #expect(failure(of: "SELECT 1\0; DROP TABLE t")?.sqlState == .characterNotInRepertoire)
    }

    /// Text that nests, or stacks, as often as is asked.
    private struct Nest: Sendable {
        var head = "SELECT "
        var opening = ""
        var middle = ""
        var closing = ""

        func text(_ count: Int) -> String {
            head + String(repeating: opening, count: count) + middle + String(repeating: closing, count: count)
        }
    }

    private static let nests: [Nest] = [
        Nest(opening: "(", middle: "1", closing: ")"),
        Nest(middle: "1", closing: "+1"),
        Nest(opening: "f(", middle: "1", closing: ")"),
        Nest(opening: "NOT ", middle: "true"),
        Nest(opening: "- ", middle: "1"),
        Nest(middle: "1", closing: "::int"),
        Nest(middle: "1", closing: " IS NULL"),
        Nest(middle: "'a'", closing: " COLLATE \"C\""),
        Nest(middle: "now()", closing: " AT TIME ZONE 'UTC'"),
        Nest(middle: "1", closing: " UNION SELECT 1"),
        Nest(middle: "1, 2", closing: " EXCEPT SELECT 1, 2"),
        Nest(opening: "(SELECT ", middle: "1", closing: ")"),
        Nest(head: "SELECT * FROM a", closing: " JOIN b ON x AND y"),
        Nest(head: "SELECT * FROM a", closing: " NATURAL JOIN b"),
        Nest(head: "SELECT * FROM ", opening: "(SELECT * FROM ", middle: "a", closing: ") q"),
        Nest(opening: "CASE WHEN a AND b THEN 1 ELSE ", middle: "0", closing: " END"),
        Nest(opening: "CASE WHEN t.end THEN ", middle: "0", closing: " END"),
        Nest(opening: "ARRAY[", middle: "1", closing: "]"),
        Nest(middle: "a", closing: " || (b, c)"),
        Nest(middle: "a", closing: " ISNULL"),
        Nest(head: "", opening: "WITH x AS (", middle: "SELECT 1", closing: ") SELECT 1"),
    ]

    @Test("no depth of nesting ends the process, on a thread with 4 MB of stack", arguments: 0..<21)
    func deepNesting(index: Int) async {
        for count in [100, 250, 500, 1000, 2000, 4000, 100_000] {
            let text = Self.nests[index].text(count)
            let state = await withCheckedContinuation { continuation in
                let thread = Thread {
                    do {
                        let parsed = try ParsedText(text)
                        _ = try parsed.plan(0, in: makeCatalog())
                        continuation.resume(returning: SQLState?.none)
                    } catch {
                        continuation.resume(returning: (error as? StatementError)?.sqlState)
                    }
                }
                thread.stackSize = 4 << 20
                thread.start()
            }
            let expected: Set<SQLState?> = count < 200 ? [nil] : [nil, .syntaxError, .statementTooComplex]
            #expect(expected.contains(state), "\(text.prefix(40)) \(count)")
            if count == 100_000 { #expect(state != nil, "\(text.prefix(40))") }
        }
    }

    private static let longLists: [(part: String, separator: String)] = [
        ("INSERT INTO t VALUES (1, -2, f(3), 'x'::text)", ", (1, -2, f(3), 'x'::text)"),
        ("SELECT 1 WHERE (a = 1 AND NOT b = -2)", " OR (a = 1 AND NOT b = -2)"),
        ("SELECT - 1", ", - 1"),
        ("SELECT 1 + 1 UNION SELECT 2", "; SELECT 1 + 1 UNION SELECT 2"),
        ("SELECT '(", "(("),
    ]

    @Test("long lists are not deep", arguments: 0..<5)
    func long(index: Int) {
        let (part, separator) = Self.longLists[index]
        let text = part + String(repeating: separator, count: 10_000) + (part.hasSuffix("'(") ? "'" : "")
        #expect(failure(of: text) == nil)
    }

    @Test("texts are parsed on many threads at once")
    func concurrently() async {
        await withTaskGroup(of: Bool.self) { group in
            for number in 0..<64 {
                group.addTask {
                    (try? ParsedText("SELECT \(number), '\(number)' FROM t WHERE a = \(number)"))?.statements.count == 1
                }
            }
            for await isParsed in group { #expect(isParsed) }
        }
    }
}
