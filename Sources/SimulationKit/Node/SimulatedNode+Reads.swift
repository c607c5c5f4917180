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
            timestamp = try tracker.readTimestamp(for: bound, over: shards, at: clock.now())
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

    var notServing: TransactionError { TransactionError(.cannotConnectNow, "the node is starting") }

    private func read(
        _ keys: [RowKey], of shards: [ShardID], at timestamp: Timestamp, then: @escaping (ReadResult) -> Void
    ) {
        var values: [RowKey: Value] = [:]
        var missing = shards.count
        var hasAnswered = false
        for shard in shards {
            let local = keys.filter { $0.shard == shard }
            whenSafe(timestamp, on: shard) { [self] in
                runFenced([.takeSnapshot, .read(local, at: timestamp)], on: shard) { result in
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

    /// R8: a snapshot at `timestamp` is taken only when nothing at or before it can become visible any more.
    private func whenSafe(_ timestamp: Timestamp, on shard: ShardID, then: @escaping () -> Void) {
        switch tracker.readRequested(at: timestamp, on: shard) {
        case .wait(let waiter) where bug != .readIgnoringSafeTime: waitingReads[waiter] = then
        case .wait, .proceed: then()
        }
    }

    func retire(_ timestamp: Timestamp, on shard: ShardID) {
        for waiter in tracker.retire(timestamp, on: shard) {
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
