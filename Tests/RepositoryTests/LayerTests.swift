import Testing

/// Which target may know which, and what of the outside world.
enum Layer {
    case system, pure, simulation, loop, shell, assembly, executable

    /// Bottom-up, as in Package.swift.
    static let ofTarget: [(name: String, layer: Layer)] = [
        ("CLibPQ", .system), ("CLinux", .system), ("CPgQuery", .system),
        ("TransactionCore", .pure), ("BoundedTime", .pure), ("TwoPhaseCommit", .pure),
        ("PostgresWire", .pure), ("ClientAuthentication", .pure),
        ("Consensus", .pure), ("Metadata", .pure), ("Placement", .pure), ("StatementRouting", .pure),
        ("SimulationKit", .simulation),
        ("EventLoops", .loop),
        ("SystemClock", .shell), ("ShardBackend", .shell), ("MetadataStorage", .shell), ("LocalCluster", .shell),
        ("PeerTransport", .shell), ("Gateway", .shell), ("AdminInterface", .shell),
        ("ReplicatedMetadata", .assembly), ("ShardSchema", .assembly), ("TransactionEngine", .assembly),
        ("SQLSessions", .assembly), ("BankWorkload", .assembly),
        ("meridian", .executable), ("meridian-bench", .executable),
    ]

    /// All that a pure target may import besides targets below it: data structures, which touch nothing.
    static let pureImports: Set<String> = ["Collections", "DequeModule", "HeapModule", "OrderedCollections"]

    /// What one pure target may import besides, and no other: buffers, and functions of bytes. Neither reads or sends
    /// anything by itself, and of Foundation only what `touchesNothingOutside` lets pass.
    static let pureImportsOfTarget: [String: Set<String>] = [
        "PostgresWire": ["NIOCore"],
        "ClientAuthentication": ["Crypto", "Foundation"],
    ]

    /// Who may see libpq; the bench measures the floor with it.
    static let libpqImporters: Set<String> = ["ShardBackend", "meridian-bench"]

    /// Who may see PostgreSQL's parser, which is a function of its argument: pure code may call it.
    static let parserImporter = "StatementRouting"

    static func of(_ target: String) -> Layer? { ofTarget.first { $0.name == target }?.layer }

    var isPure: Bool { self == .pure || self == .simulation }

    /// The layers whose targets, as far as they come before, a target of this layer may import.
    var mayImport: [Layer] {
        switch self {
        case .system: []
        case .pure, .simulation: [.pure]
        case .loop: [.system]
        case .shell: [.system, .pure, .loop]
        case .assembly: [.pure, .loop, .shell, .assembly]
        case .executable: [.system, .pure, .simulation, .loop, .shell, .assembly]
        }
    }
}

@Suite struct LayerTests {
    @Test("every target is in a layer, in Package.swift's order")
    func layered() throws {
        let package = try #require(Repository.files.first { $0.path == "Package.swift" })
        let declared = package.text.matches(of: /(?:target|executableTarget|systemLibrary)\(\s*name: "([^"]+)"/)
            .map { String($0.1) }
            .filter { $0 != "TestSupport" }
        #expect(declared.filter { !$0.hasSuffix("Tests") } == Layer.ofTarget.map(\.name))
        let folders = Set(Repository.files.compactMap(\.target))
        #expect(folders.subtracting(declared).isEmpty)
    }

    @Test("a target imports only what lies below its layer, and shells do not import each other")
    func imports() {
        check(
            importsOnlyBelow,
            catches: [
                makeFile("Sources/TransactionCore/A.swift", "import BoundedTime"),
                makeFile("Sources/BoundedTime/A.swift", "import Foundation"),
                makeFile("Sources/BoundedTime/A.swift", "internal import Glibc"),
                makeFile("Sources/TwoPhaseCommit/A.swift", "import NIOCore"),
                makeFile("Sources/TwoPhaseCommit/A.swift", "@_spi(X) import struct CLibPQ.PGconn"),
                makeFile("Sources/TwoPhaseCommit/A.swift", "import Crypto"),
                makeFile("Sources/PostgresWire/A.swift", "import Foundation"),
                makeFile("Sources/PostgresWire/A.swift", "import NIOPosix"),
                makeFile("Sources/PostgresWire/A.swift", "import ShardBackend"),
                makeFile("Sources/ClientAuthentication/A.swift", "import NIOCore"),
                makeFile("Sources/ClientAuthentication/A.swift", "import Glibc"),
                makeFile("Sources/SimulationKit/A.swift", "import Dispatch"),
                makeFile("Sources/SystemClock/A.swift", "import ShardBackend"),
                makeFile("Sources/LocalCluster/A.swift", "import CLibPQ"),
                makeFile("Sources/Gateway/A.swift", "import ShardBackend"),
                makeFile("Sources/ShardBackend/A.swift", "import SimulationKit"),
                makeFile("Sources/ShardSchema/A.swift", "import TransactionEngine"),
                makeFile("Sources/meridian/A.swift", "import CLibPQ"),
                makeFile("Sources/Placement/A.swift", "import CPgQuery"),
                makeFile("Sources/ShardBackend/A.swift", "import CPgQuery"),
                makeFile("Sources/meridian/A.swift", "import CPgQuery"),
                makeFile("Sources/StatementRouting/A.swift", "import CLinux"),
                makeFile("Sources/StatementRouting/A.swift", "import Foundation"),
                makeFile("Sources/Stray/A.swift", "import TransactionCore"),
            ],
            accepts: [
                makeFile(
                    "Sources/TwoPhaseCommit/A.swift", "import HeapModule\n// import Foundation\nimport BoundedTime"),
                makeFile("Sources/PostgresWire/A.swift", "import NIOCore\nimport TransactionCore"),
                makeFile("Sources/ClientAuthentication/A.swift", "import Crypto\nimport Foundation"),
                makeFile("Sources/ShardBackend/A.swift", "import CLibPQ\nimport Glibc\nimport Logging"),
                makeFile("Sources/StatementRouting/A.swift", "internal import CPgQuery\nimport Placement"),
                makeFile("Sources/Gateway/A.swift", "import NIOSSL\nimport PostgresWire"),
                makeFile("Sources/BankWorkload/A.swift", "import TransactionEngine\nimport ShardBackend"),
            ])
    }

