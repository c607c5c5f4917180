import SimulationKit
import Testing

@Suite struct ConsensusSimulationTests {
    @Test("one value for each slot, nothing acknowledged lost, no two leases, linearizable", arguments: 0..<10)
    func unbroken(block: UInt64) {
        for seed in (block * 20 + 1)...(block * 20 + 20) {
            check(ConsensusSimulation(seed: seed).run())
        }
    }

    @Test("clocks that are wrong by any amount break nothing but leases")
    func wrongClocks() {
        for seed in 1...50 as ClosedRange<UInt64> {
            check(ConsensusSimulation(seed: seed, clocksAreHonest: false).run())
        }
    }

    @Test("each planted bug is found", arguments: ConsensusBug.allCases)
    func planted(bug: ConsensusBug) {
        let found = (1...300).lazy.map { ConsensusSimulation(seed: $0, bug: bug).run() }.first {
            !$0.violations.isEmpty
        }
        #expect(found != nil, "\(bug) is not found by seeds 1 to 300")
    }

    @Test("the same seed gives the identical events, and different seeds everything that can go wrong")
    func repeatable() {
        var counts = ConsensusRunCounts()
        for seed in 1...20 as ClosedRange<UInt64> {
            let (first, second) = (ConsensusSimulation(seed: seed).run(), ConsensusSimulation(seed: seed).run())
            #expect(first.trace.events == second.trace.events)
            #expect(first.counts == second.counts)
            counts += first.counts
        }
        for (name, figure) in counts.figures { #expect(figure > 0, "\(name)") }
    }
}

private func check(_ report: ConsensusSimulation.Report, sourceLocation: SourceLocation = #_sourceLocation) {
    #expect(
        report.violations.isEmpty,
        "seed \(report.seed): \(report.violations.prefix(3)); see `meridian simulate --part consensus`",
        sourceLocation: sourceLocation)
}
