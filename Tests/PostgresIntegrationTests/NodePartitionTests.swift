import Testing

/// Nodes that reach the others' metadata, and not each other.
@Suite(.serialized) struct NodePartitionTests {
    @Test("of two nodes that can't reach each other one steps back for as long, and clients of all nodes are served")
    func accusation() async throws {
        try await ChaosCluster.with { cluster in
            try await waitUntil("all nodes coordinate", within: .seconds(60)) {
                try await cluster.coordinators() == Set(cluster.nodes)
            }
            // Whom both reach: no session ends, so it is for the two to settle.
            try await cluster.lead(3)
            let start = ContinuousClock.now
            let probes = cluster.nodes.map { ChaosProbe($0, of: cluster) }
            let client = try await cluster.connect(toAnyFrom: 3)
            try await ChaosProbe.makeTable(probes, by: client)
            await client.close()
            try await withThrowingTaskGroup(of: Void.self) { group in
                for probe in probes { group.addTask { await probe.run() } }
                defer { for probe in probes { probe.stop() } }
                try await waitUntil("clients of all nodes are served", within: .seconds(60)) {
                    probes.allSatisfy { $0.isServed(since: start) }
                }
                let ways = [ChaosNetwork.Way(from: .node(1), to: .node(2)), .init(from: .node(2), to: .node(1))]
                cluster.network.hold(ways)
                try await waitUntil("one of the two steps back", within: .seconds(60)) {
                    [[1, 3], [2, 3]].contains(try await cluster.coordinators())
                }
                let (left, lives) = try await (cluster.coordinators(), cluster.lifeCount())
                let cut = ContinuousClock.now
                try await waitUntil("clients of all nodes are served meanwhile", within: .seconds(60)) {
                    probes.allSatisfy { $0.isServed(since: cut) }
                }
                // Longer than it takes to be accused again.
                try await Task.sleep(for: .seconds(4))
                #expect(try await cluster.coordinators() == left)
                #expect(try await cluster.lifeCount() == lives)

                cluster.network.letGo(ways)
                try await waitUntil("both coordinate again", within: .seconds(60)) {
                    try await cluster.coordinators() == Set(cluster.nodes)
                }
            }
            let reader = try await cluster.connect(toAnyFrom: 1)
            for probe in probes { try await probe.check(by: reader) }
            await reader.close()
        }
    }
}
