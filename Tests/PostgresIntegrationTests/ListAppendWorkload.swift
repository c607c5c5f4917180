import Foundation
import ShardBackend
import SimulationKit
import Synchronization
import TestSupport
import Testing
import TransactionCore

typealias ListTransaction = ListAppendTransaction<Int, Int>

/// What a run of list appends is to be.
struct ListAppendLoad: Sendable {
    /// Makes the clients' choices, though not when they get their answers.
    let seed: UInt64
    var clients = 16
    /// When so many have committed, the run is over.
    var committed = 3_000
    /// How many keys are in use at a time, and after how many appends to one another takes its place: lists stay short.
    var activeKeys = 96
    var appendsPerKey = 30
    var timeMax: Duration = .seconds(240)

    /// With the seed that the environment names, or one by chance, which is printed.
    init(_ test: String) {
        let given = ProcessInfo.processInfo.environment["MERIDIAN_TEST_SEED"].flatMap { UInt64($0) }
        seed = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("\(test): MERIDIAN_TEST_SEED=\(seed)")
    }
}

/// What all clients of a run have seen, and which keys and elements they use.
final class ListAppendRecord: Sendable {
    private struct State {
        var history: [ListTransaction] = []
        var committed = 0
        var failures: [String: Int] = [:]
        var appends: [Int: Int] = [:]
        var active: [Int]
        var nextKey: Int
        var element = 0
        var isStopped = false
    }

    let load: ListAppendLoad
    private let state: Mutex<State>
    private let start = ContinuousClock.now

    init(_ load: ListAppendLoad) {
        self.load = load
        state = Mutex(State(active: Array(0..<load.activeKeys), nextKey: load.activeKeys))
    }

    var now: Int64 { Int64((ContinuousClock.now - start) / .nanoseconds(1)) }
    var history: [ListTransaction] { state.withLock { $0.history } }
    var committed: Int { state.withLock { $0.committed } }
    var failures: [String: Int] { state.withLock { $0.failures } }
    var activeKeys: [Int] { state.withLock { $0.active } }
    var keyCount: Int { state.withLock { $0.nextKey } }
    /// Enough has committed, or it takes too long.
    var isOver: Bool {
        state.withLock { $0.isStopped || $0.committed >= load.committed } || ContinuousClock.now - start > load.timeMax
    }

    /// Lets every client finish its transaction, and no more.
    func stop() { state.withLock { $0.isStopped = true } }

    func add(_ transaction: ListTransaction, _ failure: SQLState? = nil) {
        state.withLock { state in
            state.history.append(transaction)
            if transaction.outcome == .committed { state.committed += 1 }
            if let failure { state.failures[failure.rawValue, default: 0] += 1 }
        }
    }

    /// An element that nobody has appended to `key` yet.
    func element(for key: Int) -> Int {
        state.withLock { state in
            state.appends[key, default: 0] += 1
            if state.appends[key] == load.appendsPerKey, let place = state.active.firstIndex(of: key) {
                state.active[place] = state.nextKey
                state.nextKey += 1
            }
            state.element += 1
            return state.element
        }
    }

    /// What happened, in a line.
    var summary: String {
        let history = history
        func count(_ outcome: ListTransaction.Outcome) -> Int { history.count { $0.outcome == outcome } }
        let operations = history.reduce(0) { $0 + $1.operations.count }
        return "\(count(.committed)) committed, \(count(.aborted)) aborted, \(count(.unknown)) unknown, \(operations) "
            + "operations on \(keyCount) keys in \(now / 1_000_000) ms, failures \(failures)"
    }
}

extension ListAppendRecord {
    /// Runs the load's clients, each of which makes its connections by `connect`, until the run is over.
    func runClients(connect: @escaping @Sendable (Int) async throws -> ShardConnection) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in 0..<load.clients {
                group.addTask {
                    var client = ListAppendClient(number, self) { try await connect(number) }
                    try await client.run()
                }
            }
            try await group.waitForAll()
        }
    }

    /// Reads every list in the end, so that all that was acknowledged must be there, and judges the whole history,
    /// which it returns.
    func check(by client: ShardConnection) async throws -> [ListTransaction] {
        let keys = Array(0..<keyCount)
        var operations: [ListTransaction.Operation]?
        var began = now
        try await waitUntil("all lists are read", within: .seconds(30)) {
            began = now
            let rows = try? await client.runSimple("SELECT key, elements FROM list").first
            guard let rows else { return false }
            operations = try ListStep.scan(keys).operations(rows)
            return true
        }
        let last = ListTransaction(client: -1, began: began, ended: now, try #require(operations))
        let history = history + [last]
        let clock = ContinuousClock()
        var found: [ListAppendAnomaly] = []
        let taken = clock.measure { found = ListAppendChecker().check(history) }
        print("list-append: \(summary); checked in \(taken)")
        let first = found.prefix(5).map(\.description).joined(separator: "\n")
        #expect(found.isEmpty, "seed \(load.seed): \(found.count) anomalies, \(first)")
        return history
    }
}

