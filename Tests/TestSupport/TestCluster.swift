import Foundation
import LocalCluster
import Synchronization
import Testing

/// Real PostgreSQL servers for tests, gone when the test process ends, however it ends.
public enum TestCluster {
    /// How many servers the tests of one process share.
    public static let sharedServers = 3

    /// Runs a test on shards of its own: a fresh, empty database on each of `count` servers that all tests share.
    ///
    /// Fails the test when a transaction stays prepared on one of them. At most ``sharedServers`` shards; a test that
    /// stops or changes a server takes ``withPrivateShards(_:settings:_:)``.
    public static func withShards(
        _ count: Int = 1, sourceLocation: SourceLocation = #_sourceLocation,
        _ body: ([TestShard]) async throws -> Void
    ) async throws {
        let servers = try await SharedServers.instance.start().prefix(count)
        precondition(servers.count == count, "\(count) shards asked for, at most \(sharedServers) are shared")
        let database = "test_\(nextDatabase.add(1, ordering: .relaxed).newValue)"
        let shards = servers.map { TestShard(server: $0, database: database) }
        for shard in shards { try await shard.server.psql("CREATE DATABASE \(database) OWNER meridian") }
        do {
            try await body(shards)
            try await drop(shards, sourceLocation)
        } catch {
            try await drop(shards, sourceLocation)
            throw error
        }
    }

    private static func drop(_ shards: [TestShard], _ sourceLocation: SourceLocation) async throws {
        for shard in shards {
            try await shard.checkNothingIsPrepared(sourceLocation)
            try await shard.server.psql("DROP DATABASE \(shard.database) WITH (FORCE)")
        }
    }

    /// Runs a test on servers of its own, which it may kill, pause and stop.
    ///
    /// Fails the test when a transaction stays prepared on one of them that is running in the end.
    public static func withPrivateShards(
        _ count: Int, settings: [String: String] = [:], sourceLocation: SourceLocation = #_sourceLocation,
        _ body: ([TestShard]) async throws -> Void
    ) async throws {
        try await LocalCluster.withTemporary(shards: count, settings: settings) { cluster in
            RemovedAtExit.insert(cluster)
            defer { RemovedAtExit.remove(cluster) }
            let shards = cluster.servers.map { TestShard(server: $0, database: "meridian") }
            try await body(shards)
            for shard in shards where shard.server.isRunning {
                shard.server.resume()
                try await shard.checkNothingIsPrepared(sourceLocation)
            }
        }
    }
}

/// One database on one server, as a test sees a shard.
public struct TestShard: Sendable {
    /// The server.
    public let server: LocalPostgres
    /// The database.
    public let database: String

    /// The shard's name: `shard1`, `shard2` and so on.
    public var name: String { server.name }

    /// How libpq connects to it as `meridian`, which is no superuser.
    public var conninfo: String { server.conninfo(database: database) }

    /// Runs SQL as superuser in a client that isn't ours; see ``LocalCluster/LocalPostgres/psql(_:database:)``.
    @discardableResult
    public func psql(_ commands: String) async throws -> String {
        try await server.psql(commands, database: database)
    }

    /// Runs a test with a standby that follows this shard's server, and that it may promote.
    ///
    /// Fails the test when a transaction stays prepared on the standby, if it accepts writes in the end.
    ///
    /// - Parameter isSynchronous: whether commits wait until the standby has them.
    public func withStandby(
        isSynchronous: Bool, sourceLocation: SourceLocation = #_sourceLocation,
        _ body: (TestShard) async throws -> Void
    ) async throws {
        let standby = try LocalPostgres(
            name: "\(name)_standby", home: "\(server.home)_standby", installation: server.installation,
            standbyOf: server)
        do {
            try await standby.start()
            if isSynchronous { try server.setSynchronousStandby(standby.name) }
            let wanted = isSynchronous ? "streaming|sync" : "streaming|async"
            while try await psql("SELECT state, sync_state FROM pg_stat_replication") != wanted {
                try await Task.sleep(for: .milliseconds(20))
            }
            let shard = TestShard(server: standby, database: database)
            try await body(shard)
            standby.resume()
            if standby.isRunning, try await shard.psql("SELECT pg_is_in_recovery()") == "f" {
                try await shard.checkNothingIsPrepared(sourceLocation)
            }
            await standby.stop(.immediate)
        } catch {
            await standby.stop(.immediate)
            throw error
        }
    }

