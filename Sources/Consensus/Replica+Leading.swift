import TransactionCore

/// The leader: proposals, heartbeats, and what is chosen.
extension Replica {
    /// What became of a command that was handed in.
    public enum Proposed: Hashable, Sendable {
        /// It is in the line. It is chosen when it comes out among `Orders.chosen`, which may be never: a leader that
        /// follows it may know nothing of it.
        case queued
        /// Somebody else leads, as far as is known.
        case notLeader(NodeID?)
        /// The line is full.
        case busy
        /// It is longer than ``Replica/commandBytesMax``.
        case tooLong
    }

    /// Proposes `command` for the next free slot.
    public mutating func propose(_ command: [UInt8]) -> Proposed {
        guard leadership != nil else { return .notLeader(leader) }
        guard command.count <= Self.commandBytesMax else { return .tooLong }
        guard leadership!.queue.count < Self.queueMax else { return .busy }
        leadership!.queue.append(.command(command))
        proposeQueued()
        return .queued
    }

    /// Gives entries of the line their slots, as far as may be.
    mutating func proposeQueued() {
        while isLeading, !leadership!.awaitsMembership, leadership!.inFlight.count < Self.inFlightMax,
            leadership!.inFlightBytes < Self.inFlightBytesMax, let entry = leadership!.takeNextEntry()
        {
            leadership!.inFlight.append(Leadership.Proposal(entry: entry))
            leadership!.inFlightBytes += entry.byteCount
            let slot = leadership!.nextSlot
            record(.accepted(AcceptedEntry(slot: slot, ballot: leadership!.ballot, entry: entry)))
            leadership!.nextSlot = slot.next
        }
    }

    /// Sends what was proposed since the last time, a heartbeat where one is due, else what has been chosen since.
    ///
    /// The other acceptors write while this node does: its own acceptance is a vote like theirs, once it is durable.
    mutating func sendProposals(at now: TimestampInterval) {
        guard isLeading else { return }
        var isHeard = false
        while leadership!.firstUnsent < leadership!.nextSlot || (!isHeard && now.latest >= leadership!.heartbeatDue) {
            let first = leadership!.firstUnsent
            let entries = leadership!.entries(from: first)
            leadership!.round += 1
            leadership!.firstUnsent = first.advanced(by: Int64(entries.count))
            leadership!.heartbeatDue = now.latest.advanced(byNanoseconds: timing.heartbeatNanoseconds)
            let expiry = now.earliest.advanced(byNanoseconds: timing.leaseNanoseconds)
            for other in others { sendAccept(first: first, entries, until: expiry, to: other, at: now) }
            let granted = grantLease(to: leadership!.ballot, until: expiry, at: now)
            sendOnceDurable(
                .accepted(
                    Message.Accepted(
                        ballot: leadership!.ballot, first: first, count: entries.count, chosenUpTo: chosenUpTo,
                        round: leadership!.round, leaseExpiry: granted)),
                to: node)
            isHeard = true
        }
        if !isHeard, leadership!.toldUpTo < chosenUpTo {
            for other in others { send(.chosenUpTo(leadership!.ballot, upTo: chosenUpTo), to: other) }
        }
        leadership!.toldUpTo = chosenUpTo
    }

    private mutating func sendAccept(
        first: Slot, _ entries: [Entry], until expiry: Timestamp, to recipient: NodeID, at now: TimestampInterval
    ) {
        let ballot = leadership!.ballot
        let accept = Message.Accept(
            ballot: ballot, first: first, entries: entries, chosenUpTo: chosenUpTo, round: leadership!.round,
            leaseExpiry: expiry)
        // Only what has waited long enough is sent again, however much else is sent meanwhile.
        if leadership!.firstMissing(of: recipient) >= first {
            leadership!.followers[recipient, default: .init()].resendDue =
                now.latest.advanced(byNanoseconds: timing.resendNanoseconds)
        }
        send(.accept(accept), to: recipient)
    }

    mutating func acceptedReceived(_ accepted: Message.Accepted, from sender: NodeID, at now: TimestampInterval) {
        guard leadership?.ballot == accepted.ballot else { return }
        let answeredBefore = leadership!.answeredRound(in: membership)
        let missedBefore = leadership!.firstMissing(of: sender)
        leadership!.acceptedReceived(accepted, from: sender)
        if leadership!.firstMissing(of: sender) > missedBefore {
            leadership!.followers[sender]!.resendDue = now.latest.advanced(byNanoseconds: timing.resendNanoseconds)
        }
        countChosen(at: now)
        leaveWhenKnown(at: now)
        guard leadership != nil else { return }
        if leadership!.answeredRound(in: membership) > answeredBefore { leadership!.quorumHeard = now.latest }
        answerReads()
        proposeQueued()
    }

    /// An entry is chosen when a quorum of its slot's membership has accepted it, and every slot before is chosen, so
    /// that this membership is known.
    private mutating func countChosen(at now: TimestampInterval) {
        while let first = leadership?.inFlight.first, membership.hasQuorum(first.acceptedBy) {
            leadership!.inFlight.removeFirst()
            leadership!.inFlightBytes -= first.entry.byteCount
            choose(upTo: chosenUpTo.next)
            if case .membership = first.entry { membershipChosen(at: now) }
        }
    }

