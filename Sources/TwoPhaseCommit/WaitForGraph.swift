/// Who waits for whom, over all shards: a cycle is a deadlock that no shard can see by itself (Knapp, Deadlock
/// Detection in Distributed Databases, 1987, §3: a central graph).
///
/// Transactions hold their locks to the end (two-phase locking), so an edge goes away only when the waiter gives up or
/// one of the two ends. The shards are looked at one after the other, though, and an edge may be gone when the next one
/// is read: a cycle counts when two graphs made one after the other have it (``intersection(_:)``).
public struct WaitForGraph: Hashable, Sendable {
    /// A transaction waits for another one on some shard.
    public struct Edge: Hashable, Sendable {
        /// Numbers that rise with the transactions' age: the larger, the younger.
        public var waiter: UInt64
        public var blocker: UInt64

        public init(waiter: UInt64, blocker: UInt64) {
            (self.waiter, self.blocker) = (waiter, blocker)
        }
    }

    private var edges: Set<Edge> = []

    public init() {}

    public var isEmpty: Bool { edges.isEmpty }

    public mutating func add(_ edge: Edge) {
        if edge.waiter != edge.blocker { edges.insert(edge) }
    }

    /// What is in both.
    public func intersection(_ other: WaitForGraph) -> WaitForGraph {
        var graph = WaitForGraph()
        graph.edges = edges.intersection(other.edges)
        return graph
    }

    /// The youngest transaction of each cycle, so that none is left when these are gone, with the cycle, which begins
    /// with the victim: each waits for the next, and the last for the first.
    public func victims() -> [(victim: UInt64, cycle: [UInt64])] {
        var blockers: [UInt64: [UInt64]] = [:]
        for edge in edges { blockers[edge.waiter, default: []].append(edge.blocker) }
        var victims: [(UInt64, [UInt64])] = []
        // The youngest first: a cycle is found from its youngest member, which is then taken out.
        for start in blockers.keys.sorted(by: >) {
            guard let cycle = Self.path(from: start, in: blockers) else { continue }
            victims.append((start, cycle))
            blockers[start] = nil
        }
        return victims
    }

    /// The way from `start` back to itself, over transactions that are not younger.
    private static func path(from start: UInt64, in blockers: [UInt64: [UInt64]]) -> [UInt64]? {
        var seen: Set<UInt64> = [start]
        var stack = [[start]]
        while let path = stack.popLast() {
            for next in (blockers[path[path.count - 1]] ?? []).sorted() {
                if next == start { return path }
                if next < start, seen.insert(next).inserted { stack.append(path + [next]) }
            }
        }
        return nil
    }
}
