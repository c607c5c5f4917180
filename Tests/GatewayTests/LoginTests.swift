import ClientAuthentication
import PostgresWire
import TestSupport
import Testing

@testable import Gateway

/// Who may in, as psql sees it and without TLS.
@Suite struct LoginTests {
    @Test("psql comes in by SCRAM, MD5 or trust, with TLS preferred and without")
    func comesIn() async throws {
        try await TestGateway.with { test in
            for sslmode in ["disable", "prefer"] {
                for (user, password) in [("alice", "wonderland"), ("mia", "secret"), ("trusted", nil)] {
                    let result = try await psql(
                        "user=\(user) dbname=bank sslmode=\(sslmode)", port: test.port, "hello", password: password)
                    #expect(result.errors == "", "\(user)")
                    #expect(result.output == "hello", "\(user)")
                }
            }
        }
    }

    @Test(
        "a wrong password, an unknown user and a user without a verifier look alike",
        arguments: [("alice", "wrong"), ("bob", "wrong"), ("mia", "wrong"), ("carla", "secret")])
    func refused(user: String, password: String) async throws {
        try await TestGateway.with { test in
            let result = try await psql(
                "user=\(user) dbname=bank sslmode=disable", port: test.port, password: password)
            #expect(result.status == 2)
            #expect(result.errors.hasSuffix("FATAL:  password authentication failed for user \"\(user)\""))
            #expect(test.provider.sessions.isEmpty)
        }
    }

    @Test("a client without a password gives up, and an empty one is refused")
    func noPassword() async throws {
        try await TestGateway.with { test in
            let none = try await psql("user=alice dbname=bank sslmode=disable", port: test.port)
            #expect(none.errors.contains("no password supplied"))
            let client = try RawClient(port: test.port)
            await client.send(.startup(StartupMessage(parameters: [.init("user", "mia")])))
            guard case .authentication(.md5Password) = try await client.nextMessage() else {
                Issue.record("no MD5 was asked for")
                return
            }
            await client.send(.authenticationResponse(PasswordResponse.body("")))
            let fields = try error(try await client.receiveToEnd())
            #expect(fields?[.message] == "empty password returned by client")
            #expect(fields?[.severity] == "FATAL")
        }
    }

