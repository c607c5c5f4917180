import CLibPQ
import Foundation
import Histogram
import Synchronization

/// Transfers by libpq alone, without Meridian: what two-phase commit costs on these servers. One thread a client, with
/// a blocking connection to every shard.
struct BareTransfers {
    /// How a transfer commits.
    enum CommitProtocol: Sendable {
        /// PREPARE on one shard, COMMIT on the other, COMMIT PREPARED on the first: the floor.
        case lastAgent
        /// PREPARE on both, a decision record, COMMIT PREPARED on both; what can be is done at the same time.
        case textbook
    }

    let conninfos: [String]
    let accounts: Int64
    let commitProtocol: CommitProtocol
    /// Two runs on the same servers never use one name of a transaction.
    private let series = UInt64.random(in: 0 ... .max)

    init(conninfos: [String], accounts: Int64, commitProtocol: CommitProtocol) {
        self.conninfos = conninfos
        self.accounts = accounts
        self.commitProtocol = commitProtocol
    }

    /// Creates the tables and fills them.
    static func create(accounts: Int64, conninfos: [String]) throws {
        for (index, conninfo) in conninfos.enumerated() {
            let connection = try BareConnection(conninfo)
            try connection.execute(
                """
                CREATE SCHEMA bare;
                CREATE TABLE bare.account (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 80);
                INSERT INTO bare.account SELECT id, 1000000
                    FROM generate_series(\(index)::bigint, \(accounts - 1), \(conninfos.count)) AS id;
                CREATE TABLE bare.decision (gid text PRIMARY KEY);
                VACUUM (ANALYZE) bare.account;
                """.split(separator: ";").map(String.init))
        }
    }

    /// Runs for `duration` and returns the latencies in microseconds; calls `began` when all clients are
    /// connected and `ended` before they disconnect.
    func run(clients: Int, for duration: Duration, began: () -> Void, ended: () -> Void) throws -> Histogram<UInt32> {
        let total = Mutex(makeLatencyHistogram())
        let failure = Mutex<(any Error)?>(nil)
        let sessions = try (0..<clients).map { _ in try conninfos.map { try BareConnection($0) } }
        for session in sessions.joined() { try session.prepareUpdate() }
        began()
        let deadline = ContinuousClock.now + duration
        let threads = DispatchGroup()
        for (client, connections) in sessions.enumerated() {
            threads.enter()
            let thread = Thread {
                var latencies = makeLatencyHistogram()
                do {
                    var number = 0
                    while ContinuousClock.now < deadline {
                        let began = ContinuousClock.now
                        try transfer(connections, gid: "bare-\(series)-\(client)-\(number)")
                        latencies.record(UInt64((ContinuousClock.now - began) / .microseconds(1)))
                        number += 1
                    }
                } catch {
                    failure.withLock { $0 = error }
                }
                total.withLock { $0.add(latencies) }
                threads.leave()
            }
            thread.start()
        }
        threads.wait()
        withExtendedLifetime(sessions) { ended() }
        if let error = failure.withLock({ $0 }) { throw error }
        return total.withLock { $0 }
    }

    private func transfer(_ connections: [BareConnection], gid: String) throws {
        let shards = Int64(connections.count)
        let source = Int64.random(in: 0..<accounts)
        var target = Int64.random(in: 0..<accounts)
        while target % shards == source % shards { target = .random(in: 0..<accounts) }
        let amount = Int64.random(in: 1...100)
        // In the order of the shards, as Meridian's bank does, or transfers would wait for each other in a circle.
        let changes = [(source, -amount), (target, amount)].sorted { $0.0 % shards < $1.0 % shards }
        for (account, change) in changes {
            try connections[Int(account % shards)].beginAndUpdate(account, by: change)
        }
        let (home, other) = (connections[Int(changes[0].0 % shards)], connections[Int(changes[1].0 % shards)])
        switch commitProtocol {
        case .lastAgent:
            try other.execute(["PREPARE TRANSACTION '\(gid)'"])
            try home.execute(["COMMIT"])
            try other.execute(["COMMIT PREPARED '\(gid)'"])
        case .textbook:
            for connection in [home, other] { try connection.send("PREPARE TRANSACTION '\(gid)'") }
            for connection in [home, other] { try connection.receive() }
            try home.execute(["INSERT INTO bare.decision VALUES ('\(gid)')"])
            for connection in [home, other] { try connection.send("COMMIT PREPARED '\(gid)'") }
            for connection in [home, other] { try connection.receive() }
        }
    }
}

/// A blocking libpq connection. Used by one thread at a time.
final class BareConnection: @unchecked Sendable {
    struct Failure: Error, CustomStringConvertible {
        let description: String
    }

    let connection: OpaquePointer

    init(_ conninfo: String) throws {
        connection = PQconnectdb(conninfo)
        guard PQstatus(connection) == CONNECTION_OK else { throw failure() }
    }

    deinit {
        PQfinish(connection)
    }

    func execute(_ statements: [String]) throws {
        for statement in statements {
            try send(statement)
            try receive()
        }
    }

    func send(_ statement: String) throws {
        guard PQsendQuery(connection, statement) == 1 else { throw failure() }
    }

    func receive() throws {
        while let result = PQgetResult(connection) {
            defer { PQclear(result) }
            guard [PGRES_COMMAND_OK, PGRES_TUPLES_OK].contains(PQresultStatus(result)) else { throw failure() }
        }
    }

    /// The only value of a query.
    func scalar(_ statement: String) throws -> Int64 {
        let result = PQexec(connection, statement)
        defer { PQclear(result) }
        guard PQresultStatus(result) == PGRES_TUPLES_OK,
            let value = Int64(String(cString: PQgetvalue(result, 0, 0)))
        else { throw failure() }
        return value
    }

    /// What ``beginAndUpdate(_:by:)`` takes.
    func prepareUpdate() throws {
        let text = "UPDATE bare.account SET balance = balance + $1::bigint WHERE id = $2::bigint"
        let result = PQprepare(connection, "update", text, 2, nil)
        defer { PQclear(result) }
        guard PQresultStatus(result) == PGRES_COMMAND_OK else { throw failure() }
    }

    /// BEGIN and the UPDATE in one round trip, the UPDATE by a prepared statement.
    func beginAndUpdate(_ account: Int64, by change: Int64) throws {
        PQenterPipelineMode(connection)
        PQsendQueryParams(connection, "BEGIN", 0, nil, nil, nil, nil, 0)
        String(change).withCString { change in
            String(account).withCString { account in
                var values: [UnsafePointer<CChar>?] = [change, account]
                PQsendQueryPrepared(connection, "update", 2, &values, nil, nil, 0)
            }
        }
        PQpipelineSync(connection)
        var isOver = false
        while !isOver {
            guard let result = PQgetResult(connection) else { continue }
            defer { PQclear(result) }
            switch PQresultStatus(result) {
            case PGRES_PIPELINE_SYNC: isOver = true
            case PGRES_COMMAND_OK: break
            default: throw failure()
            }
        }
        PQexitPipelineMode(connection)
    }

    func failure() -> Failure { Failure(description: String(cString: PQerrorMessage(connection))) }
}

/// Latencies up to ten minutes in microseconds, to two digits.
func makeLatencyHistogram() -> Histogram<UInt32> {
    Histogram(highestTrackableValue: 600_000_000, numberOfSignificantValueDigits: .two)
}
