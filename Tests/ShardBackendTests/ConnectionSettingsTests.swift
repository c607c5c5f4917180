import Foundation
import LocalCluster
import ShardBackend
import TestSupport
import Testing
import TransactionCore

@Suite struct ConnectionSettingsTests {
    @Test("a URI and a string of keywords mean the same, and overrides replace what they say")
    func parsing() throws {
        let uri = try ConnectionSettings("postgresql://me:secret@db1:5433,db2/bank?target_session_attrs=read-write")
        #expect(uri["host"] == "db1,db2" && uri["port"] == "5433," && uri["dbname"] == "bank")
        #expect(uri["target_session_attrs"] == "read-write" && uri["password"] == "secret")
        let keywords = try ConnectionSettings(
            "host=db1 user=me", overrides: ["user": "you", "application_name": "test"])
        #expect(keywords["user"] == "you" && keywords["application_name"] == "test")
    }

    @Test(
        "bad settings are refused before anything is tried",
        arguments: ["host", "hots=a", "postgresql://u:p%zz@h", "postgresql://[::1", "port='1"])
    func invalid(conninfo: String) async {
        await expectShardError({ $0.kind == .invalidUse }) { _ = try ConnectionSettings(conninfo) }
        await expectShardError({ $0.kind == .invalidUse }) { _ = try ConnectionSettings("", overrides: ["hots": "a"]) }
    }

    @Test("several hosts are taken apart, each with its own address and port; of lists that don't fit, none is")
    func servers() throws {
        func servers(_ conninfo: String) throws -> [String] {
            try ConnectionSettings(conninfo).servers.map {
                "\($0["host"] ?? "-") \($0["hostaddr"] ?? "-") \($0["port"] ?? "-") \($0["dbname"] ?? "-")"
            }
        }
        #expect(try servers("host=a,b port=1,2 dbname=d") == ["a - 1 d", "b - 2 d"])
        #expect(try servers("host=a,b hostaddr=1.1.1.1,2.2.2.2 port=5") == ["a 1.1.1.1 5 -", "b 2.2.2.2 5 -"])
        #expect(try servers("postgresql://a:1,b/d") == ["a - 1 d", "b -  d"])
        #expect(try servers("dbname=d") == ["- - - d"])
        #expect(try servers("host=a,b port=1,2,3") == ["a,b - 1,2,3 -"])
        let conninfo = "host=a,b target_session_attrs=any"
        #expect(try ConnectionSettings(conninfo).ofPrimary["target_session_attrs"] == "read-write")
        #expect(try ConnectionSettings("host=a").ofPrimary["target_session_attrs"] == nil)
    }

    @Test("no description and no error shows a password")
    func secrets() async throws {
        let settings = try ConnectionSettings("postgresql://me:secret@db1/bank?sslpassword=secret")
        #expect(!"\(settings) \(String(reflecting: settings))".contains("secret"))
        var dumped = ""
        dump(settings, to: &dumped)
        #expect(!dumped.contains("secret"))
        for conninfo in ["postgresql://me:secret%zz@h", "password = host=db1 secret", "secret"] {
            let error = await expectShardError { _ = try ConnectionSettings(conninfo) }
            #expect(error?.description.contains("secret") == false)
        }
    }

    @Test("a host name is resolved off the loop, and one that has no address says so")
    func hostNames() async throws {
        try await TestCluster.withShards { shards in
            let port = shards[0].server.port
            let rest = "dbname=\(shards[0].database) user=meridian"
            let loop = try TestLoop.shared()
            let named = try ConnectionSettings("host=localhost port=\(port) \(rest)")
            let connection = try await ShardConnection.connect(to: named, on: loop, deadline: .now + .seconds(30))
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
            await connection.close()
            let unknown = try ConnectionSettings("host=no-such-host.invalid \(rest)")
            let error = await expectShardError {
                _ = try await ShardConnection.connect(to: unknown, on: loop, deadline: .now + .seconds(20))
            }
            #expect(error?.sqlState == .connectionFailure)
        }
    }

