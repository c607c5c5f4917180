import Testing
import TwoPhaseCommit

@Suite struct WaitForGraphTests {
    private func graph(_ edges: (UInt64, UInt64)...) -> WaitForGraph {
        var graph = WaitForGraph()
        for (waiter, blocker) in edges { graph.add(WaitForGraph.Edge(waiter: waiter, blocker: blocker)) }
        return graph
    }

    @Test("waiting in a line is no deadlock")
    func line() {
        #expect(graph((3, 2), (2, 1), (4, 1), (5, 3)).victims().isEmpty)
        #expect(graph((1, 1)).isEmpty)
    }

    @Test("of a cycle the youngest is the victim, and those who merely wait for it are not")
    func cycle() {
        let victims = graph((1, 2), (2, 3), (3, 1), (9, 3)).victims()
        #expect(victims.map(\.victim) == [3])
        #expect(victims.first?.cycle == [3, 1, 2])
    }

    @Test("each of several cycles loses one, and a transaction in two of them is taken once")
    func severalCycles() {
        #expect(graph((1, 2), (2, 1), (3, 4), (4, 3)).victims().map(\.victim) == [4, 2])
        #expect(graph((1, 5), (5, 1), (2, 5), (5, 2)).victims().map(\.victim) == [5])
    }

    @Test("a cycle counts only as far as both graphs have it")
    func intersection() {
        let first = graph((1, 2), (2, 1))
        #expect(first.intersection(graph((1, 2), (3, 1))).victims().isEmpty)
        #expect(first.intersection(graph((2, 1), (1, 2), (4, 1))).victims().map(\.victim) == [2])
    }

    @Test("without the victims no cycle is left, in random graphs")
    func random() {
        var state: UInt64 = 7
        func next(_ bound: UInt64) -> UInt64 {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return (state >> 33) % bound
        }
        for _ in 0..<300 {
            var edges: [(UInt64, UInt64)] = []
            for _ in 0..<12 { edges.append((next(8), next(8))) }
            var all = WaitForGraph()
            for (waiter, blocker) in edges { all.add(WaitForGraph.Edge(waiter: waiter, blocker: blocker)) }
            let victims = Set(all.victims().map(\.victim))
            var left = WaitForGraph()
            for (waiter, blocker) in edges where !victims.contains(waiter) && !victims.contains(blocker) {
                left.add(WaitForGraph.Edge(waiter: waiter, blocker: blocker))
            }
            #expect(left.victims().isEmpty)
        }
    }
}