/// How rows are read.
enum ListReadForm: String, CaseIterable {
    case plain = ""
    case forUpdate = " FOR UPDATE"
    case forNoKeyUpdate = " FOR NO KEY UPDATE"
    case forShare = " FOR SHARE"
    case forKeyShare = " FOR KEY SHARE"
    /// Of rows that others have locked it tells nothing.
    case skipLocked = " FOR UPDATE SKIP LOCKED"
    case subquery, range
    /// In two portions.
    case cursor

    /// What locks rows, and no whole table.
    static let rowLocks: [ListReadForm] = [.forUpdate, .forNoKeyUpdate, .forShare, .skipLocked]
}

/// One statement of a transaction and what it does to lists.
enum ListStep: Sendable {
    case append(Int, element: Int, returning: Bool)
    case read([Int], ListReadForm)
    /// All rows; said of the keys in use.
    case scan([Int])
    /// Makes an empty list, which the client then rolls back: where it succeeds, there was none.
    case claim(Int)

    /// Rows of the first even keys are there from the start, others are made by the first append.
    private static func exists(_ key: Int) -> Bool { key < 1_000 && key % 2 == 0 }

    /// The row's table and those with which a run begins.
    static func setup(_ client: ShardConnection) async throws {
        try await client.text("CREATE TABLE list (key int PRIMARY KEY, elements int[] NOT NULL)")
        let rows = (0..<1_000).filter(exists).map { "(\($0), '{}')" }.joined(separator: ", ")
        try await client.text("INSERT INTO list VALUES \(rows)")
    }

    /// With its values in the text, or as parameters.
    func statement(parameters: Bool) -> SQLStatement {
        let values: [String]
        let text: ([String]) -> String
        switch self {
        case .append(let key, let element, let returning):
            values = ["\(element)", "\(key)"]
            let suffix = returning ? " RETURNING elements" : ""
            text =
                Self.exists(key)
                ? { "UPDATE list SET elements = elements || \($0[0])::int WHERE key = \($0[1])\(suffix)" }
                : {
                    "INSERT INTO list VALUES (\($0[1]), ARRAY[\($0[0])::int]) ON CONFLICT (key) DO UPDATE "
                        + "SET elements = list.elements || excluded.elements\(suffix)"
                }
        case .read(let keys, let form):
            values = keys.map(String.init)
            text = { Self.query(keys: $0, form) }
        case .scan: (values, text) = ([], { _ in "SELECT key, elements FROM list" })
        case .claim(let key): (values, text) = (["\(key)"], { "INSERT INTO list VALUES (\($0[0]), '{}')" })
        }
        guard parameters else { return SQLStatement(text(values), isPrepared: false, resultFormat: .text) }
        return SQLStatement(
            text(values.indices.map { "$\($0 + 1)" }), values.map { .text($0) }, resultFormat: .text)
    }

    private static func query(keys: [String], _ form: ListReadForm) -> String {
        let condition = "key " + (keys.count == 1 ? "= \(keys[0])" : "IN (\(keys.joined(separator: ", ")))")
        return switch form {
        case .plain, .cursor: "SELECT key, elements FROM list WHERE \(condition)"
        case .subquery:
            "SELECT key, elements FROM list l WHERE \(condition) AND EXISTS (SELECT FROM list m WHERE m.key = l.key)"
        case .range: "SELECT key, elements FROM list WHERE key BETWEEN \(keys[0]) AND \(keys[0])"
        default: "SELECT key, elements FROM list WHERE \(condition)\(form.rawValue)"
        }
    }

    /// What the client knows by the statement's result.
    func operations(_ result: SQLResult) throws -> [ListTransaction.Operation] {
        switch self {
        case .append(let key, let element, let returning):
            #expect(result.affectedRows == 1, "an append touched \(result.affectedRows) rows of key \(key)")
            guard returning, let row = result.first else { return [.append(key, element)] }
            return [.append(key, element), .read(key, try Self.list(row, 0))]
        case .read(let keys, let form):
            let lists = try Self.lists(result)
            let told = form == .skipLocked ? keys.filter { lists[$0] != nil } : keys
            return told.map { .read($0, lists[$0] ?? []) }
        case .scan(let keys):
            let lists = try Self.lists(result)
            return keys.map { .read($0, lists[$0] ?? []) }
        case .claim(let key): return [.read(key, [])]
        }
    }

