import ClientAuthentication
import EventLoops
import Logging
import NIOCore
import PostgresWire
import Synchronization
import TestSupport
import Testing

@testable import Gateway

/// Doors of nodes: clients are served behind them, handed on, or wait.
@Suite struct DoorTests {
    @Test("a client is served behind the door, or handed on to the one that serves; what is large arrives whole")
    func handedOn() async throws {
        try await withDoors { serving, following in
            serving.serves()
            following.handsOn(to: serving)
            for port in [serving.port, following.port] {
                let client = try RawClient(port: port)
                try await client.logIn()
                let text = String(repeating: "x", count: 300_000)
                await client.send(.query(text))
                #expect(rows(try await client.messagesToReady()) == [text])
            }
        }
    }

    @Test("a client that comes while nobody serves waits, and is served with what it has said so far")
    func waiting() async throws {
        try await withDoors { serving, following in
            let clients = [try RawClient(port: serving.port), try RawClient(port: following.port)]
            for client in clients { await client.send(startup("trusted")) }
            following.handsOn(to: serving)
            serving.serves()
            for client in clients { #expect(isReady(try await client.messagesToReady())) }
        }
    }

    @Test("who was handed on stays while that node is there, also when this one serves again, and then is let go")
    func strays() async throws {
        try await withDoors { serving, following in
            serving.serves()
            following.handsOn(to: serving)
            let client = try RawClient(port: following.port)
            try await client.logIn()
            following.serves()
            following.door.endStrays()
            await client.send(.query("still there"))
            #expect(rows(try await client.messagesToReady()) == ["still there"])
            following.losesOthers()
            following.door.endStrays()
            #expect(try await client.receiveToEnd().isEmpty)
        }
    }

    @Test("who was handed on is never handed on again")
    func handedOnOnce() async throws {
        try await withDoors { first, second in
            first.handsOn(to: second)
            second.handsOn(to: first)
            let client = try RawClient(port: first.port)
            await client.send(startup("trusted"))
            // It waits at the second door, which could send it back.
            #expect(await eventually { second.askedCount > 2 })
            second.serves()
            #expect(isReady(try await client.messagesToReady()))
            #expect(first.askedCount == 1)
        }
    }

    @Test("rules see the client that a node hands on, however its line arrives, and believe nobody else")
    func clientAddresses() async throws {
        let bytes = Array("PROXY TCP4 10.1.2.3 127.0.0.1 4711 5432\r\n".utf8) + startup("faraway")
        for pieces in [[bytes], [Array(bytes.prefix(50)), Array(bytes.dropFirst(50))], bytes.map { [$0] }] {
            try await withDoors { serving, _ in
                serving.serves()
                let client = try RawClient(port: serving.port)
                for piece in pieces { await client.send(piece) }
                #expect(isReady(try await client.messagesToReady()))
            }
        }
        try await withDoors(areNodes: false) { serving, _ in
            serving.serves()
            let client = try RawClient(port: serving.port)
            await client.send(bytes)
            _ = try await client.receiveToEnd()
            let honest = try RawClient(port: serving.port)
            await honest.send(startup("faraway"))
            #expect(try error(try await honest.receiveToEnd())?[.sqlState] == "28000")
        }
    }

    @Test(
        "a line that is none ends its connection and no other",
        arguments: [
            "PROXY\r\n", "PROXY TCP4 nowhere 127.0.0.1 1 2\r\n", "PROXY TCP4 10.1.2.3 127.0.0.1 99999 2\r\n",
            "PROXY TCP4 10.1.2.3 127.0.0.1 1\n", "PROXY " + String(repeating: "x", count: 200),
        ])
    func malformed(line: String) async throws {
        try await withDoors { serving, _ in
            serving.serves()
            let client = try RawClient(port: serving.port)
            await client.send(Array(line.utf8) + startup("trusted"))
            // As a header, or as what it would be for PostgreSQL: the length of a message that nobody sends.
            _ = try await client.receiveToEnd()
            let other = try RawClient(port: serving.port)
            try await other.logIn()
        }
    }
}

private func isReady(_ messages: [BackendMessage]) -> Bool {
    if case .readyForQuery = messages.last { true } else { false }
}

private func startup(_ user: String) -> [UInt8] {
    var buffer = ByteBuffer()
    StartupPacket.startup(StartupMessage(parameters: [.init("user", user), .init("database", "bank")]))
        .write(to: &buffer)
    return Array(buffer.readableBytesView)
}

/// A door, and who serves the clients that come to it.
private final class TestDoor: Sendable {
    private let destination: Destination
    let door: ClientDoor
    private let gateway: Gateway

    private final class Destination: Sendable {
        let current = Mutex(ClientDoor.Destination.nobody)
        let othersArePresent = Atomic(true)
        let askedCount = Atomic(0)
    }

    init(on loop: EventLoops.EventLoop, areNodes: Bool) throws {
        let logger = Logger(label: "door") { _ in SwiftLogNoOpLogHandler() }
        let destination = Destination()
        self.destination = destination
        door = try ClientDoor.open(
            host: "127.0.0.1", port: 0, clientsMax: 100, on: loop, logger: logger,
            ClientDoor.Directory(
                destination: {
                    destination.askedCount.add(1, ordering: .relaxed)
                    return destination.current.withLock { $0 }
                },
                isPresent: { _ in destination.othersArePresent.load(ordering: .relaxed) }, isNode: { _ in areNodes }))
        let rules = "host all trusted 127.0.0.0/8 trust\nhost all faraway 10.1.2.3/32 trust"
        gateway = try Gateway(
            GatewayConfiguration(port: 0, hostRules: try HostRules(parsing: rules), mockSecret: Array("mock".utf8)),
            provider: EchoProvider(verifiers: [:]), behind: door, logger: logger)
    }

    var port: Int { door.port }

    func serves() { destination.current.withLock { $0 = .here(gateway) } }

    func handsOn(to other: TestDoor) {
        let address = try? SocketAddress(ipAddress: "127.0.0.1", port: other.port)
        destination.current.withLock { $0 = address.map { .node($0) } ?? .nobody }
    }

    /// Other nodes are there no more.
    func losesOthers() { destination.othersArePresent.store(false, ordering: .relaxed) }

    /// How often it was looked for somebody who serves.
    var askedCount: Int { destination.askedCount.load(ordering: .relaxed) }

    func close() async {
        await gateway.shutdown(grace: .zero)
        await door.close()
    }
}

private func withDoors(areNodes: Bool = true, _ body: (TestDoor, TestDoor) async throws -> Void) async throws {
    let loop = try EventLoop(name: "doors")
    defer { loop.shutdown() }
    let doors = (try TestDoor(on: loop, areNodes: areNodes), try TestDoor(on: loop, areNodes: areNodes))
    let result: Result<Void, any Error>
    do { result = .success(try await body(doors.0, doors.1)) } catch { result = .failure(error) }
    await doors.1.close()
    await doors.0.close()
    try result.get()
}
