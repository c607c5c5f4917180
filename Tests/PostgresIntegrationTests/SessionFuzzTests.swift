import Foundation
import PostgresWire
import ShardBackend
import SimulationKit
import Synchronization
import TestSupport
import Testing

/// Clients that send anything, for a minute or as long as `MERIDIAN_FUZZ_SECONDS` says, from the seed
/// `MERIDIAN_TEST_SEED`.
@Suite(.serialized) struct SessionFuzzTests {
    @Test("whatever clients send, sessions keep to the protocol, nothing leaks, and others are served")
    func anything() async throws {
        let environment = ProcessInfo.processInfo.environment
        let seconds = environment["MERIDIAN_FUZZ_SECONDS"].flatMap { Int($0) } ?? 60
        let seed = environment["MERIDIAN_TEST_SEED"].flatMap { UInt64($0) } ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("SessionFuzzTests: MERIDIAN_TEST_SEED=\(seed) MERIDIAN_FUZZ_SECONDS=\(seconds)")
        try await ServedShards.with(2) { served in
            try await withReference(served) { reference in
                let run = FuzzRun(served, reference, seed: seed, until: .now + .seconds(seconds))
                try await run.prepare()
                let memory = residentBytes()
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask { try await run.scripts() }
                    for number in 0..<2 as Range<UInt64> { group.addTask { try await run.noise(number) } }
                    try await group.waitForAll()
                }
                print("SessionFuzzTests: \(run.summary)")
                #expect(run.findings == [], "seed \(seed)")
                #expect(run.counts["scripts", default: 0] > 3, "\(run.summary)")
                // As much as the largest messages of all clients, several times over.
                #expect(residentBytes() - memory < 512 << 20)
                try await checkNothingIsLeft(served)
            }
        }
    }

    @Test("what is no message of the extended protocol ends with ReadyForQuery, also when it fails")
    func ready() async throws {
        try await ServedShards.with { served in
            let client = try RawClient(port: served.port)
            try await client.logIn(user: "meridian", database: "meridian")
            func answer() async throws -> [String] {
                try await client.messagesToReady().compactMap { message in
                    switch message {
                    case .errorResponse(let fields): fields[.sqlState]
                    case .readyForQuery: "ready"
                    default: nil
                    }
                }
            }
            await client.send(.functionCall(.init(function: 1_598)))
            #expect(try await answer() == ["0A000", "ready"])
            // A malformed Sync ends the skipping all the same.
            await client.send(.execute(.init(portal: "none")), .query("SELECT 1"))
            await client.send([UInt8(ascii: "S"), 0, 0, 0, 5, 1])
            #expect(try await answer() == ["34000", "08P01", "ready"])
            await client.send(.query("SELECT 1"))
            #expect(try await answer() == ["ready"])
        }
    }

    @Test("a parameter that nobody can have bound is refused as PostgreSQL does it")
    func unboundParameters() async throws {
        try await ServedShards.with { served in
            try await served.session { client in
                try await client.text("CREATE TABLE t (id int PRIMARY KEY, n int)")
                for text in [
                    "INSERT INTO t VALUES ($1, 2)", "SELECT n FROM t WHERE id = $1",
                    "SELECT count(*) FROM t WHERE n = $0",
                    "INSERT INTO t VALUES (1, $65536)", "UPDATE t SET n = $4294967297 WHERE id = 1",
                    "EXPLAIN SELECT $1::int",
                ] { #expect(await client.failure(text) == "42P02", "\(text)") }
                let wrapped = SQLStatement(
                    "SELECT count(*) FROM t WHERE n = $4294967297", [.text("1")], resultFormat: .text)
                #expect(try await client.run(wrapped)[0].text(0) == "0")
                #expect(await client.failure("DEALLOCATE nope") == "26000")
                #expect(await client.failure("COMMIT AND CHAIN") == "25P01")
                // What has failed has lost its modes.
                for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"] {
                    try await client.text("BEGIN READ ONLY")
                    #expect(await client.failure("SELECT 1/0") == "22012")
                    try await client.text(end)
                    try await client.text("DELETE FROM t WHERE n = -1")
                    try await client.text("ROLLBACK")
                }
            }
        }
    }

    /// A database on a shard's server that knows nothing of Meridian, for comparison.
    private func withReference(_ served: ServedShards, _ body: (FuzzReference) async throws -> Void) async throws {
        let shard = served.shards.shards[0]
        let reference = FuzzReference(port: Int(shard.server.port), database: shard.database + "_plain")
        try await shard.psql("CREATE DATABASE \(reference.database) OWNER meridian")
        do {
            try await body(reference)
        } catch {
            try await shard.psql("DROP DATABASE \(reference.database) WITH (FORCE)")
            throw error
        }
        try await shard.psql("DROP DATABASE \(reference.database) WITH (FORCE)")
    }

    private func checkNothingIsLeft(_ served: ServedShards) async throws {
        let open = """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND (state LIKE 'idle in transaction%' OR state = 'active')
                AND pid <> pg_backend_pid()
            """
        try await waitUntil("no transaction is open on a shard") {
            try await served.shards.plain(open).allSatisfy { $0 == "0" }
        }
        try await served.shards.waitUntilSettled()
        // More at once than there are connections to the shards: none is missing from its pool.
        try await served.session { _ = try await $0.text("DELETE FROM fuzz") }
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<64 {
                group.addTask {
                    try await served.session { client in
                        #expect(try await client.text("SELECT count(*) FROM fuzz WHERE id < 0") == "0")
                        try await client.text("INSERT INTO fuzz VALUES (\(number * 2), 0), (\(number * 2 + 1), 0)")
                    }
                }
            }
            try await group.waitForAll()
        }
        #expect(try await served.session { try await $0.text("SELECT count(*) FROM fuzz") } == "128")
    }
}

