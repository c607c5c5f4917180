import EventLoops
import Foundation
import ShardBackend
import TestSupport
import Testing
import TransactionCore

/// Several nodes, each a process, all of which coordinate, while they are killed, stand still and are started again.
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
        for node in 1...3 { _ = try await dev.epoch(of: node) }
        try await body(dev)
        dev.command.signal(SIGINT)
        #expect(await dev.command.exitStatus() == 0, "\(dev.command.errors)")
    }

    @Test("clients of all nodes work at once, while one is killed, another stands still and wakes up late")
    func failover() async throws {
        try await withNodes { dev in
            let make = try run(["bank", "init", "--accounts", "60", "--url", dev.url(of: 1)])
            try #require(await make.exitStatus() == 0, "\(make.errors)")
            let former = try await [dev.epoch(of: 1), dev.epoch(of: 2)]

            let loads = try (1...3).map { node in
                try run([
                    "bank", "run", "--url", dev.url(fromNode: node), "--clients", "4", "--seconds", "15",
                    "--cross-shard", "1", "--history", "\(files.path)/history-\(node)", "--json",
                    "\(files.path)/report-\(node).json",
                ])
            }
            try await Task.sleep(for: .seconds(2))
            kill(try dev.processID(of: 1), SIGKILL)
            try await Task.sleep(for: .seconds(2))
            let paused = try dev.processID(of: 2)
            kill(paused, SIGSTOP)
            try await dev.waitUntilFenced(2, upTo: former[1])
            // It wakes up late, must find that its life is over, and begins another one.
            kill(paused, SIGCONT)
            for node in 1...2 { _ = try await dev.epoch(of: node, after: former[node - 1]) }

            for load in loads { #expect(await load.exitStatus() == 0, "\(load.output)\(load.errors)") }
            for node in 1...3 {
                let check = try run([
                    "bank", "check", "--history", "\(files.path)/history-\(node)", "--total", "60000", "--samples",
                    "20", "--url", dev.url(of: node),
                ])
                #expect(await check.exitStatus() == 0, "\(check.output)\(check.errors)")
            }
            for shard in dev.shards {
                #expect(try await rows("SELECT count(*) FROM pg_prepared_xacts", on: shard) == ["0"])
            }
        }
    }

    @Test("who is told of a commit by one node reads it through every other, whether it had written before or not")
    func strongReads() async throws {
        try await withNodes { dev in
            let loop = try EventLoop(name: "clients")
            defer { loop.shutdown() }
            var clients: [ShardConnection] = []
            for node in 1...3 { clients.append(try await connect(dev.url(of: node), on: loop)) }
            try await clients[0].text("CREATE TABLE note (id int PRIMARY KEY, count int NOT NULL)")
            try await clients[0].text("INSERT INTO note SELECT i, 0 FROM generate_series(1, 8) i")
            for count in 1...100 {
                let (writer, reader) = (clients[count % 3], clients[(count / 3) % 3])
                try await writer.text("UPDATE note SET count = \(count)")
                #expect(try await reader.text("SELECT DISTINCT count FROM note") == "\(count)")
                // A node that has had nothing to commit for a while falls silent, and must be heard again.
                if count % 40 == 0 { try await Task.sleep(for: .seconds(1.5)) }
            }
            for client in clients { await client.close() }
        }
    }

    @Test("a node that is asked to stop finishes what its clients have begun, while others come to another node")
    func leaving() async throws {
        try await withNodes { dev in
            let loop = try EventLoop(name: "clients")
            defer { loop.shutdown() }
            let other = try await connect(dev.url(of: 2), on: loop)
            try await other.text("CREATE TABLE note (id int PRIMARY KEY)")
            let client = try await connect(dev.url(of: 1), on: loop)
            try await client.text("BEGIN")
            try await client.text("INSERT INTO note SELECT i FROM generate_series(1, 8) i")
            let epoch = try await dev.epoch(of: 1)
            kill(try dev.processID(of: 1), SIGTERM)
            // Who comes to its door while it finishes is served, by another one.
            let guest = try await connect(dev.url(fromNode: 1), on: loop)
            #expect(try await guest.text("SELECT count(*) FROM note") == "0")
            try await client.text("COMMIT")
            #expect(try await other.text("SELECT count(*) FROM note") == "8")
            for connection in [client, other, guest] { await connection.close() }
            try await dev.waitUntilFenced(1, upTo: epoch)
            let make = try run(["bank", "init", "--accounts", "6", "--url", dev.url(of: 2)])
            #expect(await make.exitStatus() == 0, "\(make.errors)")
        }
    }

    private func connect(_ url: String, on loop: EventLoop) async throws -> ShardConnection {
        try await ShardConnection.connect(to: try ConnectionSettings(url), on: loop, deadline: .now + .seconds(20))
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

    private func address(of node: Int) -> String {
        let configuration = lines("node: \(node) ").last!.split(separator: "=").last!
        let text = (try? String(contentsOfFile: String(configuration), encoding: .utf8)) ?? ""
        return String(text.split(separator: "\n").first { $0.hasPrefix("  listen: 127") }!.split(separator: " ").last!)
    }

    func url(of node: Int) -> String { "postgresql://meridian@\(address(of: node))/meridian" }

    /// To that node, or to the next one where there is none.
    func url(fromNode node: Int) -> String {
        let addresses = (0..<3).map { address(of: (node + $0 - 1) % 3 + 1) }
        return "postgresql://meridian@\(addresses.joined(separator: ","))/meridian"
    }

    /// The epoch in which a node coordinates, once it does in one after `former`: it holds its lock on every shard.
    func epoch(of node: Int, after former: Int = 0) async throws -> Int {
        let name = "meridian coordinator, node \(node) epoch "
        let query = "SELECT application_name FROM pg_stat_activity WHERE application_name LIKE '\(name)%'"
        var epoch: Int?
        try await waitUntil("node \(node) coordinates", within: .seconds(60)) {
            var names: [String] = []
            for shard in shards { names += try await rows(query, on: shard) }
            let epochs = Set(names.compactMap { Int($0.dropFirst(name.count)) })
            guard names.count == shards.count, epochs.count == 1, let found = epochs.first, found > former else {
                return false
            }
            epoch = found
            return true
        }
        return epoch!
    }

    /// Until no session of these lives of a node can do anything on any shard any more.
    func waitUntilFenced(_ node: Int, upTo epoch: Int) async throws {
        let query = "SELECT count(*) FROM meridian.node_epoch WHERE node = \(node) AND fenced >= \(epoch)"
        try await waitUntil("node \(node) is fenced up to epoch \(epoch)", within: .seconds(60)) {
            var fenced = true
            for shard in shards where try await rows(query, on: shard) != ["1"] { fenced = false }
            return fenced
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
