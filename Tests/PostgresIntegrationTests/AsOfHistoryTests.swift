import Foundation
import ShardBackend
import ShardSchema
import Testing
import TransactionCore

/// Random histories against a model that keeps every state in memory.
@Suite struct AsOfHistoryTests {
    @Test("at any timestamp a table is what it was then, with a key of one column, of two, and without any")
    func history() async throws {
        let given = ProcessInfo.processInfo.environment["MERIDIAN_TEST_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("AsOfHistoryTests: MERIDIAN_TEST_SEED=\(seed)")
        try await SchemaShard.with { shard in
            var run = try await HistoryRun(shard, seed: seed)
            try await run.play(transactions: 250)
            try await run.check(reads: 120)
            await run.close()
        }
    }
}

/// A row of the model: a key, which a table without a primary key may hold several times, and a value.
private struct ModelRow: Hashable, Comparable {
    var key: Int
    var value: Int

    static func < (lhs: Self, rhs: Self) -> Bool { (lhs.key, lhs.value) < (rhs.key, rhs.value) }
}

/// How a table of the test writes the model's keys.
private struct HistoryTable {
    let name: String
    let definition: String
    let hasKey: Bool
    /// The SQL of a key: its columns' values in parentheses, and the columns.
    let key: @Sendable (Int) -> String
    let columns: String
    /// The key as the model has it, in SQL.
    let number: String

    static let all = [
        HistoryTable(
            name: "single", definition: "id bigint PRIMARY KEY, v int", hasKey: true, key: { "(\($0))" }, columns: "id",
            number: "id"),
        HistoryTable(
            name: "Composite \"é\" %s", definition: "a int, b text, v int, PRIMARY KEY (b, a)", hasKey: true,
            key: { "(\($0 / 4), 'k\($0 % 4)')" }, columns: "a, b", number: "a * 4 + right(b, 1)::int"),
        HistoryTable(
            name: "keyless", definition: "\"The Id\" numeric(6, 2), v int", hasKey: false, key: { "(\($0))" },
            columns: "\"The Id\"", number: "\"The Id\"::int"),
    ]

    var quotedName: String { "\"\(name.replacing("\"", with: "\"\""))\"" }
}

private struct HistoryRun {
    /// The rows of each table.
    typealias State = [[ModelRow]]

    /// A transaction under way: its session, and the states to which its savepoints return.
    private struct Writer {
        let connection: ShardConnection
        var state: State?
        var savepoints: [State] = []
        /// It has truncated a table, so that the other one has to wait for its end.
        var isAlone = false
    }

    private let tables = HistoryTable.all
    private var generator: SplitMix
    /// Two, so that the order of commits differs from the order of transaction numbers. Each has the keys of one
    /// parity.
    private var writers: [Writer]
    private let reader: ShardConnection
    private var committed: State
    private var history: [(timestamp: Int64, state: State)]
    private var timestamp: Int64 = 1000

    init(_ shard: SchemaShard, seed: UInt64) async throws {
        generator = SplitMix(state: seed)
        writers = [Writer(connection: try await shard.connect()), Writer(connection: try await shard.connect())]
        reader = try await shard.connect()
        for table in tables {
            try await reader.sql(
                """
                CREATE TABLE \(table.quotedName) (\(table.definition));
                SELECT meridian.version_table('\(table.quotedName)')
                """)
        }
        committed = tables.map { _ in [] }
        history = [(0, committed)]
    }

    func close() async {
        for writer in writers { await writer.connection.close() }
        await reader.close()
    }

    mutating func play(transactions: Int) async throws {
        while history.count < transactions {
            let writer = writers.firstIndex(where: \.isAlone) ?? Int.random(in: 0...1, using: &generator)
            if writers[writer].state == nil {
                try await writers[writer].connection.sql("BEGIN")
                writers[writer].state = committed
            } else if Int.random(in: 0..<5, using: &generator) == 0 {
                try await end(writer)
            } else {
                try await change(writer)
            }
            // A reader would wait for the end of a transaction that has truncated a table.
            guard !writers.contains(where: \.isAlone) else { continue }
            if Int.random(in: 0..<20, using: &generator) == 0 { try await check(reads: 1) }
        }
        for writer in writers.indices where writers[writer].state != nil { try await end(writer) }
    }

