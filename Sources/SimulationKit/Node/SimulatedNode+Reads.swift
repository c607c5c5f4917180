import BoundedTime
import TransactionCore
import TwoPhaseCommit

extension SimulatedNode {
    /// What a read returns: its timestamp, and the values in the order of their keys.
    typealias ReadResult = Result<(timestamp: Timestamp, values: [Value]), TransactionError>

    /// Reads `keys` at one timestamp within `bound`, without locks.
    func read(_ keys: [RowKey], bound: ReadBound, number: Int, then: @escaping (ReadResult) -> Void) {
        guard phase == .serving else { return then(.failure(notServing)) }
        let shards = Set(keys.map(\.shard)).sorted()
        let timestamp: Timestamp
        do {
            let now = try clock.now()
            if bound == .strong, !closed.isSole, bug != .strongReadAskingNobody {
                return readStrongly(keys, of: shards, at: now, number: number, then: then)
            }
            timestamp = tracker.readTimestamp(for: bound, over: shards, at: now)
        } catch {
            cluster.counts.clockRefusals += 1
            return then(.failure(error.transactionError))
        }
        note("reads, \(bound.name)", number: number, timestamp: timestamp)
        // What this node chose, read or acknowledged needs no waiting for: no later commit gets it.
        guard timestamp > tracker.strongReadTimestamp else {
            return read(keys, of: shards, at: timestamp, then: then)
        }
        waitOut(timestamp) { [self] result in
            switch result {
            case .success: read(keys, of: shards, at: timestamp, then: then)
            case .failure(let error): then(.failure(error.transactionError))
            }
        }
    }

    /// What peers have acknowledged by now they say in a round (R9).
    private func readStrongly(
        _ keys: [RowKey], of shards: [ShardID], at now: TimestampInterval, number: Int,
        then: @escaping (ReadResult) -> Void
    ) {
        note("asks peers", number: number)
        afterRound(upTo: now.latest) { [self] upTo in
            let timestamp = min(upTo, tracker.strongReadTimestamp)
            note("reads, strong", number: number, timestamp: timestamp)
            read(keys, of: shards, at: timestamp, then: then)
        }
    }

    var notServing: TransactionError { TransactionError(.cannotConnectNow, "the node is starting") }

    private func read(
        _ keys: [RowKey], of shards: [ShardID], at timestamp: Timestamp, then: @escaping (ReadResult) -> Void
    ) {
        // This and the requests below are one step: no peer's message comes between.
        guard closed.isClosed(upTo: timestamp) else {
            return afterRound(upTo: timestamp) { [self] _ in read(keys, of: shards, at: timestamp, then: then) }
        }
        var values: [RowKey: Value] = [:]
        var missing = shards.count
        var hasAnswered = false
        for shard in shards {
            let local = keys.filter { $0.shard == shard }
            whenSafe(timestamp, on: shard) { [self] in
                read(local, on: shard, at: timestamp, mayBePlain: true) { result in
                    guard !hasAnswered else { return }
                    switch result {
                    case .success(let answers):
                        if case .values(let read)? = answers.last {
                            for (key, value) in zip(local, read) { values[key] = value }
                        }
                        missing -= 1
                        if missing == 0 { then(.success((timestamp, keys.map { values[$0]! }))) }
                    case .failure(let failure):
                        hasAnswered = true
                        then(.failure(failure.error))
                    }
                }
            }
        }
    }

    /// Reads the plain tables when what they hold is the state at `timestamp`, and again when that is so no more (R10).
    private func read(
        _ keys: [RowKey], on shard: ShardID, at timestamp: Timestamp, mayBePlain: Bool,
        then: @escaping (PipelineResult) -> Void
    ) {
        let isPlain = mayBePlain && tracker.isCurrent(at: timestamp, on: shard)
        let seen = isPlain ? Timestamp(rawValue: .max) : timestamp
        runFenced([.takeSnapshot, .read(keys, at: seen)], on: shard) { [self] result in
            if isPlain, !tracker.isCurrent(at: timestamp, on: shard), bug != .plainReadNotLookedAtAgain {
                return read(keys, on: shard, at: timestamp, mayBePlain: false, then: then)
            }
            then(result)
        }
    }

    /// R8: a snapshot at `timestamp` is taken only when nothing at or before it can become visible any more.
    private func whenSafe(_ timestamp: Timestamp, on shard: ShardID, then: @escaping () -> Void) {
        switch tracker.readRequested(at: timestamp, on: shard) {
        case .wait(let waiter) where bug != .readIgnoringSafeTime: waitingReads[waiter] = then
        case .wait, .proceed: then()
        }
    }

    func retire(_ timestamp: Timestamp, on shard: ShardID) {
        release(tracker.retire(timestamp, on: shard))
        perform(closed.retired(timestamp, on: shard))
    }

    func release(_ waiters: [SafeTimeTracker.WaiterID]) {
        for waiter in waiters {
            if let proceed = waitingReads.removeValue(forKey: waiter) { after(0, proceed) }
        }
    }
}

extension ReadBound {
    /// The name of Spanner's read mode.
    var name: String {
        switch self {
        case .strong: "strong"
        case .at: "read timestamp"
        case .exactStaleness: "exact staleness"
        case .maxStaleness: "max staleness"
        case .minTimestamp: "min timestamp"
        }
    }
}
