import ShardBackend
import TransactionCore

/// One shard: a PostgreSQL database, by its name in the cluster and how libpq reaches its primary.
public struct ShardConfiguration: Sendable, Hashable {
    public var id: ShardID
    /// A libpq connection string or URI, TLS as libpq has it. Of several hosts the one that accepts writes is the
    /// primary, and of several such the one that was promoted last.
    public var conninfo: String

    public init(id: ShardID, conninfo: String) {
        self.id = id
        self.conninfo = conninfo
    }
}

/// What an engine needs to know.
public struct EngineConfiguration: Sendable {
    /// The number of this node; part of every commit timestamp it chooses.
    public var node: NodeID
    public var shards: [ShardConfiguration]
    /// How many read-write transactions may be open at once. Each may need a connection on every shard, so this is also
    /// the bound of each shard's pool; more wait in a queue, first come first served.
    public var writersMax = 48
    /// How many requests of such transactions may keep the shards busy before further transactions wait to begin. Three
    /// servers on two cores do half as much again with 16 as with 48 (decision 0007).
    public var busyRequestsMax = 16
    /// How many connections per shard serve reads at a timestamp.
    public var readersMax = 16
    /// How many connections per shard serve reads whose rows are handed on as they arrive: large results, cursors and
    /// COPY. Each is taken until its client has read all, so they are not those of the short reads.
    public var streamsMax = 16
    /// How many clients' sessions may keep a connection to a shard for their temporary tables, besides the writers.
    public var pinnedMax = 8
    /// How long a transaction may wait to be admitted, or a read for a connection.
    public var admissionTimeout: Duration = .seconds(10)
    /// How long one round trip to a shard may take before it is cancelled.
    public var statementTimeout: Duration = .seconds(30)
    /// How long a client waits for an outcome that is not known, before it is told so (SQLSTATE 08007).
    public var outcomeTimeout: Duration = .seconds(5)
    /// How long a read waits for the transactions before its timestamp, in-doubt ones among them.
    public var safeTimeTimeout: Duration = .seconds(10)
    /// How often the shards are asked for prepared transactions that nobody coordinates.
    public var sweepInterval: Duration = .seconds(1)
    /// How long a starting engine waits for another coordinator to let go of the shards.
    public var takeoverTimeout: Duration = .seconds(5)
    /// Where several nodes coordinate the same shards at once; nil for the only one.
    public var coordination: Coordination?
    /// How far ahead of the present a read timestamp may lie; such a read waits until it has passed.
    public var readAheadMax: Duration = .seconds(10)
    /// What tests do at the named moments of a commit.
    public var faultHook: FaultHook?

    public init(node: NodeID, shards: [ShardConfiguration]) {
        self.node = node
        self.shards = shards
    }
}
