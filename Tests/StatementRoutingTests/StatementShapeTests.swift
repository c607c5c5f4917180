import Testing

@testable import StatementRouting

@Suite struct StatementShapeTests {
    private func makeShape(_ text: String) throws -> StatementShape {
        StatementShape(of: text, try #require(StatementNormalizer.normalize(text)))
    }

    private static let literals = [
        "1", "-1", "- 1", "2147483647", "-2147483648", "2147483648", "99999999999999999999", "007", "1.5", "-1e3", ".5",
        "'x'", "''", "'it''s'", "''''", "'-- no comment'", "'ä$1'", "'x'\n'y'", "'x' 'y'", "E'x'", "$1", "NULL", "b",
        "1 + 1", "1 -- c", "/* c */ 1", "--1", "+1", "1and", "1..2", "1.", "'x", "", "'a'::text", "(1)",
    ]
    private static let templates = [
        "SELECT a FROM t WHERE id = ?", "SELECT a FROM t WHERE id=? AND b = ? ORDER BY 1 LIMIT 5;",
        "UPDATE t SET a = a + ?, b = ? WHERE id = ?", "UPDATE t SET a = a -? WHERE id = ?",
        "INSERT INTO t VALUES (?, ?, now())", "DELETE FROM \"T\" WHERE a < ? OR b <>? RETURNING a",
    ]

    @Test("a text is of a statement's shape when the normalizer makes the same of both", arguments: templates)
    func agrees(template: String) throws {
        let parts = template.split(separator: "?", omittingEmptySubsequences: false)
        func fill(_ first: String, _ second: String) -> String {
            var text = ""
            for (index, part) in parts.enumerated() {
                text += part + (index + 1 == parts.count ? "" : index == 0 ? first : second)
            }
            return text
        }
        var matches = 0
        for first in Self.literals {
            for second in Self.literals {
                let model = fill(first, second)
                guard let normalized = StatementNormalizer.normalize(model) else { continue }
                let shape = StatementShape(of: model, normalized)
                for (other, last) in zip(Self.literals, Self.literals.reversed()) {
                    let text = fill(other, last)
                    guard let values = shape.values(of: text) else { continue }
                    let expected = StatementNormalizer.normalize(text)
                    #expect(values == expected?.values, "\(text) by \(model)")
                    #expect(normalized.text == expected?.text, "\(text) by \(model)")
                    matches += 1
                }
                #expect(shape.values(of: model) == normalized.values, "\(model)")
            }
        }
        #expect(matches > 0)
    }

    @Test("a text of another shape is not taken for one")
    func others() throws {
        let shape = try makeShape("SELECT a FROM t WHERE id = 5 AND b = 'x'")
        #expect(shape.values(of: "SELECT a FROM t WHERE id = 77 AND b = 'it''s'") == ["77", "it's"])
        for text in [
            "SELECT a FROM t WHERE id = 5", "SELECT a FROM t WHERE id = 5 AND b = 'x' ", "select a FROM t WHERE id = 5",
            "SELECT a FROM t WHERE id = 5 AND b = 6", "SELECT a FROM t WHERE id = -5 AND b = 'x'",
            "SELECT a FROM t WHERE id = 5000000000 AND b = 'x'", "SELECT a FROM t WHERE id = 5.0 AND b = 'x'",
            "SELECT a FROM t WHERE id = 5 AND b = 'x'--", "SELECT a FROM t WHERE id = 5 AND b = 'x", "", "S",
        ] {
            #expect(shape.values(of: text) == nil, "\(text)")
        }
    }

    @Test("of the shapes that came last, those that come often stay")
    func recent() throws {
        var shapes = RecentShapes<Int>(capacity: 2)
        let texts = (0..<3).map { "SELECT c\($0) FROM t WHERE id = 1" }
        for (number, text) in texts.prefix(2).enumerated() { shapes.insert(try makeShape(text), number) }
        #expect(shapes.find(texts[1]) { _ in true }?.known == 1)
        shapes.insert(try makeShape(texts[2]), 2)
        #expect(shapes.find(texts[0]) { _ in true } == nil)
        #expect(shapes.find("SELECT c1 FROM t WHERE id = 9") { _ in true }?.values == ["9"])
        #expect(shapes.find(texts[2]) { _ in true }?.known == 2)
        #expect(shapes.find(texts[2]) { $0 != 2 } == nil)
    }
}