    /// Fails the test when a transaction is prepared here, and rolls it back.
    func checkNothingIsPrepared(_ sourceLocation: SourceLocation) async throws {
        let query = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY gid"
        let prepared = try await psql(query).split(separator: "\n")
        guard !prepared.isEmpty else { return }
        Issue.record("left prepared on \(name): \(prepared.joined(separator: ", "))", sourceLocation: sourceLocation)
        for gid in prepared { try await psql("ROLLBACK PREPARED '\(gid)'") }
    }
}

/// A client that isn't ours failed.
public struct PsqlError: Error, CustomStringConvertible {
    /// What it printed.
    public let description: String
}

extension LocalPostgres {
    /// Runs SQL as superuser by psql and returns what it prints: one line per row, columns separated by `|`.
    ///
    /// Each command is a transaction of its own unless `commands` says otherwise. Throws ``PsqlError`` at the first one
    /// that fails.
    @discardableResult
    public func psql(_ commands: String, database: String = "meridian") async throws -> String {
        guard let superuser = superuserConninfo else {
            throw PsqlError(description: "the path of \(home) is too long for a socket")
        }
        let process = Process()
        process.executableURL = URL(fileURLWithPath: "\(installation.binaryDirectory)/psql")
        process.arguments = [
            "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1", "--file=-",
            "\(superuser) dbname=\(database)",
        ]
        let (input, output, errors) = (Pipe(), Pipe(), Pipe())
        (process.standardInput, process.standardOutput, process.standardError) = (input, output, errors)
        return try await withCheckedThrowingContinuation { continuation in
            // Reading the pipes blocks, so it has a thread of its own rather than one of the tests'.
            Thread.detachNewThread {
                continuation.resume(
                    with: Result {
                        try process.run()
                        try input.fileHandleForWriting.write(contentsOf: Data(commands.utf8))
                        try input.fileHandleForWriting.close()
                        let printed = output.fileHandleForReading.readDataToEndOfFile()
                        let failure = errors.fileHandleForReading.readDataToEndOfFile()
                        process.waitUntilExit()
                        guard process.terminationStatus == 0 else {
                            throw PsqlError(description: String(decoding: failure, as: UTF8.self))
                        }
                        return String(decoding: printed, as: UTF8.self).trimmingCharacters(in: .newlines)
                    })
            }
        }
    }
}

/// The servers that all tests of this process share, started by the first that needs them.
private actor SharedServers {
    static let instance = SharedServers()

    private var cluster: Task<LocalCluster, any Error>?

    func start() async throws -> [LocalPostgres] {
        let starting =
            cluster
            ?? Task {
                let cluster = try await LocalCluster.start(shards: TestCluster.sharedServers)
                RemovedAtExit.insert(cluster)
                return cluster
            }
        cluster = starting
        return try await starting.value.servers
    }
}

private let nextDatabase = Atomic(0)

/// The clusters to remove when the process ends.
private enum RemovedAtExit {
    static func insert(_ cluster: LocalCluster) {
        _ = registration
        clusters.withLock { $0.append(cluster) }
    }

    static func remove(_ cluster: LocalCluster) {
        clusters.withLock { $0.removeAll { $0 === cluster } }
    }

    private static let clusters = Mutex<[LocalCluster]>([])
    private static let registration: Void = {
        atexit { RemovedAtExit.clusters.withLock { for cluster in $0 { cluster.removeBlocking() } } }
    }()
}
