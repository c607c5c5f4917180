import EventLoops
import Placement
import ShardBackend
import TransactionCore
import TransactionEngine
import TwoPhaseCommit

/// The standard workload of the field: accounts spread over all shards, between which money moves while its sum stays.
/// Its engine is in this process.
public struct Bank: BankAccess {
    public let accounts: Int64
    public let total: Int64
    let engine: TransactionEngine
    /// Where accounts are when the bank was made over the wire, like every table. Otherwise account `n` lies on shard
    /// `n mod (number of shards)`, in the order of the shards' names.
    private let buckets: BucketMap?

    /// The table's schema; reads at a timestamp see its as-of views.
    static let schema = "bank"

    /// Creates the bank on all shards in one transaction: every shard has it afterwards, or none.
    ///
    /// - Throws: ``TransactionError``, SQLSTATE 42P06 when there is a bank already and `replacing` is false.
    public static func create(
        accounts: Int64, balance: Int64, replacing: Bool, on engine: TransactionEngine
    ) async throws -> Bank {
        let shards = engine.shards
        _ = try await engine.transaction { transaction in
            for (index, shard) in shards.enumerated() {
                let drop: [SQLStatement] = ["DROP SCHEMA IF EXISTS bank CASCADE"]
                let create: [SQLStatement] = [
                    "CREATE SCHEMA bank",
                    // Room on each page for new row versions keeps updates off the index (HOT).
                    "CREATE TABLE bank.account (id bigint PRIMARY KEY, balance bigint NOT NULL) WITH (fillfactor = 80)",
                    "SELECT meridian.version_table('bank.account')",
                    SQLStatement(
                        """
                        INSERT INTO bank.account
                        SELECT id, $1 FROM generate_series($2::bigint, $3::bigint - 1, $4::bigint) AS id
                        """,
                        [.int64(balance), .int64(Int64(index)), .int64(accounts), .int64(Int64(shards.count))],
                        isPrepared: false),
                ]
                _ = try await transaction.execute(replacing ? drop + create : create, on: shard)
            }
        }
        return Bank(accounts: accounts, total: accounts * balance, engine: engine, buckets: nil)
    }

    /// Opens the bank that ``create(accounts:balance:replacing:on:)`` made, or ``RemoteBank``.
    ///
    /// - Throws: ``TransactionError``, SQLSTATE 42P01 when there is none.
    public static func open(on engine: TransactionEngine) async throws -> Bank {
        let snapshot = try await engine.snapshot()
        let statement = SQLStatement("SELECT count(*), coalesce(sum(balance), 0)::bigint FROM account")
        do {
            let results = try await snapshot.read(statement, in: schema, on: engine.shards)
            let accounts = try results.reduce(0) { try $0 + $1[0].int64(0) }
            let total = try results.reduce(0) { try $0 + $1[0].int64(1) }
            return Bank(accounts: accounts, total: total, engine: engine, buckets: try await placement(on: engine))
        } catch let error as TransactionError where error.sqlState == .undefinedTable {
            throw TransactionError(
                .undefinedTable, "there is no bank on shard \(error.shard.map(\.rawValue) ?? "?")",
                detail: error.message, hint: "run `meridian bank init`", shard: error.shard)
        }
    }

    /// The map of the buckets, when that is how the accounts are placed.
    private static func placement(on engine: TransactionEngine) async throws -> BucketMap? {
        let distributed = SQLStatement(
            "SELECT EXISTS (SELECT FROM meridian.distribution WHERE relation = to_regclass('bank.account'))")
        guard try await engine.inspect(distributed, on: engine.shards[0])[0].bool(0) else { return nil }
        return try await ShardLogs(engine).buckets()
    }

    /// The shard of an account.
    func shard(of account: Int64) -> ShardID {
        if let buckets { return buckets.shard(forHash: ShardKeyHash.hash(account)) }
        return engine.shards[Int(account % Int64(engine.shards.count))]
    }

    public var loop: EventLoop { engine.loop }

    public func crosses(_ source: Int64, _ target: Int64) -> Bool? { shard(of: source) != shard(of: target) }

    public func now() async throws -> Timestamp? { try await engine.snapshot().timestamp }

    public func commitWaitShare() async -> Double? { await engine.currentStatistics().commitWaitShare }

    public func sum(_ bound: ReadBound) async throws -> Int64 { try await sum(at: try await engine.snapshot(bound)) }

    /// The sum of all accounts at `snapshot`.
    public func sum(at snapshot: Snapshot) async throws -> Int64 {
        let results = try await snapshot.read(Self.sumByDifferences, in: Self.schema, on: engine.shards)
        return try results.reduce(0) { try $0 + $1[0].int64(0) }
    }

    /// The accounts as they are, and what turns them into what they were: cheaper than the as-of view, which looks at
    /// every row twice.
    private static let sumByDifferences = SQLStatement(
        """
        SELECT coalesce((SELECT sum(balance) FROM bank.account), 0)::bigint \
        + coalesce((SELECT sum(weight * balance) FROM meridian_diff_bank.account), 0)::bigint
        """)

    /// Rows are locked in the order of their shards and numbers, so transfers never wait for each other in a circle.
    /// The debit locks its row whatever the balance is, so that a refusal, too, tells what is certainly so (DESIGN
    /// section 4, "a write reads too").
    public func transfer(_ amount: Int64, from source: Int64, to target: Int64) async throws -> TransferEnd {
        let transaction = try await engine.begin()
        do {
            let (sourceShard, targetShard) = (shard(of: source), shard(of: target))
            let debit = Self.change(source, by: -amount)
            let credit = Self.change(target, by: amount)
            let debited: SQLResult
            let credited: SQLResult
            if sourceShard == targetShard {
                let isSourceFirst = source < target
                let results = try await transaction.execute(
                    isSourceFirst ? [debit, credit] : [credit, debit], on: sourceShard)
                (debited, credited) = isSourceFirst ? (results[0], results[1]) : (results[1], results[0])
            } else if sourceShard < targetShard {
                debited = try await transaction.execute(debit, on: sourceShard)
                credited = try await transaction.execute(credit, on: targetShard)
            } else {
                credited = try await transaction.execute(credit, on: targetShard)
                debited = try await transaction.execute(debit, on: sourceShard)
            }
            guard !credited.isEmpty else { throw Self.missing(target, on: targetShard) }
            guard let balance = try debited.first?.int64(0) else { throw Self.missing(source, on: sourceShard) }
            guard balance >= 0 else {
                await transaction.rollback()
                return .refused
            }
            return .committed(try await transaction.commit())
        } catch {
            await transaction.rollback()
            throw error
        }
    }

    /// Changes a balance and returns the new one.
    private static func change(_ account: Int64, by amount: Int64) -> SQLStatement {
        SQLStatement(
            "UPDATE bank.account SET balance = balance + $1 WHERE id = $2 RETURNING balance",
            [.int64(amount), .int64(account)])
    }

    private static func missing(_ account: Int64, on shard: ShardID) -> TransactionError {
        TransactionError(
            .internalError, "account \(account) is not on shard \(shard)",
            detail: "it was deleted, or the bank was made on other shards",
            hint: "make the bank anew: `meridian bank init --replace`", shard: shard)
    }
}
