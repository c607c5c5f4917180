import Foundation
import LocalCluster

/// One way to a table.
struct Door: Sendable {
    var name: String
    var conninfo: String
    /// The process in between.
    var processID: Int32?

    /// Runs pgbench with the script `part`.
    func pgbench(_ part: String, clients: Int, seconds: Int, _ doors: Doors) async throws -> PgbenchCell {
        try await PgbenchCell.run(
            script: "\(doors.directory)/\(part).sql", clients: clients, seconds: seconds, conninfo: conninfo,
            between: processID, servers: doors.servers)
    }
}

/// One PostgreSQL, and the ways to it: directly and through pgbouncer to one database, through Meridian to another of
/// the same server, whose tables have an undo log.
struct Doors: Sendable {
    let all: [Door]
    let node: LocalProgram
    let rows: Int
    let directory: String
    let servers: [Int32]

    func door(_ name: String) -> Door { all.first { $0.name == name }! }

    func postgresVersion() throws -> String {
        let number = try BareConnection(door("direct").conninfo)
            .scalar("SELECT current_setting('server_version_num')::int")
        return "PostgreSQL \(number / 10_000).\(number % 10_000)"
    }

    /// Starts what is in between, fills the tables, runs `body`, and stops what was started.
    static func with(
        _ cluster: LocalCluster, rows: Int, _ body: (Doors) async throws -> Void
    ) async throws {
        let server = cluster.servers[0]
        let directory = cluster.path
        try BareConnection(server.conninfo()).execute(["CREATE DATABASE plain"])
        let (pooler, poolerPort) = try await startPgbouncer(server, in: directory)
        do {
            let node = try await startNode([server], in: directory)
            do {
                let doors = Doors(
                    all: [
                        Door(name: "direct", conninfo: server.conninfo(database: "plain")),
                        Door(
                            name: "pgbouncer", conninfo: "host=127.0.0.1 port=\(poolerPort) dbname=plain user=meridian",
                            processID: pooler.processID),
                        Door(name: "meridian", conninfo: try url(of: node), processID: node.processID),
                    ],
                    node: node, rows: rows, directory: directory, servers: cluster.servers.compactMap(\.processID))
                try doors.fill()
                try await body(doors)
            } catch {
                await node.stop()
                throw error
            }
            await node.stop()
        } catch {
            await pooler.stop()
            throw error
        }
        await pooler.stop()
    }

    private func fill() throws {
        for name in ["direct", "meridian"] {
            let connection = try BareConnection(door(name).conninfo)
            let columns = "(aid int PRIMARY KEY, bid int, abalance int, filler char(84))"
            try connection.execute([
                "CREATE TABLE pgbench_accounts \(columns) WITH (fillfactor = 90)", "CREATE TABLE bulk \(columns)",
            ])
            try connection.copyIn(rows: rows, into: "pgbench_accounts")
        }
        // Meridian's tables are in another database of the same server.
        for name in ["direct", "meridian"] {
            try BareConnection(door(name).conninfo).execute(["ANALYZE pgbench_accounts"])
        }
        try write("select", "SELECT abalance FROM pgbench_accounts WHERE aid = :aid;")
        try write("update", "UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = :aid;")
    }

    private func write(_ name: String, _ statement: String) throws {
        let script = "\\set aid random(1, \(rows))\n\(statement)\n"
        try script.write(toFile: "\(directory)/\(name).sql", atomically: true, encoding: .utf8)
    }

    private static func startPgbouncer(
        _ server: LocalPostgres, in directory: String
    ) async throws -> (LocalProgram, UInt16) {
        let program = "/usr/sbin/pgbouncer"
        guard FileManager.default.isExecutableFile(atPath: program) else {
            throw LocalClusterError("there is no pgbouncer", hint: "apt-get install pgbouncer")
        }
        let port = try freePort()
        let configuration = """
            [databases]
            plain = host=127.0.0.1 port=\(server.port) dbname=plain user=meridian
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = \(port)
            unix_socket_dir =
            auth_type = any
            pool_mode = transaction
            max_client_conn = 2000
            ignore_startup_parameters = extra_float_digits
            """
        let path = "\(directory)/pgbouncer.ini"
        try configuration.write(toFile: path, atomically: true, encoding: .utf8)
        try FileManager.default.setAttributes([.posixPermissions: 0o644], ofItemAtPath: path)
        let pooler = try await LocalProgram.start([program, path], in: directory, asServerUser: true)
        try await pooler.waits(for: "process up")
        return (pooler, port)
    }

    /// The `meridian` that was built beside this program.
    static var meridian: String {
        URL(filePath: "/proc/self/exe").resolvingSymlinksInPath().deletingLastPathComponent()
            .appending(path: "meridian").path(percentEncoded: false)
    }

    /// Starts a node over `servers`, which it prepares.
    static func startNode(_ servers: [LocalPostgres], in directory: String) async throws -> LocalProgram {
        let shards = servers.flatMap { ["--shard", "\($0.name) \($0.conninfo())"] }
        let migrate = try await LocalProgram.start([meridian, "migrate"] + shards, in: directory)
        guard await migrate.exitStatus() == .exited(0) else {
            throw LocalClusterError("the shards could not be prepared", detail: migrate.output)
        }
        let node = try await LocalProgram.start([meridian, "serve", "--listen", "127.0.0.1:0"] + shards, in: directory)
        try await node.waits(for: "ready: ")
        return node
    }

