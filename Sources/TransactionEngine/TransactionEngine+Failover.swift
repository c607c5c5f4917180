import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// What an engine does when a standby of a shard was promoted, before it serves clients there (decision 0017).
extension TransactionEngine {
    /// Takes the shard's primary over, unless that has been done. `lock` is a session there that holds the lock.
    ///
    /// The order of ``Takeover``, for one shard: the standby has the lock of nobody, may lack the epoch, and may have
    /// prepared what the former primary had already answered to have committed.
    func takeOver(_ primary: ShardPrimary, by lock: ShardConnection) async throws(EngineStartError) {
        let shard = primary.shard
        // The lock's own session was opened through `primary`: were there a newer timeline by now, it would be closed.
        let timeline = await primary.newest
        guard await primary.takenOver < timeline else { return }
        let open = ShardSchema.openSession(node: configuration.node, epoch: epoch)
        let raise = ShardSchema.raiseEpoch(of: configuration.node, to: epoch)
        do throws(ShardError) {
            try await Fencing.change([open, raise], by: lock)
            try await Fencing.endSessions(of: fencedEpochs, by: lock)
        } catch {
            throw EngineStartError(error, shard: shard)
        }
        try await record(timeline, of: shard)
        do throws(ShardError) {
            let left = try await recovery.orphans(on: shard, fenced: fencedEpochs, own: incarnation) {
                await self.liveTransactions(on: shard)
            }
            statistics.recovered += try await Fencing(recovery: recovery).settle(left, on: shard)
        } catch {
            throw EngineStartError(error, shard: shard)
        }
        try await checkNothingIsLost(on: shard, lock)
        try await Takeover.warnOfAsynchronousStandbys(configuration, shard, lock, logger)
        await primary.tookOver(timeline)
        logger.notice("shard \(shard) is taken over on timeline \(timeline)")
    }

    /// Tells the shards, and at least one that is another: a coordinator that starts later is to refuse the former
    /// primary. Another one that knows a later epoch shows that this engine is fenced, which the standby may not know.
    private func record(_ timeline: Int64, of shard: ShardID) async throws(EngineStartError) {
        let record = ShardSchema.recordTimeline(timeline, of: shard)
        var others = 0
        var failure: EngineStartError?
        for witness in shards {
            do throws(ShardError) {
                try await proveEpoch(on: witness, for: [record])
                if witness != shard { others += 1 }
            } catch {
                failure = EngineStartError(error, shard: witness)
                if let failure, witness == shard || isFenced { throw failure }
            }
        }
        if others == 0, let failure { throw failure }
    }

    /// Whether the new primary has the last that the former one had answered to have committed, and with it all before;
    /// if not, there is nothing to be done but to say so.
    private func checkNothingIsLost(on shard: ShardID, _ lock: ShardConnection) async throws(EngineStartError) {
        guard let newest = newestCommits[shard] else { return }
        let oldest = try await Takeover.query(ShardSchema.oldestReadable, on: shard, lock) { row throws(ShardError) in
            Timestamp(rawValue: try row.int64(0))
        }[0]
        let id = TransactionID(home: shard, epoch: epoch, commitTimestamp: newest)
        let isThere = try await Takeover.query(ShardSchema.decision(of: id), on: shard, lock) {
            row throws(ShardError) in try row.bool(0)
        }.first
        guard newest > oldest, isThere != true else { return }
        logger.critical(
            """
            shard \(shard) has lost what was committed last, up to \(newest): the standby that was promoted was not \
            synchronous
            """)
    }
}
