import ClientAuthentication
import Foundation
import PostgresWire
import TestSupport
import Testing

@testable import Gateway

/// TLS, as psql sees it.
@Suite struct EncryptionTests {
    @Test("psql comes in by TLS, whatever it wants to know of the certificate")
    func modes() async throws {
        let certificate = try await TestCertificate()
        let trust = "sslrootcert=\(certificate.certificate)"
        try await TestGateway.with(tls: certificate) { test in
            for mode in ["allow", "prefer", "require", "verify-ca \(trust)", "verify-full host=localhost \(trust)"] {
                let result = try await psql(
                    "hostaddr=127.0.0.1 user=tlsonly dbname=bank sslmode=\(mode)", port: test.port)
                #expect(result.output == "hello", "\(mode): \(result.errors)")
            }
            #expect(test.provider.sessions.allSatisfy { $0.startup.isEncrypted })
            let plain = try await psql("user=trusted dbname=bank sslmode=disable", port: test.port)
            #expect(plain.output == "hello", "\(plain.errors)")
        }
    }

    @Test("a client that trusts another certificate does not come in, and does no harm")
    func untrusted() async throws {
        let (certificate, other) = (try await TestCertificate(), try await TestCertificate())
        try await TestGateway.with(tls: certificate) { test in
            let result = try await psql(
                "user=trusted dbname=bank sslmode=verify-ca sslrootcert=\(other.certificate)", port: test.port)
            #expect(result.status == 2)
            #expect(result.errors.contains("certificate verify failed"))
            try await test.checkServes()
        }
    }

    @Test(
        "SCRAM binds to the channel, by the hash function of the certificate's signature",
        arguments: [
            ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"],
            ["ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-sha384"],
            ["rsa:2048", "-sha512"],
            ["rsa:2048", "-sha1"],
        ])
    func channelBinding(algorithm: [String]) async throws {
        let certificate = try await TestCertificate(algorithm)
        try await TestGateway.with(tls: certificate) { test in
            let conninfo = "user=alice dbname=bank sslmode=require"
            for binding in ["require", "prefer", "disable"] {
                let result = try await psql(
                    "\(conninfo) channel_binding=\(binding)", port: test.port, password: "wonderland")
                #expect(result.output == "hello", "\(binding): \(result.errors)")
            }
            let wrong = try await psql("\(conninfo) channel_binding=require", port: test.port, password: "wrong")
            #expect(wrong.errors.hasSuffix("FATAL:  password authentication failed for user \"alice\""))
        }
    }