    /// What the client knows by the result of a step that it then undoes together with `undone`: what it read.
    func operations(_ result: SQLResult, undoing undone: [ListStep]) throws -> [ListTransaction.Operation] {
        let own = Set(undone.flatMap(\.appends))
        return try operations(result).compactMap { operation in
            guard case .read(let key, let list) = operation else { return nil }
            return .read(key, list.filter { !own.contains(.append(key, $0)) })
        }
    }

    /// What may have been done, whatever the client was told.
    var appends: [ListTransaction.Operation] {
        if case .append(let key, let element, _) = self { [.append(key, element)] } else { [] }
    }

    private static func lists(_ result: SQLResult) throws -> [Int: [Int]] {
        var lists: [Int: [Int]] = [:]
        for row in result { lists[Int(try row.int64(0))] = try list(row, 1) }
        return lists
    }

    private static func list(_ row: SQLRow, _ column: Int) throws -> [Int] {
        try row.text(column).dropFirst().dropLast().split(separator: ",").compactMap { Int($0) }
    }
}

/// A client that runs one transaction after the other until the run is over.
struct ListAppendClient {
    /// How a transaction is sent.
    private enum Shape: CaseIterable {
        /// One statement without BEGIN.
        case lone
        /// All of it as one text.
        case text
        case block
        /// Some of it is undone by going back to a savepoint.
        case savepoint
        case readOnly
    }

    private let number: Int
    private let connect: @Sendable () async throws -> ShardConnection
    private let record: ListAppendRecord
    private var chance: SeededGenerator
    private var connection: ShardConnection?

    init(_ number: Int, _ record: ListAppendRecord, connect: @escaping @Sendable () async throws -> ShardConnection) {
        (self.number, self.connect, self.record) = (number, connect, record)
        chance = SeededGenerator(seed: record.load.seed &+ UInt64(number) &* 0x9E37_79B9)
    }

    mutating func run() async throws {
        while !record.isOver {
            let connection = try await connected()
            var shape = Shape.allCases.randomElement(using: &chance) ?? .block
            // After a rollback to a savepoint whole tables are locked, and many wait in circles.
            if shape == .savepoint, Int.random(in: 0..<4, using: &chance) > 0 { shape = .block }
            let steps = makeSteps(shape)
            let undone = shape == .savepoint ? makeSteps(shape, undone: true) : []
            let began = record.now
            // What the client knows so far, and whether it has asked for the commit.
            var (operations, asked): ([ListTransaction.Operation], Bool) = ([], false)
            do {
                switch shape {
                case .lone:
                    asked = true
                    operations = try steps[0].operations(try await send(steps[0], on: connection))
                case .text:
                    asked = true
                    operations = try await sendAll(steps, on: connection)
                case .block, .readOnly:
                    try await connection.text(shape == .block ? "BEGIN" : "BEGIN READ ONLY")
                    for step in steps { operations += try step.operations(try await send(step, on: connection)) }
                    asked = true
                    try await connection.text("COMMIT")
                case .savepoint:
                    try await connection.text("BEGIN")
                    let place = Int.random(in: 0...steps.count, using: &chance)
                    for (index, step) in steps.enumerated() {
                        if index == place { operations += try await sendAndUndo(undone, on: connection) }
                        operations += try step.operations(try await send(step, on: connection))
                    }
                    if place == steps.count { operations += try await sendAndUndo(undone, on: connection) }
                    asked = true
                    try await connection.text("COMMIT")
                }
                let ended = record.now
                let timestamp = try? await connection.text("SHOW meridian.commit_timestamp")
                // One that has only read has none.
                let wrote = steps.contains { !$0.appends.isEmpty }
                add(began, .committed, operations, ended: ended, wrote ? timestamp.flatMap { Int64($0) } : nil)
            } catch let error as ShardError {
                // Without a COMMIT nothing can have committed, and nothing has where the server says what was wrong.
                let isRefused = error.serverFields != nil && error.sqlState != .transactionResolutionUnknown
                // The appends that got no answer may have been done as well.
                let known = Set(operations)
                operations += steps.flatMap(\.appends).filter { !known.contains($0) }
                add(began, asked && !isRefused ? .unknown : .aborted, operations, error.sqlState)
                await recover(from: error)
            }
        }
        await connection?.close()
    }

    private func add(
        _ began: Int64, _ outcome: ListTransaction.Outcome, _ operations: [ListTransaction.Operation],
        _ failure: SQLState? = nil, ended: Int64? = nil, _ timestamp: Int64? = nil
    ) {
        let ended = ended ?? record.now
        record.add(
            ListTransaction(
                client: number, began: began, ended: ended, outcome: outcome, timestamp: timestamp, operations),
            failure)
    }

