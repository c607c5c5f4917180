import BankWorkload
import BoundedTime
import EventLoops
import Logging
import ShardBackend
import ShardSchema
import SystemClock
import TestSupport
import Testing
import TransactionCore
import TransactionEngine

/// Migrated shards, and what tests run over them.
struct EngineShards: Sendable {
    let shards: [TestShard]
    let loop: EventLoop

    /// Runs a test on fresh databases of the servers that all tests share.
    static func withShared(
        _ count: Int = 2, sourceLocation: SourceLocation = #_sourceLocation,
        _ body: (EngineShards) async throws -> Void
    ) async throws {
        try await TestCluster.withShards(count, sourceLocation: sourceLocation) { try await migrate($0, body) }
    }

    /// Runs a test on servers of its own, which it may kill and pause.
    static func withPrivate(
        _ count: Int = 2, settings: [String: String] = [:], sourceLocation: SourceLocation = #_sourceLocation,
        _ body: (EngineShards) async throws -> Void
    ) async throws {
        try await TestCluster.withPrivateShards(count, settings: settings, sourceLocation: sourceLocation) {
            try await migrate($0, body)
        }
    }

    private static func migrate(_ shards: [TestShard], _ body: (EngineShards) async throws -> Void) async throws {
        let loop = try EventLoop(name: "engine-tests")
        defer { loop.shutdown() }
        let engineShards = EngineShards(shards: shards, loop: loop)
        var cluster: String?
        for (index, id) in engineShards.ids.enumerated() {
            try await engineShards.session(on: index) { connection in
                let migrator = Migrator(connection)
                _ = try await migrator.apply()
                cluster = try await migrator.claim(id, of: cluster)
            }
        }
        try await body(engineShards)
    }

    /// The shards' names: `shard1`, `shard2` and so on.
    var ids: [ShardID] { shards.map { ShardID($0.name)! } }

    /// The shards as `meridian` takes them on its command line.
    var arguments: [String] { shards.flatMap { ["--shard", "\($0.name) \($0.conninfo)"] } }

    /// Runs `body` with a session of the user `meridian`, as a client that isn't Meridian has it.
    @discardableResult
    func session<Value>(on index: Int, _ body: (ShardConnection) async throws -> Value) async throws -> Value {
        let settings = try ConnectionSettings(shards[index].conninfo)
        let connection = try await ShardConnection.connect(to: settings, on: loop, deadline: .now + .seconds(10))
        do {
            let value = try await body(connection)
            await connection.close()
            return value
        } catch {
            await connection.close()
            throw error
        }
    }

    /// What a test's engine is told, with timeouts short enough for tests of failures.
    func configuration(node: UInt16 = 1) -> EngineConfiguration {
        var configuration = EngineConfiguration(
            node: NodeID(rawValue: node)!,
            shards: zip(ids, shards).map { ShardConfiguration(id: $0, conninfo: $1.conninfo) })
        configuration.statementTimeout = .seconds(10)
        configuration.outcomeTimeout = .milliseconds(300)
        configuration.sweepInterval = .milliseconds(100)
        configuration.takeoverTimeout = .seconds(3)
        return configuration
    }

    /// Runs `body` with an engine over the shards, and shuts it down.
    @discardableResult
    func engine<Value>(
        clock: any IntervalClock = Self.hostClock, logger: Logger = Self.silence,
        _ adjust: (inout EngineConfiguration) -> Void = { _ in },
        _ body: (TransactionEngine) async throws -> Value
    ) async throws -> Value {
        var configuration = configuration()
        adjust(&configuration)
        let engine = try await TransactionEngine.start(configuration, clock: clock, loop: loop, logger: logger)
        do {
            let value = try await body(engine)
            await engine.shutdown()
            return value
        } catch {
            await engine.shutdown(grace: .zero)
            throw error
        }
    }

    /// Expects that no engine starts, and returns why.
    func refusedStart(
        clock: any IntervalClock = Self.hostClock, _ adjust: (inout EngineConfiguration) -> Void = { _ in },
        sourceLocation: SourceLocation = #_sourceLocation
    ) async throws -> EngineStartError {
        try await #require(throws: EngineStartError.self, sourceLocation: sourceLocation) {
            try await engine(clock: clock, adjust) { _ in }
        }
    }

    /// What psql prints for `query` on each shard: what a reader sees there who knows nothing of Meridian.
    func plain(_ query: String) async throws -> [String] {
        var answers: [String] = []
        for shard in shards { answers.append(try await shard.psql(query)) }
        return answers
    }

    /// The balances of the bank's accounts, summed shard by shard, to a plain reader.
    func plainSums() async throws -> [Int64] {
        try await plain("SELECT sum(balance) FROM bank.account").map { Int64($0) ?? -1 }
    }

    /// Waits until nothing is prepared anywhere; fails the test after `duration`.
    func waitUntilSettled(
        within duration: Duration = .seconds(10), sourceLocation: SourceLocation = #_sourceLocation
    ) async throws {
        let query = "SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()"
        try await waitUntil("nothing is prepared", within: duration, sourceLocation: sourceLocation) {
            try await plain(query).allSatisfy { $0 == "0" }
        }
    }

    static let hostClock = SystemBoundedClock(source: .host(uncertainty: .milliseconds(1)))
    static let silence = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }
}

/// The commit timestamp of a transfer that is to have one.
func committed(_ end: TransferEnd) throws -> Timestamp {
    guard case .committed(let timestamp?) = end else { throw TransactionError(.internalError, "refused") }
    return timestamp
}

/// Waits until `condition` holds; fails the test when it does not within `duration`.
func waitUntil(
    _ what: Comment, within duration: Duration = .seconds(10), sourceLocation: SourceLocation = #_sourceLocation,
    _ condition: () async throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + duration
    while try await !condition() {
        try #require(ContinuousClock.now < deadline, what, sourceLocation: sourceLocation)
        try await Task.sleep(for: .milliseconds(20))
    }
}

extension TransactionEngine {
    /// A small bank: accounts 0, 1, 2, … of 100 each, dealt out to the shards in turn, and there on all of them.
    func makeBank(accounts: Int64 = 6) async throws -> Bank {
        let bank = try await Bank.create(accounts: accounts, balance: 100, replacing: true, on: self)
        // A read at a timestamp waits until every shard has applied what was acknowledged (R8).
        _ = try await Bank.open(on: self)
        return bank
    }
}
