import BoundedTime
import Consensus
import TransactionCore

/// The twin of the shell around a ``Replica``: a node that writes, sends and applies what its replica orders, crashes,
/// stands still, and is started again.
final class SimulatedReplica {
    let id: NodeID
    let clock: SimulatedClock
    let disk: SimulatedDisk
    private unowned let cluster: ConsensusCluster
    private var scheduler: Scheduler { cluster.scheduler }
    private(set) var replica: Replica?
    /// What was done up to here is undone by a crash: callbacks of another life do nothing.
    private var life = 0
    /// Until then the process stands still; what comes meanwhile it handles afterwards.
    private var pausedUntil = Timestamp.zero
    private var held: [() -> Void] = []
    private var lastInterval: TimestampInterval?
    private var isClockTrusted = true
    /// The state machine: the commands applied so far, each once.
    private(set) var list: [UInt64] = []
    private var applied: Set<UInt64> = []
    private var appliedUpTo = Slot.zero
    private var acknowledgements: [UInt64: (Bool) -> Void] = [:]
    private var waitingReads: [Replica.ReadID: ([UInt64]?) -> Void] = [:]
    private var leaseSeen = Timestamp.zero

    init(id: NodeID, clock: SimulatedClock, disk: SimulatedDisk, cluster: ConsensusCluster) {
        self.id = id
        self.clock = clock
        self.disk = disk
        self.cluster = cluster
    }

    var isUp: Bool { replica != nil }
    var chosenUpTo: Slot { replica?.chosenUpTo ?? .zero }

    /// What it takes itself for.
    var summary: String {
        guard let replica else { return "node \(id) is down" }
        return "node \(id)\(replica.isLeading ? " leads" : " follows \(replica.leader?.description ?? "nobody")"), "
            + "promised \(replica.durable.promised), chosen up to \(chosenUpTo), \(replica.membership)"
    }

    // MARK: Life

    func start() {
        guard replica == nil, let now = now() else { return retryStart() }
        let durable = disk.replay()
        (list, applied, appliedUpTo) = ([], [], .zero)
        install(durable.snapshot)
        replica = Replica(
            node: id, durable: durable, timing: ConsensusTiming(leaseNanoseconds: ConsensusCluster.lease),
            seed: scheduler.random.next(), at: cluster.bug == .grantsForgotten ? now.longAgo : now)
        for (offset, entry) in durable.chosen.enumerated() {
            apply(entry, in: durable.snapshot.slot.advanced(by: Int64(offset) + 1))
        }
        cluster.note(self, "started, chosen up to \(chosenUpTo)")
        tick(in: life)
    }

    /// Its clock does not tell the time yet.
    private func retryStart() {
        let life = life
        scheduler.after(5 * millisecond) { [weak self] in
            guard let self, life == self.life, replica == nil else { return }
            start()
        }
    }

    func crash() {
        guard replica != nil else { return }
        cluster.note(self, "crashed")
        replica = nil
        life += 1
        held = []
        pausedUntil = .zero
        leaseSeen = .zero
        disk.crash()
        acknowledgements = [:]
        waitingReads = [:]
    }

    func pause(for nanoseconds: Nanoseconds) {
        pausedUntil = max(pausedUntil, scheduler.now.advanced(byNanoseconds: nanoseconds))
        cluster.note(self, "paused")
    }

    /// Does `body` when the process runs, unless it has crashed by then.
    private func whenRunning(_ body: @escaping () -> Void) {
        guard scheduler.now < pausedUntil else { return body() }
        held.append(body)
        guard held.count == 1 else { return }
        resume(in: life)
    }

    private func resume(in life: Int) {
        scheduler.after(pausedUntil.nanoseconds(since: scheduler.now)) { [weak self] in
            guard let self, life == self.life else { return }
            guard scheduler.now >= pausedUntil else { return resume(in: life) }
            let bodies = held
            held = []
            for body in bodies where life == self.life { body() }
        }
    }

    private func tick(in life: Int) {
        scheduler.after(ConsensusCluster.tick) { [weak self] in
            guard let self, life == self.life else { return }
            whenRunning { [self] in
                handle { $0.ticked(at: $1) }
                if holdsLease { cluster.leaseHeld(by: self) }
            }
            tick(in: life)
        }
    }

    /// The present, or what it was when the clock last told it: then leases are not to be trusted.
    private func now() -> TimestampInterval? {
        if let interval = try? clock.now() {
            lastInterval = interval
            isClockTrusted = true
        } else {
            isClockTrusted = false
        }
        return lastInterval
    }

    // MARK: What comes in

    func received(_ message: Message, from sender: NodeID) {
        whenRunning { [self] in handle { $0.received(message, from: sender, at: $1) } }
    }

    /// A client hands in a command; it is told whether this node has seen it chosen, or nothing at all.
    func propose(_ command: UInt64, answer: @escaping (Bool) -> Void) {
        whenRunning { [self] in
            guard replica != nil else { return }
            guard !applied.contains(command) else { return answer(true) }
            var isQueued = false
            handle { replica, _ in isQueued = replica.propose(command.littleEndianBytes) == .queued }
            guard isQueued else { return answer(false) }
            if cluster.bug == .acknowledgedBeforeChosen { return answer(true) }
            acknowledgements[command] = answer
        }
    }

