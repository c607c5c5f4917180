import BoundedTime
import Logging
import ShardBackend
import ShardSchema
import TransactionCore

/// What has to be done on every shard now and then, whoever does it: drops what is past retention.
struct ShardUpkeep: Sendable {
    /// How often: retention moves in steps of minutes, and space is all that a late round costs.
    static let interval = Duration.seconds(30)

    let recovery: OrphanRecovery
    let clock: any IntervalClock
    let logger: Logger

    /// One round. A shard that can't be reached is left to the next one, and holds back what others may forget.
    func run() async {
        do {
            var unresolved: Timestamp?
            for shard in recovery.control.keys.sorted() {
                let prepared = try await recovery.prepared(on: shard).compactMap { TransactionID($0)?.commitTimestamp }
                unresolved = (prepared + [unresolved].compactMap(\.self)).min()
            }
            let now = try clock.now().earliest
            for shard in recovery.control.keys.sorted() {
                let oldest = unresolved
                try await recovery.withConnection(to: shard) { connection throws(ShardError) in
                    try await PartitionUpkeep(connection).run(now: now, unresolved: oldest)
                }
            }
        } catch {
            logger.warning("what is past retention is not dropped yet: \(error)")
        }
    }
}
