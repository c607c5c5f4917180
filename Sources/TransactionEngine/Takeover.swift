import BoundedTime
import EventLoops
import Logging
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

/// How a coordinator takes over a cluster, before it serves anyone.
///
/// The order is what carries correctness (R4, R6, R8):
/// 1. *Lock* every shard: who coordinates alone keeps everybody out from here on, and what is not alone keeps him out.
/// 2. *Choose the epoch* above all that the shards know of the node, and find out which epochs of which nodes are over:
///    see ``Takeover/fencedEpochs(knowing:_:_:)``.
/// 3. *Raise the epoch* on every shard.
/// 4. *Fence* what is over, on every shard: ``Fencing`` says how. Nothing of it is prepared any more, or can be.
/// 5. Only then the *newest timestamp* is read: after 4 no transaction of those with an older timestamp can become
///    visible. What live nodes choose is agreed on with them (``ClosedTimestamps``).
struct Takeover: Sendable {
    let configuration: EngineConfiguration
    let epoch: Epoch
    /// What is over on every shard.
    let fencedEpochs: FencedEpochs
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
                locks[shard.id] = try await lock.acquire(deadline: deadline)
                try await checkIdentity(shard.id, locks[shard.id]!)
            }
            let timelines = try await checkTimelines(locks)
            let known = try await newestEpochs(locks)
            let epoch = try epoch(above: known, configuration)
            let fenced = try await fencedEpochs(knowing: known, epoch, configuration)
            try await begin(epoch, of: configuration.node, timelines, locks)
            control = try configuration.controlPools(of: primaries, logger: logger)
            let recovery = OrphanRecovery(control: control, timeout: configuration.statementTimeout, logger: logger)
            let settled = try await fence(fenced, locks, Fencing(recovery: recovery))
            for (shard, timeline) in timelines {
                await primaries[shard]!.tookOver(timeline)
                try await warnOfAsynchronousStandbys(configuration, shard, locks[shard]!, logger)
            }
            return Takeover(
                configuration: configuration, epoch: epoch, fencedEpochs: fenced, primaries: primaries,
                pools: try configuration.pools(epoch: epoch, control: control, of: primaries, logger: logger),
                recovery: recovery, locks: locks, newest: try await newestTimestamp(locks, clock, loop),
                settled: settled)
        } catch {
            for pool in control.values { await pool.close() }
            for lock in locks.values { await lock.close() }
            throw error
        }
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

    /// The newest epoch of each node that any shard knows: what it was told, and what stands prepared there.
    private static func newestEpochs(
        _ locks: [ShardID: ShardConnection]
    ) async throws(EngineStartError) -> [NodeID: Epoch] {
        var known: [NodeID: Epoch] = [:]
        for (shard, lock) in locks {
            let told = try await query(ShardSchema.newestEpochs, on: shard, lock) { row throws(ShardError) in
                (NodeID(rawValue: UInt16(try row.int64(0)))!, Epoch(rawValue: try row.int64(1)))
            }
            let prepared = try await query(ShardSchema.preparedTransactions, on: shard, lock) {
                row throws(ShardError) in TransactionID(try row.text(0)).map { ($0.node, $0.epoch) }
            }
            known.merge(told + prepared.compactMap(\.self), uniquingKeysWith: max)
        }
        return known
    }

    private static func epoch(
        above known: [NodeID: Epoch], _ configuration: EngineConfiguration
    ) throws(EngineStartError) -> Epoch {
        guard let coordination = configuration.coordination else {
            return Epoch(rawValue: (known.values.max()?.rawValue ?? 0) + 1)
        }
        let own = coordination.incarnation
        guard let newest = known[own.node], newest >= own.epoch else { return own.epoch }
        var error = EngineStartError(
            .objectNotInPrerequisiteState, "epoch \(own.epoch) of node \(own.node) is not new",
            detail: "the shards know its epoch \(newest)", hint: "start it in an epoch above that one")
        error.newestEpoch = newest
        throw error
    }

    /// What is over: all earlier epochs of the node itself; of every other one whatever the shards know, where this
    /// coordinates alone; among several, what is older than the incarnation that is present.
    ///
    /// A node gets its epoch (*E*), makes itself known to the others (*P*), and raises the epoch on the shards (*S*).
    /// Here the shards were read, and all epochs that were given by the time of the list of peers (*K*), before it is
    /// asked who is present (*Q*). An epoch that *K* found on a shard has its *P* before *Q*, so the node is present
    /// then or its incarnation is over. The list of peers alone does not tell: it may be from before *P*. One that *K*
    /// found only to be given may have its *P* to come; it finds this node present, and itself fenced. That costs it a
    /// life. Left out, one that had its *P*, stood still, and lost its presence would wake up to shards that don't know
    /// that it is over, and to peers who don't know of it.
    private static func fencedEpochs(
        knowing known: [NodeID: Epoch], _ epoch: Epoch, _ configuration: EngineConfiguration
    ) async throws(EngineStartError) -> FencedEpochs {
        var fenced = FencedEpochs()
        let given = (configuration.coordination?.newest ?? []).map { ($0.node, $0.epoch) }
        for (node, newest) in known.merging(given, uniquingKeysWith: max) where node != configuration.node {
            let earlier = Incarnation(node, newest.predecessor)
            if let peer = configuration.coordination?.peers.first(where: { $0.node == node }) {
                fenced.insert(Incarnation(node, min(newest, peer.epoch.predecessor)))
            } else if try await isPresent(Incarnation(node, newest), configuration) {
                fenced.insert(earlier)
            } else {
                fenced.insert(Incarnation(node, newest))
            }
        }
        fenced.insert(Incarnation(configuration.node, epoch.predecessor))
        return fenced
    }

    private static func isPresent(
        _ incarnation: Incarnation, _ configuration: EngineConfiguration
    ) async throws(EngineStartError) -> Bool {
        guard let coordination = configuration.coordination else { return false }
        do {
            return try await coordination.isPresent(incarnation)
        } catch {
            throw EngineStartError(
                .connectionFailure, "whether \(incarnation) is present can't be found out", detail: "\(error)",
                hint: "see whether most of the cluster's nodes reach each other")
        }
    }

    /// Raises the node's epoch on every shard, and tells it of all timelines.
    private static func begin(
        _ epoch: Epoch, of node: NodeID, _ timelines: [ShardID: Int64], _ locks: [ShardID: ShardConnection]
    ) async throws(EngineStartError) {
        let records = timelines.sorted { $0.key < $1.key }.map { ShardSchema.recordTimeline($0.value, of: $0.key) }
        for (shard, lock) in locks.sorted(by: { $0.key < $1.key }) {
            do throws(ShardError) {
                // One by one: nodes that start together lock these rows in different orders.
                try await Fencing.change([ShardSchema.raiseEpoch(of: node, to: epoch)], by: lock)
                try await Fencing.change(records, by: lock)
            } catch {
                throw EngineStartError(error, shard: shard)
            }
        }
    }

    /// Returns how many prepared transactions were settled.
    private static func fence(
        _ fenced: FencedEpochs, _ locks: [ShardID: ShardConnection], _ fencing: Fencing
    ) async throws(EngineStartError) -> Int {
        var settled = 0
        for (shard, lock) in locks.sorted(by: { $0.key < $1.key }) {
            do throws(ShardError) {
                try await Fencing.endSessions(of: fenced, by: lock)
                settled += try await fencing.settle(fenced, on: shard)
            } catch {
                throw EngineStartError(error, shard: shard)
            }
        }
        return settled
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
