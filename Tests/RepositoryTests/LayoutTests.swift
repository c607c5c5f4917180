import Testing

@Suite struct LayoutTests {
    @Test("the tree was found, and what everyone looks for is in it")
    func documents() {
        for path in ["Package.swift", "README.md", "CHANGELOG.md", "LICENSE", ".swift-format", ".ci/run", "ops/test"] {
            let isThere = Repository.files.contains { $0.path == path }
            #expect(isThere, "there is no \(path)")
        }
    }

    @Test("nothing that is built or downloaded is kept")
    func nothingBuilt() {
        let rule: FileRule = { file in
            let isBuilt =
                file.path == "Package.resolved" || file.path.split(separator: "/").contains { $0.hasPrefix(".build") }
            return isBuilt ? ["is made by the build"] : []
        }
        check(rule, catches: [makeFile("Package.resolved", ""), makeFile(".build/debug.yaml", "")])
    }

    @Test("no file names somebody's home directory or a directory of one machine")
    func noMachinePaths() {
        let rule: FileRule = { file in
            file.text.contains(/(?:^|[\s"'=(:])\/(?:home|Users|root|work)\/\w/)
                ? ["names a directory of one machine"] : []
        }
        check(
            rule,
            catches: ["cd /" + "home/alice/meridian", "\"/" + "root/x\"", "at /" + "work/main"].map {
                makeFile("a.md", $0)
            },
            accepts: [makeFile("a.md", "see docs/home/page and ../work/x")])
    }

    @Test("every module has a front page that says what it assumes, what it guarantees and what breaks it")
    func frontPages() {
        for (target, layer) in Layer.ofTarget where layer != .system && layer != .executable {
            let path = "Sources/\(target)/\(target).docc/\(target).md"
            let isThere = Repository.files.contains { $0.path == path }
            #expect(isThere, "there is no \(path)")
        }
        let rule: FileRule = { file in
            let parts = file.path.split(separator: "/")
            guard parts.count == 4, parts[2] == "\(parts[1]).docc", file.name == "\(parts[1]).md" else { return [] }
            return missingHeadings(["assumes", "guarantees", "breaks if"], in: file)
        }
        check(
            rule, catches: [makeFile("Sources/A/A.docc/A.md", "# ``A``\n\n## Assumes\n\n## Breaks if\n")],
            accepts: [makeFile("Sources/A/A.docc/A.md", "## Assumes\n## Guarantees\n## Breaks if\n")])
    }

    @Test("every decision record has its four parts, a title, and a number of its own")
    func decisionRecords() {
        let rule: FileRule = { file in
            guard file.path.contains("/Decisions/") else { return [] }
            let name = file.name.wholeMatch(of: /\d{4}-[a-z0-9-]+\.md/) == nil ? ["is not named NNNN-title.md"] : []
            let title = file.text.hasPrefix("# ") ? [] : ["does not begin with a title"]
            return name + title
                + missingHeadings(["context", "decision", "what was measured", "what would change it"], in: file)
        }
        let parts = "# A\n## Context\n## Decision\n## What was measured\n"
        check(
            rule,
            catches: [
                makeFile("Sources/meridian/Documentation.docc/Decisions/0001-a.md", parts),
                makeFile("Sources/meridian/Documentation.docc/Decisions/one.md", parts + "## What would change it\n"),
            ],
            accepts: [
                makeFile("Sources/meridian/Documentation.docc/Decisions/0001-a.md", parts + "## What would change it\n")
            ])
        let numbers = Repository.files.filter { $0.path.contains("/Decisions/") }.map { $0.name.prefix(4) }
        #expect(Set(numbers).count == numbers.count, "two decision records share a number: \(numbers.sorted())")
    }

    @Test("migrations are numbered from 0001 without gaps")
    func migrations() {
        #expect(misnumbered(["0001_a.sql", "0003_b.sql"]) == ["0003_b.sql"])
        #expect(misnumbered(["0001_a.sql", "0001_b.sql"]) == ["0001_b.sql"])
        #expect(misnumbered(["1_a.sql"]) == ["1_a.sql"])
        #expect(misnumbered(["0002_b.sql", "0001_a.sql"]) == [])
        #expect(misnumbered(Repository.files.filter { $0.path.hasPrefix("migrations/") }.map(\.name)) == [])
    }

    @Test("the commands under ops, and .ci/run, can be executed and say by what")
    func commands() {
        let rule: FileRule = { file in
            let isCommand = file.path == ".ci/run" || file.path.wholeMatch(of: /ops\/[a-z0-9-]+/) != nil
            guard isCommand || (file.path.hasPrefix("ops/") && file.text.hasPrefix("#!")) else { return [] }
            return (file.isExecutable ? [] : ["is not executable"])
                + (file.text.hasPrefix("#!") ? [] : ["has no #! line"])
        }
        check(
            rule,
            catches: [
                makeFile("ops/demo", "#!/bin/sh\n"), makeFile("ops/lib/a.sh", "#!/bin/sh\n"),
                RepositoryFile(path: ".ci/run", text: "ops/test", isExecutable: true),
            ],
            accepts: [
                RepositoryFile(path: "ops/demo", text: "#!/bin/sh\n", isExecutable: true),
                makeFile("ops/config.yml", "a: 1"), makeFile("ops/lib/common.sh", "f() { :; }"),
            ])
    }
}

private func missingHeadings(_ headings: [String], in file: RepositoryFile) -> [String] {
    let present = Set(file.lines.filter { $0.hasPrefix("## ") }.map { $0.dropFirst(3).lowercased() })
    return headings.filter { !present.contains($0) }.map { "has no part \"\($0)\"" }
}

private func misnumbered(_ names: [String]) -> [String] {
    names.sorted().enumerated().filter { index, name in
        guard let match = name.wholeMatch(of: /(\d{4})_[a-z0-9_]+\.sql/) else { return true }
        return Int(match.1) != index + 1
    }.map(\.element)
}
