import TransactionCore
import TwoPhaseCommit

/// How a coordinating process joins others. The order of the steps carries R6, R8 and R9:
///
/// 1. Raise its epoch in the metadata, make itself known there, and only then read who else is present: of two that
///    join at once, one at least knows of the other.
/// 2. Fence everything of every node that is not present: its own earlier lives, and what is over of the others. Which
///    nodes there are the metadata says, read in the same moment: one that has raised its epoch and not reached the
///    shards yet is fenced before it does, and one that raises it later finds this one present.
/// 3. Read the newest commit timestamp of every shard: what is over can't commit any more.
/// 4. Serve.
///
/// From the first step on it answers peers that it is silent, and takes all who are present for active.
///
/// A node that vanishes afterwards is fenced by every other for itself.
extension SimulatedNode {
    func join() {
        note("started")
        cluster.metadata.openSession(for: self) { [self] session, epoch in
            self.epoch = epoch
            cluster.metadata.keepAlive(session, of: self)
            cluster.metadata.appear(self, session) { [self] in
                cluster.metadata.watch(for: self) { [self] present, epochs in
                    note("present")
                    let peers = present.filter { $0.node != id }
                    closed = ClosedTimestamps(incarnation, peers: peers, &tracker)
                    hasJoined = true
                    cluster.onEpochChosen(self)
                    after(0) { [self] in fenceAbsent(peers, epochs) }
                }
            }
        }
    }

    private func fenceAbsent(_ peers: [Incarnation], _ epochs: [NodeID: Epoch]) {
        var over = epochs
        over[id] = Epoch(rawValue: epoch.rawValue - 1)
        for peer in peers { over[peer.node] = Epoch(rawValue: peer.epoch.rawValue - 1) }
        if bug == .startFencingWhatShardsKnow {
            for (node, epoch) in over where node != id {
                over[node] = cluster.shards.compactMap { $0.storage.epochs[node] }.max().map { min($0, epoch) }
            }
        }
        let fenced = over.map { Incarnation($0.key, $0.value) }.sorted()
        fenceShards(fenced[...]) { [self] in
            for life in fenced { fencedEpochs[life.node] = max(fencedEpochs[life.node] ?? life.epoch, life.epoch) }
            readNewest(of: cluster.shards.map(\.id)[...], .zero) { [self] newest in
                serve(after: newest) ? tick() : stop("its clock is wrong")
            }
        }
    }

    private func readNewest(
        of shards: ArraySlice<ShardID>, _ newest: Timestamp, then: @escaping (Timestamp) -> Void
    ) {
        guard let shard = shards.first else { return then(newest) }
        runUntilDone(.readNewestTimestamp, on: shard) { [self] answer in
            guard case .timestamp(let timestamp) = answer else { return }
            readNewest(of: shards.dropFirst(), max(newest, timestamp), then: then)
        }
    }

    /// The metadata has told of another node.
    func presenceChanged(_ change: PresenceChange) {
        switch change {
        case .appeared(let peer) where peer.node == id && peer != incarnation: stop("another process is node \(id)")
        case .appeared(let peer): closed.appeared(peer, &tracker)
        case .vanished(let peer) where peer.node != id: fence(peer)
        case .vanished: break
        }
    }

    // MARK: Fencing

    /// Nothing of a node that has vanished can be begun, committed or read on any shard any more, before this one takes
    /// it for gone.
    private func fence(_ peer: Incarnation) {
        note("fences node \(peer.node)")
        cluster.counts.fences += 1
        if bug == .deadTakenForSilent {
            perform(closed.fenced(peer, readingFrom: tracker.strongReadTimestamp, &tracker))
        }
        fenceShards([peer]) { [self] in readFromNow(after: peer) }
    }

    private func readFromNow(after peer: Incarnation) {
        let again = { [self] in after(retryDelay) { [self] in readFromNow(after: peer) } }
        guard let now = try? clock.now() else { return again() }
        waitOut(now.latest) { [self] result in
            guard case .success = result else { return again() }
            note("has fenced node \(peer.node)")
            fencedEpochs[peer.node] = max(fencedEpochs[peer.node] ?? peer.epoch, peer.epoch)
            let timestamp = bug == .fencedWithoutTimestamp ? .zero : now.latest
            perform(closed.fenced(peer, readingFrom: timestamp, &tracker))
        }
    }

    /// One life after the other, up to each: no session of theirs on any shard, and then nothing prepared.
    private func fenceShards(_ lives: ArraySlice<Incarnation>, then: @escaping () -> Void) {
        guard let life = lives.first else { return then() }
        let next = { [self] in fenceShards(lives.dropFirst(), then: then) }
        let end = { [self] (then: @escaping () -> Void) in endSessions(upTo: life, then: then) }
        let settle = { [self] (then: @escaping () -> Void) in settleAll(upTo: life, then: then) }
        switch bug {
        case .recoveryBeforeFencing: settle { end(next) }
        case .fencingWithoutSettling: end(next)
        default: end { settle(next) }
        }
    }

    private func endSessions(upTo life: Incarnation, then: @escaping () -> Void) {
        let epoch = Epoch(rawValue: life.epoch.rawValue + 1)
        let end: Statement.SessionsEnd = bug == .fencingWithoutEndingSessions ? .left : .awaited
        onEveryShard(
            { [self] shard, done in
                runUntilDone(.raiseEpoch(epoch, of: life.node, end), on: shard) { _ in done() }
            }, then: then)
    }

    private func settleAll(upTo life: Incarnation, then: @escaping () -> Void) {
        onEveryShard(
            { [self] shard, done in
                runUntilDone(.listPrepared, on: shard) { [self] answer in
                    guard case .prepared(let names) = answer else { return done() }
                    let orphans = Recovery.orphans(among: names, live: live)
                    recover(orphans.filter { $0.node == life.node && $0.epoch <= life.epoch }, on: shard, then: done)
                }
            }, then: then)
    }
}
