import EventLoops
import Logging
import Placement
import ShardBackend
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

/// The bank on whatever speaks PostgreSQL's protocol: Meridian, PostgreSQL itself, or another that claims to.
///
/// Every client has a connection of its own while it works; one that is lost is made anew, so that a run goes on when
/// a node was killed and is back.
public struct RemoteBank: BankAccess {
    public let accounts: Int64
    public let total: Int64
    private let server: Server
    /// Where accounts are, when that is known.
    private let buckets: BucketMap?

    /// How long one round trip may take.
    private static let timeout = Duration.seconds(60)
    /// Rows of one INSERT.
    private static let insertedRowsMax: Int64 = 1_000

    /// What is asked over the wire.
    public struct Server: Sendable {
        let pool: ConnectionPool
        /// It gives timestamps.
        public let isMeridian: Bool

        /// Connects, and finds out who answers.
        ///
        /// - Parameters:
        ///   - conninfo: as libpq takes it, a URL or words.
        ///   - clients: how many connections there may be.
        public init(_ conninfo: String, clients: Int, on loop: EventLoop) async throws {
            let settings = try ConnectionSettings(conninfo, overrides: ["application_name": "meridian bank"])
            // A server that is down is told of by the run's failures, not by each connection.
            var logger = Logger(label: "meridian.bank")
            logger.logLevel = .critical
            pool = ConnectionPool(settings: settings, bound: clients, on: loop, label: "bank", logger: logger)
            do {
                _ = try await pool.withConnection(deadline: .now + timeout) {
                    try await $0.runSimple("SHOW meridian.commit_timestamp", deadline: .now + timeout)
                }
                isMeridian = true
            } catch let error as ShardError where error.sqlState == .undefinedObject {
                isMeridian = false
            } catch let error as ShardError {
                throw TransactionError(error, shard: nil)
            }
        }

        /// Runs `body` with a connection, on which nothing is open afterwards.
        func session<Value: Sendable>(
            _ body: @Sendable (ShardConnection) async throws -> Value
        ) async throws -> Value {
            do {
                return try await pool.withConnection(deadline: .now + timeout) { connection in
                    do {
                        return try await body(connection)
                    } catch {
                        if await connection.transactionStatus != .idle {
                            _ = try? await connection.runSimple("ROLLBACK", deadline: .now + timeout)
                        }
                        throw error
                    }
                }
            } catch let error as ShardError {
                throw TransactionError(error, shard: nil)
            }
        }
    }

    /// Creates the bank, in one transaction.
    ///
    /// - Parameter progress: is told how many accounts are made.
    /// - Throws: ``TransactionError``, SQLSTATE 42P07 when there is a bank already and `replacing` is false.
    public static func create(
        accounts: Int64, balance: Int64, replacing: Bool, on server: Server, progress: @Sendable (Int64) -> Void
    ) async throws -> RemoteBank {
        try await server.session { connection in
            let drop = replacing ? "DROP TABLE IF EXISTS bank.account;" : ""
            _ = try await connection.runSimple(
                """
                BEGIN; CREATE SCHEMA IF NOT EXISTS bank; \(drop)
                CREATE TABLE bank.account (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 80)
                """, deadline: .now + timeout)
            for first in stride(from: 0, to: accounts, by: Int(insertedRowsMax)) {
                let end = min(first + insertedRowsMax, accounts)
                let rows = (first..<end).map { "(\($0),\(balance))" }.joined(separator: ",")
                _ = try await connection.runSimple(
                    "INSERT INTO bank.account (id, balance) VALUES \(rows)", deadline: .now + timeout)
                progress(end)
            }
            _ = try await connection.runSimple("COMMIT", deadline: .now + timeout)
        }
        return RemoteBank(accounts: accounts, total: accounts * balance, server: server, buckets: nil)
    }

    /// Opens the bank that ``create(accounts:balance:replacing:on:progress:)`` made.
    ///
    /// - Parameter logs: the shards, to know which account is where.
    /// - Throws: ``TransactionError``, SQLSTATE 42P01 when there is none.
    public static func open(on server: Server, logs: ShardLogs?) async throws -> RemoteBank {
        do {
            let row = try await server.session { connection in
                try await connection.run(
                    "SELECT count(*), coalesce(sum(balance), 0)::bigint FROM bank.account", deadline: .now + timeout)
            }[0]
            return RemoteBank(
                accounts: try row.int64(0), total: try row.int64(1), server: server,
                buckets: try await server.isMeridian ? logs?.buckets() : nil)
        } catch let error as TransactionError where [.undefinedTable, .undefinedSchema].contains(error.sqlState) {
            throw TransactionError(
                .undefinedTable, "there is no bank", detail: error.message, hint: "run `meridian bank init`")
        }
    }

