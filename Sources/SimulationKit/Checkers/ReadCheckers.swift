import TransactionCore
import TwoPhaseCommit

/// Accounts are only moved between: their total is the same at the end and in every read of all of them.
public struct ConservationChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        let accounts = history.initial.keys.filter { $0.table == .account }.sorted()
        let total = accounts.reduce(0) { $0 + history.initialValue(of: $1).amount }
        var replay = Replay(history)
        _ = replay.advance(through: Timestamp(rawValue: .max))
        let final = accounts.reduce(0) { $0 + replay.value(of: $1).amount }
        var violations: [Violation] = []
        if final != total { violations.append(violation("the accounts held \(total) and hold \(final)")) }
        for read in history.reads {
            let observed = read.observations.filter { $0.key.table == .account }
            let sum = observed.reduce(0) { $0 + $1.value.amount }
            if observed.count == accounts.count, sum != total {
                violations.append(
                    violation("read t\(read.number) found \(sum) in all accounts, not \(total)", read.number))
            }
        }
        return violations
    }
}

/// Timestamps agree with true time (Spanner §1): a transaction's lies between its client's BEGIN and the moment the
/// client is told, so that one that began after another was acknowledged has the larger one.
///
/// The second half would also hold with a clock that is wrong by the same amount everywhere; the first half is what a
/// reader with a clock of his own relies on when he names a timestamp.
public struct RealTimeOrderChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        let acknowledged = history.acknowledged.sorted { $0.at < $1.at }
        var violations: [Violation] = acknowledged.compactMap { transaction, at, timestamp in
            if timestamp > at {
                return violation(
                    "t\(transaction.number) was acknowledged at \(at), before its timestamp \(timestamp) had come",
                    transaction.number)
            }
            guard timestamp < transaction.begun else { return nil }
            return violation(
                "t\(transaction.number) began at \(transaction.begun) and has the earlier timestamp \(timestamp)",
                transaction.number)
        }
        // Whoever began later, committed or not told: the largest timestamp acknowledged or read before is smaller.
        var before = LargestTimestamp()
        for read in history.reads { before.add(read.timestamp, of: read.number, at: read.ended) }
        for (transaction, at, timestamp) in acknowledged { before.add(timestamp, of: transaction.number, at: at) }
        before.sort()
        for transaction in history.transactions.sorted(by: { $0.begun < $1.begun }) {
            guard let timestamp = history.timestamp(of: transaction),
                let first = before.largest(before: transaction.begun), first.timestamp >= timestamp
            else { continue }
            violations.append(
                violation(
                    "t\(transaction.number) has timestamp \(timestamp) and began after t\(first.number) at "
                        + "\(first.timestamp) was over", first.number, transaction.number))
        }
        return violations
    }
}

/// A strong read misses nothing that was acknowledged, or seen, before it began (R9).
///
/// What counts is the last write at or before an acknowledged transaction's timestamp, and the last one that a finished
/// read has seen: a coordinator that has just started reads at the newest one on the shards, and no later one has been
/// there for anybody to see. What a read at a later timestamp did not look at may not even have been applied.
public struct StrongReadChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        var before = LargestTimestamp()
        for (transaction, at, timestamp) in history.acknowledged {
            let last = history.log.last { $0.timestamp <= timestamp }
            if let last { before.add(last.timestamp, of: transaction.number, at: at) }
        }
        for read in history.reads {
            let keys = Set(read.observations.map(\.key))
            let last = history.log.last { commit in
                commit.timestamp <= read.timestamp && commit.changes.contains { keys.contains($0.key) }
            }
            if let last { before.add(last.timestamp, of: read.number, at: read.ended) }
        }
        before.sort()
        return history.reads.filter { $0.bound == .strong }.sorted { $0.begun < $1.begun }.compactMap { read in
            guard let first = before.largest(before: read.begun), first.timestamp > read.timestamp else { return nil }
            return violation(
                "strong read t\(read.number) at \(read.timestamp) misses the write at \(first.timestamp), which t"
                    + "\(first.number) had written or seen when the read began", first.number, read.number)
        }
    }
}

/// A read's timestamp is as fresh as its bound says, by true time.
public struct ReadBoundChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        history.reads.compactMap { read in
            let isWithin =
                switch read.bound {
                case .strong: true
                case .at(let timestamp): read.timestamp == timestamp
                case .exactStaleness(let staleness):
                    read.timestamp <= read.ended.advanced(byNanoseconds: -staleness.nanoseconds)
                case .maxStaleness(let staleness):
                    read.timestamp >= read.begun.advanced(byNanoseconds: -staleness.nanoseconds)
                case .minTimestamp(let timestamp): read.timestamp >= timestamp
                }
            guard !isWithin else { return nil }
            return violation(
                "read t\(read.number), begun at \(read.begun) with bound \(read.bound), ran at \(read.timestamp)",
                read.number)
        }
    }
}

/// Every read at `T` saw what a replay of the log in timestamp order has at `T` (R8, R10).
public struct SnapshotReadChecker: HistoryChecker {
    public init() {}

    public func check(_ history: History) -> [Violation] {
        var replay = Replay(history)
        var violations: [Violation] = []
        for read in history.reads.sorted(by: { ($0.timestamp, $0.number) < ($1.timestamp, $1.number) }) {
            _ = replay.advance(through: read.timestamp)
            for observation in read.observations {
                let expected = replay.value(of: observation.key)
                guard observation.value != expected else { continue }
                violations.append(
                    violation(
                        "read t\(read.number) at \(read.timestamp) saw \(observation.value) in \(observation.key); as "
                            + "of then t\(expected.writer) had written \(expected) there last", read.number,
                        expected.writer, observation.value.writer))
            }
        }
        return violations
    }
}

/// The largest timestamp of all that was over by some moment; asked for later and later moments.
private struct LargestTimestamp {
    typealias Entry = (timestamp: Timestamp, number: Int, at: Timestamp)

    private var entries: [Entry] = []
    private var position = 0
    private var largest: Entry?

    mutating func add(_ timestamp: Timestamp, of number: Int, at time: Timestamp) {
        entries.append((timestamp, number, time))
    }

    mutating func sort() {
        entries.sort { ($0.at, $0.number) < ($1.at, $1.number) }
    }

    mutating func largest(before moment: Timestamp) -> Entry? {
        while position < entries.count, entries[position].at < moment {
            if entries[position].timestamp > largest?.timestamp ?? Timestamp(rawValue: .min) {
                largest = entries[position]
            }
            position += 1
        }
        return largest
    }
}
