import BoundedTime
import EventLoops
import Logging
import ShardBackend
import ShardSchema
import TransactionCore

/// How a coordinator takes over a cluster, before it serves anyone.
///
/// The order is what carries correctness (R4, R6, R8):
/// 1. *Lock* every shard: no other coordinator starts from here on, and the former one's locks are gone.
/// 2. *Raise the epoch* on every shard: the former coordinator opens no session any more.
/// 3. *End its sessions* and see them gone: what it was about to do is done now, or never will be.
/// 4. *Raise it again*: the answer comes when the synchronous standby has all that those sessions had committed, also
///    what they did not wait for any more.
/// 5. *Settle* everything prepared: after 3 nothing can become prepared any more, so nothing is left out.
/// 6. Only then the *newest timestamp* is read: after 5 no transaction with an older timestamp can become visible.
struct Takeover: Sendable {
    let configuration: EngineConfiguration
    let epoch: Epoch
    let primaries: [ShardID: ShardPrimary]
    let pools: [ShardID: ShardPools]
    let recovery: OrphanRecovery
    /// The sessions that hold the coordinator's lock.
    let locks: [ShardID: ShardConnection]
    /// The newest commit timestamp on any shard.
    let newest: Timestamp
    /// How many prepared transactions were settled.
    let settled: Int

    /// Takes the cluster over, or throws and holds nothing.
    static func run(
        _ configuration: EngineConfiguration, clock: any IntervalClock, loop: EventLoop, logger: Logger
    ) async throws(EngineStartError) -> Takeover {
        let deadline = ContinuousClock.now + configuration.takeoverTimeout
        let primaries = Dictionary(
            uniqueKeysWithValues: configuration.shards.map { ($0.id, ShardPrimary($0.id, on: loop, logger: logger)) })
        var locks: [ShardID: ShardConnection] = [:]
        var control: [ShardID: ConnectionPool] = [:]
        do throws(EngineStartError) {
            // One order for all coordinators, so that two that start at once don't lock each other out for ever.
            for shard in configuration.shards.sorted(by: { $0.id < $1.id }) {
                let lock = try configuration.lock(of: primaries[shard.id]!)
                locks[shard.id] = try await lock.acquire(
                    deadline: deadline, mayEvict: configuration.isElected)
                try await checkIdentity(shard.id, locks[shard.id]!)
            }
            let timelines = try await checkTimelines(locks)
            let epoch = try await raiseEpoch(configuration, timelines, locks)
            control = try configuration.controlPools(of: primaries, logger: logger)
            let recovery = OrphanRecovery(control: control, timeout: configuration.statementTimeout, logger: logger)
            var settled = 0
            for shard in locks.keys.sorted() { settled += try await settle(shard, upTo: epoch, recovery) }
            for (shard, timeline) in timelines {
                await primaries[shard]!.tookOver(timeline)
                try await warnOfAsynchronousStandbys(configuration, shard, locks[shard]!, logger)
            }
            return Takeover(
                configuration: configuration, epoch: epoch, primaries: primaries,
                pools: try configuration.pools(epoch: epoch, control: control, of: primaries, logger: logger),
                recovery: recovery, locks: locks, newest: try await newestTimestamp(locks, clock, loop),
                settled: settled)
        } catch {
            for pool in control.values { await pool.close() }
            for lock in locks.values { await lock.close() }
            throw error
        }
    }

    /// Gives the cluster back.
    func letGo() async {
        for pools in pools.values { await pools.close() }
        for lock in locks.values { await lock.close() }
    }

    private static func checkIdentity(
        _ shard: ShardID, _ connection: ShardConnection
    ) async throws(EngineStartError) {
        let name = try await query(ShardSchema.shardName, on: shard, connection) { row throws(ShardError) in
            try row.text(0)
        }
        guard name.first == shard.rawValue else {
            throw EngineStartError(
                .objectNotInPrerequisiteState, "the database configured as shard \(shard) is another one",
                detail: name.first.map { "it is shard \($0)" } ?? "it is no shard yet",
                hint: "see whether the shard's conninfo is right; `meridian migrate` makes a database a shard")
        }
    }

    /// Refuses former primaries, by what the shards know of each other's timelines.
    ///
    /// - Returns: the timelines of the servers that are locked.
    private static func checkTimelines(
        _ locks: [ShardID: ShardConnection]
    ) async throws(EngineStartError) -> [ShardID: Int64] {
        var timelines: [ShardID: Int64] = [:]
        for (shard, lock) in locks {
            timelines[shard] = try await query(ShardSchema.timeline, on: shard, lock) { row throws(ShardError) in
                try row.int64(0)
            }[0]
        }
        for (witness, lock) in locks.sorted(by: { $0.key < $1.key }) {
            let known = try await query(ShardSchema.knownTimelines, on: witness, lock) { row throws(ShardError) in
                (name: try row.text(0), timeline: try row.int64(1))
            }
            for (name, newest) in known {
                guard let shard = ShardID(name), let timeline = timelines[shard], timeline < newest else { continue }
                throw EngineStartError(
                    .objectNotInPrerequisiteState, "the server reached as shard \(shard) is a former primary",
                    detail: "it writes on timeline \(timeline); \(witness) knows that the shard came to \(newest)",
                    hint: """
                        stop that server and start the one that was promoted; after pg_upgrade, or to give up what was \
                        committed since, delete the row of \(shard) from meridian.shard_timeline on every shard
                        """)
            }
        }
        return timelines
    }

