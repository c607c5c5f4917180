import Foundation
import SimulationKit

/// What goes wrong for a while in a cluster, and what it is done to.
struct ChaosFault: Sendable {
    enum Kind: String, CaseIterable {
        case nodeKilled = "is killed"
        case nodeRestarted = "is asked to stop, and started again"
        case nodeStopped = "stands still"
        case cutFromNode = "is cut off from one other node"
        case cutFromNodes = "is cut off from the other nodes"
        case unheard = "is not heard by the other nodes"
        case deaf = "does not hear the other nodes"
        case cutFromShard = "is cut off from a shard"
        case cutFromShards = "is cut off from all shards"
        case cutFromAll = "is cut off from nodes and shards"
        case shardKilled = "shard is killed"
        case shardStopped = "shard stands still"
        case shardReset = "shard's connections end"

        var isOfShard: Bool {
            switch self {
            case .shardKilled, .shardStopped, .shardReset: true
            case .nodeKilled, .nodeRestarted, .nodeStopped, .cutFromNode, .cutFromNodes, .unheard, .deaf,
                .cutFromShard, .cutFromShards, .cutFromAll:
                false
            }
        }
    }

    let kind: Kind
    /// Of faults of a node.
    let node: Int
    /// The place of a shard.
    let shard: Int
    let duration: Duration

    /// The node whose clients feel it anyway.
    var hitNode: Int? { kind.isOfShard ? nil : node }

    var title: String { kind.isOfShard ? "a \(kind.rawValue)" : "a node \(kind.rawValue)" }

    /// A fault of that kind, of any node and any shard.
    init(_ kind: Kind, lastingAtMost longest: Duration, using chance: inout SeededGenerator) {
        self.kind = kind
        node = Int.random(in: 1...ChaosCluster.nodeCount, using: &chance)
        shard = Int.random(in: 0..<3, using: &chance)
        // Two nodes that don't reach each other are to find out, and to settle which of them goes.
        let least = kind == .cutFromNode ? Duration.seconds(6) : .seconds(1)
        duration = least + (max(longest, least) - least) * Double.random(in: 0...1, using: &chance)
    }

    /// Whether both can happen at a time: they are not about the same.
    func isApart(from other: ChaosFault) -> Bool {
        kind.isOfShard || other.kind.isOfShard
            ? kind.isOfShard != other.kind.isOfShard || shard != other.shard
            : node != other.node
    }

    /// Does it, and undoes it when it has lasted.
    func happen(to cluster: ChaosCluster) async throws {
        let server = cluster.shards.shards[shard].server
        switch kind {
        case .nodeKilled:
            await cluster.kill(node)
            try await Task.sleep(for: duration)
            try await cluster.start(node)
        case .nodeRestarted:
            await cluster.end(node)
            try await cluster.start(node)
        case .nodeStopped:
            cluster.signal(node, SIGSTOP)
            try await Task.sleep(for: duration)
            cluster.signal(node, SIGCONT)
        case .cutFromNode, .cutFromNodes, .unheard, .deaf, .cutFromShard, .cutFromShards, .cutFromAll:
            let ways = ways(in: cluster)
            cluster.network.hold(ways)
            try await Task.sleep(for: duration)
            cluster.network.letGo(ways)
        case .shardKilled:
            await server.kill()
            try await Task.sleep(for: duration / 4)
            try await server.start()
        case .shardStopped:
            server.pause()
            try await Task.sleep(for: duration)
            server.resume()
        case .shardReset: cluster.network.reset(.shard(shard))
        }
    }

    /// What a cut cuts.
    private func ways(in cluster: ChaosCluster) -> [ChaosNetwork.Way] {
        func outward(_ places: [ChaosNetwork.Place]) -> [ChaosNetwork.Way] {
            places.map { ChaosNetwork.Way(from: .node(node), to: $0) }
        }
        let nodes = outward(cluster.nodes.filter { $0 != node }.map { .node($0) })
        let shards = outward(cluster.shardPlaces.map { .shard($0) })
        func bothWays(_ ways: [ChaosNetwork.Way]) -> [ChaosNetwork.Way] { ways + ways.map(\.back) }
        return switch kind {
        case .cutFromNode: bothWays(Array(nodes.prefix(1)))
        case .cutFromNodes: bothWays(nodes)
        case .unheard: nodes
        case .deaf: nodes.map(\.back)
        case .cutFromShard: bothWays(outward([.shard(shard)]))
        case .cutFromShards: bothWays(shards)
        case .cutFromAll: bothWays(nodes + shards)
        case .nodeKilled, .nodeRestarted, .nodeStopped, .shardKilled, .shardStopped, .shardReset: []
        }
    }
}
