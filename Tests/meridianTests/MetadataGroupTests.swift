import Foundation
import LocalCluster
import TestSupport
import Testing

/// The commands, as their users run them, on three nodes that are processes.
@Suite("meridian metadata", .serialized) struct MetadataGroupTests {
    private let files: TemporaryDirectory

    init() throws {
        files = try TemporaryDirectory()
    }

    private func run(_ arguments: [String]) throws -> RunningCommand {
        try RunningCommand(
            arguments, environment: ["XDG_RUNTIME_DIR": files.path, "TMPDIR": files.path, "MERIDIAN_CONFIG": ""])
    }

    private func withNodes(_ body: (RunningCommand) async throws -> Void) async throws {
        let dev = try run(["dev", "--shards", "1", "--nodes", "3"])
        let isReady = await eventually(within: .seconds(120)) {
            dev.output.split(separator: "\n").count { $0.hasPrefix("ready: ") } == 3
        }
        try #require(isReady, "\(dev.errors)")
        try await body(dev)
        dev.signal(SIGINT)
        #expect(await dev.exitStatus() == 0, "\(dev.errors)")
    }

    /// What a command prints, which is to succeed.
    private func metadata(_ arguments: String...) async throws -> String {
        let command = try run(["metadata"] + arguments)
        let status = await command.exitStatus()
        try #require(status == 0, "\(arguments): \(command.output)\(command.errors)")
        return command.output
    }

    /// What a command says that is to fail.
    private func failure(_ arguments: String...) async throws -> String {
        let command = try run(["metadata"] + arguments)
        #expect(await command.exitStatus() == 1, "\(arguments): \(command.output)")
        return command.errors
    }

    private struct Member: Decodable {
        var node: Int
        var role: String
        var leads: Bool
        var answers: Bool
    }

    private func members() async throws -> [Member] {
        let text = try await metadata("members", "show", "--json")
        return try JSONDecoder().decode([Member].self, from: Data(text.utf8))
    }

    /// The process of a node, by the newest line `node: NUMBER process=PROCESS …`.
    private func processID(of node: Int, _ dev: RunningCommand) throws -> Int32 {
        let found = dev.output.matches(of: /node: (\d+) process=(\d+)/).last { Int($0.1) == node }
        return try #require(found.flatMap { Int32($0.2) })
    }

    @Test("keys are set, read, listed and deleted, on conditions that hold or say why not; members are shown")
    func commands() async throws {
        try await withNodes { _ in
            let first = try await metadata("set", "/notes/colour", "blue").trimmingCharacters(in: .newlines)
            #expect(try await metadata("get", "/notes/colour") == "blue\n")
            let absent = try await failure("set", "/notes/colour", "red", "--if-absent")
            #expect(absent.contains("set at revision \(first)"))
            let other = try await failure("set", "/notes/colour", "red", "--if-revision", "1")
            #expect(other.contains("was left as it is"))
            let second = try await metadata("set", "/notes/colour", "red", "--if-revision", first)
            #expect(try #require(Int(second.dropLast())) > #require(Int(first)))
            _ = try await metadata("set", "/notes/size", "two\nlines")
            #expect(
                try await metadata("list", "/notes/") == "/notes/colour\tred\n/notes/size\t\"two\\nlines\"\n")
            #expect(
                try await metadata("get", "/notes/colour", "--json").contains(
                    "\"revision\":\(second.dropLast()),\"value\":\"red\",\"version\":2"))
            _ = try await metadata("set", "/notes/colour", "--delete")
            let gone = try await failure("get", "/notes/colour")
            #expect(gone.hasPrefix("ERROR:  there is no key /notes/colour\nDETAIL:"))
            #expect(try await failure("set", "/notes/colour", "--delete").contains("there is no such key"))

