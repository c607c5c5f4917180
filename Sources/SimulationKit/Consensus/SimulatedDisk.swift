import Consensus
import TransactionCore

/// A replica's storage: records are safe once a flush that began after they were written has ended.
///
/// A crash keeps some of the unflushed ones, the first before the later ones, as a log that is appended to does.
final class SimulatedDisk {
    private let scheduler: Scheduler
    private let bug: ConsensusBug?
    private let first: Membership
    private var durable: [DurableRecord] = []
    private var written: [DurableRecord] = []
    private var waiting: [() -> Void] = []
    private var isFlushing = false
    /// A crash makes the flushes before it end unnoticed.
    private var generation = 0
    var flushNanoseconds: ClosedRange<Nanoseconds>

    init(
        scheduler: Scheduler, membership: Membership, flushNanoseconds: ClosedRange<Nanoseconds>, bug: ConsensusBug?
    ) {
        self.scheduler = scheduler
        self.first = membership
        self.flushNanoseconds = flushNanoseconds
        self.bug = bug
    }

    func write(_ records: [DurableRecord]) {
        written += records
    }

    /// Calls `body` when everything written so far is durable.
    func flush(then body: @escaping () -> Void) {
        waiting.append(body)
        if !isFlushing { startFlush() }
    }

    private func startFlush() {
        isFlushing = true
        let (records, bodies, generation) = (written.count, waiting, generation)
        waiting = []
        scheduler.after(scheduler.random.delay(in: flushNanoseconds)) { [self] in
            guard generation == self.generation else { return }
            durable += written.prefix(records)
            written.removeFirst(records)
            isFlushing = false
            for body in bodies { body() }
            if !waiting.isEmpty, !isFlushing, generation == self.generation { startFlush() }
        }
    }

    /// Power fails: what was not flushed is lost, but for a part of it.
    func crash() {
        durable += written.prefix(scheduler.random.index(below: written.count + 1))
        written = []
        waiting = []
        isFlushing = false
        generation += 1
    }

    /// Writes the durable records anew, as few as give the same state; what is only written stays so.
    func compact() {
        var records = replay().records
        if bug == .snapshotForgetsAccepted {
            records.removeAll { if case .accepted = $0 { true } else { false } }
        }
        durable = records
    }

    /// What a node that starts finds.
    func replay() -> DurableState {
        var state = DurableState(membership: first)
        for record in durable {
            if bug == .quorumOfOldMembership, case .snapshot(var snapshot) = record {
                snapshot.membership = first
                state.append(.snapshot(snapshot))
            } else {
                state.append(record)
            }
        }
        return state
    }
}