    @Test("of several hosts the first that is what was asked for is taken")
    func severalHosts() async throws {
        try await TestCluster.withShards { shards in
            let server = shards[0].server
            let several = try ConnectionSettings(
                """
                host=127.0.0.1,localhost port=1,\(server.port) user=meridian \
                dbname=\(shards[0].database) target_session_attrs=read-write
                """)
            let loop = try TestLoop.shared()
            let connection = try await ShardConnection.connect(to: several, on: loop, deadline: .now + .seconds(30))
            #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
            await connection.close()
            let standby = try ConnectionSettings(shards[0].conninfo, overrides: ["target_session_attrs": "standby"])
            await expectShardError({ $0.kind == .notConnected(nil) }) {
                _ = try await ShardConnection.connect(to: standby, on: loop, deadline: .now + .seconds(30))
            }
        }
    }

    @Test("the server's reason to refuse a connection comes with its SQLSTATE")
    func refusal() async throws {
        try await TestCluster.withShards { shards in
            let wrong = try ConnectionSettings(shards[0].conninfo, overrides: ["dbname": "nowhere"])
            let error = await expectShardError {
                _ = try await ShardConnection.connect(to: wrong, on: TestLoop.shared(), deadline: .now + .seconds(30))
            }
            #expect(error?.kind == .notConnected(SQLState(rawValue: "3D" + "000")))
            #expect(error?.message.hasSuffix("FATAL: database \"nowhere\" does not exist") == true)
        }
    }

    @Test(
        "TLS works as libpq has it: large values, COPY and streams, and no connection without it where it is required")
    func encryption() async throws {
        try await TestCluster.withPrivateShards(1) { shards in
            let server = shards[0].server
            let required = ["sslmode": "require"]
            await expectShardError({ $0.kind == .notConnected(nil) }) {
                _ = try await shards[0].connect(overrides: required)
            }
            try makeCertificate(in: server.dataDirectory)
            try await server.psql("ALTER SYSTEM SET ssl = on; SELECT pg_reload_conf()")
            try await waitUntil("the server to offer TLS") {
                (try? await shards[0].connect(overrides: required)) != nil
            }
            let connection = try await shards[0].connect(overrides: required)
            #expect(await connection.isEncrypted)
            let megabyte = [UInt8](repeating: 7, count: 1 << 20)
            let statements = (0..<10).map { _ in SQLStatement("SELECT $1::bytea", [.bytes(megabyte)]) }
            let results = try await connection.run(statements, deadline: .now + .seconds(30))
            #expect(try results.allSatisfy { try $0[0].bytes(0) == megabyte })
            var count = 0
            for try await _ in try await connection.stream("SELECT generate_series(1, 50000), repeat('x', 100)") {
                count += 1
            }
            #expect(count == 50_000)
            await expectShardError({ $0.kind == .timedOut && !$0.isOutcomeUnknown }) {
                _ = try await connection.run("SELECT pg_sleep(30)", deadline: .now + .milliseconds(50))
            }
            await connection.close()
        }
    }

    /// A self-signed certificate, which `sslmode=require` does not look at.
    private func makeCertificate(in directory: String) throws {
        let openssl = Process()
        openssl.executableURL = URL(fileURLWithPath: "/usr/bin/env")
        openssl.arguments = [
            "openssl", "req", "-new", "-x509", "-nodes", "-days", "1", "-subj", "/CN=localhost",
            "-keyout", "\(directory)/server.key", "-out", "\(directory)/server.crt",
        ]
        openssl.standardError = FileHandle.nullDevice
        try openssl.run()
        openssl.waitUntilExit()
        let owner = try FileManager.default.attributesOfItem(atPath: directory)
        for file in ["server.key", "server.crt"] {
            var attributes: [FileAttributeKey: Any] = [.posixPermissions: 0o600]
            attributes[.ownerAccountID] = owner[.ownerAccountID]
            attributes[.groupOwnerAccountID] = owner[.groupOwnerAccountID]
            try FileManager.default.setAttributes(attributes, ofItemAtPath: "\(directory)/\(file)")
        }
    }
}
