import TransactionCore

/// Chooses commit timestamps and knows which of them are still in flight, so that a read at `T` takes its snapshot on a
/// shard only when nothing at or before `T` can become visible there any more (R1, R8, R9).
///
/// Choosing a timestamp and entering the in-flight set are one step: no read can slip in between.
public struct SafeTimeTracker: Sendable {
    /// Names one waiting read on one shard.
    public struct WaiterID: Hashable, Sendable {
        fileprivate let rawValue: UInt64
    }

    /// What a read asks for before it takes its snapshot on a shard.
    public enum ReadAction: Hashable, Sendable {
        /// Take the snapshot.
        case proceed
        /// ``retire(_:on:)`` names this waiter when its time has come.
        case wait(WaiterID)
    }

    private let node: NodeID
    /// No timestamp at or before this one will be chosen any more: the closed timestamp.
    public private(set) var closed: Timestamp
    /// No commit acknowledged and no read timestamp given out is later: the smallest timestamp for a strong read (R9).
    public private(set) var strongReadTimestamp: Timestamp
    /// The newest timestamp that this node has chosen.
    public private(set) var newestChosen: Timestamp
    private var shards: [ShardID: Shard] = [:]
    /// Of peers that may choose timestamps, not all are known; see ``ClosedTimestamps``.
    private var isSole = true
    /// No timestamp that peers chose before they fell silent is later.
    private var newestOfPeers: Timestamp
    /// The newest timestamp on any shard at the start.
    private var start: Timestamp
    private var waiterCount: UInt64 = 0

    private struct Shard {
        /// Commit timestamps in flight, peers' among them, rising. At most one a connection, thus short: plain arrays
        /// are quicker here than any tree.
        var inFlight: [Timestamp] = []
        /// No transaction that was ever in flight and is not any more has a later timestamp.
        var newestRetired: Timestamp
        /// Reads that wait, in the order they came.
        var waiters: [(timestamp: Timestamp, id: WaiterID)] = []

        mutating func enter(_ timestamp: Timestamp) {
            // The node's own come in their order, peers' nearly so.
            let place = inFlight.lastIndex { $0 < timestamp }.map { $0 + 1 } ?? 0
            inFlight.insert(timestamp, at: place)
        }
    }

    /// Starts after `newest`, the newest timestamp on any shard; everything prepared before must be settled already.
    public init(node: NodeID, newest: Timestamp) {
        self.node = node
        self.start = newest
        self.closed = newest
        self.strongReadTimestamp = newest
        self.newestChosen = newest
        self.newestOfPeers = newest
    }

    /// Starts after `newest` instead: for a node that has told peers that it chooses nothing before it knew that, and
    /// has neither chosen nor read.
    public mutating func begins(after newest: Timestamp) {
        start = max(start, newest)
        closed = max(closed, newest)
        strongReadTimestamp = max(strongReadTimestamp, newest)
        newestChosen = max(newestChosen, newest)
        newestOfPeers = max(newestOfPeers, newest)
        // What peers have in flight may be known already.
        for shard in shards.keys { shards[shard]!.newestRetired = max(shards[shard]!.newestRetired, newest) }
    }

    // MARK: Commits

    /// Chooses the commit timestamp of a transaction whose locks are all held: at least `now.latest` and larger than
    /// every one before (R1). It is in flight on `written` from here on.
    public mutating func choose(at now: TimestampInterval, writing written: [ShardID]) -> Timestamp {
        let timestamp = max(now.latest, closed.successor).roundedUp(for: node)
        (closed, newestChosen) = (timestamp, timestamp)
        for shard in written { enter(timestamp, on: shard) }
        return timestamp
    }

    /// No timestamp up to this one will be chosen any more.
    public mutating func close(upTo timestamp: Timestamp) {
        closed = max(closed, timestamp)
    }

    /// A transaction is in flight on `shard`.
    mutating func enter(_ timestamp: Timestamp, on shard: ShardID) {
        shards[shard, default: Shard(newestRetired: start)].enter(timestamp)
    }

