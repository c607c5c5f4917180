import Foundation

/// Throw-away PostgreSQL servers of our own, one per shard: `shard1`, `shard2` and so on.
public final class LocalCluster: Sendable {
    /// The most shards: each takes some 40 MB of disk, 150 MB of address space and a dozen processes.
    public static let shardsMax = 64

    /// The servers, in the order of their names' numbers.
    public let servers: [LocalPostgres]
    private let directory: ClusterDirectory

    /// The cluster's directory.
    public var path: String { directory.path }

    /// Makes or opens a cluster and starts its servers; when that fails, everything that was started or made for it is
    /// gone again.
    ///
    /// - Parameters:
    ///   - shards: how many; nil is what the kept directory has, else 3.
    ///   - data: a directory to keep; nil takes a temporary one, which ``stop()`` deletes.
    ///   - firstPort: the first shard's port, the others' follow; nil takes free ones, if possible those of last time.
    ///   - settings: lines of postgresql.conf for new servers, over the defaults.
    /// - Throws: ``LocalClusterError``, or `CancellationError` in a cancelled task.
    public static func start(
        shards: Int? = nil, data: String? = nil, firstPort: UInt16? = nil, settings: [String: String] = [:]
    ) async throws -> LocalCluster {
        let cluster = try LocalCluster(shards: shards, data: data, firstPort: firstPort, settings: settings)
        do {
            try await withThrowingTaskGroup { group in
                for server in cluster.servers { group.addTask { try await server.start() } }
                try await group.waitForAll()
            }
            try cluster.writeDown()
            return cluster
        } catch {
            await cluster.stop()
            throw error
        }
    }

    /// Starts a temporary cluster, runs `body` with it, and ends with nothing left, also when `body` throws.
    public static func withTemporary<Result>(
        shards: Int, settings: [String: String] = [:],
        _ body: (LocalCluster) async throws -> Result
    ) async throws -> Result {
        let cluster = try await start(shards: shards, settings: settings)
        do {
            let result = try await body(cluster)
            await cluster.stop()
            return result
        } catch {
            await cluster.stop()
            throw error
        }
    }

    private init(shards: Int?, data: String?, firstPort: UInt16?, settings: [String: String]) throws {
        let directory = try data.map(ClusterDirectory.init(keptAt:)) ?? ClusterDirectory()
        self.directory = directory
        let known = directory.isTemporary ? [] : try directory.read().shards
        let count = shards ?? (known.isEmpty ? 3 : known.count)
        guard known.isEmpty || known.count == count else {
            throw LocalClusterError(
                "the cluster in \(directory.path) has \(known.count) shards, not \(count)",
                hint: "leave out the number of shards, or give another directory"
            )
        }
        servers = try Self.makeServers(count, known: known, in: directory, firstPort: firstPort, settings: settings)
        try writeDown()
    }

    /// Stops every server and gives the directory back, a temporary one by deleting it; also in a cancelled task. The
    /// servers are not to be started again.
    public func stop() async {
        await withTaskGroup { group in
            for server in servers {
                group.addTask { await server.stop(self.directory.isTemporary ? .immediate : .fast) }
            }
        }
        directory.release()
    }

    /// Kills every server and deletes a temporary cluster's directory, blocking the thread for a moment. For `atexit`.
    public func removeBlocking() {
        for server in servers { server.killBlocking() }
        directory.release()
    }

    private func writeDown() throws {
        if directory.isTemporary { return }
        try directory.write(.init(shards: servers.map { .init(name: $0.name, port: $0.port) }))
    }

    private static func makeServers(
        _ count: Int, known: [ClusterDirectory.Record.Shard], in directory: ClusterDirectory, firstPort: UInt16?,
        settings: [String: String]
    ) throws -> [LocalPostgres] {
        guard (1...shardsMax).contains(count) else {
            throw LocalClusterError("a local cluster has 1 to \(shardsMax) shards, not \(count)")
        }
        guard firstPort.map({ (1...(65536 - count)).contains(Int($0)) }) ?? true else {
            throw LocalClusterError("there are no \(count) ports from \(firstPort ?? 0) on")
        }
        return try (0..<count).map { index in
            let name = "shard\(index + 1)"
            let home = "\(directory.path)/\(name)"
            let version = try? String(contentsOfFile: "\(home)/data/PG_VERSION", encoding: .utf8)
            return try LocalPostgres(
                name: name, home: home,
                installation: .find(majorVersion: version.flatMap { Int($0.prefix(while: \.isNumber)) }),
                port: firstPort.map { $0 + UInt16(index) },
                preferredPort: index < known.count ? known[index].port : nil,
                settings: settings, isKept: !directory.isTemporary
            )
        }
    }
}
