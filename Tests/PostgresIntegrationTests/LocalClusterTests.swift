import Foundation
import LocalCluster
import TestSupport
import Testing

@Suite("Local clusters", .serialized) struct LocalClusterTests {
    @Test("a temporary cluster leaves neither a server nor a file, also when its use throws")
    func leavesNothing() async throws {
        struct Refusal: Error {}
        var path = ""
        var servers: [LocalPostgres] = []
        await #expect(throws: Refusal.self) {
            try await LocalCluster.withTemporary(shards: 2) { cluster in
                path = cluster.path
                servers = cluster.servers
                #expect(servers.allSatisfy { $0.isRunning })
                throw Refusal()
            }
        }
        #expect(servers.count == 2 && servers.allSatisfy { !$0.isRunning })
        #expect(!FileManager.default.fileExists(atPath: path))
    }

    @Test("a start that is cancelled leaves no half-made server behind")
    func cancelledStart() async throws {
        let base = try TemporaryDirectory()
        let start = Task { try await LocalCluster.start(shards: 1, data: "\(base.path)/kept") }
        try await Task.sleep(for: .milliseconds(100))
        start.cancel()
        await #expect(throws: CancellationError.self) { try await start.value }
        let cluster = try await LocalCluster.start(shards: 1, data: "\(base.path)/kept")
        #expect(try await cluster.servers[0].psql("SELECT 1") == "1")
        await cluster.stop()
    }

    @Test("a killed server loses nothing that was committed, prepared transactions included, and keeps its port")
    func killAndRestart() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            let shard = shards[0]
            let port = shard.server.port
            try await shard.psql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
            try await shard.psql("BEGIN; INSERT INTO t VALUES (2); PREPARE TRANSACTION 'p'")
            await shard.server.kill()
            #expect(!shard.server.isRunning)
            await #expect(throws: PsqlError.self) { try await shard.psql("SELECT 1") }
            try await shard.server.start()
            #expect(shard.server.port == port)
            #expect(try await shard.psql("SELECT gid FROM pg_prepared_xacts") == "p")
            try await shard.psql("COMMIT PREPARED 'p'")
            #expect(try await shard.psql("SELECT count(*) FROM t") == "2")
        }
    }

    @Test("a server holds no file of the process that started it")
    func inheritsNothing() async throws {
        let pipe = Pipe()
        let flags = fcntl(pipe.fileHandleForWriting.fileDescriptor, F_GETFD)
        #expect(fcntl(pipe.fileHandleForWriting.fileDescriptor, F_SETFD, flags & ~FD_CLOEXEC) == 0)
        try await LocalCluster.withTemporary(shards: 1) { _ in
            try pipe.fileHandleForWriting.close()
            let reader = pipe.fileHandleForReading.fileDescriptor
            _ = fcntl(reader, F_SETFL, O_NONBLOCK)
            var byte: UInt8 = 0
            // 0 is the end of the pipe; -1 that somebody may still write to it.
            #expect(read(reader, &byte, 1) == 0)
        }
    }

    @Test("a paused server answers nobody until it is resumed")
    func pause() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            shards[0].server.pause()
            let answer = Task { try await shards[0].psql("SELECT 1") }
            let first = await withTaskGroup(of: String.self) { group in
                group.addTask { (try? await answer.value) ?? "failed" }
                group.addTask {
                    try? await Task.sleep(for: .milliseconds(300))
                    shards[0].server.resume()
                    return "resumed"
                }
                return await group.next()
            }
            #expect(first == "resumed")
            let value = try await answer.value
            #expect(value == "1")
        }
    }

    @Test("a server flushes its log, takes prepared transactions, and gives its user no superuser's rights")
    func settings() async throws {
        try await TestCluster.withShards(1) { shards in
            let settings = try await shards[0].psql(
                "SHOW fsync; SHOW max_prepared_transactions; SELECT rolsuper FROM pg_roles WHERE rolname = 'meridian'"
            )
            #expect(settings.split(separator: "\n") == ["on", "500", "f"])
        }
    }

    @Test("a server that does not start says why in its error, and leaves nothing")
    func badSetting() async throws {
        let error = try await #require(throws: LocalClusterError.self) {
            try await LocalCluster.withTemporary(shards: 1, settings: ["no_such_setting": "it's"]) { _ in }
        }
        #expect(error.detail?.contains("no_such_setting") == true)
    }

    @Test("a port that is given is taken or refused, never replaced")
    func givenPort() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            let taken = shards[0].server.port
            let error = try await #require(throws: LocalClusterError.self) {
                try await LocalCluster.start(shards: 1, firstPort: taken)
            }
            #expect(error.message == "port \(taken) of server shard1 is in use")
        }
    }

    @Test("a kept directory gives the same servers and ports again, to one process at a time")
    func keptDirectory() async throws {
        let base = try TemporaryDirectory()
        let data = "\(base.path)/kept"
        let first = try await LocalCluster.start(shards: 2, data: data)
        try await first.servers[1].psql("CREATE TABLE t AS SELECT 7 AS a")
        let inUse = await #expect(throws: LocalClusterError.self) { try await LocalCluster.start(data: data) }
        #expect(inUse?.message.contains("in use") == true)
        let ports = first.servers.map(\.port)
        await first.stop()

        let otherCount = await #expect(throws: LocalClusterError.self) {
            try await LocalCluster.start(shards: 3, data: data)
        }
        #expect(otherCount?.message.contains("has 2 shards, not 3") == true)
        let second = try await LocalCluster.start(data: data)
        #expect(second.servers.map(\.port) == ports)
        #expect(try await second.servers[1].psql("SELECT a FROM t") == "7")
        await second.stop()
    }

    @Test("a directory that holds something else is refused and left as it is")
    func foreignDirectory() async throws {
        let base = try TemporaryDirectory()
        try "mine".write(toFile: "\(base.path)/file", atomically: true, encoding: .utf8)
        await #expect(throws: LocalClusterError.self) { try await LocalCluster.start(shards: 1, data: base.path) }
        #expect(try FileManager.default.contentsOfDirectory(atPath: base.path) == ["file"])
    }
}
