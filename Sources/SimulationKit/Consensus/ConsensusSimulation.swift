import Consensus
import TransactionCore

/// One run of real replicas over simulated clocks, disks and a network that does what networks do, judged at the end.
public struct ConsensusSimulation: Sendable {
    public let seed: UInt64
    public let bug: ConsensusBug?
    /// Whether clocks keep within what they claim; otherwise they may be wrong by any amount.
    public let clocksAreHonest: Bool

    /// Describes the run of `seed`.
    public init(seed: UInt64, bug: ConsensusBug? = nil, clocksAreHonest: Bool = true) {
        self.seed = seed
        self.bug = bug
        self.clocksAreHonest = clocksAreHonest
    }

    /// What came of a run.
    public struct Report: Sendable {
        public let seed: UInt64
        public let violations: [Violation]
        public let counts: ConsensusRunCounts
        public let trace: Trace
    }

    /// Runs it; the same description gives the same report, in every process.
    public func run() -> Report {
        let scheduler = Scheduler(seed: seed)
        let plan = ConsensusRunPlan(random: &scheduler.random)
        let cluster = ConsensusCluster(
            scheduler: scheduler, bug: bug, clocksAreHonest: clocksAreHonest, snapshotEntries: plan.snapshotEntries)
        defer { cluster.tearDown() }
        plan.populate(cluster)
        let clients = (0..<plan.clientCount).map { number in
            ConsensusClient(
                number: number, byLease: clocksAreHonest && scheduler.random.chance(0.7), cluster: cluster)
        }
        for client in clients { client.proceed() }
        let faults = ConsensusFaults(cluster: cluster, plan: plan)
        faults.start()
        scheduler.run(until: scheduler.now.advanced(byNanoseconds: plan.durationNanoseconds))
        faults.stop()
        for client in clients { client.isClosing = true }
        // Wrong clocks may have granted leases that last until they are right again.
        let settling = (clocksAreHonest ? 5 : 20) * second
        scheduler.run(until: scheduler.now.advanced(byNanoseconds: settling)) {
            clients.allSatisfy(\.isIdle) && cluster.hasSettled
        }
        return judge(cluster, clients)
    }

    private func judge(_ cluster: ConsensusCluster, _ clients: [ConsensusClient]) -> Report {
        var violations = cluster.violations
        if !cluster.hasSettled || !clients.allSatisfy(\.isIdle) {
            violations.append(
                Violation(
                    checker: "ProgressChecker",
                    message: "a mended cluster does not come to serve: \(cluster.nodes.map(\.summary)), "
                        + "\(clients.count { !$0.isIdle }) clients wait",
                    witnesses: []))
        }
        let operations = clients.flatMap(\.operations)
        let final = cluster.nodes.map(\.list).max { $0.count < $1.count } ?? []
        violations += ListChecker(final: final).check(operations)
        cluster.counts.operations = operations.count
        cluster.counts.runs = 1
        return Report(
            seed: seed, violations: violations, counts: cluster.counts, trace: Trace(events: cluster.scheduler.trace))
    }
}

/// What a seed stands for.
struct ConsensusRunPlan {
    let founderCount: Int
    let joinerCount: Int
    let clientCount: Int
    let durationNanoseconds: Nanoseconds
    let snapshotEntries: Int
    let lossProbability: Double
    let repeatProbability: Double
    let delayNanoseconds: Nanoseconds
    let flushNanoseconds: Nanoseconds
    let clockErrorNanoseconds: Nanoseconds
    let crash: Nanoseconds?
    let pause: Nanoseconds?
    let partition: Nanoseconds?
    let clockStep: Nanoseconds?
    let usurpation: Nanoseconds?
    let change: Nanoseconds?
    let handOver: Nanoseconds?

    init(random: inout SeededGenerator) {
        founderCount = random.element(of: [1, 2, 3, 3, 3, 4, 5])
        joinerCount = random.index(below: 3)
        clientCount = 1 + random.index(below: 5)
        durationNanoseconds = random.number(in: 500...2_500) * millisecond
        snapshotEntries = random.element(of: [2, 2, 5, 5, 20, 100])
        lossProbability = random.element(of: [0, 0.01, 0.1, 0.3])
        repeatProbability = random.element(of: [0, 0.02, 0.2])
        delayNanoseconds = random.element(of: [1, 5, 30]) * millisecond
        flushNanoseconds = random.element(of: [1, 5, 20]) * millisecond
        clockErrorNanoseconds = random.number(in: 0...10) * millisecond
        let mean = { (milliseconds: [Int64?], random: inout SeededGenerator) in
            random.element(of: milliseconds).map { $0 * millisecond }
        }
        crash = mean([nil, 60, 200, 500], &random)
        pause = mean([nil, 150], &random)
        partition = mean([nil, 50, 200], &random)
        clockStep = mean([nil, 30, 100], &random)
        usurpation = mean([nil, nil, 100], &random)
        change = mean([nil, 20, 40, 100], &random)
        handOver = mean([nil, 200], &random)
    }

    /// Adds the founders, and nodes that may join them.
    func populate(_ cluster: ConsensusCluster) {
        let scheduler = cluster.scheduler
        let founders = Membership(voters: NodeSet((1...founderCount).map { NodeID(rawValue: UInt16($0))! }))
        for number in 1...(founderCount + joinerCount) {
            let error = clockErrorNanoseconds
            var fault = ClockFault(
                offsetNanoseconds: scheduler.random.number(in: -error...error),
                driftPartsPerMillion: scheduler.random.number(in: -150...150))
            if !cluster.clocksAreHonest {
                let wrong = 500 * millisecond
                fault.offsetNanoseconds = scheduler.random.number(in: -wrong...wrong)
                fault.claimedUncertaintyNanoseconds = millisecond
            }
            let disk = SimulatedDisk(
                scheduler: scheduler, membership: number <= founderCount ? founders : .none,
                flushNanoseconds: (50 * microsecond)...flushNanoseconds, bug: cluster.bug)
            let clock = SimulatedClock(scheduler: scheduler, fault: fault, margin: millisecond)
            let node = SimulatedReplica(
                id: NodeID(rawValue: UInt16(number))!, clock: clock, disk: disk, cluster: cluster)
            cluster.add(node)
            node.start()
        }
        cluster.lossProbability = lossProbability
        cluster.repeatProbability = repeatProbability
        cluster.delayNanoseconds = (50 * microsecond)...delayNanoseconds
    }
}

extension ConsensusCluster {
    /// Somebody leads, and every member has applied the same.
    var hasSettled: Bool {
        guard let leader, let replica = leader.replica, replica.knowsAllChosen else { return false }
        return replica.membership.members.nodes.allSatisfy { node($0)?.chosenUpTo == replica.chosenUpTo }
    }
}
