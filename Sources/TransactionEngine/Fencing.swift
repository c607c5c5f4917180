import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// The epochs of nodes that are over: nobody coordinates any more what their incarnations left (R4).
struct FencedEpochs: Sendable {
    private var newest: [NodeID: Epoch] = [:]

    /// That incarnation is over, and all that the node had before.
    mutating func insert(_ incarnation: Incarnation) {
        newest[incarnation.node] = max(newest[incarnation.node] ?? incarnation.epoch, incarnation.epoch)
    }

    func contains(_ id: TransactionID) -> Bool { newest[id.node].map { id.epoch <= $0 } ?? false }

    /// Each node's last incarnation of them, in the order of the nodes' numbers.
    var incarnations: [Incarnation] { newest.map { Incarnation($0.key, $0.value) }.sorted() }
}

/// Ends incarnations of nodes on a shard: from then on they can finish nothing there, and nothing of theirs is left.
///
/// Any node may do it, several at once, and again at any time. The order is what carries correctness (R4, R6):
/// 1. *Tell* the shard, and have that committed: they open no session any more.
/// 2. *End their sessions* and see them gone: what they were about to do is done now, or never will be.
/// 3. *Tell it again*: the answer comes when the synchronous standby has all that those sessions had committed, also
///    what they did not wait for any more.
/// 4. *Settle* what they had prepared: after 2 nothing can become prepared any more, so nothing is left out.
///
/// Shards may be taken one after the other: what is settled on one is decided once, by its home shard's commit log
/// (R3), whether that has been told or not.
struct Fencing: Sendable {
    let recovery: OrphanRecovery

    /// All of it, on any session.
    ///
    /// - Returns: how many prepared transactions were settled.
    func fence(_ fenced: FencedEpochs, on shard: ShardID) async throws(ShardError) -> Int {
        try await recovery.withConnection(to: shard) { connection throws(ShardError) in
            try await Self.endSessions(of: fenced, by: connection)
        }
        return try await settle(fenced, on: shard)
    }

    /// Steps 1 to 3.
    static func endSessions(
        of fenced: FencedEpochs, by connection: ShardConnection
    ) async throws(ShardError) {
        // In one order, so that two that do it at once don't wait for each other.
        let incarnations = fenced.incarnations
        let tell = incarnations.map { ShardSchema.fence($0.node, upTo: $0.epoch) }
        try await change(tell, by: connection)
        for incarnation in incarnations {
            let end = ShardSchema.endSessions(of: incarnation.node, upTo: incarnation.epoch)
            _ = try await connection.run([end], deadline: .now + patience)
        }
        try await change(tell, by: connection)
    }

    /// Step 4. What can't be settled keeps nothing else from being.
    func settle(_ fenced: FencedEpochs, on shard: ShardID) async throws(ShardError) -> Int {
        try await settle(recovery.orphans(on: shard, fenced: fenced), on: shard)
    }

    /// Settles those, and throws the first error afterwards.
    func settle(_ orphans: [TransactionID], on shard: ShardID) async throws(ShardError) -> Int {
        var failure: ShardError?
        for id in orphans {
            do throws(ShardError) {
                try await recovery.settle(id, on: shard)
            } catch {
                failure = failure ?? error
            }
        }
        if let failure { throw failure }
        return orphans.count
    }

    /// Runs statements whose effects are relied on, so that the synchronous standby must have them.
    static func change(
        _ statements: [SQLStatement], by connection: ShardConnection
    ) async throws(ShardError) {
        _ = try await connection.runUncancelled([Statement.flushCommits] + statements, within: patience)
    }

    private static let patience = Duration.seconds(30)
}

extension TransactionEngine {
    /// Fences an incarnation of another node, which is over, on every shard. A shard that does not answer is asked
    /// again until it does.
    ///
    /// - Returns: false when this engine has stopped, or is fenced itself, before it was done.
    func fence(_ incarnation: Incarnation) async -> Bool {
        // Before any shard is told: whichever standby is promoted from here on is told when it is taken over.
        fencedEpochs.insert(incarnation)
        var fenced = FencedEpochs()
        fenced.insert(incarnation)
        var left = shards
        var pause = Backoff()
        while true {
            left = await fence(fenced, on: left)
            if left.isEmpty { break }
            guard !isStopped, !isFenced, (try? await pause.wait(on: loop)) != nil else { return false }
        }
        logger.notice("\(incarnation) is fenced on every shard")
        return true
    }

    /// One attempt on all shards at once; returns those where it failed.
    private func fence(_ fenced: FencedEpochs, on shards: [ShardID]) async -> [ShardID] {
        let fencing = Fencing(recovery: recovery)
        return await withTaskGroup(of: (shard: ShardID, result: Result<Int, ShardError>).self) { group in
            for shard in shards {
                group.addTask(executorPreference: loop) {
                    do throws(ShardError) {
                        return (shard, .success(try await fencing.fence(fenced, on: shard)))
                    } catch {
                        return (shard, .failure(error))
                    }
                }
            }
            var left: [ShardID] = []
            for await (shard, result) in group {
                switch result {
                case .success(let settled): statistics.recovered += settled
                case .failure(let error):
                    logger.warning("\(fenced) can't be fenced on shard \(shard) yet: \(error.message)")
                    left.append(shard)
                }
            }
            return left
        }
    }
}

extension FencedEpochs: CustomStringConvertible {
    var description: String { incarnations.map(\.description).joined(separator: "; ") }
}
