import BoundedTime
import EventLoops
import Logging
import ShardBackend
import ShardSchema
import TransactionCore
import TwoPhaseCommit

extension TransactionEngine {
    /// Takes the cluster over and returns an engine that serves; see ``Takeover`` for the steps.
    ///
    /// - Throws: ``EngineStartError`` when a shard can't be reached, is another one than configured, has another
    ///   coordinator, or shows a newer timestamp than the clock can explain. Nothing is held then.
    public static func start(
        _ configuration: EngineConfiguration, clock: any IntervalClock, loop: EventLoop,
        logger: Logger = Logger(label: "meridian.engine")
    ) async throws(EngineStartError) -> TransactionEngine {
        let takeover = try await Takeover.run(configuration, clock: clock, loop: loop, logger: logger)
        let engine = TransactionEngine(takeover: takeover, clock: clock, loop: loop, logger: logger)
        await engine.beginCoordination(after: takeover.newest)
        await engine.beginUpkeep(locks: takeover.locks)
        if takeover.settled > 0 { logger.notice("settled \(takeover.settled) transactions of an earlier coordinator") }
        return engine
    }

    /// Starts an engine on a loop of its own, runs `body` with it, and stops it in every case.
    public static func withEngine<Result: Sendable>(
        _ configuration: EngineConfiguration, clock: any IntervalClock,
        _ body: (TransactionEngine) async throws -> Result
    ) async throws -> Result {
        let engine = try await start(configuration, clock: clock, loop: try EventLoop())
        do {
            let result = try await body(engine)
            await engine.shutdown()
            return result
        } catch {
            await engine.shutdown()
            throw error
        }
    }

    private func beginUpkeep(locks: [ShardID: ShardConnection]) {
        for shard in shards {
            keep(Task { await self.sweepContinuously(shard) })
            keep(Task { await self.keepLock(on: shard, locks[shard]!) })
        }
        keep(Task(executorPreference: loop) { await self.detectDeadlocks() })
        let upkeep = ShardUpkeep(recovery: recovery, clock: clock, logger: logger)
        keep(
            Task {
                while (try? await loop.sleep(until: .now + ShardUpkeep.interval)) != nil { await upkeep.run() }
            })
    }

    /// Settles what stands prepared on `shard` and nobody coordinates: a PREPARE whose answer was lost may succeed long
    /// after its transaction was aborted. What is of a live peer is left to that.
    private func sweepContinuously(_ shard: ShardID) async {
        // Those of the last round: most of what is found is settled just now, and need not be looked up.
        var suspects: Set<TransactionID> = []
        while !Task.isCancelled {
            do { try await loop.sleep(until: .now + configuration.sweepInterval) } catch { return }
            let orphans: [TransactionID]
            do throws(ShardError) {
                orphans = try await recovery.orphans(on: shard, fenced: fencedEpochs, own: incarnation) {
                    await self.liveTransactions()
                }
            } catch {
                logger.warning("shard \(shard) can't be asked for prepared transactions: \(error.message)")
                continue
            }
            for id in orphans where suspects.contains(id) { await settle(id, on: shard) }
            suspects = Set(orphans)
        }
    }

    private func settle(_ id: TransactionID, on shard: ShardID) async {
        do throws(ShardError) {
            try await recovery.settle(id, on: shard)
            statistics.recovered += 1
        } catch {
            logger.warning("\(id), prepared on shard \(shard), is not settled yet: \(error.message)")
        }
    }

    private func liveTransactions() -> Set<TransactionID> { Set(live.keys) }

    /// Those of them that are not applied on the shard yet, as far as it has answered.
    func liveTransactions(on shard: ShardID) -> Set<TransactionID> {
        let inFlight = Set(tracker.inFlight(on: shard))
        return liveTransactions().filter { inFlight.contains($0.commitTimestamp) }
    }

    /// Whether no successor or peer has fenced this engine, as far as the shard knows.
    private func stillCoordinates(on shard: ShardID) async -> Bool {
        try? await proveEpoch(on: shard)
        return !isFenced
    }

    /// Runs `statements` on a shard that has to know of no end of this engine's epoch. One that does proves that the
    /// engine is fenced, whatever others know.
    func proveEpoch(on shard: ShardID, for statements: [SQLStatement] = []) async throws(ShardError) {
        let open = ShardSchema.openSession(node: configuration.node, epoch: epoch)
        do throws(ShardError) {
            _ = try await recovery.run([open] + statements, on: shard)
        } catch {
            if error.sqlState == .objectNotInPrerequisiteState {
                logger.critical("this node is fenced on shard \(shard), and serves no more: \(error.message)")
                isFenced = true
                stopAdmitting()
            }
            throw error
        }
    }

