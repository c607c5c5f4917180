import ShardBackend
import TestSupport
import Testing

/// What a stream gave: its rows as the server sent them, and how it ended.
private struct StreamRecord {
    var values: [[[UInt8]?]] = []
    var fieldNames: [[String]] = []
    var ending: SQLResult?

    /// Reads to the end, and checks that nothing follows the ending, which has no rows.
    init(_ stream: SQLRowStream) async throws {
        while let batch = try await stream.nextBatch() {
            #expect(ending == nil && batch.count <= 1024, "rows come in batches, and the ending comes last")
            fieldNames.append(batch.fields.map(\.name))
            batch.rows.withRawRows { rows in
                for row in 0..<rows.count {
                    values.append((0..<rows.columnCount).map { column in rows[row, column].map(Array.init) })
                }
            }
            ending = batch.ending
        }
        #expect(ending?.isEmpty == true, "the ending has no rows")
    }

    /// The values as text, NULL as nil.
    var texts: [[String?]] { values.map { $0.map { $0.map { String(decoding: $0, as: UTF8.self) } } } }
}

@Suite struct StreamBatchTests {
    @Test("in a transaction, a statement with parameters gives raw rows in either format, fields first, tag last")
    func inTransaction() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.run("BEGIN")
            for format in [SQLStatement.Format.text, .binary] {
                let statement = SQLStatement(
                    "SELECT g AS number, NULLIF($2, 'x') AS nothing FROM generate_series(1, $1) g", [300, "x"],
                    parameterTypes: [23, 25], resultFormat: format)
                let record = try await StreamRecord(connection.stream(statement))
                #expect(record.values.count == 300 && record.values.allSatisfy { $0[1] == nil })
                #expect(record.values.last?[0] == (format == .text ? Array("300".utf8) : [0, 0, 1, 44]))
                #expect(Set(record.fieldNames) == [["number", "nothing"]])
                #expect(record.ending?.commandTag == "SELECT 300" && record.ending?.kind == .rows)
                #expect(record.ending?.fields.allSatisfy { $0.isBinary == (format == .binary) } == true)
                #expect(await connection.transactionStatus == .inTransaction)
            }
            #expect(try await connection.run("COMMIT").commandTag == "COMMIT")
        }
    }

    @Test("a stream without rows ends like any other")
    func withoutRows() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            let none = try await StreamRecord(connection.stream("SELECT a FROM t"))
            #expect(none.ending?.commandTag == "SELECT 0" && none.fieldNames == [["a"]])
            let command = try await StreamRecord(connection.stream("INSERT INTO t VALUES (1), (2)"))
            #expect(command.ending?.commandTag == "INSERT 0 2" && command.ending?.kind == .command)
            let returned = try await StreamRecord(
                connection.stream(SQLStatement("DELETE FROM t RETURNING a", resultFormat: .text)))
            #expect(returned.ending?.commandTag == "DELETE 2" && returned.texts == [["1"], ["2"]])
            #expect(try await StreamRecord(connection.stream("")).ending?.kind == .emptyQuery)
        }
    }

    @Test("statements before a stream are run in the same pipeline, and its rows still come one by one")
    func prefix() async throws {
        try await withConnection { (connection, _) async throws in
            let prefix = [
                SQLStatement("BEGIN", isPrepared: false),
                SQLStatement("SELECT set_config('test.it', $1, true)", ["here"]),
                SQLStatement("SELECT generate_series(1, 1000)"),
            ]
            let statement = SQLStatement(
                "SELECT g, current_setting('test.it') FROM generate_series(1, $1::int) g", [50_000], resultFormat: .text
            )
            // First everything has to be parsed, then nothing; last it is one transaction by itself.
            for round in 0..<3 {
                let record = try await StreamRecord(
                    connection.stream(statement, after: round == 2 ? [prefix[1]] : prefix))
                #expect(record.values.count == 50_000 && record.texts.last == ["50000", "here"])
                #expect(record.ending?.commandTag == "SELECT 50000")
                #expect(await connection.transactionStatus == (round == 2 ? .idle : .inTransaction))
                if round < 2 { _ = try await connection.run("ROLLBACK") }
            }
        }
    }

    @Test("an error before or in a stream names the statement, and what was not parsed is parsed later")
    func failingPrefix() async throws {
        try await withConnection { (connection, _) async throws in
            let good = SQLStatement("SELECT $1::int", [1], resultFormat: .text)
            let bad = SQLStatement("SELECT 1 / $1::int", [0])
            for (prefix, statement, index) in [([good, bad, good], good, 1), ([good, good], bad, 2), ([bad], bad, 0)] {
                let error = await expectShardError {
                    _ = try await StreamRecord(connection.stream(statement, after: prefix))
                }
                #expect(error?.statementIndex == index && error?.serverFields?.message == "division by zero")
                #expect(await connection.transactionStatus == .idle)
                #expect(try await StreamRecord(connection.stream(good, after: [good])).texts == [["1"]])
            }
            let refused = await expectShardError({ $0.kind == .invalidUse }) {
                _ = try await connection.stream(good, after: [SQLStatement("SELECT '\0'")])
            }
            #expect(refused?.statementIndex == 0)
        }
    }

    @Test("the rows before an error are handed out, and the error has every field")
    func errorAfterRows() async throws {
        try await withConnection { (connection, _) async throws in
            let stream = try await connection.stream(
                SQLStatement("SELECT 1 / (1001 - generate_series(1, 2000))"), after: ["BEGIN"])
            var count = 0
            let error = await expectShardError {
                while let batch = try await stream.nextBatch() {
                    #expect(batch.commandTag == nil)
                    count += batch.count
                }
            }
            #expect(count == 1000)
            let fields = try #require(error?.serverFields)
            #expect(fields.sqlState.errorClass == "22" && fields[.localizedSeverity] == "ERROR")
            #expect(fields.routine == "int4div" && fields.file != nil && fields.line != nil)
            await expectShardError({ $0.serverFields == fields }) { _ = try await stream.nextBatch() }
            #expect(await connection.transactionStatus == .inFailedTransaction)
            _ = try await connection.run("ROLLBACK")
        }
    }

    @Test("a stream in a transaction can be cancelled midway, or before its turn in the pipeline")
    func cancelledMidway() async throws {
        try await withConnection { (connection, _) async throws in
            for prefix in [["BEGIN"], ["BEGIN", SQLStatement("SELECT pg_sleep(30)", isPrepared: false)]] {
                let stream = try await connection.stream("SELECT generate_series(1, 100000000)", after: prefix)
                if prefix.count == 1 { #expect(try await stream.nextBatch()?.isEmpty == false) }
                await connection.cancel()
                await expectShardError({ $0.kind == .cancelled && !$0.isOutcomeUnknown }) {
                    while let batch = try await stream.nextBatch() { #expect(!batch.isEmpty) }
                }
                #expect(await connection.transactionStatus == .inFailedTransaction)
                _ = try await connection.run("ROLLBACK")
                #expect(try await connection.run("SELECT 1")[0].int64(0) == 1)
            }
        }
    }
}

@Suite struct PreparedStreamTests {
    @Test("a stream's statement is parsed once, and again by itself when the schema has changed")
    func changedSchema() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int); INSERT INTO t VALUES (1)")
            let select = SQLStatement("SELECT * FROM t", resultFormat: .text)
            for _ in 0..<2 { #expect(try await StreamRecord(connection.stream(select)).texts == [["1"]]) }
            let prepared = SQLStatement(
                "SELECT count(*) FROM pg_prepared_statements WHERE statement = 'SELECT * FROM t'", isPrepared: false)
            #expect(try await connection.run(prepared)[0].int64(0) == 1)
            _ = try await connection.runSimple("ALTER TABLE t ADD b int DEFAULT 2")
            #expect(try await StreamRecord(connection.stream(select)).texts == [["1", "2"]])

            _ = try await connection.runSimple("ALTER TABLE t ADD c int DEFAULT 3")
            await expectShardError({ $0.serverFields?.isStalePreparedStatement == true && $0.statementIndex == 1 }) {
                _ = try await StreamRecord(connection.stream(select, after: ["BEGIN"]))
            }
            _ = try await connection.run("ROLLBACK")
            #expect(try await StreamRecord(connection.stream(select, after: ["BEGIN"])).texts == [["1", "2", "3"]])
            _ = try await connection.run("ROLLBACK")
        }
    }

    @Test("a connection that does nothing but stream keeps no more statements prepared than the limit says")
    func bound() async throws {
        try await TestCluster.withShards { shards in
            var settings = try shards[0].settings
            settings.preparedStatementsMax = 4
            let connection = try await ShardConnection.connect(to: settings, on: TestLoop.shared())
            for number in 0..<20 {
                _ = try await StreamRecord(connection.stream(SQLStatement("SELECT \(number)")))
            }
            let prepared = SQLStatement("SELECT count(*) FROM pg_prepared_statements", isPrepared: false)
            #expect(try await connection.run(prepared)[0].int64(0) == 4)
            await connection.close()
        }
    }
}
