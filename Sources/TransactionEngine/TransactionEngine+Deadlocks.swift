import EventLoops
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Whoever has sessions on several shards that may wait for others' locks: a node of the wait-for graph.
protocol LockOwner: Actor {
    /// The later it begins, the larger.
    nonisolated var number: UInt64 { get }

    /// Ends the waits of its sessions; they fail with `reason`.
    func abortWaiting(because reason: TransactionError) async
}

/// Deadlocks across shards: found by one wait-for graph of all shards, while somebody has waited long enough.
///
/// Those within a shard are PostgreSQL's own to find, after its `deadlock_timeout`; they are in the graph too, so the
/// sooner of the two ends them.
extension TransactionEngine {
    /// How often it is looked whether anyone waits, and how long one waits before the shards are asked.
    private static let deadlockInterval = Duration.milliseconds(200)

    /// Looks for deadlocks until the engine stops: each is seen twice, so it lasts three intervals at most.
    func detectDeadlocks() async {
        var earlier = WaitForGraph()
        while (try? await loop.sleep(until: .now + Self.deadlockInterval)) != nil {
            // A wait that began after the last look is given until the next one.
            guard hasLongRequests() else {
                earlier = WaitForGraph()
                continue
            }
            let graph = await waitForGraph()
            for (victim, cycle) in graph.intersection(earlier).victims() { await abort(victim, in: cycle) }
            earlier = graph
        }
    }

    private func waitForGraph() async -> WaitForGraph {
        var graph = WaitForGraph()
        for shard in shards {
            // A shard that can't be asked has no say: its waits end by their deadlines.
            guard let rows = try? await recovery.run([ShardSchema.waits], on: shard)[0] else { continue }
            for row in rows {
                guard let waiter = try? row.int64(0), let blocker = try? row.int64(1),
                    let waiting = owner(of: Int32(waiter), on: shard),
                    let blocking = owner(of: Int32(blocker), on: shard)
                else { continue }
                graph.add(WaitForGraph.Edge(waiter: waiting.number, blocker: blocking.number))
            }
        }
        return graph
    }

    private func abort(_ victim: UInt64, in cycle: [UInt64]) async {
        guard let owner = owner(victim) else { return }
        let chain = (cycle + [victim]).map { "transaction \($0)" }.joined(separator: " waits for ")
        await owner.abortWaiting(
            because: TransactionError(
                .deadlockDetected, "deadlock detected across shards", detail: chain,
                hint: "the transaction might succeed if retried"))
        statistics.deadlocks += 1
    }
}
