import EventLoops
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// Peers that are present and hold others up all the same: the node may accuse them, so that they are fenced.
///
/// A peer does so when it does not answer, and when it does not come to the end of a commit that reads wait for. The
/// latter counts only if every shard flushes what this engine asks it to: then it is the peer that can't reach one.
extension TransactionEngine {
    /// How long a commit may take that the shards have no part in delaying.
    private static let commitPatience = Duration.seconds(2)
    private static let probePatience = Duration.seconds(1)

    /// Peers that have held others up for at least `duration`.
    public func holdingUp(for duration: Duration) -> [Incarnation] {
        let since = peerWork.unansweredSince.mapValues(\.since).merging(peerWork.hangingSince, uniquingKeysWith: min)
        return since.filter { .now - $0.value >= duration }.keys.sorted()
    }

    /// Looks who holds others up; to be called again and again.
    func lookForHoldUps() {
        let now = ContinuousClock.now
        // One question at a time: there is nearly always one under way.
        let unanswered = peers.unanswered.mapValues { PeerWork.Question.timestamps($0) }
            .merging((peerWork.catalog?.unanswering ?? []).map { ($0, .catalog) }) { timestamps, _ in timestamps }
        let known = peerWork.unansweredSince
        peerWork.unansweredSince = Dictionary(
            uniqueKeysWithValues: unanswered.map { peer, question in
                let earlier = known[peer].flatMap { $0.question == question ? $0.since : nil }
                return (peer, (question, earlier ?? now))
            })
        let inFlight = peers.inFlight.flatMap { $0.parts }
        peerWork.inFlightSince = Dictionary(
            inFlight.map { ($0, peerWork.inFlightSince[$0] ?? now) }, uniquingKeysWith: min)
        let hanging = hanging
        peerWork.hangingSince = peerWork.hangingSince.filter { hanging.contains($0.key) }
        guard !hanging.isEmpty, peerWork.probe == nil else { return }
        peerWork.probe = Task(executorPreference: loop) { await self.probeShards() }
    }

    /// Peers with a commit that others have waited for too long.
    private var hanging: Set<Incarnation> {
        let limit = ContinuousClock.now - Self.commitPatience
        let old = Set(peerWork.inFlightSince.filter { $0.value <= limit }.keys)
        return Set(peers.inFlight.filter { !$0.parts.isDisjoint(with: old) }.map(\.peer))
    }

    /// Has every shard commit something, and if all do, holds to what is hanging still.
    private func probeShards() async {
        let statement = ShardSchema.raiseEpoch(of: configuration.node, to: epoch)
        let (recovery, patience) = (recovery, Self.probePatience)
        let isWell = await withTaskGroup(of: Bool.self) { group in
            for shard in shards {
                group.addTask(executorPreference: loop) {
                    let answer = try? await recovery.withConnection(to: shard) { connection throws(ShardError) in
                        try await connection.runUncancelled([statement], within: patience)
                    }
                    return answer != nil
                }
            }
            var isWell = true
            for await answers in group { isWell = isWell && answers }
            return isWell
        }
        // From now on: before, it may have been a shard's fault.
        let known = isWell ? peerWork.hangingSince : [:]
        peerWork.hangingSince = Dictionary(
            uniqueKeysWithValues: (isWell ? hanging : []).map { ($0, known[$0] ?? .now) })
        // Not again at once: each takes a flush.
        try? await loop.sleep(for: patience)
        peerWork.probe = nil
    }
}
