import Consensus
import TransactionCore

/// The replicas of a run and the network between them, which loses, repeats, delays and overtakes.
final class ConsensusCluster {
    /// Short ones, so that a run sees many.
    static let lease: Nanoseconds = 100 * millisecond
    static let tick: Nanoseconds = 4 * millisecond

    let scheduler: Scheduler
    let bug: ConsensusBug?
    let clocksAreHonest: Bool
    /// A node takes a snapshot when it holds so many chosen entries.
    let snapshotEntries: Int
    private(set) var nodes: [SimulatedReplica] = []
    var lossProbability = 0.0
    var repeatProbability = 0.0
    var delayNanoseconds: ClosedRange<Nanoseconds> = (50 * microsecond)...millisecond
    /// From whom nothing gets to whom.
    private var cut: Set<[NodeID]> = []
    var counts = ConsensusRunCounts()
    private(set) var violations: [Violation] = []
    /// What every slot was given, by whoever applied it first.
    private var chosen: [Slot: Entry] = [:]
    /// The list after every slot.
    private var lists: [Slot: [UInt64]] = [.zero: []]

    init(scheduler: Scheduler, bug: ConsensusBug?, clocksAreHonest: Bool, snapshotEntries: Int) {
        self.scheduler = scheduler
        self.bug = bug
        self.clocksAreHonest = clocksAreHonest
        self.snapshotEntries = snapshotEntries
    }

    func add(_ node: SimulatedReplica) { nodes.append(node) }

    func node(_ id: NodeID) -> SimulatedReplica? { nodes.first { $0.id == id } }

    /// The node that leads under the largest ballot.
    var leader: SimulatedReplica? {
        nodes.filter { $0.replica?.isLeading == true }
            .max { $0.replica!.durable.promised < $1.replica!.durable.promised }
    }

    // MARK: Network

    func send(_ envelope: Envelope, from sender: NodeID) {
        counts.messages += 1
        guard let recipient = node(envelope.recipient), !cut.contains([sender, recipient.id]) else { return }
        guard !scheduler.random.chance(lossProbability) else { return counts.messagesLost += 1 }
        for _ in 0..<(scheduler.random.chance(repeatProbability) ? 2 : 1) {
            scheduler.after(scheduler.random.delay(in: delayNanoseconds)) { [weak self] in
                guard let self, !cut.contains([sender, recipient.id]) else { return }
                recipient.received(envelope.message, from: sender)
            }
        }
    }

    /// Nothing gets from one to the other, though perhaps the other way.
    func cut(_ sender: NodeID, _ recipient: NodeID, for nanoseconds: Nanoseconds) {
        cut.insert([sender, recipient])
        scheduler.after(nanoseconds) { [weak self] in self?.cut.remove([sender, recipient]) }
    }

    func heal() {
        cut = []
        lossProbability = 0
        repeatProbability = 0
        delayNanoseconds = (50 * microsecond)...millisecond
        for node in nodes {
            node.disk.flushNanoseconds = (100 * microsecond)...(2 * millisecond)
            if !node.isUp { node.start() }
        }
    }

    // MARK: What is checked as it happens

    func applied(_ entry: Entry, in slot: Slot, on node: SimulatedReplica) {
        guard let known = chosen[slot] else {
            chosen[slot] = entry
            lists[slot] = node.list
            if case .membership(let membership) = entry {
                counts.membershipChanges += 1
                note(node, "\(membership) take part after slot \(slot)")
            }
            return
        }
        guard known != entry else { return }
        violate("OneValueChecker", "slot \(slot) holds \(known.summary), and on node \(node.id) \(entry.summary)")
    }

    func snapshotInstalled(_ snapshot: Snapshot, on node: SimulatedReplica) {
        guard snapshot.slot != .zero else { return }
        counts.snapshotsInstalled += 1
        guard node.list != lists[snapshot.slot] else { return }
        violate("SnapshotChecker", "the snapshot after slot \(snapshot.slot) on node \(node.id) holds another list")
    }

    /// Somebody would answer a read by its lease: nobody else may at this moment.
    func leaseHeld(by node: SimulatedReplica) {
        guard clocksAreHonest else { return }
        for other in nodes where other !== node && other.holdsLease {
            violate("LeaseChecker", "nodes \(node.id) and \(other.id) both hold the lease at \(scheduler.now)")
        }
    }

    func violate(_ checker: String, _ message: String) {
        violations.append(Violation(checker: checker, message: message, witnesses: []))
    }

    func note(_ node: SimulatedReplica, _ what: String) {
        scheduler.note(.node(Int(node.id.rawValue)), what)
    }

    func tearDown() {
        for node in nodes { node.tearDown() }
        scheduler.cancelAll()
    }
}

extension Entry {
    fileprivate var summary: String {
        switch self {
        case .noOperation: "nothing"
        case .command(let bytes): "command \([UInt64](littleEndianBytes: bytes)[0])"
        case .membership(let membership): "the membership \(membership)"
        }
    }
}
