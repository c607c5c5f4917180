import ShardBackend
import TestSupport
import Testing

@Suite struct RawResultTests {
    @Test("raw values are the bytes that the server sent, in either format, and NULL is not empty")
    func values() async throws {
        try await withConnection { (connection, _) async throws in
            let query = "SELECT g, repeat('x', g), NULL::int, ''::text FROM generate_series(1, 3) g"
            let text = try await connection.run(SQLStatement(query, resultFormat: .text))
            let binary = try await connection.run(SQLStatement(query, resultFormat: .binary))
            let lent = text.withRawRows { rows in
                (0..<rows.count).map { row in (0..<rows.columnCount).map { column in rows[row, column].map(Array.init) }
                }
            }
            #expect(lent.count == 3 && lent[2] == [Array("3".utf8), Array("xxx".utf8), nil, []])
            #expect(binary.withBytes(row: 2, column: 0) { $0.map(Array.init) } == [0, 0, 0, 3])
            #expect(binary.withBytes(row: 2, column: 2) { $0 == nil })
            #expect(binary.withBytes(row: 2, column: 3) { $0?.count } == 0)
            for (row, values) in zip(text, lent) {
                for column in 0..<4 { #expect(row.withBytes(column) { $0.map(Array.init) } == values[column]) }
            }
            #expect(throws: CancellationError.self) {
                try text.withRawRows { rows throws in
                    if rows.count == 3 { throw CancellationError() }
                }
            }
        }
    }

    @Test("fields say of a column what RowDescription says")
    func fields() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int, b varchar(10))")
            let table = try await connection.run("SELECT 't'::regclass::oid")[0].int64(0)
            for format in [SQLStatement.Format.text, .binary] {
                let statement = SQLStatement("SELECT b AS \"größe\", 1::int8 FROM t", resultFormat: format)
                let fields = try await connection.run(statement).fields
                #expect(fields.map(\.name) == ["größe", "int8"])
                #expect(fields.map(\.tableOID) == [UInt32(table), 0] && fields.map(\.columnNumber) == [2, 0])
                #expect(fields.map(\.typeOID) == [1043, 20] && fields.map(\.typeSize) == [-1, 8])
                #expect(fields.map(\.typeModifier) == [14, -1])
                #expect(fields.allSatisfy { $0.isBinary == (format == .binary) })
            }
        }
    }

    @Test("a result says whether there were rows, a command or nothing, and lends its tag")
    func kinds() async throws {
        try await withConnection { (connection, _) async throws in
            let results = try await connection.run(["SELECT", "CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)", ""])
            #expect(results.map(\.kind) == [.rows, .command, .command, .emptyQuery])
            let tags = results.map { $0.withCommandTagBytes { String(decoding: $0, as: UTF8.self) } }
            #expect(tags == ["SELECT 1", "CREATE TABLE", "INSERT 0 1", ""])
            #expect(results[0].columnCount == 0 && results[0].count == 1)
        }
    }
}

@Suite struct DeclaredTypeTests {
    @Test("declared types decide, whether prepared or not, and what is not declared is inferred")
    func declared() async throws {
        try await withConnection { (connection, _) async throws in
            for isPrepared in [true, false] {
                for (types, name) in [([UInt32(25)], "text"), ([23], "integer"), ([20, 0], "bigint")] {
                    let statement = SQLStatement(
                        "SELECT pg_typeof($1), $2::int", ["1", 2], parameterTypes: types, isPrepared: isPrepared,
                        resultFormat: .text)
                    for _ in 0..<2 { #expect(try await connection.run(statement)[0].text(0) == name) }
                }
            }
            let tooMany = SQLStatement("SELECT $1::int", [1], parameterTypes: [23, 23])
            await expectShardError({ $0.kind == .invalidUse }) { _ = try await connection.run(tooMany) }
        }
    }

    @Test("statements prepared under other settings are not used: the server reads literals when it parses")
    func appliedSettings() async throws {
        try await withConnection { (connection, _) async throws in
            let statement = SQLStatement(
                "SELECT '2024-06-01 00:00'::timestamptz = $1::timestamptz", ["2024-06-01 00:00Z"])
            for (zone, fingerprint) in [("UTC", UInt64(1)), ("Asia/Tokyo", 2), ("UTC", 1)] {
                _ = try await connection.run(SQLStatement("SET TimeZone = '\(zone)'"))
                await connection.setAppliedSettings(fingerprint)
                #expect(await connection.appliedSettings == fingerprint)
                #expect(try await connection.run(statement)[0].bool(0) == (zone == "UTC"))
            }
        }
    }
}

@Suite struct DescribeTests {
    @Test("a statement is described without being run, once per connection")
    func description() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int, b text)")
            let insert = SQLStatement("INSERT INTO t VALUES ($1, $2) RETURNING b, a")
            for _ in 0..<2 {
                let description = try await connection.describe(insert)
                #expect(description.parameterTypes == [23, 25])
                #expect(description.fields.map(\.name) == ["b", "a"])
            }
            let update = try await connection.describe("UPDATE t SET a = 1")
            #expect(update.parameterTypes.isEmpty && update.fields.isEmpty)
            let declared = SQLStatement("SELECT $1, $2", parameterTypes: [20, 0], isPrepared: false)
            #expect(try await connection.describe(declared).parameterTypes == [20, 25])
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)
            #expect(try await connection.run(SQLStatement(insert.text, [1, "x"]))[0].text(0) == "x")
            let prepared = SQLStatement(
                "SELECT count(*) FROM pg_prepared_statements WHERE statement = $1", [.text(insert.text)])
            #expect(try await connection.run(prepared)[0].int64(0) == 1, "it is prepared by being described")
        }
    }

    @Test("a second description needs no round trip, even in a failed transaction")
    func cached() async throws {
        try await withConnection { (connection, _) async throws in
            let statement = SQLStatement("SELECT $1::int AS a")
            let first = try await connection.describe(statement)
            _ = try await connection.run("BEGIN")
            await expectShardError { _ = try await connection.run("SELECT 1 / 0") }
            #expect(try await connection.describe(statement) == first)
            await expectShardError({ $0.sqlState.rawValue == "25P02" }) {
                _ = try await connection.describe(SQLStatement(statement.text, isPrepared: false))
            }
            _ = try await connection.run("ROLLBACK")
        }
    }

    @Test("a description is forgotten together with the prepared statement that the schema has left behind")
    func changedSchema() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
            let select = SQLStatement("SELECT * FROM t")
            #expect(try await connection.describe(select).fields.count == 1)
            _ = try await connection.runSimple("ALTER TABLE t ADD b text")
            #expect(try await connection.run(select).columnCount == 2)
            #expect(try await connection.describe(select).fields.count == 2)

            let other = SQLStatement("SELECT *, 1 FROM t")
            _ = try await connection.run(other)
            _ = try await connection.runSimple("ALTER TABLE t ADD c text")
            #expect(try await connection.describe(other).fields.count == 4, "describing finds it out as well")
        }
    }

    @Test("describing what can't be parsed says why, and leaves the pipelines around it alone")
    func errors() async throws {
        try await withConnection { (connection, _) async throws in
            let before = Task { try await connection.run("SELECT 1") }
            let described = Task { try await connection.describe("SELECT nonsense") }
            let after = Task { try await connection.run("SELECT 2") }
            let error = await expectShardError { _ = try await described.value }
            #expect(error?.serverFields?.position == 8)
            #expect(try await before.value[0].int64(0) == 1)
            #expect(try await after.value[0].int64(0) == 2)
        }
    }
}