    /// A leader that is no member any more goes on until the others know: those that are left may not be able to have
    /// anything chosen as long as they take it for one of them.
    private mutating func leaveWhenKnown(at now: TimestampInterval) {
        guard let last = leadership?.leavesAfter else { return }
        let informed = membership.voters.nodes.filter { leadership!.followers[$0]?.chosenUpTo ?? .zero >= last }
        if membership.hasQuorum(NodeSet(informed)) { handOver(at: now) }
    }

    private mutating func membershipChosen(at now: TimestampInterval) {
        if !membership.voters.contains(node) { leadership!.leavesAfter = chosenUpTo }
        for other in others where !leadership!.promises.contains(other) { sendPrepare(to: other, at: now) }
    }

    mutating func leaderTicked(at now: TimestampInterval) {
        guard now.latest.nanoseconds(since: leadership!.quorumHeard) <= 2 * timing.leaseNanoseconds else {
            return tryLater(at: now)
        }
        for other in others where now.latest >= leadership!.followers[other]?.resendDue ?? .zero {
            guard leadership!.promises.contains(other) else {
                sendPrepare(to: other, at: now)
                continue
            }
            let first = leadership!.firstMissing(of: other)
            guard isLeading, first < leadership!.firstUnsent else { continue }
            let expiry = now.earliest.advanced(byNanoseconds: timing.leaseNanoseconds)
            let entries = leadership!.entries(from: first)
                .prefix(Int(first.distance(to: leadership!.firstUnsent)))
            sendAccept(first: first, Array(entries), until: expiry, to: other, at: now)
        }
    }

    // MARK: Reads

    /// Whether a read of the state machine's state may be answered.
    public enum ReadAnswer: Hashable, Sendable {
        /// It may, from the state with everything applied that was given out so far.
        case ready
        /// `Orders.readsReady` or `Orders.readsLost` will name it.
        case waits(ReadID)
        /// Somebody else leads, as far as is known.
        case notLeader(NodeID?)
    }

    /// Somebody wants to read the newest state: nothing that was acknowledged before may be missing from it.
    ///
    /// While the leader holds a lease from a quorum nobody else can have had anything chosen, so it answers by itself
    /// (Spanner §4.1.1). Otherwise, or where clocks are not to be trusted with it, a quorum is asked once whether this
    /// is still the leader; reads that come meanwhile share the next round.
    public mutating func readRequested(byLease: Bool = true, at now: TimestampInterval) -> ReadAnswer {
        guard leadership != nil else { return .notLeader(leader) }
        if byLease, holdsLease(at: now) { return .ready }
        readCount += 1
        let id = ReadID(rawValue: readCount)
        leadership!.reads.append(Leadership.WaitingRead(id: id, round: leadership!.round + 1))
        leadership!.heartbeatDue = now.latest
        return .waits(id)
    }

    private mutating func answerReads() {
        guard !leadership!.reads.isEmpty, knowsAllChosen else { return }
        let answered = leadership!.answeredRound(in: membership)
        orders.readsReady += leadership!.reads.filter { $0.round <= answered }.map(\.id)
        leadership!.reads.removeAll { $0.round <= answered }
    }

    // MARK: Members and hand-over

    /// What became of a wish to change the membership.
    public enum ChangeAnswer: Hashable, Sendable {
        case proposed
        case notLeader(NodeID?)
        /// Another change is under way, or the node does not lead yet: later.
        case busy
        /// It changes nothing, or would leave no voter.
        case impossible
        /// The learner lacks too many entries to count for a quorum.
        case notCaughtUp
    }

    /// Proposes to change who takes part, by one node.
    public mutating func changeMembership(_ change: Membership.Change) -> ChangeAnswer {
        guard leadership != nil else { return .notLeader(leader) }
        // What an earlier leader proposed may be a change, too: first that.
        guard knowsAllChosen, !leadership!.changesMembership else { return .busy }
        guard let changed = membership.applying(change) else { return .impossible }
        if case .promote(let learner) = change {
            // One that has never answered has nothing.
            guard let follower = leadership!.followers[learner], follower.round > 0,
                follower.chosenUpTo.distance(to: chosenUpTo) <= Self.promotionLagMax
            else { return .notCaughtUp }
        }
        leadership!.queue.append(.membership(changed))
        proposeQueued()
        return .proposed
    }

    /// Stops leading, and lets `successor` try at once instead of at the lease's end.
    public mutating func handOver(to successor: NodeID? = nil, at now: TimestampInterval) {
        guard let leadership else { return }
        let successor = successor ?? mostAdvancedVoter
        for other in others { send(.release(leadership.ballot, successor: successor), to: other) }
        stepDown()
        grant = nil
        postponeElection(from: now.latest.advanced(byNanoseconds: timing.leaseNanoseconds))
    }

    private var mostAdvancedVoter: NodeID? {
        membership.voters.nodes.filter { $0 != node }.max { left, right in
            leadership?.followers[left]?.chosenUpTo ?? .zero < leadership?.followers[right]?.chosenUpTo ?? .zero
        }
    }
}
