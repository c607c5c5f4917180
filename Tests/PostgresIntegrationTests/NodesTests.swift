import EventLoops
import Foundation
import ShardBackend
import TestSupport
import Testing

/// Several nodes, each a process, while they are killed, stand still and are started again.
@Suite(.serialized) struct NodesTests {
    private let files: TemporaryDirectory

    init() throws {
        files = try TemporaryDirectory()
    }

    private func run(_ arguments: [String]) throws -> RunningCommand {
        try RunningCommand(
            arguments, environment: ["XDG_RUNTIME_DIR": files.path, "TMPDIR": files.path, "MERIDIAN_CONFIG": ""])
    }

    private func withNodes(_ body: (DevCluster) async throws -> Void) async throws {
        let command = try run(["dev", "--shards", "2", "--nodes", "3", "--data", "\(files.path)/data"])
        let dev = DevCluster(command: command)
        try await waitUntil("three nodes are ready", within: .seconds(120)) { dev.urls.count == 3 }
        try await body(dev)
        dev.command.signal(SIGINT)
        #expect(await dev.command.exitStatus() == 0, "\(dev.command.errors)")
    }

    private func load(seconds: Int, through url: String) throws -> RunningCommand {
        try run([
            "bank", "run", "--url", url, "--clients", "8", "--seconds", "\(seconds)", "--cross-shard", "1", "--history",
            "\(files.path)/history", "--json", "\(files.path)/report.json",
        ])
    }

    @Test("any node serves, and transfers go on while the coordinator is killed, stands still, and comes back")
    func failover() async throws {
        try await withNodes { dev in
            let make = try run(["bank", "init", "--accounts", "60", "--url", dev.urls[0]])
            try #require(await make.exitStatus() == 0, "\(make.errors)")

            let first = try await dev.coordinator()
            let load = try load(seconds: 15, through: dev.url(of: first % 3 + 1))
            try await Task.sleep(for: .seconds(2))
            kill(try dev.processID(of: first), SIGKILL)
            let second = try await dev.coordinator(not: first)

            try await Task.sleep(for: .seconds(2))
            let paused = try dev.processID(of: second)
            kill(paused, SIGSTOP)
            let third = try await dev.coordinator(not: second)
            // It wakes up late, and must find that it coordinates no more.
            kill(paused, SIGCONT)
            #expect(third != second)

            #expect(await load.exitStatus() == 0, "\(load.output)\(load.errors)")
            let check = try run([
                "bank", "check", "--history", "\(files.path)/history", "--total", "60000", "--samples", "20", "--url",
                dev.url(of: third),
            ])
            #expect(await check.exitStatus() == 0, "\(check.output)\(check.errors)")
            for shard in dev.shards {
                #expect(try await rows("SELECT count(*) FROM pg_prepared_xacts", on: shard) == ["0"])
            }
        }
    }

    @Test("a coordinator that is asked to stop lets another one take its place at once")
    func handOver() async throws {
        try await withNodes { dev in
            let first = try await dev.coordinator()
            kill(try dev.processID(of: first), SIGTERM)
            let second = try await dev.coordinator(not: first)
            #expect(second != first)
            let other = dev.url(of: first % 3 + 1)
            let make = try run(["bank", "init", "--accounts", "6", "--url", other])
            #expect(await make.exitStatus() == 0, "\(make.errors)")
        }
    }
}

/// A running `meridian dev` with several nodes, by what it has printed.
private struct DevCluster {
    let command: RunningCommand

    private func lines(_ prefix: String) -> [String] {
        command.output.split(separator: "\n").filter { $0.hasPrefix(prefix) }.map { String($0.dropFirst(prefix.count)) }
    }

    /// Each node's, in no order; one that was started again is there once.
    var urls: [String] { Set(lines("ready: ")).sorted() }

    /// Conninfos.
    var shards: [String] { lines("shard: ").map { String($0.drop { $0 != " " }.dropFirst()) } }

    /// The node's process: the last one, where it was started again.
    func processID(of node: Int) throws -> Int32 {
        let line = try #require(lines("node: \(node) process=").last)
        return try #require(Int32(line.prefix { $0.isNumber }))
    }

    func url(of node: Int) -> String {
        let configuration = lines("node: \(node) ").last!.split(separator: "=").last!
        let text = (try? String(contentsOfFile: String(configuration), encoding: .utf8)) ?? ""
        let listen = text.split(separator: "\n").first { $0.hasPrefix("  listen: 127") }!
        return "postgresql://meridian@\(listen.split(separator: " ").last!)/meridian"
    }

    /// The node that holds the lock on every shard, once there is one, other than `former`.
    func coordinator(not former: Int = 0) async throws -> Int {
        let query = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE 'meridian coordinator%'"
        while true {
            var names: [String] = []
            for shard in shards { names += try await rows(query, on: shard) }
            let nodes = Set(names.compactMap { $0.split(separator: " ").last.flatMap { Int($0) } })
            if names.count == shards.count, nodes.count == 1, let node = nodes.first, node != former { return node }
            try await Task.sleep(for: .milliseconds(20))
        }
    }
}

/// The first column of what `query` returns.
private func rows(_ query: String, on conninfo: String) async throws -> [String] {
    let loop = try EventLoop(name: "look")
    defer { loop.shutdown() }
    let connection = try await ShardConnection.connect(
        to: try ConnectionSettings(conninfo), on: loop, deadline: .now + .seconds(20))
    let result = try await connection.run([SQLStatement(query)], deadline: .now + .seconds(20))[0]
    var values: [String] = []
    for row in result { values.append(try row.text(0)) }
    await connection.close()
    return values
}
