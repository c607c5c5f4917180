import EventLoops
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Whoever has sessions on several shards that may wait for others' locks: a node of the wait-for graph.
protocol LockOwner: Actor {
    /// Unique in the cluster. The later it begins, the larger, as far as the nodes' clocks agree.
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
    /// How long peers have to say whose sessions are theirs.
    private static let peersPatience = Duration.milliseconds(200)

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
            for (victim, cycle) in graph.intersection(earlier).victims() {
                if owner(victim) == nil { tellPeers(.deadlock(cycle)) } else { abortFirst(of: cycle) }
            }
            earlier = graph
        }
    }

    private func waitForGraph() async -> WaitForGraph {
        var waits: [(waiter: SessionID, blocker: SessionID)] = []
        for shard in shards {
            // A shard that can't be asked has no say: its waits end by their deadlines.
            guard let rows = try? await recovery.run([ShardSchema.waits], on: shard)[0] else { continue }
            for row in rows {
                guard let waiter = try? row.int64(0), let blocker = try? row.int64(1) else { continue }
                waits.append((SessionID(shard, Int32(waiter)), SessionID(shard, Int32(blocker))))
            }
        }
        await findPeersOwners(of: waits.flatMap { [$0.waiter, $0.blocker] })
        var graph = WaitForGraph()
        for wait in waits {
            guard let waiter = number(of: wait.waiter), let blocker = number(of: wait.blocker) else { continue }
            graph.add(WaitForGraph.Edge(waiter: waiter, blocker: blocker))
        }
        return graph
    }

    /// The number of the transaction that works in that session, here or on another node.
    private func number(of session: SessionID) -> UInt64? {
        owner(of: session.process, on: session.shard)?.number ?? peerWork.owners[session]
    }

    /// Asks peers about the sessions that are nobody's here.
    private func findPeersOwners(of sessions: [SessionID]) async {
        peerWork.owners = [:]
        let strangers = Set(sessions.filter { owner(of: $0.process, on: $0.shard) == nil })
        guard !strangers.isEmpty else { return }
        peerWork.ownersMissing = Set(peers.peerIncarnations)
        tellPeers(.findOwners(Array(strangers)))
        let deadline = ContinuousClock.now + Self.peersPatience
        while !peerWork.ownersMissing.isEmpty, .now < deadline {
            guard (try? await loop.sleep(for: .milliseconds(2))) != nil else { return }
        }
    }

    /// Ends the first of the transactions, each of which waits for the next one, wherever it is: its own node may have
    /// no reason to look.
    func abortFirst(of cycle: [UInt64]) {
        guard let victim = cycle.first, let owner = owner(victim) else { return }
        let chain = (cycle + [victim]).map { "transaction \($0)" }.joined(separator: " waits for ")
        let reason = TransactionError(
            .deadlockDetected, "deadlock detected across shards", detail: chain,
            hint: "the transaction might succeed if retried")
        statistics.deadlocks += 1
        Task(executorPreference: loop) { await owner.abortWaiting(because: reason) }
    }
}
