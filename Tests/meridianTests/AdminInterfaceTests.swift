import Foundation
import LocalCluster
import TestSupport
import Testing

/// The admin interface of a node that is a process, asked by curl.
@Suite("admin interface", .serialized) struct AdminInterfaceTests {
    private static let token = "0123456789abcdef0123456789abcdef"
    private let files: TemporaryDirectory

    init() throws {
        files = try TemporaryDirectory()
    }

    /// A node that is a cluster of its own, or alone.
    private func withNode(
        isAlone: Bool = false, hasToken: Bool = true, _ body: (RunningCommand, _ address: String) async throws -> Void
    ) async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            try Data("\(Self.token)\n".utf8).write(to: URL(filePath: "\(files.path)/token"))
            let peers = "127.0.0.1:\(try freePort())"
            let cluster = """
                cluster:
                  name: test
                  listen: \(peers)
                  directory: \(files.path)/log
                  nodes:
                    - node: 1
                      address: \(peers)
                """
            let configuration = """
                shards:
                  - name: \(shards[0].name)
                    conninfo: \(shards[0].conninfo)
                gateway:
                  listen: 127.0.0.1:0
                admin:
                  listen: 127.0.0.1:0
                \(hasToken ? "  token: token" : "")
                \(isAlone ? "" : cluster)
                """
            let path = "\(files.path)/node.yaml"
            try Data(configuration.utf8).write(to: URL(filePath: path))
            let migration = try RunningCommand(["migrate", "--config", path])
            #expect(await migration.exitStatus() == 0, "\(migration.errors)")
            let node = try RunningCommand(["serve", "--config", path])
            try await node.waits(for: "ready: postgresql://")
            let address = try #require(node.output.firstMatch(of: /admin: (http:\S+)/)?.1)
            try await body(node, String(address))
            node.signal(SIGTERM)
            #expect(await node.exitStatus() == 0, "\(node.errors)")
        }
    }

    private func curl(_ arguments: [String], token: String? = token) throws -> RunningCommand {
        let header = token.map { ["-H", "Authorization: Bearer \($0)"] } ?? []
        return try RunningCommand(["-sS", "--max-time", "60"] + header + arguments, program: "/usr/bin/curl")
    }

    /// The status and what came with it.
    private func ask(_ arguments: String..., token: String? = token) async throws -> (status: Int, text: String) {
        let command = try curl(["-w", "%{http_code}"] + arguments, token: token)
        #expect(await command.exitStatus() == 0, "\(arguments): \(command.errors)")
        let text = command.output
        return (try #require(Int(text.suffix(3))), String(text.dropLast(3)))
    }

    @Test("health, readiness and metrics are shown to everybody; what was committed is counted")
    func metrics() async throws {
        try await withNode(isAlone: true, hasToken: false) { node, address in
            #expect(try await ask("\(address)/health", token: nil) == (200, "ok\n"))
            #expect(try await ask("\(address)/ready", token: nil) == (200, "{\"node\":1,\"ready\":true}\n"))
            let port = try #require(node.output.firstMatch(of: /ready: \S+:(\d+)\//)?.1)
            func run(_ statement: String) async throws {
                let client = try RunningCommand(
                    ["-XAtq", "-c", statement, "host=127.0.0.1 port=\(port) user=app dbname=meridian"],
                    program: "/usr/bin/psql")
                _ = await client.exitStatus()
            }
            try await run("CREATE TABLE t (id int PRIMARY KEY)")
            let before = try await values(address)
            try await run("INSERT INTO t VALUES (1)")
            let after = try await values(address)
            func grown(_ name: String) -> Double { (after[name] ?? 0) - (before[name] ?? 0) }
            #expect(grown("meridian_commits_total{shards=\"one\"}") == 1, "\(after)")
            #expect(grown("meridian_gateway_connections_opened_total") == 1)
            #expect(grown("meridian_commit_seconds_total") > 0)
            #expect(try #require(after["meridian_clock_uncertainty_seconds"]) >= 0.001)
            #expect(after.keys.contains { $0.hasPrefix("meridian_pool_connections_opened_total{") })
            #expect(try await ask("\(address)/nothing").status == 404)
            let alone = try await ask("\(address)/metadata/nodes/1")
            #expect(alone.status == 404 && alone.text.contains("this node is alone"))
        }
    }

    /// The metrics by name and labels; each of them must be as Prometheus reads it, of a type told before.
    private func values(_ address: String) async throws -> [String: Double] {
        let (status, text) = try await ask("\(address)/metrics", token: nil)
        #expect(status == 200)
        var values: [String: Double] = [:]
        var family = Substring()
        for line in text.split(separator: "\n") {
            if let type = line.wholeMatch(of: /# TYPE ([a-z_]+) (counter|gauge|summary)/) {
                family = type.1
                continue
            }
            let sample = try #require(
                line.wholeMatch(of: /(([a-z_]+)(?:\{[a-z]+="[^"]*"(?:,[a-z]+="[^"]*")*\})?) (-?[0-9.e+-]+)/), "\(line)")
            #expect(sample.2.hasPrefix(family), "\(line) is not of \(family)")
            values[String(sample.1)] = Double(sample.3)
        }
        return values
    }

    @Test("who does not know the token sees nothing of the metadata")
    func token() async throws {
        try await withNode { _, address in
            for path in ["metadata/", "metadata/nodes/1", "members", "locks/backup"] {
                for token in [nil, "", "0123456789abcdef0123456789abcdeg", String(Self.token.dropLast())] {
                    let answer = try await ask("\(address)/\(path)", token: token)
                    #expect(answer.status == 401 && !answer.text.contains("127.0.0.1"), "\(path): \(answer)")
                }
            }
            #expect(try await ask("\(address)/metadata/nodes/1").status == 200)
        }
    }

    @Test("keys are set, read, listed, watched and deleted, on conditions that hold or say why not")
    func keys() async throws {
        try await withNode { _, address in
            let key = "\(address)/metadata/notes/colour"
            let watch = try curl(["-N", "\(address)/metadata/notes/?watch&after=0"])
            let set = try await ask("-X", "PUT", "-d", "blue", key)
            #expect(set.status == 200)
            let revision = try #require(set.text.firstMatch(of: /"revision":(\d+)/)?.1)
            let read = try await ask(key)
            #expect(read.status == 200 && read.text.contains("\"value\":\"blue\""))
            #expect(try await ask("-X", "PUT", "-d", "red", "\(key)?if-absent").status == 409)
            #expect(try await ask("-X", "PUT", "-d", "red", "\(key)?if-revision=1").status == 409)
            #expect(try await ask("-X", "PUT", "-d", "red", "\(key)?if-revision=\(revision)").status == 200)
            let list = try await ask("\(address)/metadata/notes/")
            #expect(list.text.split(separator: "\n").count == 1 && list.text.contains("red"))
            #expect(try await ask("-X", "DELETE", key).status == 200)
            #expect(try await ask("-X", "DELETE", key).status == 409)
            #expect(try await ask(key).status == 404)
            #expect(try await ask("\(address)/metadata/notes/a%20b").status == 400)
            #expect(try await ask("-X", "PUT", "-d", "x", "\(address)/metadata/notes/").status == 400)
            #expect(try await ask("-X", "POST", key).status == 405)
            let isTold = await eventually { watch.output.split(separator: "\n").count == 3 }
            #expect(isTold && watch.output.contains("\"deleted\":true"), "\(watch.output)")
            watch.signal(SIGKILL)
            _ = await watch.exitStatus()

            let large = "\(files.path)/large"
            try Data(repeating: 120, count: 3 << 20).write(to: URL(filePath: large))
            #expect(try await ask("-X", "PUT", "--data-binary", "@\(large)", key).status == 413)
            #expect(try await ask("\(address)/members").text.contains("\"node\":1"))
            #expect(try await ask("-X", "PUT", "-d", "nowhere", "\(address)/members/2").status == 400)
            #expect(try await ask("-X", "DELETE", "\(address)/members/nine").status == 400)
        }
    }

    @Test("a lock is one client's at a time, and the next one's when that client hangs up")
    func locks() async throws {
        try await withNode { _, address in
            let first = try curl(["-N", "-X", "POST", "\(address)/locks/backup"])
            #expect(await eventually { first.output.contains("\"token\":") })
            let second = try curl(["-N", "-X", "POST", "\(address)/locks/backup"])
            try await Task.sleep(for: .milliseconds(300))
            #expect(second.output.isEmpty)
            first.signal(SIGKILL)
            _ = await first.exitStatus()
            #expect(await eventually { second.output.contains("\"token\":") })
            func number(_ command: RunningCommand) throws -> Int {
                try #require(command.output.firstMatch(of: /"token":(\d+)/).flatMap { Int($0.1) })
            }
            #expect(try number(second) > number(first))
            second.signal(SIGKILL)
            _ = await second.exitStatus()
        }
    }
}