    private mutating func connected() async throws -> ShardConnection {
        if let connection { return connection }
        let made = try await connect()
        connection = made
        return made
    }

    private mutating func recover(from error: ShardError) async {
        guard let connection else { return }
        if (try? await connection.text("ROLLBACK")) == nil {
            await connection.close()
            self.connection = nil
        }
        // A shard that is down is not back at once.
        if error.sqlState.errorClass != "40" { try? await Task.sleep(for: .milliseconds(20)) }
    }

    // MARK: Sending

    private mutating func send(_ step: ListStep, on connection: ShardConnection) async throws -> SQLResult {
        if case .read(_, .cursor) = step {
            let query = step.statement(parameters: false).text
            let results = try await connection.runSimple(
                "DECLARE c CURSOR FOR \(query); FETCH 1 FROM c; FETCH ALL FROM c; CLOSE c",
                deadline: .now + .seconds(15))
            return try SQLResult.assembled(
                from: Array(results[1...2]),
                order: (1...2).flatMap { part in results[part].indices.map { (part: part - 1, row: $0) } })
        }
        guard Bool.random(using: &chance) else {
            return try await connection.runSimple(
                step.statement(parameters: false).text, deadline: .now + .seconds(15))[0]
        }
        return try await connection.run(step.statement(parameters: true), deadline: .now + .seconds(15))
    }

    /// What the client knows of steps that it then undoes.
    private mutating func sendAndUndo(
        _ steps: [ListStep], on connection: ShardConnection
    ) async throws -> [ListTransaction.Operation] {
        var operations: [ListTransaction.Operation] = []
        try await connection.text("SAVEPOINT s")
        do {
            for step in steps {
                operations += try step.operations(try await send(step, on: connection), undoing: steps)
            }
        } catch let error as ShardError where error.sqlState == .uniqueViolation {
            // The claimed list is there.
        }
        try await connection.text("ROLLBACK TO s")
        return operations
    }

    private func sendAll(
        _ steps: [ListStep], on connection: ShardConnection
    ) async throws -> [ListTransaction.Operation] {
        let texts = ["BEGIN"] + steps.map { $0.statement(parameters: false).text } + ["COMMIT"]
        let results = try await connection.runSimple(texts.joined(separator: "; "), deadline: .now + .seconds(20))
        #expect(results.count == texts.count && results.last?.commandTag == "COMMIT")
        return try zip(steps, results.dropFirst()).flatMap { try $0.operations($1) }
    }

    // MARK: Choices

    private mutating func makeSteps(_ shape: Shape, undone: Bool = false) -> [ListStep] {
        let count = shape == .lone ? 1 : Int.random(in: 1...5, using: &chance)
        let active = record.activeKeys
        var keys = (0..<count).map { _ in active[Int.random(in: 0..<active.count, using: &chance)] }
        // Most programs touch rows in some order; those that don't end in deadlocks now and then.
        if Int.random(in: 0..<8, using: &chance) > 0 { keys.sort() }
        let steps = keys.map { makeStep($0, active, shape) }
        guard undone, let claimed = keys.last, Bool.random(using: &chance) else { return steps }
        return steps + [.claim(claimed)]
    }

    private mutating func makeStep(_ key: Int, _ active: [Int], _ shape: Shape) -> ListStep {
        let (reads, isLone, isBlock) = (shape == .readOnly, shape == .lone, shape != .lone && shape != .text)
        switch Int.random(in: 0..<24, using: &chance) {
        case 0..<4: return .read([key], .plain)
        case 4..<7 where !reads: return .read([key], ListReadForm.rowLocks.randomElement(using: &chance) ?? .forShare)
        // Under locks these keep others from whole tables.
        case 7 where reads || Int.random(in: 0..<4, using: &chance) == 0:
            var forms: [ListReadForm] = [.subquery, .range]
            if !reads { forms.append(.forKeyShare) }
            if isBlock { forms.append(.cursor) }
            return .read([key], forms.randomElement(using: &chance) ?? .range)
        // Under locks these two keep others waiting, the last one everybody.
        case 8..<12 where reads || isLone, 12 where Bool.random(using: &chance):
            let others = (0..<2).map { _ in active[Int.random(in: 0..<active.count, using: &chance)] }
            return .read(Set(others + [key]).sorted(), .plain)
        case 13..<15 where reads || isLone: return .scan(active)
        default:
            if reads { return .read([key], .plain) }
            return .append(
                key, element: record.element(for: key), returning: Int.random(in: 0..<3, using: &chance) == 0)
        }
    }
}