    @Test(
        "the hash is what openssl computes",
        arguments: [
            (["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "sha256"),
            (["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-sha512"], "sha512"),
            (["rsa:2048", "-sha384"], "sha384"),
            (["rsa:2048", "-sha1"], "sha256"),
            (["rsa:2048", "-sigopt", "rsa_padding_mode:pss", "-sha384"], "sha384"),
        ])
    func hash(algorithm: [String], function: String) async throws {
        let certificate = try await TestCertificate(algorithm)
        let encoded = "\(certificate.directory.path)/server.der"
        _ = try await RunningProgram.run([
            "openssl", "x509", "-in", certificate.certificate, "-outform", "DER", "-out", encoded,
        ])
        let digest = try await RunningProgram.run(["openssl", "dgst", "-\(function)", "-r", encoded]).output
        let bytes = [UInt8](try Data(contentsOf: URL(fileURLWithPath: encoded)))
        let hash = CertificateHash.serverEndPoint(certificate: bytes) ?? []
        #expect(hash.map { String(format: "%02x", $0) }.joined() == digest.prefix { $0 != " " })
        #expect(!hash.isEmpty)
    }

    @Test("a certificate without a hash function, and what is no certificate, have no hash")
    func noHash() async throws {
        let certificate = try await TestCertificate(["ed25519"])
        try await TestGateway.with(tls: certificate) { test in
            let conninfo = "user=alice dbname=bank sslmode=require"
            let bound = try await psql("\(conninfo) channel_binding=require", port: test.port, password: "wonderland")
            #expect(bound.errors.contains("channel binding is required"))
        }
        let encoded = [UInt8](repeating: 0x30, count: 100)
        for count in 0..<encoded.count {
            #expect(CertificateHash.serverEndPoint(certificate: Array(encoded.prefix(count))) == nil)
        }
        #expect(CertificateHash.serverEndPoint(certificate: [0x30, 0x84, 0xFF, 0xFF, 0xFF, 0xFF, 0x30]) == nil)
    }

    @Test("a reloaded certificate is for new connections, and one that can't be used changes nothing")
    func reload() async throws {
        let certificate = try await TestCertificate()
        let first = try certificate.copy()
        try await TestGateway.with(tls: certificate) { test in
            func verified(by root: String) async throws -> RunningProgram.Result {
                try await psql("user=trusted dbname=bank sslmode=verify-full sslrootcert=\(root)", port: test.port)
            }
            let old = try startPsql(
                "user=trusted dbname=bank sslmode=verify-full sslrootcert=\(first)", port: test.port, "sleep")
            let session = try await test.firstSession()
            #expect(await eventually { session.isAsleep })

            try await certificate.replace()
            let second = try certificate.copy()
            #expect(try await verified(by: first).output == "hello")
            try test.gateway.reloadTLS()
            #expect(try await verified(by: second).output == "hello")
            #expect(try await verified(by: first).errors.contains("certificate verify failed"))

            try Data("nothing".utf8).write(to: URL(fileURLWithPath: certificate.key))
            #expect(throws: GatewayError.self) { try test.gateway.reloadTLS() }
            try FileManager.default.removeItem(atPath: certificate.certificate)
            #expect(throws: GatewayError.self) { try test.gateway.reloadTLS() }
            #expect(try await verified(by: second).output == "hello")

            session.wake()
            #expect(await old.result.output == "awake")
        }
    }

    @Test("a key that is not the certificate's does not start a gateway")
    func otherKey() async throws {
        let (certificate, other) = (try await TestCertificate(), try await TestCertificate())
        await #expect(throws: GatewayError.self) {
            try await TestGateway.with(
                tls: certificate,
                { $0.tls = .init(certificateChain: certificate.certificate, privateKey: other.key) }, { _ in })
        }
        try await TestGateway.with { test in
            #expect(throws: GatewayError.self) { try test.gateway.reloadTLS() }
        }
    }

    @Test("what comes in the clear behind an SSLRequest is taken for an attack")
    func injection() async throws {
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            let client = try RawClient(port: test.port)
            var bytes: [UInt8] = [0, 0, 0, 8, 4, 210, 22, 47]
            bytes += Array("Q\0\0\0\u{0C}DROP A;\0".utf8)
            await client.send(bytes)
            let fields = try error(try await client.receiveToEnd())
            #expect(fields?[.message] == "received unencrypted data after SSL request")
            #expect(test.provider.sessions.isEmpty)
            try await test.checkServes()
        }
    }

    @Test("garbage where TLS should begin ends the connection")
    func garbage() async throws {
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            let client = try RawClient(port: test.port)
            await client.send(.sslRequest)
            #expect(try await client.receive() == Array("S".utf8))
            await client.send([UInt8](repeating: 0x51, count: 1_000))
            _ = try await client.receiveToEnd()
            try await test.checkServes()
        }
    }

    @Test("big answers and big questions come through TLS whole")
    func big() async throws {
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            let text = String(repeating: "0123456789", count: 10_000)
            let result = try await psql("user=trusted dbname=bank sslmode=require", port: test.port, text)
            #expect(result.output == text)
            let rows = try await psql("user=trusted dbname=bank sslmode=require", port: test.port, "rows 20000")
            #expect(rows.output.utf8.count == 20_000 * 1_001 - 1)
            let session = try #require(test.provider.sessions.last)
            #expect(session.mostQueued < 512 << 10)
        }
    }

    @Test("a client that is killed while it leaves its answer unread is told of once, and nothing is kept for it")
    func brokenOff() async throws {
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            let conninfo = "user=trusted dbname=bank sslmode=require"
            let client = try startPsql(conninfo, port: test.port, "rows 1000000")
            #expect(await eventually { test.provider.sessions.last.map { $0.producedBytes > 0 } ?? false })
            let session = try #require(test.provider.sessions.last)
            client.signal(SIGSTOP)
            _ = try await settled { session.producedBytes }
            #expect(session.queuedBytes > 0)
            // What it had not read makes the system reset the connection.
            client.signal(SIGKILL)
            #expect(await client.result.status == -SIGKILL)
            #expect(await eventually { session.departures == [.lost] })
            #expect(await eventually { session.queuedBytes == 0 })
            try await test.checkServes()
        }
    }
}
