import TransactionCore
import TwoPhaseCommit

/// What a transaction or read saw in a row.
public struct Observation: Hashable, Sendable {
    public let key: RowKey
    public let value: Value

    public init(key: RowKey, value: Value) {
        self.key = key
        self.value = value
    }
}

/// One read-write transaction as its client knows it; times are true ones.
public struct TransactionRecord: Hashable, Sendable {
    /// What the client was told.
    public enum Outcome: Hashable, Sendable {
        case committed(Timestamp)
        case aborted(SQLState)
        /// 08007, or no answer at all.
        case unknown
    }

    public let number: Int
    public let client: Int
    public let begun: Timestamp
    /// When the client was told the outcome; nil while it has not been.
    public var ended: Timestamp?
    public var outcome = Outcome.unknown
    /// What the client was told when it asked for an unknown outcome, and when.
    public var resolution: Decision?
    /// What it saw under locks.
    public var observations: [Observation] = []
    public var written: [RowKey] = []

    public init(number: Int, client: Int, begun: Timestamp) {
        self.number = number
        self.client = client
        self.begun = begun
    }
}

/// One read at a timestamp as its client knows it.
public struct ReadRecord: Hashable, Sendable {
    public let number: Int
    public let client: Int
    public let bound: ReadBound
    public let begun: Timestamp
    public var ended: Timestamp
    public var timestamp: Timestamp
    public var observations: [Observation]

    public init(
        number: Int, client: Int, bound: ReadBound, begun: Timestamp, ended: Timestamp, timestamp: Timestamp,
        observations: [Observation]
    ) {
        self.number = number
        self.client = client
        self.bound = bound
        self.begun = begun
        self.ended = ended
        self.timestamp = timestamp
        self.observations = observations
    }
}

/// What one shard committed at one timestamp.
public struct LoggedCommit: Hashable, Sendable {
    public let shard: ShardID
    public let timestamp: Timestamp
    public let changes: [Change]

    public init(shard: ShardID, timestamp: Timestamp, changes: [Change]) {
        self.shard = shard
        self.timestamp = timestamp
        self.changes = changes
    }

    /// The numbers of the transactions that wrote it: one, unless something is very wrong.
    public var writers: [Int] { Set(changes.map(\.new.writer)).sorted() }
}

/// Everything that can be known of a run once it is over: what the clients saw, and what the shards hold.
public struct History: Sendable {
    public var initial: [RowKey: Value]
    public var transactions: [TransactionRecord]
    public var reads: [ReadRecord]
    /// What the shards committed, in the order of its timestamps.
    public private(set) var log: [LoggedCommit]
    /// What still stands prepared where, by gid.
    public var prepared: [(shard: ShardID, name: String)]
    /// A strong read of everything was answered once every fault was mended.
    public var servesAgain: Bool
    /// The commit timestamp of every transaction with a change in the log.
    public private(set) var timestamps: [Int: Timestamp] = [:]

    public init(
        initial: [RowKey: Value] = [:], transactions: [TransactionRecord] = [], reads: [ReadRecord] = [],
        log: [LoggedCommit] = [], prepared: [(shard: ShardID, name: String)] = [], servesAgain: Bool = true
    ) {
        self.initial = initial
        self.transactions = transactions
        self.reads = reads
        self.log = log.sorted { ($0.timestamp, $0.shard) < ($1.timestamp, $1.shard) }
        self.prepared = prepared
        self.servesAgain = servesAgain
        for commit in self.log {
            for writer in commit.writers where timestamps[writer] == nil { timestamps[writer] = commit.timestamp }
        }
    }

    /// The commit timestamp of a transaction: what the log says, else what its client was told.
    func timestamp(of transaction: TransactionRecord) -> Timestamp? {
        if let logged = timestamps[transaction.number] { return logged }
        if case .committed(let told) = transaction.outcome { return told }
        return nil
    }

    /// The state before anything was committed.
    func initialValue(of key: RowKey) -> Value {
        initial[key] ?? Value(amount: 0, writer: 0)
    }

    /// The commits that clients were told of, with when: by COMMIT, or when they asked afterwards.
    var acknowledged: [(transaction: TransactionRecord, at: Timestamp, timestamp: Timestamp)] {
        transactions.compactMap { transaction in
            guard let ended = transaction.ended, let timestamp = timestamp(of: transaction) else { return nil }
            switch (transaction.outcome, transaction.resolution) {
            case (.committed, _), (.unknown, .commit): return (transaction, ended, timestamp)
            default: return nil
            }
        }
    }
}