    /// Reads all tables at random timestamps, those between two transactions among them.
    mutating func check(reads: Int) async throws {
        for _ in 0..<reads {
            let last = history[Int.random(in: history.indices, using: &generator)]
            let timestamp = last.timestamp + Int64.random(in: 0..<1000, using: &generator)
            for (table, expected) in zip(tables, last.state) {
                let query = "SELECT concat(\(table.number), ' ', v) FROM \(table.quotedName)"
                let rows = try await reader.read(query, at: timestamp)
                #expect(
                    rows.sorted() == expected.map { "\($0.key) \($0.value)" }.sorted(), "\(table.name) at \(timestamp)")
                guard let row = expected.first else { continue }
                if table.hasKey { try await checkSum(of: table, at: timestamp, expected) }
                let point = "SELECT v FROM \(table.quotedName) WHERE (\(table.columns)) = \(table.key(row.key))"
                let values = try await reader.read(point, at: timestamp)
                #expect(values.sorted() == expected.filter { $0.key == row.key }.map { "\($0.value)" }.sorted())
            }
        }
    }

    /// The table as it is and the differences from it have the sum of the state.
    private func checkSum(of table: HistoryTable, at timestamp: Int64, _ expected: [ModelRow]) async throws {
        let sum = """
            SELECT (SELECT coalesce(sum(v), 0) FROM public.\(table.quotedName))
                + (SELECT coalesce(sum(weight * v), 0) FROM meridian_diff_public.\(table.quotedName))
            """
        let found = try await reader.read(sum, at: timestamp)
        #expect(found == ["\(expected.reduce(0) { $0 + $1.value })"], "\(table.name) at \(timestamp)")
    }

    private mutating func change(_ writer: Int) async throws {
        let connection = writers[writer].connection
        guard var state = writers[writer].state else { return }
        let table = Int.random(in: tables.indices, using: &generator)
        let (name, key) = (tables[table].quotedName, randomKey(writer))
        let target = "\(name) SET v = v + 1"
        let condition = "WHERE (\(tables[table].columns)) = \(tables[table].key(key))"
        switch Int.random(in: 0..<14, using: &generator) {
        case 12...13:
            let keys = (0..<3).map { _ in randomKey(writer) }
            let value = Int.random(in: 0..<100, using: &generator)
            let added = Set(keys).filter { key in !state[table].contains { $0.key == key } }
                .map { ModelRow(key: $0, value: value) }
            guard tables[table].hasKey, !added.isEmpty else { break }
            try await copy(added, into: tables[table], connection)
            state[table] += added
        case 0...3:
            let value = Int.random(in: 0..<100, using: &generator)
            let values = "\(tables[table].key(key).dropLast()), \(value))"
            let isThere = state[table].contains { $0.key == key }
            guard tables[table].hasKey, isThere else {
                try await connection.sql("INSERT INTO \(name) VALUES \(values)")
                state[table].append(ModelRow(key: key, value: value))
                break
            }
            try await connection.sql(
                "INSERT INTO \(name) VALUES \(values) ON CONFLICT (\(tables[table].columns)) "
                    + "DO UPDATE SET v = excluded.v")
            state[table] = state[table].map { $0.key == key ? ModelRow(key: key, value: value) : $0 }
        case 4...6:
            try await connection.sql("UPDATE \(target) \(condition)")
            state[table] = state[table].map { $0.key == key ? ModelRow(key: key, value: $0.value + 1) : $0 }
        case 7:
            try await connection.sql("DELETE FROM \(name) \(condition)")
            state[table].removeAll { $0.key == key }
        case 8:
            let other = randomKey(writer)
            guard !tables[table].hasKey || !state[table].contains(where: { $0.key == other }) else { break }
            try await connection.sql(
                "UPDATE \(name) SET (\(tables[table].columns)) = ROW\(tables[table].key(other)) \(condition)")
            state[table] = state[table].map { $0.key == key ? ModelRow(key: other, value: $0.value) : $0 }
        case 9 where writers.allSatisfy({ $0.state == nil || $0.connection === connection }):
            try await connection.sql("TRUNCATE \(name)")
            writers[writer].isAlone = true
            state[table] = []
        case 10:
            try await connection.sql("SAVEPOINT s\(writers[writer].savepoints.count)")
            writers[writer].savepoints.append(state)
        default:
            guard let savepoint = writers[writer].savepoints.popLast() else { break }
            let number = writers[writer].savepoints.count
            if Bool.random(using: &generator) {
                try await connection.sql("ROLLBACK TO s\(number); RELEASE s\(number)")
                state = savepoint
            } else {
                try await connection.sql("RELEASE s\(number)")
            }
        }
        writers[writer].state = state
    }

    /// Copies rows in as a node does that writes their undo entries itself.
    private func copy(_ rows: [ModelRow], into table: HistoryTable, _ connection: ShardConnection) async throws {
        let columns = table.columns.split(separator: ", ").map(String.init)
        let keys = rows.map { row in
            table.key(row.key).dropFirst().dropLast().split(separator: ", ").map { $0.replacing("'", with: "") }
        }
        let begin = try await connection.run([
            SQLStatement(
                "SELECT meridian.begin_copy($1::text::regclass, $2)",
                [.text(table.quotedName), .text("{\(columns.joined(separator: ","))}")])
        ])
        let entry = try begin[0][0].text(0)
        let sink = try await connection.copyIn("COPY \(table.quotedName) FROM STDIN")
        try await sink.write(
            Array(zip(rows, keys).map { ($1 + ["\($0.value)"]).joined(separator: "\t") + "\n" }.joined().utf8))
        _ = try await sink.finish()
        let lists = columns.indices.map { column in
            SQLParameter.text("{" + keys.map { $0[column] }.joined(separator: ",") + "}")
        }
        _ = try await connection.run([SQLStatement(entry, lists), "SELECT meridian.end_copy()"])
    }

    /// Ends a transaction: rolled back, committed, or prepared and committed later.
    private mutating func end(_ writer: Int) async throws {
        let connection = writers[writer].connection
        let (state, isAlone) = (writers[writer].state, writers[writer].isAlone)
        writers[writer].state = nil
        writers[writer].isAlone = false
        writers[writer].savepoints = []
        guard let state, Int.random(in: 0..<6, using: &generator) > 0 else {
            return try await connection.sql("ROLLBACK")
        }
        timestamp += 1000
        let log = ShardSchema.logCommit(.at(timestamp), participants: [])
        if Bool.random(using: &generator) {
            _ = try await connection.run([log, "COMMIT"])
        } else {
            _ = try await connection.run([log, "PREPARE TRANSACTION 'history'"])
            try await connection.sql("COMMIT PREPARED 'history'")
        }
        // The other writer's transaction, which touches other keys, is not in `state` if it committed meanwhile.
        for table in tables.indices {
            let others = isAlone ? state : committed
            committed[table] =
                (state[table].filter { $0.key % 2 == writer }
                + others[table].filter { $0.key % 2 != writer }).sorted()
        }
        for other in writers.indices where other != writer { adopt(writer, into: other) }
        history.append((timestamp, committed))
    }

    /// A transaction under way sees what the other one committed.
    private mutating func adopt(_ writer: Int, into other: Int) {
        func merged(_ state: State) -> State {
            tables.indices.map { table in
                state[table].filter { $0.key % 2 != writer } + committed[table].filter { $0.key % 2 == writer }
            }
        }
        writers[other].state = writers[other].state.map(merged)
        writers[other].savepoints = writers[other].savepoints.map(merged)
    }

    private mutating func randomKey(_ writer: Int) -> Int {
        Int.random(in: 0..<8, using: &generator) * 2 + writer
    }
}

/// SplitMix64.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
