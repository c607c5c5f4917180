import EventLoops
import ShardBackend
import TestSupport
import Testing
import TransactionCore

/// The loop that these tests share; it lives as long as their process.
enum TestLoop {
    static func shared() throws -> EventLoop { try result.get() }

    private static let result = Result { try EventLoop(name: "test-loop") }
}

extension TestShard {
    var settings: ConnectionSettings {
        get throws { try ConnectionSettings(conninfo) }
    }

    func connect(
        overrides: [String: String] = [:], handlers: ShardConnection.Handlers = .init()
    ) async throws -> ShardConnection {
        try await ShardConnection.connect(
            to: ConnectionSettings(conninfo, overrides: overrides), on: TestLoop.shared(),
            deadline: .now + .seconds(30), handlers: handlers)
    }
}

extension TestShard {
    /// The first value of what another connection of the same user is told.
    @discardableResult
    func ask(_ text: String) async throws -> String? {
        let connection = try await connect()
        let row = try await connection.runSimple(text).last?.first
        await connection.close()
        guard let row, try !row.isNull(0) else { return nil }
        return try row.text(0)
    }
}

/// Runs a test with one connection to a fresh database.
func withConnection(_ body: (ShardConnection, TestShard) async throws -> Void) async throws {
    try await TestCluster.withShards { shards in
        let connection = try await shards[0].connect()
        try await body(connection, shards[0])
        await connection.close()
    }
}

/// Fails the test unless `body` throws a ``ShardError`` that `matches` accepts; returns it.
@discardableResult
func expectShardError(
    sourceLocation: SourceLocation = #_sourceLocation, _ matches: (ShardError) -> Bool = { _ in true },
    _ body: () async throws -> Void
) async -> ShardError? {
    do {
        try await body()
        Issue.record("no error was thrown", sourceLocation: sourceLocation)
    } catch let error as ShardError {
        if !matches(error) { Issue.record("not the error expected: \(error)", sourceLocation: sourceLocation) }
        return error
    } catch {
        Issue.record("not a ShardError: \(error)", sourceLocation: sourceLocation)
    }
    return nil
}

/// Waits until `condition` holds, and fails the test when it does not within 30 s.
func waitUntil(
    _ what: String, sourceLocation: SourceLocation = #_sourceLocation, _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + .seconds(30)
    while try await !condition() {
        guard ContinuousClock.now < deadline else {
            Issue.record("waited in vain: \(what)", sourceLocation: sourceLocation)
            return
        }
        try await Task.sleep(for: .milliseconds(5))
    }
}
