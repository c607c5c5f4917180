public import Consensus
public import EventLoops
public import Metadata
public import TransactionCore

/// Whatever speaks to the metadata: a node (``MetadataNode``), or a process that is none (``RemoteMetadata``).
/// Sessions, locks and watches work over either.
public protocol MetadataClient: AnyObject, Sendable {
    /// What it runs on, and whatever is made of it.
    nonisolated var loop: EventLoop { get }
    /// Whose sessions they are that it opens; ``NodeID/client`` for no node's.
    nonisolated var node: NodeID { get }

    /// Has the log do `command`, and returns what came of it.
    ///
    /// It may be handed in more than once: a transaction is done once all the same, by its number; see
    /// ``MetadataCommand`` for the others. Throws ``MetadataError/Kind/noLeader`` at `deadline`, when it is not known
    /// whether it was done or will be.
    func submit(
        _ command: MetadataCommand, deadline: ContinuousClock.Instant
    ) async throws(MetadataError) -> MetadataAnswer

    /// Reads keys; nothing is missing that was answered to anybody before the read began.
    func read(_ query: MetadataQuery, deadline: ContinuousClock.Instant) async throws(MetadataError) -> QueryAnswer

    /// The changes after `revision` to what is selected, as soon as there are some; none when `duration` is over.
    ///
    /// Throws ``CompactedError`` where some are not kept any more, `CancellationError`, and ``MetadataError`` when
    /// whom it asks ends.
    func changes(
        of selection: MetadataSelection, after revision: Revision, within duration: Duration
    ) async throws -> MetadataChanges

    /// Changes who takes part, by one node; returns when the change is chosen.
    func change(_ change: Membership.Change, deadline: ContinuousClock.Instant) async throws(MetadataError)

    /// Lets that voter lead; returns when it does.
    func lead(_ successor: NodeID, deadline: ContinuousClock.Instant) async throws(MetadataError)
}

extension MetadataClient {
    /// The changes to what is selected after `revision`, as they come, without a gap, in order.
    public nonisolated func watch(_ selection: MetadataSelection, after revision: Revision) -> MetadataWatch {
        MetadataWatch(client: self, selection: selection, position: revision)
    }

    /// All keys of a prefix, some at a time.
    public nonisolated func pages(of prefix: MetadataPrefix) -> MetadataPages {
        MetadataPages(client: self, prefix: prefix)
    }
}

/// A watch on keys: ``next()`` waits for changes. It holds nothing but how far it has come.
public struct MetadataWatch: Sendable {
    /// Keeps a watch that hears of nothing from falling behind what is kept.
    private static let pollInterval = Duration.seconds(10)

    let client: any MetadataClient
    let selection: MetadataSelection
    /// Everything up to here was told.
    public private(set) var position: Revision

    /// The next changes, at least one. Throws what ``MetadataClient/changes(of:after:within:)`` does.
    public mutating func next() async throws -> [MetadataChange] {
        while true {
            let found = try await client.changes(of: selection, after: position, within: Self.pollInterval)
            position = found.through
            if !found.changes.isEmpty { return found.changes }
        }
    }
}

/// Keys of a prefix and their values, some at a time: ``next(deadline:)`` reads on. What is set meanwhile may be among
/// them or not.
public struct MetadataPages: Sendable {
    private static let size = 1_000

    let client: any MetadataClient
    let prefix: MetadataPrefix
    private var after: MetadataKey?
    private var isOver = false

    init(client: any MetadataClient, prefix: MetadataPrefix) {
        (self.client, self.prefix) = (client, prefix)
    }

    /// The next entries, in the order of their keys; nil when there are no others.
    public mutating func next(deadline: ContinuousClock.Instant) async throws(MetadataError) -> [MetadataEntry]? {
        guard !isOver else { return nil }
        let found = try await client.read(.first(prefix, after: after, limit: Self.size), deadline: deadline)
        (after, isOver) = (found.entries.last?.key, found.isComplete || found.entries.isEmpty)
        return found.entries
    }
}

/// What a node knows of the cluster.
public struct MetadataStatus: Hashable, Sendable {
    /// Whose word it is.
    public var node: NodeID
    public var membership: Membership
    public var leader: NodeID?
    /// Members that messages to are sent at the moment, itself among them.
    public var connected: NodeSet
    /// Every slot of the log up to here is known to be chosen.
    public var chosenUpTo: Slot
    public var promised: Ballot
    /// It leads, and answers reads by itself.
    public var holdsLease: Bool
}
