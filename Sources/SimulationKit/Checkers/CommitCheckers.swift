import TransactionCore

/// Once every fault is mended a strong read is answered: nothing stays in flight for ever.
public struct ProgressChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        history.servesAgain ? [] : [violation("a strong read of everything got no answer after every fault was mended")]
    }
}

/// Nothing stands prepared once everything has been recovered (R4).
public struct ResidueChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        history.prepared.map { violation("\($0.name) is still prepared on shard \($0.shard)") }
    }
}

/// A transaction is committed on all of its shards at one timestamp, or on none (R3).
public struct AtomicityChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        var found: [Int: [(key: RowKey, timestamp: Timestamp)]] = [:]
        for commit in history.log {
            for change in commit.changes {
                found[change.new.writer, default: []].append((change.key, commit.timestamp))
            }
        }
        return history.transactions.compactMap { transaction in
            guard let changes = found[transaction.number], let first = changes.first else { return nil }
            if let other = changes.first(where: { $0.timestamp != first.timestamp }) {
                return violation(
                    "t\(transaction.number) committed on shard \(first.key.shard) at \(first.timestamp) and on shard "
                        + "\(other.key.shard) at \(other.timestamp)", transaction.number)
            }
            let missing = transaction.written.first { key in !changes.contains { $0.key == key } }
            return missing.map { key in
                violation(
                    "t\(transaction.number) committed \(first.key) on shard \(first.key.shard), but not \(key) on "
                        + "shard \(key.shard)", transaction.number)
            }
        }
    }
}

/// What a client was told of its transaction is so: it is there at the timestamp told, or not there when it was told
/// that it aborted.
public struct OutcomeChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        history.transactions.compactMap { check($0, logged: history.timestamps[$0.number]) }
    }

    private func check(_ transaction: TransactionRecord, logged: Timestamp?) -> Violation? {
        let number = transaction.number
        switch (transaction.outcome, transaction.resolution, logged) {
        case (.committed(let told), _, let logged?) where told != logged:
            return violation("the client of t\(number) was told timestamp \(told); it committed at \(logged)", number)
        case (.committed(let told), _, nil) where !transaction.written.isEmpty:
            return violation("the client of t\(number) was told that it committed at \(told); it is not there", number)
        case (.aborted(let state), _, let logged?):
            return violation("the client of t\(number) was told \(state); it committed at \(logged)", number)
        case (.unknown, .commit, nil):
            return violation("t\(number) was found to have committed; it is not there", number)
        case (.unknown, .abort, let logged?):
            return violation("t\(number) was found to have aborted; it committed at \(logged)", number)
        default:
            return nil
        }
    }
}

/// No two transactions have the same commit timestamp.
public struct UniqueTimestampChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        var owners: [Timestamp: Int] = [:]
        var violations: [Violation] = []
        for transaction in history.transactions {
            guard let timestamp = history.timestamp(of: transaction) else { continue }
            if let owner = owners.updateValue(transaction.number, forKey: timestamp) {
                violations.append(
                    violation(
                        "t\(owner) and t\(transaction.number) both committed at \(timestamp)", owner,
                        transaction.number))
            }
        }
        return violations
    }
}

/// Transactions that conflict are in the order of their timestamps (R7): replayed in that order, each one finds what it
/// saw under its locks (wr, rw) and overwrites what it overwrote (ww).
public struct ConflictOrderChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        var replay = Replay(history)
        var violations: [Violation] = []
        let committed = history.transactions.compactMap { transaction in
            history.timestamp(of: transaction).map { (timestamp: $0, transaction: transaction) }
        }.sorted { ($0.timestamp, $0.transaction.number) < ($1.timestamp, $1.transaction.number) }
        for (timestamp, transaction) in committed {
            violations += replay.advance(through: timestamp.advanced(byNanoseconds: -1)).map(misplaced)
            for observation in transaction.observations {
                let expected = replay.value(of: observation.key)
                guard observation.value != expected else { continue }
                violations.append(
                    violation(
                        "t\(transaction.number) at \(timestamp) saw \(observation.value) in \(observation.key) under "
                            + "its lock, and in timestamp order t\(expected.writer) wrote \(expected) there last",
                        transaction.number, expected.writer, observation.value.writer))
            }
            violations += replay.advance(through: timestamp).map(misplaced)
        }
        return violations
    }

    private func misplaced(_ overwrite: Replay.Misplaced) -> Violation {
        let change = overwrite.change
        return violation(
            "t\(change.new.writer) at \(overwrite.timestamp) overwrote \(change.old) in \(change.key), and in "
                + "timestamp order t\(overwrite.expected.writer) wrote \(overwrite.expected) there last",
            change.new.writer, overwrite.expected.writer, change.old.writer)
    }
}

/// The log of a history, replayed in the order of its timestamps.
struct Replay {
    /// A change that overwrote something else than what the replay has there.
    struct Misplaced {
        let change: Change
        let timestamp: Timestamp
        let expected: Value
    }

    private let history: History
    private var position = 0
    private var rows: [RowKey: Value] = [:]

    init(_ history: History) {
        self.history = history
    }

    func value(of key: RowKey) -> Value {
        rows[key] ?? history.initialValue(of: key)
    }

    /// Applies everything up to `timestamp`, and returns what did not fit.
    mutating func advance(through timestamp: Timestamp) -> [Misplaced] {
        var misplaced: [Misplaced] = []
        while position < history.log.count, history.log[position].timestamp <= timestamp {
            let commit = history.log[position]
            position += 1
            for change in commit.changes {
                let expected = value(of: change.key)
                if expected != change.old {
                    misplaced.append(Misplaced(change: change, timestamp: commit.timestamp, expected: expected))
                }
                rows[change.key] = change.new
            }
        }
        return misplaced
    }
}
