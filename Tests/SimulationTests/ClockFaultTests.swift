import SimulationKit
import Testing
import TransactionCore

/// Clocks that are wrong by more than their sources say.
@Suite struct ClockFaultTests {
    private static let millisecond: Int64 = 1_000_000

    @Test("a node whose clock is an hour behind is refused as soon as it sees a shard's newest timestamp")
    func farBehind() {
        // The first node runs truly; every later one swears to a millisecond.
        let behind = ClockFault(
            offsetNanoseconds: -3_600_000 * Self.millisecond, claimedUncertaintyNanoseconds: Self.millisecond)
        let faults = [ClockFault(offsetNanoseconds: 0)] + Array(repeating: behind, count: 30)
        var runsWithRefusals = 0
        for seed: UInt64 in 1...20 {
            let report = Simulation(seed: seed, clocks: .faulty(faults)).run()
            let liar = report.trace.events.first { $0.what == "serving" && $0.place != .node(0) }
            // On shards that hold no timestamp yet there is nothing to compare with, and a liar serves.
            #expect(liar == nil || liar?.timestamp == .zero, "seed \(seed): \(liar!)")
            let wrong = report.violations.filter { $0.checker != "ProgressChecker" }
            #expect(wrong.isEmpty == (liar == nil), "seed \(seed): \(wrong)")
            runsWithRefusals += report.counts.clockRefusals > 0 ? 1 : 0
        }
        #expect(runsWithRefusals > 5)
    }

    @Test("a clock that is ahead by more than it claims is noticed by the order of real time")
    func ahead() {
        let ahead = ClockFault(
            offsetNanoseconds: 50 * Self.millisecond, claimedUncertaintyNanoseconds: Self.millisecond)
        #expect(violated(by: Array(repeating: ahead, count: 20)).contains("RealTimeOrderChecker"))
    }

    @Test("a clock that is behind by more than it claims is noticed by the order of real time")
    func behind() {
        let behind = ClockFault(
            offsetNanoseconds: -50 * Self.millisecond, claimedUncertaintyNanoseconds: Self.millisecond)
        #expect(violated(by: Array(repeating: behind, count: 20)).contains("RealTimeOrderChecker"))
    }

    @Test("a clock that drifts away unnoticed is noticed by the order of real time")
    func drifting() {
        // Ten times Spanner's bound, and a source that knows nothing of it.
        let drifting = ClockFault(
            offsetNanoseconds: 0, driftPartsPerMillion: 20_000, claimedUncertaintyNanoseconds: Self.millisecond)
        #expect(violated(by: Array(repeating: drifting, count: 20)).contains("RealTimeOrderChecker"))
    }

    private func violated(by faults: [ClockFault]) -> Set<String> {
        Set((1...5).flatMap { Simulation(seed: $0, clocks: .faulty(faults)).run().violations.map(\.checker) })
    }
}
