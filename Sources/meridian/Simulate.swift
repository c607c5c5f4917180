import ArgumentParser
@preconcurrency import Glibc
import SimulationKit

/// `meridian simulate`: looks for broken rules under simulated faults, one seed after the other.
struct Simulate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Look for broken rules under simulated faults.",
        discussion: """
            Runs the real coordinator, recovery and safe-time code over simulated shards that crash, connections that \
            break and clocks that are wrong, and judges every run's history; or, with `--part consensus`, the real \
            replicas over a network, disks and clocks that do their worst. A seed gives the same run every time.

              meridian simulate --seed 1 --seconds 60
              meridian simulate --part consensus --seed 1 --seconds 60
              meridian simulate --seed 17 --runs 1 --trace
              meridian simulate --bug skipCommitWait      a mistake made on purpose, to see it found
            """
    )

    /// Without `--seconds` and `--runs`.
    private static let secondsDefault = 10.0
    /// So many of a violation's events are printed, the last ones.
    private static let eventsMax = 60

    /// What is simulated.
    enum Part: String, CaseIterable, ExpressibleByArgument {
        case transactions, consensus
    }

    @Option(help: "What to simulate: transactions or consensus.")
    var part = Part.transactions

    @Option(help: "The first seed; the following ones come next.")
    var seed: UInt64 = 1

    @Option(help: "How long to go on, in seconds; by default 10 unless --runs is given.")
    var seconds: Double?

    @Option(help: "At most so many runs.")
    var runs: UInt64?

    @Option(
        help: ArgumentHelp(
            """
            A mistake to make on purpose: \(PlantedBug.allCases.map(\.rawValue).joined(separator: ", ")); \
            of consensus: \(ConsensusBug.allCases.map(\.rawValue).joined(separator: ", ")).
            """,
            valueName: "name"))
    var bug: String?

    @Flag(help: "Print everything that happens.")
    var trace = false

    func validate() throws {
        guard seconds.map({ $0 > 0 }) ?? true else { throw ValidationError("--seconds is more than 0.") }
        guard runs.map({ $0 > 0 }) ?? true else { throw ValidationError("--runs is at least 1.") }
        let bugs = part == .transactions ? PlantedBug.allCases.map(\.rawValue) : ConsensusBug.allCases.map(\.rawValue)
        guard bug.map(bugs.contains) ?? true else {
            throw ValidationError("\(bug!) is no bug of \(part.rawValue); they are \(bugs.joined(separator: ", ")).")
        }
    }

    func run() async throws {
        let start = ContinuousClock.now
        let deadline = (seconds ?? (runs == nil ? Self.secondsDefault : nil)).map { start + .seconds($0) }
        let progress = ProgressLine()
        var figures: [(name: String, figure: Int)] = []
        var runCount: UInt64 = 0
        while runCount < runs ?? .max, deadline.map({ ContinuousClock.now < $0 }) ?? true {
            let report = report(of: seed &+ runCount)
            runCount += 1
            figures =
                figures.isEmpty ? report.figures : zip(figures, report.figures).map { ($0.name, $0.figure + $1.figure) }
            if trace { for event in report.trace.events { print(event) } }
            guard report.violations.isEmpty else {
                progress.clear()
                printViolations(of: report)
                throw ExitCode.failure
            }
            progress.show("seed \(report.seed): \(runCount) runs, \(figures[0].figure) \(figures[0].name)")
        }
        progress.clear()
        let elapsed = ContinuousClock.now - start
        let rate = Double(runCount) / (elapsed / .seconds(1))
        print("no violation in \(runCount) runs (seeds \(seed) to \(seed &+ runCount - 1)), \(Int(rate)) runs/s")
        for (name, figure) in figures { print("  \(name): \(figure)") }
    }

    /// What both kinds of run have in common.
    private struct Report {
        let seed: UInt64
        let violations: [Violation]
        let figures: [(name: String, figure: Int)]
        let trace: Trace
    }

    private func report(of seed: UInt64) -> Report {
        switch part {
        case .transactions:
            let report = Simulation(seed: seed, bug: bug.flatMap(PlantedBug.init)).run()
            return Report(
                seed: seed, violations: report.violations, figures: report.counts.figures, trace: report.trace)
        case .consensus:
            let report = ConsensusSimulation(seed: seed, bug: bug.flatMap(ConsensusBug.init)).run()
            return Report(
                seed: seed, violations: report.violations, figures: report.counts.figures, trace: report.trace)
        }
    }

    private func printViolations(of report: Report) {
        for violation in report.violations.prefix(3) { print("VIOLATION  seed \(report.seed): \(violation)") }
        if report.violations.count > 3 { print("and \(report.violations.count - 3) more") }
        let witnesses = report.violations[0].witnesses
        print("what happened to the witnesses, last \(Self.eventsMax) events:")
        for event in report.trace.concerning(witnesses, limit: Self.eventsMax) { print("  \(event)") }
        print(
            "repeat it: meridian simulate --part \(part.rawValue) --seed \(report.seed) --runs 1"
                + (bug.map { " --bug \($0)" } ?? ""))
    }
}
