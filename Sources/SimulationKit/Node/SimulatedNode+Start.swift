import TransactionCore
import TwoPhaseCommit

/// How a coordinating process takes the shards over that is to be the only one. The order of steps carries R6 and R8:
///
/// 1. Hold the coordinator lock of every shard: nobody else is between these steps.
/// 2. Raise the epoch on every shard and wait until the sessions of older ones have ended: nothing of an earlier
///    process can be prepared, committed or read any more.
/// 3. Settle everything that stands prepared.
/// 4. Read the newest commit timestamp of every shard: it is final, because nothing older can commit any more.
/// 5. Serve.
///
/// Steps 2 and 4 run in the sessions that hold the locks. A process that lost one of them, because it was paused
/// perhaps, thereby fails instead of raising the epoch under the next one's hands, and begins again.
extension SimulatedNode {
    func startAlone() {
        note("started")
        lockShards(cluster.shards.map(\.id)[...])
    }

    /// One shard after the other, in everybody's same order, so that two starting processes can't block each other.
    private func lockShards(_ shards: ArraySlice<ShardID>) {
        guard let shard = shards.first else { return raiseEpoch() }
        let connection = connect(to: shard)
        connection.run([.takeCoordinatorLock]) { [self] result in
            guard case .success = result else { return startAgain() }
            lockConnections.append(connection)
            lockShards(shards.dropFirst())
        }
    }

    private func startAgain() {
        for connection in lockConnections { connection.close() }
        lockConnections = []
        after(retryDelay) { [self] in startAlone() }
    }

    private func raiseEpoch() {
        runUnderLocks(.readEpoch) { [self] answers in
            epoch = answers.reduce(epoch) { newest, answer in
                if case .epoch(let told) = answer { max(newest, told) } else { newest }
            }
            epoch = Epoch(rawValue: epoch.rawValue + 1)
            guard bug != .epochNotFenced else { return settle() }
            cluster.onEpochChosen(self)
            after(0) { [self] in
                let end: Statement.SessionsEnd = bug == .endOfSessionsNotAwaited ? .told : .awaited
                runUnderLocks(.raiseEpoch(epoch, of: nil, end)) { [self] _ in settle() }
            }
        }
    }

    /// Runs one statement in every session that holds a lock; starts again when one of them was lost.
    private func runUnderLocks(_ statement: Statement, then: @escaping ([Answer]) -> Void) {
        let connections = lockConnections
        var answers: [Answer] = []
        var missing = connections.count
        for connection in connections {
            (bug == .epochRaisedWithoutLock ? connect(to: connection.shard.id) : connection).run([statement]) {
                result in
                if case .success(let answer) = result { answers += answer }
                missing -= 1
                guard missing == 0 else { return }
                answers.count == connections.count ? then(answers) : self.startAgain()
            }
        }
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
        runUnderLocks(.readNewestTimestamp) { [self] answers in
            let newest = answers.reduce(Timestamp.zero) { newest, answer in
                if case .timestamp(let timestamp) = answer { max(newest, timestamp) } else { newest }
            }
            tracker = SafeTimeTracker(node: id, newest: .zero)
            closed = ClosedTimestamps(incarnation, peers: [], &tracker)
            if !serve(after: newest) { startAgain() }
        }
    }

    /// Begins to serve, unless the newest timestamp of the shards proves the clock wrong.
    func serve(after newest: Timestamp) -> Bool {
        do {
            try clock.check(newestTimestamp: newest, on: cluster.shards[0].id)
        } catch {
            cluster.counts.clockRefusals += 1
            note("clock refused: behind the newest timestamp")
            return false
        }
        tracker.begins(after: bug == .timestampsGoBackOnRestart ? .zero : newest)
        phase = .serving
        note("serving", timestamp: tracker.closed)
        sweep()
        return true
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
