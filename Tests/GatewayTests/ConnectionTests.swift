import Foundation
import Gateway
import PostgresWire
import TestSupport
import Testing

/// Cancel requests, limits, and how connections end.
@Suite struct ConnectionTests {
    @Test("Ctrl-C in psql cancels its statement, with TLS and without", arguments: ["disable", "require"])
    func interrupt(sslmode: String) async throws {
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            let client = try startPsql("user=trusted dbname=bank sslmode=\(sslmode)", port: test.port, "sleep")
            let session = try await test.firstSession()
            #expect(await eventually { session.isAsleep })
            client.signal(SIGINT)
            let result = await client.result
            #expect(result.errors.contains("ERROR:  canceling statement due to user request"))
            #expect(test.provider.cancelled == [session.key])
        }
    }

    @Test("a cancel request reaches the session whose key it has, and no other, on this gateway only")
    func cancel() async throws {
        try await TestGateway.with { one in
            try await TestGateway.with { other in
                let (client, bystander) = (try RawClient(port: one.port), try RawClient(port: one.port))
                try await client.logIn()
                try await bystander.logIn()
                let stranger = try RawClient(port: other.port)
                try await stranger.logIn()
                let session = try await one.firstSession()
                for client in [client, bystander, stranger] { await client.send(.query("sleep")) }
                #expect(await eventually { session.isAsleep })

                func request(_ key: CancelRequest, port: Int) async throws -> [UInt8] {
                    let client = try RawClient(port: port)
                    await client.send(.cancelRequest(key))
                    return try await client.receiveToEnd()
                }
                var wrong = session.key
                wrong.secret ^= 1
                #expect(try await request(wrong, port: one.port) == [])
                #expect(
                    try await request(.init(processID: .max, secret: session.key.secret), port: one.port) == [])
                #expect(try await request(session.key, port: other.port) == [])
                #expect(one.provider.cancelled == [] && other.provider.cancelled == [])

                #expect(try await request(session.key, port: one.port) == [])
                #expect(error(try await client.messagesToReady())?[.sqlState] == "57014")
                #expect(one.provider.cancelled == [session.key])
                #expect(one.provider.sessions.filter(\.isAsleep).count == 1)
                #expect(other.provider.sessions.filter(\.isAsleep).count == 1)
            }
        }
    }

    @Test("one client too many is told so, and may in when another has gone")
    func tooManyClients() async throws {
        try await TestGateway.with(tls: nil, { $0.clientsMax = 1 }) { test in
            let first = try RawClient(port: test.port)
            try await first.logIn()
            let refused = try await psql("user=trusted dbname=bank sslmode=disable", port: test.port)
            #expect(refused.errors.hasSuffix("FATAL:  sorry, too many clients already"))
            // A cancel request needs no room.
            let key = try await test.firstSession().key
            let canceller = try RawClient(port: test.port)
            await canceller.send(.cancelRequest(key))
            #expect(try await canceller.receive() == [])
            #expect(test.provider.cancelled == [key])

            first.hangUp()
            let session = try await test.firstSession()
            #expect(await eventually { session.departures == [.lost] })
            let admitted = try await psql("user=trusted dbname=bank sslmode=disable", port: test.port)
            #expect(admitted.output == "hello", "\(admitted.errors)")
        }
    }

    @Test("connections that never say who they are have a limit of their own")
    func tooManyConnections() async throws {
        try await TestGateway.with(tls: nil, { $0.clientsMax = 2 }) { test in
            var silent = try (0..<14).map { _ in try RawClient(port: test.port) }
            let oneMore = try RawClient(port: test.port)
            #expect(try await oneMore.receiveToEnd() == [])
            silent = []
            #expect(silent.isEmpty)
            var isServed = false
            for _ in 0..<100 where !isServed {
                let client = try RawClient(port: test.port)
                isServed = try await client.logIn().last == .readyForQuery(.idle)
            }
            #expect(isServed)
        }
    }

    @Test("a client that is killed, and one that leaves, are told of at once and once")
    func departures() async throws {
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            for sslmode in ["disable", "require"] {
                let conninfo = "user=trusted dbname=bank sslmode=\(sslmode)"
                let known = test.provider.sessions.count
                let killed = try startPsql(conninfo, port: test.port, "sleep")
                #expect(await eventually { test.provider.sessions.count > known })
                let session = try #require(test.provider.sessions.last)
                #expect(await eventually { session.isAsleep })
                killed.signal(SIGKILL)
                #expect(await killed.result.status == -SIGKILL)
                #expect(await eventually(within: .seconds(5)) { session.departures == [.lost] })

                #expect(try await psql(conninfo, port: test.port).output == "hello")
                let left = try #require(test.provider.sessions.last)
                #expect(await eventually { left.departures == [.terminated] })
            }
        }
    }

    @Test("what a client has sent before it says goodbye is answered")
    func goodbye() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            await client.send(.query("one"), .query("two"), .terminate)
            #expect(rows(try await client.messagesToReady()) == ["one"])
            #expect(rows(try await client.messagesToReady()) == ["two"])
            #expect(try await client.nextMessage() == nil)
            #expect(try await test.firstSession().departures == [.terminated])
        }
    }

    @Test("a client that goes while its session is opened leaves none behind")
    func abandonedOpening() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            await client.send(
                .startup(StartupMessage(parameters: [.init("user", "trusted"), .init("database", "slow")])))
            guard case .authentication(.ok) = try await client.nextMessage() else {
                Issue.record("the client was not let in")
                return
            }
            client.hangUp()
            #expect(await eventually { test.provider.abandonedOpenings == 1 })
            let session = try await test.firstSession()
            #expect(await eventually { session.departures == [.lost] })
        }
    }

    @Test("a login that takes too long ends without a word, whatever it waits for")
    func authenticationTimeout() async throws {
        try await TestGateway.with(
            tls: try await TestCertificate(), { $0.authenticationTimeout = .milliseconds(300) }
        ) { test in
            let silent = try RawClient(port: test.port)
            #expect(try await silent.receiveToEnd() == [])
            let hesitant = try RawClient(port: test.port)
            await hesitant.send([0, 0, 0])
            #expect(try await hesitant.receiveToEnd() == [])
            let negotiating = try RawClient(port: test.port)
            await negotiating.send(.sslRequest)
            #expect(try await negotiating.receiveToEnd() == Array("S".utf8))
            let forgetful = try RawClient(port: test.port)
            await forgetful.send(.startup(StartupMessage(parameters: [.init("user", "alice")])))
            #expect(try await forgetful.receive().first == UInt8(ascii: "R"))
            #expect(try await forgetful.receive() == [])
            let opening = try RawClient(port: test.port)
            #expect(try await opening.logIn(database: "slow") == [.authentication(.ok)])

            let patient = try RawClient(port: test.port)
            try await patient.logIn()
            try await Task.sleep(for: .milliseconds(500))
            await patient.send(.query("still here"))
            #expect(rows(try await patient.messagesToReady()) == ["still here"])
        }
    }

    @Test("a session may close the connection behind its last answer")
    func close() async throws {
        try await TestGateway.with { test in
            let client = try RawClient(port: test.port)
            try await client.logIn()
            await client.send(.query("close"), .query("more"))
            let answer = try await client.messagesToReady()
            #expect(rows(answer) == ["close"])
            #expect(try await client.nextMessage() == nil)
            let session = try await test.firstSession()
            #expect(await eventually { session.departures == [.lost] })
        }
    }

    @Test("a gateway that stops sends its clients away in the end, and nobody comes in any more")
    func shutdown() async throws {
        try await TestGateway.with(tls: try await TestCertificate()) { test in
            let sleeping = try ["disable", "require"].map { sslmode in
                try startPsql("user=trusted dbname=bank sslmode=\(sslmode)", port: test.port, "sleep")
            }
            #expect(await eventually { test.provider.sessions.filter(\.isAsleep).count == 2 })
            let comingIn = try RawClient(port: test.port)
            await comingIn.send(.startup(StartupMessage(parameters: [.init("user", "alice")])))
            #expect(try await comingIn.receive().first == UInt8(ascii: "R"))

            async let end: Void = test.gateway.shutdown(grace: .milliseconds(500))
            #expect(try error(try await comingIn.receiveToEnd())?[.sqlState] == "57P03")
            #expect(test.provider.sessions.allSatisfy { $0.departures.isEmpty })
            await end
            for client in sleeping {
                #expect(
                    await client.result.errors.contains(
                        "FATAL:  terminating connection due to administrator command"))
            }
            #expect(test.provider.sessions.allSatisfy { $0.departures == [.lost] })
            #expect(throws: RawClient.Failure.self) { _ = try RawClient(port: test.port) }
        }
    }

    @Test("two gateways can't have one port")
    func portTaken() async throws {
        try await TestGateway.with { test in
            await #expect(throws: GatewayError.self) {
                try await TestGateway.with(tls: nil, { $0.port = test.port }, { _ in })
            }
        }
    }
}