    @Test("a rule that rejects, and the lack of a rule, are told in pg_hba.conf's words")
    func rules() async throws {
        try await TestGateway.with { test in
            let rejected = try await psql("user=rejected dbname=bank sslmode=disable", port: test.port)
            #expect(
                rejected.errors.hasSuffix(
                    "FATAL:  pg_hba.conf rejects connection for host \"127.0.0.1\", user \"rejected\", "
                        + "database \"bank\", no encryption"))
            let stranger = try await psql("user=stranger dbname=bank sslmode=disable", port: test.port)
            #expect(
                stranger.errors.hasSuffix(
                    "FATAL:  no pg_hba.conf entry for host \"127.0.0.1\", user \"stranger\", "
                        + "database \"bank\", no encryption"))
            let tlsOnly = try await psql("user=tlsonly dbname=bank sslmode=disable", port: test.port)
            #expect(tlsOnly.errors.contains("no pg_hba.conf entry"))
        }
    }

    @Test("what the provider throws reaches the client as FATAL")
    func unknownDatabase() async throws {
        try await TestGateway.with { test in
            let result = try await psql("user=trusted dbname=nowhere sslmode=disable", port: test.port)
            #expect(result.status == 2)
            #expect(result.errors.hasSuffix("FATAL:  database \"nowhere\" does not exist"))
            let client = try RawClient(port: test.port)
            let fields = error(try await client.logIn(database: "nowhere"))
            #expect(fields?[.sqlState] == EchoProvider.unknownDatabase.sqlState.rawValue)
        }
    }

    @Test("the session knows who the client is, and what it wants to begin with")
    func startup() async throws {
        try await TestGateway.with { test in
            let conninfo =
                "user=trusted dbname=bank sslmode=disable application_name=test "
                + "options='-c search_path=a\\\\ b --statement-timeout=5s'"
            let result = try await psql(conninfo, port: test.port)
            #expect(result.output == "hello", "\(result.errors)")
            let startup = try await test.firstSession().startup
            #expect(startup.user == "trusted")
            #expect(startup.database == "bank")
            #expect(startup.address == "127.0.0.1")
            #expect(startup.port > 0)
            #expect(!startup.isEncrypted)
            #expect(
                startup.settings.filter { $0.name != "client_encoding" } == [
                    .init("search_path", "a b"), .init("statement_timeout", "5s"), .init("application_name", "test"),
                ])
        }
    }

    @Test("the first messages are those of PostgreSQL, in its order")
    func firstMessages() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            let messages = try await client.logIn()
            let key = try await test.firstSession().key
            #expect(messages.first == .authentication(.ok))
            #expect(messages.contains(.parameterStatus("server_version", "15.0")))
            #expect(Array(messages.suffix(2)) == [.backendKeyData(key), .readyForQuery(.idle)])
        }
    }

    @Test("a newer minor version and unknown options of the protocol are negotiated away")
    func negotiation() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            let messages = try await client.logIn(
                [.init("_pq_.command_compression", "on")], version: ProtocolVersion(major: 3, minor: 2))
            #expect(
                messages.first
                    == .negotiateProtocolVersion(newest: .newest, unrecognisedOptions: ["_pq_.command_compression"]))
            #expect(messages.last == .readyForQuery(.idle))
        }
    }

    @Test(
        "a startup packet that can't be served is refused as by PostgreSQL",
        arguments: [
            (ProtocolVersion(major: 2, minor: 0), [], "unsupported frontend protocol 2.0: server supports 3.0 to 3.0"),
            (ProtocolVersion(major: 4, minor: 0), [], "unsupported frontend protocol 4.0: server supports 3.0 to 3.0"),
            (.newest, [.init("user", "")], "no PostgreSQL user name specified in startup packet"),
            (.newest, [.init("options", "-d 5")], "invalid command-line argument for server process: -d"),
            (.newest, [.init("options", "-c a")], "-c a requires a value"),
            (.newest, [.init("replication", "database")], "replication connections are not supported"),
        ] as [(ProtocolVersion, [StartupMessage.Parameter], String)])
    func refusedStartup(version: ProtocolVersion, parameters: [StartupMessage.Parameter], message: String) async throws
    {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            let fields = error(try await client.logIn(parameters, version: version))
            #expect(fields?[.message] == message)
            #expect(fields?[.severity] == "FATAL")
            #expect(try await client.receive() == [])
        }
    }

    @Test("a client that wants no replication says nothing that is refused")
    func noReplication() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            #expect(try await client.logIn([.init("replication", "off")]).last == .readyForQuery(.idle))
        }
    }

    @Test("without TLS, and for GSSAPI, the answer is N, and the client may go on")
    func declined() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            await client.send(.gssEncryptionRequest)
            #expect(try await client.receive() == Array("N".utf8))
            await client.send(.sslRequest)
            #expect(try await client.receive() == Array("N".utf8))
            #expect(try await client.logIn().last == .readyForQuery(.idle))
            let required = try await psql("user=trusted dbname=bank sslmode=require", port: test.port)
            #expect(required.errors.contains("server does not support SSL, but SSL was required"))
        }
    }
}

@Suite struct StartupOptionsTests {
    @Test("settings are read as by PostgreSQL's command line")
    func settings() throws {
        #expect(
            try StartupOptions.settings(" -c a=1\t-cb=2 --c-d=3  -c e=f\\ g\\\\h -c i= ") == [
                .init("a", "1"), .init("b", "2"), .init("c_d", "3"), .init("e", "f g\\h"), .init("i", ""),
            ])
        #expect(try StartupOptions.settings("") == [])
    }

    @Test("anything else is refused", arguments: ["-c", "-c a", "--a", "--", "-", "-F", "a=1", "-c a=1 x"])
    func refused(options: String) {
        #expect(throws: WireError.self) { try StartupOptions.settings(options) }
    }
}
