import CLibPQ
import Foundation

/// Many rows at once.
extension BareConnection {
    /// Reads all accounts by one SELECT, a row at a time, as a client does that can't hold them.
    func readRows() throws {
        guard PQsendQuery(connection, "SELECT * FROM pgbench_accounts") == 1, PQsetSingleRowMode(connection) == 1 else {
            throw failure()
        }
        while let result = PQgetResult(connection) {
            defer { PQclear(result) }
            guard [PGRES_SINGLE_TUPLE, PGRES_TUPLES_OK].contains(PQresultStatus(result)) else { throw failure() }
        }
    }

    /// Copies all accounts to nowhere.
    func copyOut() throws {
        let begun = PQexec(connection, "COPY pgbench_accounts TO STDOUT")
        defer { PQclear(begun) }
        guard PQresultStatus(begun) == PGRES_COPY_OUT else { throw failure() }
        var buffer: UnsafeMutablePointer<CChar>?
        while PQgetCopyData(connection, &buffer, 0) > 0 { PQfreemem(buffer) }
        try receive()
    }

    /// Fills the empty table `bulk`.
    func copyIn(rows: Int) throws {
        try execute(["TRUNCATE bulk"])
        try copyIn(rows: rows, into: "bulk")
    }

    /// Copies as many accounts as pgbench makes them into a table.
    func copyIn(rows: Int, into table: String) throws {
        let filler = String(repeating: " ", count: 84)
        try copyIn("COPY \(table) FROM STDIN", rows: rows) { "\($0 + 1)\t\($0 / 100_000 + 1)\t0\t\(filler)\n" }
    }

    /// Copies accounts of the bank into the table `account`.
    func copyIn(accounts: Int64) throws {
        try copyIn("COPY account FROM STDIN", rows: Int(accounts)) { "\($0)\t1000000\n" }
    }

    private func copyIn(_ statement: String, rows: Int, _ line: (Int) -> String) throws {
        let begun = PQexec(connection, statement)
        defer { PQclear(begun) }
        guard PQresultStatus(begun) == PGRES_COPY_IN else { throw failure() }
        for first in stride(from: 0, to: rows, by: 500) {
            var block = (first..<min(first + 500, rows)).map(line).joined()
            let isSent = block.withUTF8 { bytes in
                bytes.withMemoryRebound(to: CChar.self) { PQputCopyData(connection, $0.baseAddress, Int32($0.count)) }
            }
            guard isSent == 1 else { throw failure() }
        }
        guard PQputCopyEnd(connection, nil) == 1 else { throw failure() }
        try receive()
    }
}