    /// Where the node listens.
    static func url(of node: LocalProgram) throws -> String {
        let line = node.output.split(separator: "\n").last { $0.hasPrefix("ready: ") } ?? ""
        return String(line.dropFirst("ready: ".count))
    }
}

/// What pgbench did through one door at one number of clients, over all rounds.
struct PgbenchCell: Sendable {
    var transactions = 0
    var seconds = 0.0
    /// Of each round, in milliseconds.
    var latencies: [Double] = []
    var processor = ProcessorTime()

    var perSecond: Double { Double(transactions) / max(seconds, 1e-9) }

    mutating func add(_ other: PgbenchCell) {
        transactions += other.transactions
        seconds += other.seconds
        latencies += other.latencies
        processor += other.processor
    }

    func measurement(_ system: String, _ clients: Int) -> Measurement {
        let mean = latencies.reduce(0, +) / Double(max(1, latencies.count))
        return Measurement(
            system: system, clients: clients, operations: transactions, seconds: seconds, mean: mean,
            processor: processor)
    }

    /// Runs pgbench for some seconds. Transactions that fail are an error.
    static func run(
        script: String, clients: Int, seconds: Int, conninfo: String, between: Int32?, servers: [Int32],
        options: [String] = []
    ) async throws -> PgbenchCell {
        var before = ProcessorTime.spent(servers: servers)
        before.own = between.map(ProcessorTime.ofThreads) ?? 0
        let directory = URL(filePath: script).deletingLastPathComponent().path(percentEncoded: false)
        let threads = min(2, clients)
        let command =
            ["/usr/bin/pgbench", "-n", "-M", "simple", "-c", "\(clients)", "-j", "\(threads)", "-T", "\(seconds)"]
            + options + ["-f", script, conninfo]
        let program = try await LocalProgram.start(command, in: directory)
        let status = await program.exitStatus()
        let output = program.output
        var after = ProcessorTime.spent(servers: servers)
        after.own = between.map(ProcessorTime.ofThreads) ?? 0
        func number(after label: String) -> Double? {
            output.split(separator: "\n").last { $0.hasPrefix(label) }?
                .dropFirst(label.count).split(separator: " ").first.flatMap { Double($0) }
        }
        guard status == .exited(0), let perSecond = number(after: "tps = "),
            let latency = number(after: "latency average = "), number(after: "number of failed transactions: ") == 0
        else {
            throw LocalClusterError(
                "pgbench failed (\(status.map(String.init(describing:)) ?? "cancelled"))",
                detail: String(output.suffix(2_000)))
        }
        var cell = PgbenchCell()
        cell.transactions = Int(perSecond * Double(seconds))
        cell.seconds = Double(seconds)
        cell.latencies = [latency]
        cell.processor = after - before
        return cell
    }
}

/// A node as a process of its own over the shards of another benchmark.
struct NodeOverShards: Sendable {
    let node: LocalProgram
    let conninfo: String
    let directory: String
    let servers: [Int32]
    let accounts: Int64

    static func with<Value: Sendable>(
        _ bench: BenchCluster, _ cluster: LocalCluster, isFirst: Bool,
        _ body: (NodeOverShards) async throws -> Value
    ) async throws -> Value {
        let node = try await Doors.startNode(cluster.servers, in: cluster.path)
        let over = NodeOverShards(
            node: node, conninfo: try Doors.url(of: node), directory: cluster.path,
            servers: cluster.servers.compactMap(\.processID), accounts: bench.accounts)
        do {
            if isFirst { try over.fill() }
            let value = try await body(over)
            await node.stop()
            return value
        } catch {
            await node.stop()
            throw error
        }
    }

    private func fill() throws {
        let connection = try BareConnection(conninfo)
        try connection.execute([
            "CREATE TABLE account (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 80)"
        ])
        try connection.copyIn(accounts: accounts)
        try Self.transferScript(accounts: accounts)
            .write(toFile: "\(directory)/transfer.sql", atomically: true, encoding: .utf8)
    }

    /// For pgbench: moves something between two accounts, the smaller one's row first.
    static func transferScript(accounts: Int64) -> String {
        """
        \\set source random(0, \(accounts - 1))
        \\set target random(0, \(accounts - 1))
        \\set first least(:source, :target)
        \\set second greatest(:source, :target)
        \\set amount random(-100, 100)
        BEGIN;
        UPDATE account SET balance = balance + :amount WHERE id = :first;
        UPDATE account SET balance = balance - :amount WHERE id = :second;
        COMMIT;

        """
    }

    func transfers(clients: Int, seconds: Int) async throws -> PgbenchCell {
        try await PgbenchCell.run(
            script: "\(directory)/transfer.sql", clients: clients, seconds: seconds, conninfo: conninfo,
            between: node.processID, servers: servers, options: ["--max-tries=100"])
    }
}