    /// The transaction at `timestamp` is applied on `shard`, or will never be visible there: returns the reads that
    /// may take their snapshot now.
    public mutating func retire(_ timestamp: Timestamp, on shard: ShardID) -> [WaiterID] {
        guard let index = shards[shard]?.inFlight.firstIndex(of: timestamp) else { return [] }
        shards[shard]!.inFlight.remove(at: index)
        shards[shard]!.newestRetired = max(shards[shard]!.newestRetired, timestamp)
        // Only the smallest one in flight holds reads back.
        return index == 0 ? releaseWaiters(of: shard) : []
    }

    /// The client is about to be told that the transaction at `timestamp` committed.
    public mutating func acknowledged(_ timestamp: Timestamp) {
        strongReadTimestamp = max(strongReadTimestamp, timestamp)
    }

    // MARK: Reads

    /// A read at `timestamp` wants its snapshot on `shard`. The timestamp must have passed (`TT.after`), or be at most
    /// ``closed``; no later commit gets it or an earlier one.
    public mutating func readRequested(at timestamp: Timestamp, on shard: ShardID) -> ReadAction {
        closed = max(closed, timestamp)
        strongReadTimestamp = max(strongReadTimestamp, timestamp)
        guard let first = shards[shard]?.inFlight.first, first <= timestamp else { return .proceed }
        waiterCount += 1
        let id = WaiterID(rawValue: waiterCount)
        shards[shard]!.waiters.append((timestamp, id))
        return .wait(id)
    }

    /// Whether what `shard` holds now is its state at `timestamp`, no later transaction having been applied or being
    /// about to be.
    ///
    /// A plain read of the shard for which this held when it began and still holds when it has been answered saw that
    /// state: what is chosen meanwhile enters the in-flight set, and what is retired from it leaves its timestamp here.
    public func isCurrent(at timestamp: Timestamp, on shard: ShardID) -> Bool {
        guard isSole, newestOfPeers <= timestamp else { return false }
        guard let shard = shards[shard] else { return start <= timestamp }
        return shard.inFlight.isEmpty && shard.newestRetired <= timestamp
    }

    /// The read gave up waiting.
    public mutating func readCancelled(_ waiter: WaiterID, on shard: ShardID) {
        shards[shard]?.waiters.removeAll { $0.id == waiter }
    }

    /// The newest timestamp at which a read on `shard` need not wait: the shard's safe time (Spanner §4.1.3).
    public func safeTime(of shard: ShardID) -> Timestamp {
        guard let first = shards[shard]?.inFlight.first else { return closed }
        return first.advanced(byNanoseconds: -1)
    }

    /// The timestamps in flight on `shard`, smallest first.
    public func inFlight(on shard: ShardID) -> [Timestamp] {
        shards[shard]?.inFlight ?? []
    }

    // MARK: Peers

    /// What peers choose from here on is known only as they tell it, unless all are silent.
    ///
    /// - Parameter timestamp: none that one of them chose before it fell silent is later.
    mutating func peersChoose(upTo timestamp: Timestamp, isSole: Bool) {
        newestOfPeers = max(newestOfPeers, timestamp)
        self.isSole = isSole
    }

    var hasOwnInFlight: Bool { shards.values.contains { $0.inFlight.contains { $0.node == node } } }

    /// Those that this node has chosen, of all shards.
    var ownInFlight: [ClosedTimestamps.TimestampOnShard] {
        shards.sorted { $0.key < $1.key }.flatMap { shard, state in
            state.inFlight.filter { $0.node == node }.map { ClosedTimestamps.TimestampOnShard($0, shard) }
        }
    }

    private mutating func releaseWaiters(of shard: ShardID) -> [WaiterID] {
        let first = shards[shard]!.inFlight.first
        let isReleased = { (timestamp: Timestamp) in first.map { timestamp < $0 } ?? true }
        let released = shards[shard]!.waiters.filter { isReleased($0.timestamp) }.map(\.id)
        shards[shard]!.waiters.removeAll { isReleased($0.timestamp) }
        return released
    }
}
