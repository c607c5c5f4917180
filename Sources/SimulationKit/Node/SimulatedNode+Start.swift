import TransactionCore
import TwoPhaseCommit

/// How a coordinating process takes the shards over. The order of the steps carries R6 and R8:
///
/// 1. Hold the coordinator lock of every shard: nobody else is between these steps.
/// 2. Raise the epoch on every shard and wait until the sessions of older ones have ended: nothing of an earlier
///    process can be prepared, committed or read any more.
/// 3. Settle everything that stands prepared.
/// 4. Read the newest commit timestamp of every shard: it is final, because nothing older can commit any more.
/// 5. Serve.
extension SimulatedNode {
    func start() {
        note("started")
        lockShards(cluster.shards.map(\.id)[...])
    }

    /// One shard after the other, in everybody's same order, so that two starting processes can't block each other.
    private func lockShards(_ shards: ArraySlice<ShardID>) {
        guard let shard = shards.first else { return takeOver() }
        let connection = connect(to: shard)
        connection.run([.takeCoordinatorLock]) { [self] result in
            guard case .success = result else {
                return after(retryDelay) { [self] in lockShards(shards) }
            }
            lockConnections.append(connection)
            lockShards(shards.dropFirst())
        }
    }

    /// An epoch whose raising got lost on the way may stand on some shards and not on others, and another node may have
    /// it by now: it is never raised again, but exceeded.
    private func takeOver() {
        var newest = epoch
        attempt(
            .readEpoch,
            then: { answer in
                if case .epoch(let told) = answer { newest = max(newest, told) }
            },
            whenAllDone: { [self] in
                epoch = Epoch(rawValue: newest.rawValue + 1)
                guard bug != .epochNotFenced else { return settle() }
                let isAwaited = bug != .endOfSessionsNotAwaited
                attempt(.raiseEpoch(epoch, isAwaited: isAwaited), then: { _ in }, whenAllDone: { [self] in settle() })
            })
    }

    /// Runs one statement on every shard; begins to take over again when one of them did not answer it.
    private func attempt(
        _ statement: Statement, then: @escaping (Answer) -> Void, whenAllDone: @escaping () -> Void
    ) {
        var hasFailed = false
        onEveryShard(
            { [self] shard, done in
                let connection = connect(to: shard)
                connection.run([statement]) { result in
                    connection.close()
                    if case .success(let answers) = result { then(answers[0]) } else { hasFailed = true }
                    done()
                }
            },
            then: { [self] in
                guard hasFailed else { return whenAllDone() }
                after(retryDelay) { [self] in takeOver() }
            })
    }

    private func settle() {
        guard bug != .startWithoutSettling else { return readNewestTimestamps() }
        onEveryShard(
            { [self] shard, done in
                runUntilDone(.listPrepared, on: shard) { [self] answer in
                    guard case .prepared(let names) = answer else { return done() }
                    recover(Recovery.orphans(among: names, live: live), on: shard, then: done)
                }
            }, then: { [self] in readNewestTimestamps() })
    }

    private func readNewestTimestamps() {
        var newest: [(shard: ShardID, timestamp: Timestamp)] = []
        onEveryShard(
            { [self] shard, done in
                runUntilDone(.readNewestTimestamp, on: shard) { answer in
                    if case .timestamp(let timestamp) = answer { newest.append((shard, timestamp)) }
                    done()
                }
            }, then: { [self] in serve(after: newest) })
    }

    private func serve(after newest: [(shard: ShardID, timestamp: Timestamp)]) {
        do {
            for (shard, timestamp) in newest { try clock.check(newestTimestamp: timestamp, on: shard) }
        } catch {
            cluster.counts.clockRefusals += 1
            note("clock refused: behind the newest timestamp")
            return after(5 * millisecond) { [self] in readNewestTimestamps() }
        }
        let forgets = bug == .timestampsGoBackOnRestart
        tracker = SafeTimeTracker(node: id, newest: forgets ? .zero : newest.map(\.timestamp).max() ?? .zero)
        phase = .serving
        note("serving", timestamp: tracker.closed)
        sweep()
    }

    /// Runs `body` for every shard at once, then `then`.
    func onEveryShard(_ body: (ShardID, _ done: @escaping () -> Void) -> Void, then: @escaping () -> Void) {
        var missing = cluster.shards.count
        for shard in cluster.shards {
            body(shard.id) {
                missing -= 1
                if missing == 0 { then() }
            }
        }
    }
}
