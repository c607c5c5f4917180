import Foundation
import TestSupport
import Testing

@Suite("meridian serve", .serialized) struct ServeTests {
    @Test("SIGHUP has rules and users read again, for who comes then; what can't be used leaves the old ones")
    func reloads() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            let shard = "\(shards[0].name) \(shards[0].conninfo)"
            let migration = try RunningCommand(["migrate", "--shard", shard])
            #expect(await migration.exitStatus() == 0, "\(migration.errors)")
            let files = try TemporaryDirectory()
            let (rules, users) = ("\(files.path)/rules", "\(files.path)/users")
            func write(_ text: String, to path: String) throws {
                try Data(text.utf8).write(to: URL(fileURLWithPath: path))
            }
            func verifier(of password: String) async throws -> String {
                let verifier = "SELECT rolpassword FROM pg_authid WHERE rolname = 'app'"
                return try await shards[0].psql("ALTER ROLE app PASSWORD '\(password)'; \(verifier)")
            }
            try await shards[0].psql("CREATE ROLE app")
            try write("host all all 127.0.0.1/32 scram-sha-256\n", to: rules)
            try write("app \(try await verifier(of: "first"))\n", to: users)
            let node = try RunningCommand(
                ["serve", "--listen", "127.0.0.1:0", "--rules", rules, "--users", users, "--shard", shard])
            try await node.waits(for: "ready: postgresql://")
            let port = try #require(node.output.firstMatch(of: /ready: \S+:(\d+)\//)?.1)
            func logsIn(_ password: String) async throws -> Bool {
                let client = try RunningCommand(
                    ["-XAtq", "-w", "-c", "SELECT 1", "host=127.0.0.1 port=\(port) user=app dbname=meridian"],
                    program: "/usr/bin/psql", environment: ["PGPASSWORD": password])
                return await client.exitStatus() == 0
            }
            func letsIn(_ password: String) async throws {
                for _ in 0..<200 { if try await logsIn(password) { return } }
                Issue.record("the node goes on to refuse the password: \(node.errors)")
            }
            #expect(try await logsIn("first"))
            try write("app \(try await verifier(of: "second"))\n", to: users)
            #expect(try await !logsIn("second"))
            node.signal(SIGHUP)
            try await letsIn("second")
            #expect(try await !logsIn("first"))

            try write("nonsense\n", to: rules)
            node.signal(SIGHUP)
            try await node.waits(for: "the old rules and users stay in use")
            #expect(try await logsIn("second"))
            try write("host all all 127.0.0.1/32 trust\n", to: rules)
            node.signal(SIGHUP)
            try await letsIn("any")
            node.signal(SIGTERM)
            #expect(await node.exitStatus() == 0)
        }
    }
}
