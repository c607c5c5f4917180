import Foundation
import TestSupport
import Testing

/// The drivers that programs use, each by a program of `Tests/Drivers` that any PostgreSQL satisfies too. Its tables
/// are sharded over three shards.
///
/// COPY and cursors by DECLARE are not among what they do.
@Suite(.serialized) struct DriverTests {
    private static let programs = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .appending(path: "Drivers").path

    @Test(
        "programs of the Python drivers work as on PostgreSQL",
        arguments: ["psycopg_sync.py", "psycopg_async.py", "sqlalchemy_orm.py", "asyncpg_pool.py"])
    func python(program: String) async throws {
        try await Self.run(["\(Self.programs)/\(program)"], by: "/usr/bin/python3")
    }

    @Test("a program of pgjdbc works as on PostgreSQL")
    func java() async throws {
        try await Self.run(
            ["-cp", "/usr/share/java/postgresql.jar", "\(Self.programs)/PgjdbcProgram.java"], by: "/usr/bin/java")
    }

    private static func run(_ arguments: [String], by interpreter: String) async throws {
        try await ServedShards.with(3) { served in
            // As on servers with histories of their own: from here on the same type has another number on each.
            for (index, shard) in served.engine.shards.enumerated() {
                for _ in 0..<index {
                    _ = try await served.engine.inspect("CREATE TYPE spent AS ENUM ()", on: shard)
                    _ = try await served.engine.inspect("DROP TYPE spent", on: shard)
                }
            }
            let program = try RunningCommand(
                arguments + ["127.0.0.1", "\(served.port)"], program: interpreter,
                // Nothing is written beside the sources.
                environment: ["PYTHONDONTWRITEBYTECODE": "1"])
            let status = await program.exitStatus(within: .seconds(180))
            #expect(status == 0, "\(program.output)\(program.errors)")
            // The program counts its checks: one that ran none has shown nothing.
            #expect(program.output.contains(/^([1-9]\d*) of \1 checks held/), "\(program.output)")
        }
    }
}
