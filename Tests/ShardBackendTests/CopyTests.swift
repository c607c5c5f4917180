import ShardBackend
import TestSupport
import Testing

@Suite struct CopyTests {
    @Test("COPY in a transaction tells its format, takes raw data cut anywhere, and gives the same back")
    func formats() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.run(["BEGIN", "CREATE TABLE t (a int, b text)"])
            for (options, format) in [("", SQLStatement.Format.text), ("WITH (FORMAT binary)", .binary)] {
                _ = try await connection.run(
                    "INSERT INTO t SELECT g, repeat('x', g % 100) FROM generate_series(1, 5000) g")
                let out = try await connection.copyOut("COPY t TO STDOUT \(options)")
                #expect(out.format.isBinary == (format == .binary))
                #expect(out.format.columnFormats == [format, format])
                var copied: [UInt8] = []
                var tag: String?
                while let batch = try await out.nextBatch() {
                    #expect(tag == nil && batch.count <= 1024)
                    for chunk in 0..<batch.count { batch.withBytes(chunk) { copied.append(contentsOf: $0) } }
                    tag = batch.commandTag
                }
                #expect(tag == "COPY 5000")
                _ = try await connection.run("TRUNCATE t")

                let sink = try await connection.copyIn("COPY t FROM STDIN \(options)")
                #expect(sink.format == out.format)
                try await sink.write(copied[..<1])
                try await sink.write(copied[1..<100])
                try await sink.write(copied[100...])
                #expect(try await sink.finish().commandTag == "COPY 5000")
                await expectShardError({ $0.kind == .invalidUse }) { try await sink.write([0]) }
                await expectShardError({ $0.kind == .invalidUse }) { _ = try await sink.finish() }
                let sum = try await connection.run("SELECT sum(a), sum(length(b)) FROM t")
                #expect(try sum[0].int64(0) == 12_502_500 && sum[0].int64(1) == 247_500)
                _ = try await connection.run("TRUNCATE t")
            }
            #expect(await connection.transactionStatus == .inTransaction)
            #expect(try await connection.run("COMMIT").commandTag == "COMMIT")
        }
    }

    @Test("a copy that is over can't write into the next one of its connection")
    func lateWrite() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            let first = try await connection.copyIn("COPY t FROM STDIN")
            try await first.write(Array("1\n".utf8))
            _ = try await first.finish()
            let second = try await connection.copyIn("COPY t FROM STDIN")
            await expectShardError({ $0.kind == .invalidUse }) { try await first.write(Array("2\n".utf8)) }
            await expectShardError({ $0.kind == .invalidUse }) { _ = try await first.finish() }
            #expect(await first.fail("too late").kind == .invalidUse)
            try await second.write(Array("3\n".utf8))
            #expect(try await second.finish().commandTag == "COPY 1")
            #expect(try await connection.run("SELECT sum(a) FROM t")[0].int64(0) == 4)
        }
    }

    @Test("COPY that the client fails, drops or cancels copies nothing, and says why")
    func givenUp() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            let failed = try await connection.copyIn("COPY t FROM STDIN")
            try await failed.write(Array("1\n".utf8))
            let fields = await failed.fail("the client is tired").serverFields
            #expect(fields?.message == "COPY from stdin failed: the client is tired")
            #expect(fields?.context?.hasPrefix("COPY t, line 2") == true)
            #expect(await failed.fail("again").serverFields == fields)

            let dropped = try await connection.copyIn("COPY t FROM STDIN")
            try await dropped.write(Array("1\n".utf8))
            _ = consume dropped
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)

            let cancelled = try await connection.copyIn("COPY t FROM STDIN")
            await connection.cancel()
            await expectShardError({ $0.kind == .cancelled }) { _ = try await cancelled.finish() }
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)
        }
    }

    @Test("an error of the server in the middle of COPY has every field, in both directions")
    func serverErrors() async throws {
        try await withConnection { (connection, _) async throws in
            _ = try await connection.runSimple("CREATE TABLE t (a int)")
            let sink = try await connection.copyIn("COPY t FROM STDIN")
            let error = await expectShardError {
                try await sink.write(Array("1\nno number\n".utf8))
                _ = try await sink.finish()
            }
            #expect(error?.serverFields?.context == "COPY t, line 2, column a: \"no number\"")
            #expect(error?.serverFields?[.localizedSeverity] == "ERROR")
            let out = try await connection.copyOut(
                "COPY (SELECT 1 / (200 - g) FROM generate_series(1, 300) g) TO STDOUT")
            var count = 0
            let late = await expectShardError {
                while let batch = try await out.nextBatch() { count += batch.count }
            }
            #expect(count == 199 && late?.serverFields?.message == "division by zero")
            #expect(try await connection.run("SELECT count(*) FROM t")[0].int64(0) == 0)
        }
    }
}