            _ = try await metadata("members", "lead", "2")
            let members = try await members()
            #expect(members.map(\.node) == [1, 2, 3])
            #expect(members.allSatisfy { $0.role == "voter" && $0.answers })
            #expect(members.filter(\.leads).map(\.node) == [2])
            #expect(try await failure("members", "lead", "7").contains("node 7 can't lead"))
            #expect(try await metadata("members").hasPrefix("NODE  ROLE   LEADS  STATE"))
        }
        #expect(try await failure("get", "/x").contains("no \"meridian dev\" of this user is running"))
    }

    @Test("one process of three has the lock; when it is killed its command dies, and the next has a larger token")
    func lock() async throws {
        try await withNodes { _ in
            let log = "\(files.path)/log"
            let script = """
                echo "$MERIDIAN_LOCK_TOKEN begin $$" >> \(log); while ! [ -e \(files.path)/stop ]; do sleep 0.05; done
                echo "$MERIDIAN_LOCK_TOKEN end" >> \(log); exit 7
                """
            func lines() -> [[Substring]] {
                ((try? String(contentsOfFile: log, encoding: .utf8)) ?? "").split(separator: "\n")
                    .map { $0.split(separator: " ") }
            }
            func start() throws -> RunningCommand {
                try run(["metadata", "lock", "--ttl", "2s", "x", "--", "sh", "-c", script])
            }
            let first = try start()
            #expect(await eventually { lines().count == 1 }, "\(first.errors)")
            let others = [try start(), try start(), try start()]
            while try await metadata("list", "/locks/x/").split(separator: "\n").count < 4 {}
            // Who waits and is told to end leaves its place at once.
            others[2].signal(SIGINT)
            #expect(await others[2].exitStatus() == 128 + SIGINT)
            #expect(try await metadata("list", "/locks/x/").split(separator: "\n").count == 3)

            let child = try #require(Int32(lines()[0][2]))
            first.signal(SIGKILL)
            #expect(await eventually { lines().count == 2 })
            // It is dead, whether somebody has asked how it ended or not.
            let status = (try? String(contentsOfFile: "/proc/\(child)/stat", encoding: .utf8)) ?? "() Z"
            #expect(status.split(separator: ")").last?.hasPrefix(" Z") == true, "\(status)")
            try Data().write(to: URL(fileURLWithPath: "\(files.path)/stop"))
            for other in others[..<2] { #expect(await other.exitStatus() == 7, "\(other.errors)") }
            #expect(lines().map { $0[1] } == ["begin", "begin", "end", "begin", "end"])
            let tokens = lines().map { Int($0[0])! }
            #expect(tokens[0] < tokens[1] && tokens[1] == tokens[2] && tokens[2] < tokens[3] && tokens[3] == tokens[4])
            #expect(try await metadata("list", "/locks/x/") == "")
        }
    }

    @Test("a command under a lock that can't be kept is ended, and the loss is reported")
    func lostLock() async throws {
        try await withNodes { dev in
            let lock = try run(["metadata", "lock", "--ttl", "2s", "x", "sh", "-c", "echo held; sleep 600"])
            try await lock.waits(for: "held")
            for node in 1...3 { kill(try processID(of: node, dev), SIGSTOP) }
            #expect(await lock.exitStatus() == 1)
            #expect(lock.errors.contains("lock x could not be kept"))
            for node in 1...3 { kill(try processID(of: node, dev), SIGCONT) }
        }
    }

    @Test("a watch is told everything once, in order, while the leader that it asks is killed")
    func watch() async throws {
        try await withNodes { dev in
            _ = try await metadata("members", "lead", "1")
            let watch = try run(["metadata", "watch", "/w/"])
            try await watch.waits(for: "watching /w/ after revision")
            for value in 1...12 {
                if value == 5 { kill(try processID(of: 1, dev), SIGKILL) }
                _ = try await metadata("set", "/w/\(value % 2)", "\(value)")
            }
            try await watch.waits(for: "\t12\n")
            let values = watch.output.split(separator: "\n").map { $0.split(separator: "\t").last }
            #expect(values == (1...12).map { "\($0)" })
            watch.signal(SIGINT)
        }
    }

    @Test("a fourth node joins by its configuration, and the first leaves and ends; its number is not given again")
    func joining() async throws {
        try await withNodes { dev in
            _ = try await metadata("set", "/x", "1")
            let founder = try #require(dev.output.firstMatch(of: /node: 1 process=\d+ config=(\S+)/)).1
            let text = try String(contentsOfFile: String(founder), encoding: .utf8)
            let joiner = "\(files.path)/node-4.yaml"
            try text.replacing("node: 1\ncluster", with: "node: 4\ncluster")
                .replacing(/listen: "127\.0\.0\.1:\d+"/, with: "listen: \"127.0.0.1:\(try freePort())\"")
                .replacing(/listen: 127\.0\.0\.1:\d+/, with: "listen: 127.0.0.1:0")
                .replacing(/directory: \S+/, with: "directory: \(files.path)/four")
                .write(toFile: joiner, atomically: true, encoding: .utf8)
            let fourth = try run(["serve", "--config", joiner])
            try await fourth.waits(for: "ready: ")
            #expect(try await members().map { "\($0.node) \($0.role)" } == (1...4).map { "\($0) voter" })
            #expect(try await metadata("get", "/x", "--config", joiner) == "1\n")

            _ = try await metadata("members", "remove", "1")
            try await dev.waits(for: "removed: node 1 is no member of the cluster any more")
            #expect(try await members().map(\.node) == [2, 3, 4])
            _ = try await metadata("set", "/x", "2")
            #expect(try await metadata("get", "/x", "--config", joiner) == "2\n")
            #expect(try await failure("members", "add", "1", "127.0.0.1:1").contains("node 1 has left the cluster"))
            fourth.signal(SIGTERM)
            #expect(await fourth.exitStatus() == 0, "\(fourth.errors)")
        }
    }
}