    public var loop: EventLoop { server.pool.loop }

    public func crosses(_ source: Int64, _ target: Int64) -> Bool? {
        buckets.map { $0.shard(forHash: ShardKeyHash.hash(source)) != $0.shard(forHash: ShardKeyHash.hash(target)) }
    }

    public func now() async throws -> Timestamp? {
        guard server.isMeridian else { return nil }
        return try await server.session { connection in
            // A read's timestamp is one at which the present is seen.
            let results = try await connection.runSimple(
                "BEGIN READ ONLY; SELECT FROM bank.account WHERE id = 0; SHOW meridian.read_timestamp; COMMIT",
                deadline: .now + Self.timeout)
            return Timestamp(rawValue: Int64(try results[2][0].text(0)) ?? 0)
        }
    }

    public func commitWaitShare() async -> Double? {
        guard server.isMeridian else { return nil }
        let shown = try? await server.session { connection in
            try await connection.runSimple("SHOW meridian.commit_wait_share", deadline: .now + Self.timeout)
        }
        return shown.flatMap { try? Double($0[0][0].text(0)) }
    }

    // MARK: Operations

    /// Rows are locked in the order of their numbers, so transfers never wait for each other in a circle.
    public func transfer(_ amount: Int64, from source: Int64, to target: Int64) async throws -> TransferEnd {
        try await server.session { connection in
            let debit = Self.change(source, by: -amount)
            let credit = Self.change(target, by: amount)
            let isSourceFirst = source < target
            let results = try await connection.run(
                ["BEGIN", isSourceFirst ? debit : credit, isSourceFirst ? credit : debit],
                deadline: .now + Self.timeout)
            let debited = results[isSourceFirst ? 1 : 2]
            guard let balance = try debited.first?.int64(0), !results[1].isEmpty, !results[2].isEmpty else {
                throw TransactionError(
                    .internalError, "account \(source) or \(target) is missing", detail: "it was deleted",
                    hint: "make the bank anew: `meridian bank init --replace`")
            }
            guard balance >= 0 else {
                _ = try await connection.run("ROLLBACK", deadline: .now + Self.timeout)
                return .refused
            }
            return .committed(try await commit(connection))
        }
    }

    private func commit(_ connection: ShardConnection) async throws -> Timestamp? {
        do {
            let statements: [SQLStatement] =
                server.isMeridian ? ["COMMIT", "SHOW meridian.commit_timestamp"] : ["COMMIT"]
            let results = try await connection.run(statements, deadline: .now + Self.timeout)
            return server.isMeridian ? Int64(try results[1][0].text(0)).map(Timestamp.init(rawValue:)) : nil
        } catch {
            guard error.isOutcomeUnknown else { throw error }
            throw TransactionError(
                .transactionResolutionUnknown, "the outcome of the transfer is not known", detail: error.message)
        }
    }

    private static func change(_ account: Int64, by amount: Int64) -> SQLStatement {
        SQLStatement(
            "UPDATE bank.account SET balance = balance + $1 WHERE id = $2 RETURNING balance",
            [.int64(amount), .int64(account)])
    }

    public func sum(_ bound: ReadBound) async throws -> Int64 {
        let sum = SQLStatement("SELECT coalesce(sum(balance), 0)::bigint FROM bank.account")
        return try await server.session { connection in
            let before: [SQLStatement] =
                switch bound {
                case .at(let timestamp):
                    [
                        "BEGIN READ ONLY",
                        SQLStatement("SET LOCAL meridian.read_timestamp = '\(timestamp)'", isPrepared: false),
                    ]
                default: []
                }
            let after: [SQLStatement] = before.isEmpty ? [] : ["COMMIT"]
            let results = try await connection.run(before + [sum] + after, deadline: .now + Self.timeout)
            return try results[before.count][0].int64(0)
        }
    }
}
