import EventLoops
import Foundation
import ShardBackend
import TestSupport
import Testing
import TransactionCore

@testable import ShardSchema

@Suite struct MigratorTests {
    @Test("the migrations in the program are the files in the folder")
    func embedded() throws {
        let folder = URL(filePath: #filePath).deletingLastPathComponent().appending(path: "../../migrations")
        let names = try FileManager.default.contentsOfDirectory(atPath: folder.path).sorted()
        #expect(Migration.all.map(\.name) == names)
        for migration in Migration.all {
            #expect(try migration.sql == String(contentsOf: folder.appending(path: migration.name), encoding: .utf8))
        }
    }

    @Test("each migration is applied once, and recorded")
    func appliedOnce() async throws {
        try await withEmptyShard { connection, _ in
            let migrator = Migrator(connection)
            #expect(try await migrator.plan().pending == Migration.all)
            #expect(try await migrator.apply() == Migration.all)
            #expect(try await migrator.apply() == [])
            let plan = try await migrator.plan()
            #expect(plan.applied.map(\.name) == Migration.all.map(\.name) && plan.pending == [])
        }
    }

    @Test("two migrators at once leave each migration applied once")
    func concurrent() async throws {
        try await withEmptyShard { first, shard in
            let second = try await shard.connect()
            async let one = Migrator(first).apply()
            async let two = Migrator(second).apply()
            let applied = try await one + two
            await second.close()
            #expect(applied == Migration.all)
        }
    }

    @Test("a migration that fails leaves nothing of itself, and those before it")
    func failure() async throws {
        try await withEmptyShard { connection, _ in
            let known = [
                Migration(number: 1, name: "0001_a.sql", sql: "CREATE TABLE a ()"),
                Migration(number: 2, name: "0002_b.sql", sql: "CREATE TABLE b (); SELECT 1 / 0"),
            ]
            let error = await #expect(throws: SchemaError.self) {
                _ = try await Migrator(connection, known: known).apply()
            }
            #expect(error?.message == "migration 0002_b.sql failed: division by zero")
            let plan = try await Migrator(connection, known: known).plan()
            #expect(plan.pending == [known[1]])
            #expect(try await connection.values("SELECT concat(to_regclass('a'), to_regclass('b'))") == ["a"])
            let locks = """
                SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = database AND datname = current_database()
                WHERE locktype = 'advisory'
                """
            #expect(try await connection.values(locks) == ["0"])
        }
    }

    @Test("a shard that was migrated by other files, or by a later release, is refused")
    func mismatch() throws {
        let known = [
            Migration(number: 1, name: "0001_a.sql", sql: ""), Migration(number: 2, name: "0002_b.sql", sql: ""),
        ]
        let (a, b) = (applied(1, "0001_a.sql", "aa"), applied(2, "0002_b.sql", "bb"))
        func plan(_ applied: [MigrationPlan.Applied]) throws(SchemaError) -> MigrationPlan {
            try MigrationPlan(applied: applied, known: known, checksums: ["aa", "bb"])
        }
        #expect(try plan([a]).pending == [known[1]])
        #expect(try plan([a, b]).pending == [])
        for (rows, message) in [
            ([applied(1, "0001_a.sql", "ab")], "migration 0001_a.sql on the shard is not the one of this program"),
            ([applied(1, "0001_z.sql", "aa")], "migration 0001_z.sql on the shard is not the one of this program"),
            ([b], "migration 1 is missing on the shard"),
            ([a, b, applied(3, "0003_c.sql", "cc")], "the shard's schema is newer than this program"),
        ] {
            let error = #expect(throws: SchemaError.self) { _ = try plan(rows) }
            #expect(error?.message == message)
        }
    }

    @Test("a database that is one shard is never taken for another")
    func identity() async throws {
        try await withEmptyShard { connection, _ in
            let migrator = Migrator(connection)
            #expect(try await migrator.cluster() == nil)
            _ = try await migrator.apply()
            let (east, west) = (try #require(ShardID("east")), try #require(ShardID("west")))
            let cluster = try await migrator.claim(east, of: nil)
            #expect(try await migrator.cluster() == cluster)
            #expect(try await migrator.claim(east, of: cluster) == cluster)
            for (shard, other) in [(west, cluster), (east, "00000000-0000-0000-0000-000000000000")] {
                let error = await #expect(throws: SchemaError.self) { _ = try await migrator.claim(shard, of: other) }
                #expect(error?.sqlState == .objectNotInPrerequisiteState)
            }
            #expect(try await connection.run(ShardSchema.shardName)[0].text(0) == "east")
        }
    }
}

private func applied(_ number: Int, _ name: String, _ checksum: String) -> MigrationPlan.Applied {
    MigrationPlan.Applied(number: number, name: name, checksum: checksum)
}

private func withEmptyShard(_ body: (ShardConnection, SchemaShard) async throws -> Void) async throws {
    let loop = try EventLoop(name: "migrator-tests")
    defer { loop.shutdown() }
    try await TestCluster.withShards { shards in
        let shard = SchemaShard(shard: shards[0], loop: loop)
        try await shard.session { connection in try await body(connection, shard) }
    }
}
