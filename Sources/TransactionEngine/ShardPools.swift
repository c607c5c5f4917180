import Logging
import ShardBackend
import ShardSchema
import TransactionCore

/// The connections to one shard, by what they are for, so that neither kind of work can take the other's away.
struct ShardPools: Sendable {
    /// For read-write transactions: as many as may be open at once, and as many as clients' sessions may keep.
    let writers: ConnectionPool
    /// For reads at a timestamp; their sessions see the as-of views.
    let readers: ConnectionPool
    /// For reads whose rows are handed on as they arrive: a client that reads slowly keeps one.
    let streams: ConnectionPool
    /// For recovery and upkeep, which must go on when the others are exhausted.
    let control: ConnectionPool

    func close() async {
        await writers.close()
        await readers.close()
        await streams.close()
        await control.close()
    }
}
