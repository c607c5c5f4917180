import Testing

/// Words that this suite looks for, spelled so that it does not find them here.
private let unfinishedMarkers = ["TO" + "DO", "FIX" + "ME", "XX" + "X:"]

@Suite struct SourceStyleTests {
    @Test("no file of code or tests has 500 lines")
    func fileLength() {
        let rule: FileRule = { file in
            guard ["swift", "sql", "sh", "py", "c", "h"].contains(file.fileExtension) else { return [] }
            let count = file.lines.count - 1
            return count < 500 ? [] : ["\(count) lines"]
        }
        let long = String(repeating: "let a = 1\n", count: 500)
        check(
            rule, catches: [makeFile("Tests/ATests/A.swift", long), makeFile("migrations/0001_a.sql", long)],
            accepts: [makeFile("Sources/A/A.swift", String(long.dropLast(10)))])
    }

    @Test("no function has 70 lines")
    func functionLength() {
        func make(_ count: Int) -> RepositoryFile {
            makeFile(
                "A.swift",
                "protocol P { func g() }\nfunc f() {\n" + String(repeating: "    g()\n", count: count) + "}\n")
        }
        check(hasShortFunctions, catches: [make(68)], accepts: [make(67)])
    }

    @Test("no line is wider than 120 characters, tables and addresses in prose aside")
    func lineWidth() {
        let rule: FileRule = { file in
            guard ["swift", "sql", "sh", "py", "c", "h", "md", "yml", "yaml"].contains(file.fileExtension) else {
                return []
            }
            return file.lines.enumerated().filter { _, line in
                // Bytes are cheap to count, and no fewer than characters.
                guard line.utf8.count > 120, line.count > 120 else { return false }
                return file.fileExtension != "md" || !(line.hasPrefix("|") || line.contains("://"))
            }.map { "line \($0.offset + 1) is \($0.element.count) wide" }
        }
        let wide = String(repeating: "é", count: 121)
        check(
            rule, catches: [makeFile("A.swift", "\n" + wide), makeFile("README.md", wide)],
            accepts: [makeFile("A.swift", String(wide.dropLast())), makeFile("README.md", "|" + wide)])
    }

    @Test("no code crashes on purpose where it could throw")
    func noCrashing() {
        let rule: FileRule = { file in
            guard file.isSwift else { return [] }
            let code = SwiftText(file.text).bareCode
            return ["try!", "fatalError", "preconditionFailure()"].filter { code.contains($0) }
        }
        check(
            rule, catches: ["_ = try! f()", "fatalError(\"x\")"].map { makeFile("A.swift", $0) },
            accepts: [makeFile("A.swift", "// fatalError\nlet s = \"try!\"")])
    }

    @Test("nothing is left unfinished")
    func nothingUnfinished() {
        let rule: FileRule = { file in
            unfinishedMarkers.filter { file.text.contains($0) }
        }
        check(rule, catches: unfinishedMarkers.map { makeFile("README.md", "// \($0) later") })
    }

    @Test("no file or declaration has a name that could mean anything")
    func names() {
        check(
            hasTellingNames,
            catches: [
                makeFile("Sources/A/ShardUtils.swift", ""),
                makeFile("Sources/A/A.swift", "final class PoolManager {}"),
                makeFile("Sources/A/A.swift", "func retryHelper() {}"),
                makeFile("Sources/A/A.swift", "enum Misc {}"),
            ],
            accepts: [makeFile("Sources/A/A.swift", "struct Utilization {} // a manager\nlet s = \"class Helper\"")])
    }

    @Test("each SQLSTATE that Meridian raises is declared once, in SQLState.swift")
    func sqlStates() throws {
        let rule: FileRule = { file in
            guard file.target != nil, file.name != "SQLState.swift" else { return [] }
            return sqlStateLiterals(in: file).map { "spells SQLSTATE \($0)" }
        }
        check(
            rule, catches: [makeFile("Sources/A/A.swift", "if state == \"40001\" {}")],
            accepts: [makeFile("Sources/A/A.swift", "let name = \"node1\" // \"40001\"")])
        let declared = sqlStateLiterals(
            in: try #require(Repository.files.first { $0.path == "Sources/TransactionCore/SQLState.swift" }))
        #expect(declared.count > 10)
        #expect(Set(declared).count == declared.count, "a SQLSTATE is declared twice")
    }
}

private func sqlStateLiterals(in file: RepositoryFile) -> [String] {
    SwiftText(file.text).code.matches(of: /"((?:[0-5][0-9A-Z]|72|F0|HV|P0|XX)[0-9A-Z]{3})"/).map { String($0.1) }
}

private func hasTellingNames(_ file: RepositoryFile) -> [String] {
    guard file.isSwift else { return [] }
    let empty: Set<String> = ["manager", "helper", "helpers", "util", "utils", "utility", "utilities", "misc"]
    let code = SwiftText(file.text).bareCode
    let declared = code.matches(of: /\b(?:actor|class|enum|func|protocol|struct|typealias)\s+(\w+)/).map {
        String($0.1)
    }
    return ([String(file.name.dropLast(6))] + declared).filter { name in
        let words = name.matches(of: /[A-Z]?[a-z0-9]+|[A-Z]+/).map { $0.0.lowercased() }
        return !empty.isDisjoint(with: words)
    }.map { "the name \($0) says nothing" }
}

/// Goes by indentation, which `swift format` has put right: a body ends at the next brace as far in as its declaration.
private func hasShortFunctions(_ file: RepositoryFile) -> [String] {
    guard file.isSwift else { return [] }
    let lines = SwiftText(file.text).bareCode.split(separator: "\n", omittingEmptySubsequences: false)
    func indentation(_ line: Substring) -> Int? { line.firstIndex { $0 != " " }?.utf16Offset(in: line) }
    return lines.indices.compactMap { start in
        guard lines[start].contains(/^\s*(?:[@\w()]+\s+)*(?:func\s|init[?(<])/), let depth = indentation(lines[start])
        else { return nil }
        // A closing parenthesis, or a brace on a line of its own, still belongs to the head of the declaration.
        let end = lines[(start + 1)...].firstIndex { line in
            guard let inner = indentation(line), inner <= depth else { return false }
            return inner < depth || !(line.contains(/^\s*[){]/))
        }
        guard let end, end - start >= 69, lines[end].contains(/^\s*}/) else { return nil }
        return "\(end - start + 1) lines: \(lines[start].trimmingPrefix(/\s+/))"
    }
}
