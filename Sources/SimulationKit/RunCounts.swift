/// What happened in a run, in figures.
public struct RunCounts: Hashable, Sendable {
    public var transactionsCommitted = 0
    public var transactionsAborted = 0
    /// Transactions whose outcome their client was not told in time.
    public var outcomesUnknown = 0
    public var reads = 0
    /// Nodes' sessions that expired, whether they lived or not.
    public var sessionsExpired = 0
    /// Vanished nodes that another one fenced.
    public var fences = 0
    /// Messages that nodes sent to each other.
    public var peerMessages = 0
    /// Coordinating processes that crashed, or were paused while another one took over.
    public var nodeCrashes = 0
    public var shardCrashes = 0
    public var partitions = 0
    /// Home shards' answers to COMMIT that were lost.
    public var answersLost = 0
    /// Prepared transactions settled by a node that did not coordinate them.
    public var recoveries = 0
    /// How often a clock refused to tell the time.
    public var clockRefusals = 0
    /// Histories judged, each by every checker.
    public var checks = 0

    public init() {}

    /// Every figure with its name.
    public var figures: [(name: String, figure: Int)] {
        Self.names.map { ($0.name, self[keyPath: $0.path]) }
    }

    /// Adds the figures of another run.
    public static func += (sum: inout RunCounts, other: RunCounts) {
        for (_, path) in names { sum[keyPath: path] += other[keyPath: path] }
    }

    private static var names: [(name: String, path: WritableKeyPath<RunCounts, Int>)] {
        [
            ("transactions committed", \.transactionsCommitted), ("transactions aborted", \.transactionsAborted),
            ("outcomes unknown at first", \.outcomesUnknown), ("reads at a timestamp", \.reads),
            ("node crashes and takeovers", \.nodeCrashes), ("shard crashes", \.shardCrashes),
            ("sessions expired", \.sessionsExpired), ("vanished nodes fenced", \.fences),
            ("messages between nodes", \.peerMessages), ("partitions", \.partitions),
            ("answers to COMMIT lost", \.answersLost), ("recoveries", \.recoveries),
            ("clock refusals", \.clockRefusals), ("checks", \.checks),
        ]
    }
}
