import ArgumentParser
@preconcurrency import Glibc
import SimulationKit

/// `meridian simulate`: looks for broken rules under simulated faults, one seed after the other.
struct Simulate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Look for broken rules under simulated faults.",
        discussion: """
            Runs the real coordinator, recovery and safe-time code over simulated shards that crash, connections that \
            break and clocks that are wrong, and judges every run's history. A seed gives the same run every time.

              meridian simulate --seed 1 --seconds 60
              meridian simulate --seed 17 --runs 1 --trace
              meridian simulate --bug skipCommitWait      a mistake made on purpose, to see it found
            """
    )

    /// Without `--seconds` and `--runs`.
    private static let secondsDefault = 10.0
    /// So many of a violation's events are printed, the last ones.
    private static let eventsMax = 60

    @Option(help: "The first seed; the following ones come next.")
    var seed: UInt64 = 1

    @Option(help: "How long to go on, in seconds; by default 10 unless --runs is given.")
    var seconds: Double?

    @Option(help: "At most so many runs.")
    var runs: UInt64?

    @Option(
        help: ArgumentHelp(
            "A mistake to make on purpose: \(PlantedBug.allCases.map(\.rawValue).joined(separator: ", ")).",
            valueName: "name"))
    var bug: PlantedBug?

    @Flag(help: "Print everything that happens.")
    var trace = false

    func validate() throws {
        guard seconds.map({ $0 > 0 }) ?? true else { throw ValidationError("--seconds is more than 0.") }
        guard runs.map({ $0 > 0 }) ?? true else { throw ValidationError("--runs is at least 1.") }
    }

    func run() async throws {
        let start = ContinuousClock.now
        let deadline = (seconds ?? (runs == nil ? Self.secondsDefault : nil)).map { start + .seconds($0) }
        let progress = ProgressLine()
        var counts = RunCounts()
        var runCount: UInt64 = 0
        while runCount < runs ?? .max, deadline.map({ ContinuousClock.now < $0 }) ?? true {
            let report = Simulation(seed: seed &+ runCount, bug: bug).run()
            runCount += 1
            counts += report.counts
            if trace { for event in report.trace.events { print(event) } }
            guard report.violations.isEmpty else {
                progress.clear()
                printViolations(of: report)
                throw ExitCode.failure
            }
            progress.show(
                "seed \(report.seed): \(runCount) runs, \(counts.transactionsCommitted) transactions committed")
        }
        progress.clear()
        let elapsed = ContinuousClock.now - start
        let rate = Double(runCount) / (elapsed / .seconds(1))
        print("no violation in \(runCount) runs (seeds \(seed) to \(seed &+ runCount - 1)), \(Int(rate)) runs/s")
        for (name, figure) in counts.figures { print("  \(name): \(figure)") }
    }

    private func printViolations(of report: Simulation.Report) {
        for violation in report.violations.prefix(3) { print("VIOLATION  seed \(report.seed): \(violation)") }
        if report.violations.count > 3 { print("and \(report.violations.count - 3) more") }
        let witnesses = report.violations[0].witnesses
        print("what happened to the witnesses, last \(Self.eventsMax) events:")
        for event in report.trace.concerning(witnesses, limit: Self.eventsMax) { print("  \(event)") }
        print("repeat it: meridian simulate --seed \(report.seed) --runs 1\(bug.map { " --bug \($0.rawValue)" } ?? "")")
    }
}

extension PlantedBug: ExpressibleByArgument {}