    @Test("pure code reads no clock, draws no randomness of its own and spawns no task")
    func purity() {
        check(
            touchesNothingOutside,
            catches: [
                "Task { }", "Task.detached { }", "withTaskGroup(of: Int.self) { _ in }", "async let x = f()",
                "ContinuousClock.now", "SuspendingClock()", "Int.random(in: 0..<3)", "list.shuffled()",
                "list.randomElement()", "SystemRandomNumberGenerator()", "print(1)",
                "Date()", "Date.now", "FileManager.default", "ProcessInfo.processInfo", "URLSession.shared", "UUID()",
                "Data(contentsOf: url)", "FileHandle.standardInput", "Foundation.Thread.sleep(forTimeInterval: 1)",
            ].map { makeFile("Sources/TwoPhaseCommit/A.swift", $0) }
                + [makeFile("Sources/SimulationKit/A.swift", "x.shuffle()")],
            accepts: [
                makeFile("Sources/TwoPhaseCommit/A.swift", "Int.random(in: 0..<3, using: &generator) // Task"),
                makeFile("Sources/TwoPhaseCommit/A.swift", "let taskCount = blueprint(3)"),
                makeFile("Sources/ShardBackend/A.swift", "Task { }"),
            ])
    }

    private func importsOnlyBelow(_ file: RepositoryFile) -> [String] {
        guard let target = file.target else { return [] }
        guard let layer = Layer.of(target) else { return ["target \(target) is in no layer"] }
        let below = Layer.ofTarget.prefix { $0.name != target }.filter { layer.mayImport.contains($0.layer) }
        let permitted = Set(below.map(\.name)).union(Layer.pureImports)
            .union(Layer.pureImportsOfTarget[target] ?? [])
        return imports(in: file).filter { module in
            if module == "CLibPQ" { return !Layer.libpqImporters.contains(target) }
            if module == "CPgQuery" { return target != Layer.parserImporter }
            let isOurs = Layer.of(module) != nil
            return isOurs || layer.isPure ? !permitted.contains(module) : false
        }.map { "\(target) imports \($0)" }
    }

    private func imports(in file: RepositoryFile) -> [String] {
        SwiftText(file.text).bareCode.split(separator: "\n").compactMap { line in
            let words = line.split(separator: " ")
            guard let keyword = words.firstIndex(of: "import"), keyword + 1 < words.count,
                words[..<keyword].allSatisfy({ $0.hasPrefix("@") || $0.allSatisfy(\.isLetter) })
            else { return nil }
            // What is imported stands last, also after a kind: `import struct Module.Type`.
            return words[words.count - 1].split(separator: ".").first.map(String.init)
        }
    }

    private func touchesNothingOutside(_ file: RepositoryFile) -> [String] {
        guard let target = file.target, Layer.of(target)?.isPure == true else { return [] }
        let outside =
            /\b(?:Task\s*[.{(]|with\w*TaskGroup|async let|(?:Continuous|Suspending)Clock|SystemRandom|print\()/
        let foundation =
            /\b(?:Date\(|Date\.now|FileManager|FileHandle|ProcessInfo|URLSession|UUID\(|contentsOf(?:File)?:|Thread\b)/
            .wordBoundaryKind(.simple)
        let random = /\.(?:random|shuffled?|randomElement)\((?![^)]*using:)/
        return SwiftText(file.text).bareCode.split(separator: "\n")
            .filter { $0.contains(outside) || $0.contains(foundation) || $0.contains(random) }
            .map { "touches the outside world: \($0.trimmingPrefix(/\s+/))" }
    }
}