    /// Holds the coordinator's lock, and takes it again when its session is lost, on whichever server is the primary
    /// then. A fenced engine lets go: it would serve nobody and keep others out.
    private func keepLock(on shard: ShardID, _ first: ShardConnection) async {
        var connection = first
        var pause = Backoff()
        while !Task.isCancelled {
            guard await waitForEnd(of: connection), !Task.isCancelled else { return await connection.close() }
            logger.warning("the session that holds the coordinator's lock on shard \(shard) was lost")
            do throws(EngineStartError) {
                let lock = try configuration.lock(of: primaries[shard]!)
                let regained = try await lock.acquire(deadline: .now + configuration.takeoverTimeout)
                guard await stillCoordinates(on: shard) else { return await regained.close() }
                do throws(EngineStartError) {
                    try await takeOver(primaries[shard]!, by: regained)
                } catch {
                    await regained.close()
                    throw error
                }
                connection = regained
                pause = Backoff()
            } catch {
                logger.error("\(error)")
                // Whoever holds it may be a successor.
                guard await stillCoordinates(on: shard) else { return }
                do { try await pause.wait(on: loop) } catch { return }
            }
        }
        await connection.close()
    }

    /// Waits until a lock's session has ended, or its server gives no answer any more; false when the engine stops or
    /// is fenced. What its shard knows of other shards' timelines is heard meanwhile: a peer may have followed to a
    /// standby that was promoted while its former primary still answers here.
    private func waitForEnd(of connection: ShardConnection) async -> Bool {
        var asked = ContinuousClock.now
        while await connection.isOpen {
            do { try await loop.sleep(until: .now + .milliseconds(200)) } catch { return false }
            guard !isFenced else { return false }
            guard .now - asked > .seconds(1) else { continue }
            asked = .now
            do throws(ShardError) {
                let known = try await connection.runUncancelled(
                    [ShardSchema.knownTimelines], within: configuration.takeoverTimeout)[0]
                for row in known {
                    guard let shard = ShardID(try row.text(0)), let primary = primaries[shard] else { continue }
                    await primary.heard(of: try row.int64(1))
                }
            } catch {
                await connection.close()
            }
        }
        return true
    }
}

extension EngineConfiguration {
    /// The name of the lock's session says who coordinates, and who fences that incarnation ends it by the name. An
    /// engine that is alone gets its epoch when it holds the lock.
    func lock(of primary: ShardPrimary) throws(EngineStartError) -> CoordinatorLock {
        let own = coordination?.incarnation
        let name = "meridian coordinator, node \(node)" + (own.map { " epoch \($0.epoch)" } ?? "")
        return CoordinatorLock(primary: primary, settings: try settings(of: primary.shard, name: name), own: own)
    }

    /// One pool per shard for recovery and upkeep.
    func controlPools(
        of primaries: [ShardID: ShardPrimary], logger: Logger
    ) throws(EngineStartError) -> [ShardID: ConnectionPool] {
        var pools: [ShardID: ConnectionPool] = [:]
        for (shard, primary) in primaries {
            pools[shard] = ConnectionPool(
                settings: try settings(of: shard, name: "meridian recovery, node \(node)"), bound: 4,
                on: primary.loop, label: "\(shard) control", logger: logger,
                connect: primary.connector(isForClients: false)
            ) { connection throws(ShardError) in _ = try await connection.run([Statement.flushCommits]) }
        }
        return pools
    }

    /// All pools of each shard. The sessions prove their epoch when they open (R6).
    func pools(
        epoch: Epoch, control: [ShardID: ConnectionPool], of primaries: [ShardID: ShardPrimary], logger: Logger
    ) throws(EngineStartError) -> [ShardID: ShardPools] {
        let open = ShardSchema.openSession(node: node, epoch: epoch)
        var pools: [ShardID: ShardPools] = [:]
        for (shard, primary) in primaries {
            let settings = try settings(of: shard, epoch: epoch)
            let connect = primary.connector(isForClients: true)
            let writers = ConnectionPool(
                settings: settings, bound: writersMax + pinnedMax, on: primary.loop, label: "\(shard) writers",
                logger: logger, connect: connect
            ) { connection throws(ShardError) in
                _ = try await connection.run([open, Statement.flushCommits, Statement.writeByDefault])
            }
            func readers(_ bound: Int, _ label: String) -> ConnectionPool {
                ConnectionPool(
                    settings: settings, bound: bound, on: primary.loop, label: "\(shard) \(label)", logger: logger,
                    connect: connect
                ) { connection throws(ShardError) in _ = try await connection.run([open, Statement.readByDefault]) }
            }
            pools[shard] = ShardPools(
                writers: writers, readers: readers(readersMax, "readers"), streams: readers(streamsMax, "streams"),
                control: control[shard]!)
        }
        return pools
    }

    /// Of an engine's own sessions, whose name is known to the server before it serves them, so that a successor that
    /// fences the engine finds them.
    func settings(of shard: ShardID, epoch: Epoch) throws(EngineStartError) -> ConnectionSettings {
        try settings(of: shard, name: "meridian node \(node) epoch \(epoch)")
    }

    private func settings(of shard: ShardID, name: String) throws(EngineStartError) -> ConnectionSettings {
        let conninfo = shards.first { $0.id == shard }!.conninfo
        do throws(ShardError) {
            // Of several hosts, only the primary: a standby that is behind would miss acknowledged commits (R8).
            return try ConnectionSettings(
                conninfo, overrides: ["application_name": name, "target_session_attrs": "read-write"])
        } catch {
            throw EngineStartError(error, shard: shard)
        }
    }
}
