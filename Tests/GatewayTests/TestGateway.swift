import ClientAuthentication
import EventLoops
import Foundation
import Gateway
import Logging
import TestSupport
import Testing

/// A gateway of echo sessions, and what it was made of.
struct TestGateway {
    static let rules = """
        host     all  trusted    127.0.0.0/8  trust
        hostssl  all  tlsonly    127.0.0.0/8  trust
        host     all  rejected   127.0.0.0/8  reject
        host     all  alice,bob,carla,nobody  127.0.0.0/8  scram-sha-256
        host     all  mia        127.0.0.0/8  md5
        """

    let gateway: Gateway
    let provider: EchoProvider

    var port: Int { gateway.port }

    /// Runs a test against a gateway of its own.
    static func with(
        tls: TestCertificate? = nil, _ change: (inout GatewayConfiguration) -> Void = { _ in },
        _ body: (TestGateway) async throws -> Void
    ) async throws {
        let provider = EchoProvider(verifiers: verifiers)
        var configuration = GatewayConfiguration(
            port: 0, tls: tls.map { .init(certificateChain: $0.certificate, privateKey: $0.key) },
            hostRules: try HostRules(parsing: rules), mockSecret: Array("mock".utf8))
        // A test that fails to end should not keep the others waiting.
        configuration.closeTimeout = .seconds(2)
        change(&configuration)
        let loop = try EventLoop(name: "gateway-test")
        defer { loop.shutdown() }
        let gateway = try Gateway.start(
            configuration, provider: provider, on: loop,
            logger: Logger(label: "gateway") { _ in SwiftLogNoOpLogHandler() })
        do {
            try await body(TestGateway(gateway: gateway, provider: provider))
        } catch {
            await gateway.shutdown(grace: .zero)
            throw error
        }
        await gateway.shutdown(grace: .zero)
    }

    private static let verifiers: [String: PasswordVerifier] = [
        "alice": .scram(SCRAMVerifier(password: "wonderland", salt: Array("0123456789abcdef".utf8))),
        "mia": .md5(MD5Verifier(password: "secret", user: "mia")),
        "carla": .md5(MD5Verifier(password: "secret", user: "carla")),
    ]

    /// Waits until the first client has its session.
    func firstSession() async throws -> EchoSession {
        _ = await eventually { !provider.sessions.isEmpty }
        return try #require(provider.sessions.first)
    }

    /// Checks that the gateway still serves clients.
    func checkServes(sourceLocation: SourceLocation = #_sourceLocation) async throws {
        let client = try RawClient(port: port)
        try await client.logIn()
        await client.send(.query("alive?"))
        let answer = try await client.messagesToReady()
        #expect(rows(answer) == ["alive?"], sourceLocation: sourceLocation)
    }
}

/// A certificate for `localhost` that signs itself, as files.
final class TestCertificate: Sendable {
    let directory: TemporaryDirectory
    var certificate: String { "\(directory.path)/server.crt" }
    var key: String { "\(directory.path)/server.key" }

    /// Makes one by openssl, with a key and signature as `algorithm` says.
    init(_ algorithm: [String] = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]) async throws {
        directory = try TemporaryDirectory()
        try await replace(algorithm)
    }

    /// Puts another one in its place.
    func replace(_ algorithm: [String] = ["ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]) async throws {
        let made = try await RunningProgram.run(
            [
                "openssl", "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", certificate, "-keyout", key, "-newkey",
            ] + algorithm)
        try #require(made.status == 0, "openssl: \(made.errors)")
    }

    /// A copy of the certificate that stays when it is replaced, for a client to trust.
    func copy() throws -> String {
        let path = "\(directory.path)/root-\(UUID().uuidString).crt"
        try FileManager.default.copyItem(atPath: certificate, toPath: path)
        return path
    }
}