/// Where plain PostgreSQL answers.
struct FuzzReference: Sendable {
    let port: Int
    let database: String
}

/// The clients of one fuzzing run, and what they found.
final class FuzzRun: Sendable {
    private struct State {
        var findings: [String] = []
        var counts: [String: Int] = [:]
    }

    private static let findingsMax = 20
    /// The noise's own, whose name is as long as that of the scripts' table: what these find there is theirs alone.
    private static let noiseTable = "nois"
    /// A statement ends by its timeout of 10 seconds, on a machine that has other things to do.
    private static let patienceSeconds = 60

    private let served: ServedShards
    private let reference: FuzzReference
    private let seed: UInt64
    private let end: ContinuousClock.Instant
    private let state = Mutex(State())

    init(_ served: ServedShards, _ reference: FuzzReference, seed: UInt64, until end: ContinuousClock.Instant) {
        (self.served, self.reference, self.seed, self.end) = (served, reference, seed, end)
    }

    var findings: [String] { state.withLock { $0.findings } }
    var counts: [String: Int] { state.withLock { $0.counts } }
    var summary: String { counts.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" }.joined(separator: ", ") }

    private var goesOn: Bool { ContinuousClock.now < end && findings.count < Self.findingsMax }
    private func count(_ what: String) { state.withLock { $0.counts[what, default: 0] += 1 } }
    private func report(_ finding: String) {
        print("SessionFuzzTests found: \(finding)")
        state.withLock { $0.findings.append(finding) }
    }

    func prepare() async throws {
        try await served.session { client in
            for table in [FuzzGenerator.table, FuzzGenerator.table.replacing("fuzz", with: Self.noiseTable)] {
                try await client.text(table)
            }
        }
        let client = try await connect(reference.port, reference.database)
        await client.send(.query(FuzzGenerator.table))
        _ = try await client.messagesToReady()
    }

    private func connect(_ port: Int, _ database: String) async throws -> RawClient {
        let client = try RawClient(port: port, timeout: Self.patienceSeconds)
        let messages = try await client.logIn(user: "meridian", database: database)
        guard case .readyForQuery = messages.last else { throw RawClient.Failure("no login: \(messages)") }
        return client
    }

    // MARK: Scripts that are judged

    /// Sends scripts to Meridian and to PostgreSQL itself, one after the other; both must keep to the protocol, and
    /// say the same of what is wrong.
    func scripts() async throws {
        var round = 0
        while goesOn {
            defer { round += 1 }
            let roundSeed = seed &+ UInt64(round) &* 0x1_0000_0001
            var generator = FuzzGenerator(seed: roundSeed)
            let script = generator.script()
            let isWhole = generator.number(0...2) > 0
            do {
                let ours = try await outcomes(of: script, served.port, "meridian", isWhole)
                let theirs = try await outcomes(of: script, reference.port, reference.database, true)
                compare(script, ours, theirs, "round \(round)")
            } catch {
                report("round \(round): \(error)\n" + script.map { "    \($0.text)" }.joined(separator: "\n"))
            }
            count("scripts")
        }
    }

    private func outcomes(
        of script: [FuzzMessage], _ port: Int, _ database: String, _ isWhole: Bool
    ) async throws -> [FuzzJudge.Outcome] {
        let client = try await connect(port, database)
        defer { client.hangUp() }
        await client.send(.query(FuzzGenerator.reset))
        _ = try await client.messagesToReady()
        let sending = Task {
            if isWhole { return await client.send(script.flatMap(\.bytes)) }
            for message in script { await client.send(message.bytes) }
        }
        var judge = FuzzJudge(client, mayHaveInternalErrors: port == reference.port)
        do {
            let outcomes = try await judge.outcomes(of: script)
            await sending.value
            return outcomes
        } catch {
            // Lets go of what can't be sent any more.
            client.endSending()
            await sending.value
            throw error
        }
    }

    /// Of each batch that ends with a ReadyForQuery, the errors and the transaction's state must be the same. What
    /// Meridian does not support it may refuse, and what PostgreSQL says at Parse and Bind, it may say at Execute; the
    /// rest of the script then means something else.
    private func compare(
        _ script: [FuzzMessage], _ ours: [FuzzJudge.Outcome], _ theirs: [FuzzJudge.Outcome], _ round: String
    ) {
        var status = TransactionStatus.idle
        for (one, other) in zip(FuzzBatch.batches(ours), FuzzBatch.batches(theirs)) {
            defer { status = one.status ?? status }
            if one != other, one.sqlState == "0A000" { return count("refusals") }
            if other.sqlState == "XX000" { return count("internal errors of PostgreSQL") }
            // BEGIN in the midst of a pipeline: no other level than the one there is can be asked for here.
            if other.sqlState == "25001", one.sqlState == nil { return count("isolation levels said late") }
            // PostgreSQL's parser runs out of memory, as it says: a syntax error.
            if one.sqlState == "54001", other.sqlState == "42601" { return count("statements too deep") }
            if let place = other.errorAt, place < one.errorAt ?? .max {
                switch script[place].answer {
                case .parse, .bind: return count("errors said later")
                default: break
                }
            }
            if one == other || Self.isSameFailure(one, other, of: script, in: status) { continue }
            let sent = script.prefix(max(one.end, other.end)).map { "    \($0.text)" }
            return report("\(round): \(one) where PostgreSQL has \(other)\n" + sent.joined(separator: "\n"))
        }
        count("scripts answered alike")
    }

    /// Of two things that are wrong with a message either may be told.
    private static func isSameFailure(
        _ one: FuzzBatch, _ other: FuzzBatch, of script: [FuzzMessage], in status: TransactionStatus
    ) -> Bool {
        guard let ours = one.sqlState, let theirs = other.sqlState, one.status == other.status, one.end == other.end
        else { return false }
        // Where everything fails, anything does for the reason.
        if status == .failed { return true }
        guard let place = one.errorAt, place == other.errorAt else { return false }
        switch script[place].answer {
        // PostgreSQL looks for a statement before it reads what is to be bound to it.
        case .bind: return ours == "08P01" && theirs == "26000"
        // What PostgreSQL finds wrong with a statement before it looks for another one of that name, is told later.
        case .parse: return ours == "42P05"
        // Parameters are counted before anything is asked of a server.
        case .query: return ours == "42P02"
        // How much of the data has been looked at when the client gives a COPY up is nobody's business.
        case .copyEnd: return true
        default: return false
        }
    }

    // MARK: Noise

    /// Bytes that are no script, and clients that hang up; a server that answers must still be well-formed.
    func noise(_ number: UInt64) async throws {
        var generator = FuzzGenerator(seed: seed ^ (0xABCD_0000 + number))
        while goesOn {
            do {
                if generator.number(0...3) == 0 { try await startup(&generator) } else { try await mutated(&generator) }
                if generator.number(0...9) == 0 { try await checkServes() }
            } catch {
                report("noise: \(error)")
            }
        }
    }

    private func startup(_ generator: inout FuzzGenerator) async throws {
        let client = try RawClient(port: served.port, timeout: Self.patienceSeconds)
        await client.send(generator.startupBytes())
        client.endSending()
        try await readToEnd(client)
        count("startups")
    }

    private func mutated(_ generator: inout FuzzGenerator) async throws {
        let client = try await connect(served.port, "meridian")
        await client.send(generator.mutatedBytes().replacing(Array("fuzz".utf8), with: Array(Self.noiseTable.utf8)))
        switch generator.number(0...2) {
        case 0:
            client.hangUp()
            count("hang-ups")
        case 1:
            try await Task.sleep(for: .milliseconds(generator.number(0...20)))
            client.hangUp()
            count("late hang-ups")
        default:
            client.endSending()
            try await readToEnd(client)
            count("mutated scripts")
        }
    }

    private func readToEnd(_ client: RawClient) async throws {
        while try await client.nextMessage() != nil {}
    }

    private func checkServes() async throws {
        let client = try await connect(served.port, "meridian")
        await client.send(.query("SELECT 1"))
        let messages = try await client.messagesToReady()
        guard messages.contains(where: { if case .dataRow = $0 { true } else { false } }) else {
            return report("a new client is not served: \(messages)")
        }
        count("checks")
    }
}

/// What came of the messages up to a ReadyForQuery: the first error, and how the transaction then stood.
private struct FuzzBatch: Equatable, CustomStringConvertible {
    private(set) var sqlState: String?
    private(set) var status: TransactionStatus?
    /// Which of the script's messages the error came of.
    private(set) var errorAt: Int?
    /// How many of the script's messages it ends behind.
    private(set) var end = 0

    static func == (one: FuzzBatch, other: FuzzBatch) -> Bool {
        one.sqlState == other.sqlState && one.status == other.status && one.end == other.end
    }

    static func batches(_ outcomes: [FuzzJudge.Outcome]) -> [FuzzBatch] {
        var batches: [FuzzBatch] = []
        var open = FuzzBatch()
        for (place, outcome) in outcomes.enumerated() {
            if open.sqlState == nil, let sqlState = outcome.sqlState {
                (open.sqlState, open.errorAt) = (sqlState, place)
            }
            guard let status = outcome.status else { continue }
            (open.status, open.end) = (status, place + 1)
            batches.append(open)
            open = FuzzBatch()
        }
        return batches
    }

    var description: String { "\(sqlState ?? "no error")\(status.map { ", status \($0)" } ?? "")" }
}