    /// A client wants the list, by the leader's lease or by a round of messages; nil where this node can't tell.
    func read(byLease: Bool, answer: @escaping ([UInt64]?) -> Void) {
        whenRunning { [self] in
            guard replica != nil else { return }
            var result = Replica.ReadAnswer.notLeader(nil)
            handle { [self] replica, now in
                let trusted = isClockTrusted || cluster.bug == .leaseWithoutClock
                result = replica.readRequested(byLease: byLease && trusted, at: now)
            }
            switch result {
            case .ready:
                leaseSeen = scheduler.now
                cluster.counts.leaseReads += 1
                answer(list)
            case .waits, .notLeader:
                let believes = scheduler.now.nanoseconds(since: leaseSeen) < 4 * ConsensusCluster.lease
                if cluster.bug == .leaseUsedPastExpiry, byLease, believes { return answer(list) }
                guard case .waits(let id) = result else { return answer(nil) }
                waitingReads[id] = answer
            }
        }
    }

    /// An operator changes who takes part.
    func changeMembership(_ change: Membership.Change) -> Bool {
        guard scheduler.now >= pausedUntil else { return false }
        var answer = Replica.ChangeAnswer.notLeader(nil)
        handle { replica, _ in answer = replica.changeMembership(change) }
        return answer == .proposed
    }

    func handOver() {
        guard scheduler.now >= pausedUntil else { return }
        handle { $0.handOver(at: $1) }
    }

    /// Whether it would read by its lease, were it asked now.
    var holdsLease: Bool {
        guard let replica, let now = now(), isClockTrusted || cluster.bug == .leaseWithoutClock else { return false }
        return replica.holdsLease(at: now)
    }

    // MARK: What goes out

    private func handle(_ input: (inout Replica, TimestampInterval) -> Void) {
        guard replica != nil, let now = now() else { return }
        input(&replica!, now)
        carryOut(replica!.takeOrders(at: now))
    }

    private func carryOut(_ orders: Orders) {
        disk.write(orders.records)
        for envelope in orders.messages { cluster.send(envelope, from: id) }
        if !orders.messagesOnceDurable.isEmpty {
            let (life, messages) = (life, orders.messagesOnceDurable)
            let send = { [weak self] in
                guard let self, life == self.life else { return }
                for envelope in messages { deliver(envelope) }
            }
            if cluster.bug == .answerBeforeDurable { scheduler.after(0, send) } else { disk.flush(then: send) }
        }
        if let snapshot = orders.installed { install(snapshot) }
        for chosen in orders.chosen { apply(chosen.entry, in: chosen.slot) }
        for id in orders.readsReady { waitingReads.removeValue(forKey: id)?(list) }
        for id in orders.readsLost { waitingReads.removeValue(forKey: id)?(nil) }
        takeSnapshot()
    }

    private func deliver(_ envelope: Envelope) {
        if envelope.recipient == id { return received(envelope.message, from: id) }
        whenRunning { [self] in cluster.send(envelope, from: id) }
    }

    private func install(_ snapshot: Snapshot) {
        if cluster.bug == .snapshotNotInstalled, appliedUpTo != .zero { return appliedUpTo = snapshot.slot }
        appliedUpTo = snapshot.slot
        list = [UInt64](littleEndianBytes: snapshot.state)
        applied = Set(list)
        cluster.snapshotInstalled(snapshot, on: self)
    }

    private func apply(_ entry: Entry, in slot: Slot) {
        precondition(slot == appliedUpTo.next, "slot \(slot) is given out to be applied after \(appliedUpTo)")
        appliedUpTo = slot
        guard case .command(let bytes) = entry else { return cluster.applied(entry, in: slot, on: self) }
        let command = [UInt64](littleEndianBytes: bytes)[0]
        if applied.insert(command).inserted { list.append(command) }
        cluster.applied(entry, in: slot, on: self)
        acknowledgements.removeValue(forKey: command)?(true)
    }

    private func takeSnapshot() {
        guard let replica, replica.durable.chosen.count >= cluster.snapshotEntries else { return }
        self.replica!.snapshotTaken(after: appliedUpTo, state: list.flatMap(\.littleEndianBytes))
        guard let now = now() else { return }
        disk.write(self.replica!.takeOrders(at: now).records)
        disk.flush { [self] in disk.compact() }
    }

    func tearDown() {
        replica = nil
        life += 1
        held = []
        acknowledgements = [:]
        waitingReads = [:]
        disk.crash()
    }
}

extension TimestampInterval {
    fileprivate var longAgo: TimestampInterval {
        TimestampInterval(
            earliest: earliest.advanced(byNanoseconds: -60 * second),
            latest: latest.advanced(byNanoseconds: -60 * second))
    }
}

extension UInt64 {
    var littleEndianBytes: [UInt8] { (0..<8).map { UInt8(truncatingIfNeeded: self >> (8 * $0)) } }
}

extension [UInt64] {
    init(littleEndianBytes bytes: [UInt8]) {
        self = stride(from: 0, to: bytes.count, by: 8).map { start in
            (0..<8).reduce(0) { $0 | UInt64(bytes[start + $1]) << (8 * UInt64($1)) }
        }
    }
}
