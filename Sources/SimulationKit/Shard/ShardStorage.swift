import TransactionCore

/// A row of the simulated database.
public struct RowKey: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Accounts are only moved between, so their total stays; registers are also written blindly.
    public enum Table: String, Hashable, Comparable, Sendable {
        case account
        case register

        public static func < (lhs: Table, rhs: Table) -> Bool { lhs.rawValue < rhs.rawValue }
    }

    public let shard: ShardID
    public let table: Table
    public let row: Int

    public init(shard: ShardID, table: Table = .account, row: Int) {
        self.shard = shard
        self.table = table
        self.row = row
    }

    public var description: String { "\(shard).\(table.rawValue)[\(row)]" }

    public static func < (lhs: RowKey, rhs: RowKey) -> Bool {
        (lhs.shard, lhs.table, lhs.row) < (rhs.shard, rhs.table, rhs.row)
    }
}

/// What a row holds: an amount, and the number of the transaction that wrote it (0 for the initial state), so that
/// whoever reads it tells whose write it was.
public struct Value: Hashable, Sendable, CustomStringConvertible {
    public let amount: Int64
    public let writer: Int

    public init(amount: Int64, writer: Int) {
        self.amount = amount
        self.writer = writer
    }

    public var description: String { "\(amount) of t\(writer)" }
}

/// One row written, with what it was before: an entry of the undo log.
public struct Change: Hashable, Sendable {
    public let key: RowKey
    public let old: Value
    public let new: Value

    public init(key: RowKey, old: Value, new: Value) {
        self.key = key
        self.old = old
        self.new = new
    }
}

/// What one transaction wrote on one shard: rows, and its row in the commit log.
struct Writes: Hashable {
    var changes: [Change] = []
    var logRow: LogRow?
}

/// A row of the commit log.
struct LogRow: Hashable {
    let id: TransactionID
    let isAborted: Bool
}

/// A record of the write-ahead log; what has been flushed survives a crash.
enum WALRecord {
    case commit(Writes)
    case prepare(TransactionID, Writes, owner: Int, locks: [(target: LockTable.Target, mode: LockTable.Mode)])
    case commitPrepared(TransactionID)
    case rollbackPrepared(TransactionID)
    case epoch(Epoch, of: NodeID?)
}

/// The committed and prepared state of a shard: a function of its write-ahead log.
struct ShardStorage {
    struct Prepared {
        let writes: Writes
        let owner: Int
        let locks: [(target: LockTable.Target, mode: LockTable.Mode)]
    }

    private struct UndoEntry {
        let commitNumber: Int
        let timestamp: Timestamp
        let old: Value
    }

    /// That of all nodes, and the later ones that single nodes were told.
    private(set) var epoch = Epoch(rawValue: 0)
    private(set) var epochs: [NodeID: Epoch] = [:]
    private(set) var prepared: [TransactionID: Prepared] = [:]
    private(set) var newestTimestamp = Timestamp.zero
    /// Every commit so far, in the order in which they became visible.
    private(set) var commits: [Writes] = []
    private var rows: [RowKey: Value]
    private var undo: [RowKey: [UndoEntry]] = [:]
    private var log: [Timestamp: LogRow] = [:]

    init(rows: [RowKey: Value]) {
        self.rows = rows
    }

    /// A snapshot sees the commits before it: their count stands for it.
    var snapshot: Int { commits.count }

    mutating func apply(_ record: WALRecord) {
        switch record {
        case .commit(let writes): commit(writes)
        case .prepare(let id, let writes, let owner, let locks):
            prepared[id] = Prepared(writes: writes, owner: owner, locks: locks)
        case .commitPrepared(let id):
            if let transaction = prepared.removeValue(forKey: id) { commit(transaction.writes) }
        case .rollbackPrepared(let id): prepared[id] = nil
        case .epoch(let raised, nil): epoch = max(epoch, raised)
        case .epoch(let raised, let node?): epochs[node] = max(raised, epoch(of: node))
        }
    }

    private mutating func commit(_ writes: Writes) {
        commits.append(writes)
        for change in writes.changes {
            rows[change.key] = change.new
            guard let timestamp = writes.logRow?.id.commitTimestamp else { continue }
            undo[change.key, default: []].append(
                UndoEntry(commitNumber: commits.count, timestamp: timestamp, old: change.old))
        }
        if let row = writes.logRow {
            log[row.id.commitTimestamp] = row
            newestTimestamp = max(newestTimestamp, row.id.commitTimestamp)
        }
    }

    /// Sessions of this node's earlier epochs can't begin.
    func epoch(of node: NodeID) -> Epoch { max(epoch, epochs[node] ?? epoch) }

    /// The row as it stands committed now.
    func row(_ key: RowKey) -> Value {
        rows[key] ?? Value(amount: 0, writer: 0)
    }

    /// The committed row of the commit log at `timestamp`.
    func logRow(at timestamp: Timestamp) -> LogRow? {
        log[timestamp]
    }

    /// The row as of `timestamp` (DESIGN §5), as `snapshot` sees current rows, commit log and undo log: the first undo
    /// entry later than `timestamp` holds what it was, else the current row does.
    func read(_ key: RowKey, at timestamp: Timestamp, snapshot: Int) -> Value {
        let entries = undo[key] ?? []
        let current = entries.first { $0.commitNumber > snapshot }?.old ?? row(key)
        return entries.filter { $0.commitNumber <= snapshot && $0.timestamp > timestamp }
            .min { ($0.timestamp, $0.commitNumber) < ($1.timestamp, $1.commitNumber) }?.old ?? current
    }
}