    /// Says what may be lost when the shard fails over.
    static func warnOfAsynchronousStandbys(
        _ configuration: EngineConfiguration, _ shard: ShardID, _ connection: ShardConnection, _ logger: Logger
    ) async throws(EngineStartError) {
        let isWarned = try await query(ShardSchema.mayLoseCommits, on: shard, connection) { row throws(ShardError) in
            try row.bool(0)
        }[0]
        guard isWarned else { return }
        logger.warning(
            """
            no standby of shard \(shard) is synchronous: what was committed last is lost when one is promoted; set \
            synchronous_standby_names
            """)
    }

    /// Makes the epoch one above all earlier ones, tells every shard, and ends the sessions of earlier epochs.
    private static func raiseEpoch(
        _ configuration: EngineConfiguration, _ timelines: [ShardID: Int64], _ locks: [ShardID: ShardConnection]
    ) async throws(EngineStartError) -> Epoch {
        var newest: Int64 = 0
        for shard in locks.keys.sorted() {
            let epochs = try await query(ShardSchema.newestEpoch, on: shard, locks[shard]!) { row throws(ShardError) in
                try row.int64(0)
            }
            newest = max(newest, epochs[0])
        }
        let epoch = Epoch(rawValue: newest + 1)
        let raise = ShardSchema.raiseEpoch(of: configuration.node, to: epoch)
        let records = timelines.map { ShardSchema.recordTimeline($0.value, of: $0.key) }
        for shard in locks.keys.sorted() { try await change([raise] + records, on: shard, locks[shard]!) }
        for shard in locks.keys.sorted() {
            try await endSessions(before: epoch, on: shard, locks[shard]!)
            try await change([raise], on: shard, locks[shard]!)
        }
        return epoch
    }

    static func endSessions(
        before epoch: Epoch, on shard: ShardID, _ connection: ShardConnection
    ) async throws(EngineStartError) {
        let end = ShardSchema.endEarlierSessions(than: epoch)
        let survivors = try await query(end, on: shard, connection) { _ in true }
        guard survivors.isEmpty else {
            throw EngineStartError(
                .objectNotInPrerequisiteState, "sessions of an earlier coordinator on shard \(shard) do not end",
                detail: "\(survivors.count) are left",
                hint: "end them by hand: see pg_stat_activity for application_name like 'meridian node%'")
        }
    }

    /// Runs statements whose effects are relied on, so that the synchronous standby must have them.
    static func change(
        _ statements: [SQLStatement], on shard: ShardID, _ connection: ShardConnection
    ) async throws(EngineStartError) {
        do throws(ShardError) {
            _ = try await connection.runUncancelled([Statement.flushCommits] + statements, within: .seconds(30))
        } catch {
            throw EngineStartError(error, shard: shard)
        }
    }

    private static func settle(
        _ shard: ShardID, upTo epoch: Epoch, _ recovery: OrphanRecovery
    ) async throws(EngineStartError) -> Int {
        do throws(ShardError) {
            let orphans = try await recovery.orphans(on: shard, upTo: epoch, live: { [] })
            for id in orphans { try await recovery.settle(id, on: shard) }
            return orphans.count
        } catch {
            throw EngineStartError(error, shard: shard)
        }
    }

    private static func newestTimestamp(
        _ locks: [ShardID: ShardConnection], _ clock: any IntervalClock, _ loop: EventLoop
    ) async throws(EngineStartError) -> Timestamp {
        var newest = Timestamp.zero
        for shard in locks.keys.sorted() {
            let timestamp = try await query(ShardSchema.newestTimestamp, on: shard, locks[shard]!) {
                row throws(ShardError) in Timestamp(rawValue: try row.int64(0))
            }[0]
            try await check(timestamp, on: shard, clock, loop)
            newest = max(newest, timestamp)
        }
        return newest
    }

    /// Refuses a clock that the newest timestamp on a shard proves wrong.
    ///
    /// The tombstone of a transaction that died in its commit-wait may lie ahead of the present by the width of the
    /// clock's interval: that much is waited for.
    private static func check(
        _ newest: Timestamp, on shard: ShardID, _ clock: any IntervalClock, _ loop: EventLoop
    ) async throws(EngineStartError) {
        do throws(ClockError) {
            let now = try clock.now()
            let lead = newest.nanoseconds(since: now.latest)
            if lead > 0, lead <= now.latest.nanoseconds(since: now.earliest) {
                try? await loop.sleep(until: .now + .nanoseconds(lead))
            }
            try clock.check(newestTimestamp: newest, on: shard)
        } catch {
            throw EngineStartError(error.transactionError)
        }
    }

    static func query<Value>(
        _ statement: SQLStatement, on shard: ShardID, _ connection: ShardConnection,
        read: (SQLRow) throws(ShardError) -> Value = { (_: SQLRow) in () }
    ) async throws(EngineStartError) -> [Value] {
        do throws(ShardError) {
            var values: [Value] = []
            for row in try await connection.run([statement], deadline: .now + .seconds(30))[0] {
                values.append(try read(row))
            }
            return values
        } catch {
            throw EngineStartError(error, shard: shard)
        }
    }
}
