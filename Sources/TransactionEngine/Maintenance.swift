import BoundedTime
import Logging
import ShardBackend
import ShardSchema
import TransactionCore

/// What a node does for a cluster that nobody coordinates at the moment: settles transactions that a dead coordinator
/// left prepared, so that they hold no locks until the next one starts, and drops what is past retention.
///
/// It keeps away from a coordinator that is alive: before it settles anything it takes the cluster over like one, with
/// the lock on every shard, a new epoch and the end of earlier sessions (R4, R6), and lets go again.
public struct Maintenance: Sendable {
    private let configuration: EngineConfiguration
    private let clock: any IntervalClock
    private let loop: EventLoop
    private let logger: Logger

    /// Maintains the shards of `configuration`.
    public init(
        _ configuration: EngineConfiguration, clock: any IntervalClock, loop: EventLoop,
        logger: Logger = Logger(label: "meridian.maintenance")
    ) {
        var configuration = configuration
        configuration.takeoverTimeout = .milliseconds(200)
        self.configuration = configuration
        self.clock = clock
        self.loop = loop
        self.logger = logger
    }

    /// Goes on until the task is cancelled.
    public func run() async throws {
        let control = try configuration.controlPools(on: loop, logger: logger)
        let recovery = OrphanRecovery(control: control, timeout: configuration.statementTimeout, logger: logger)
        let upkeep = ShardUpkeep(recovery: recovery, clock: clock, logger: logger)
        var upkeepDue = ContinuousClock.now
        var suspects: Set<TransactionID> = []
        while !Task.isCancelled {
            let prepared = await preparedEverywhere(recovery)
            // Prepared for longer than one interval: a live coordinator's are gone by then, nearly always.
            if !prepared.isDisjoint(with: suspects) { await settle() }
            suspects = prepared
            if upkeepDue <= .now {
                await upkeep.run()
                upkeepDue = .now + ShardUpkeep.interval
            }
            guard (try? await loop.sleep(until: .now + configuration.sweepInterval)) != nil else { break }
        }
        for pool in control.values { await pool.close() }
    }

    private func preparedEverywhere(_ recovery: OrphanRecovery) async -> Set<TransactionID> {
        var prepared: Set<TransactionID> = []
        for shard in recovery.control.keys.sorted() {
            do {
                prepared.formUnion(try await recovery.prepared(on: shard).compactMap { TransactionID($0) })
            } catch {
                logger.debug("shard \(shard) can't be asked for prepared transactions: \(error.message)")
            }
        }
        return prepared
    }

    private func settle() async {
        do throws(EngineStartError) {
            let takeover = try await Takeover.run(configuration, clock: clock, loop: loop, logger: logger)
            logger.notice("settled \(takeover.settled) transactions that nobody coordinated any more")
            await takeover.letGo()
        } catch {
            // A coordinator is alive, or a shard is down.
            logger.debug("prepared transactions are left alone: \(error)")
        }
    }
}
