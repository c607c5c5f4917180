import TransactionCore

/// The acceptor.
extension Replica {
    /// Somebody asks for a promise (Paxos Made Simple §2.2, phase 1), or whether it would be given.
    mutating func prepareReceived(
        _ ballot: Ballot, from: Slot, isCanvass: Bool, sender: NodeID, at now: TimestampInterval
    ) {
        // Who lacks chosen entries gets them first: it may find that it is no member any more. And so a promise never
        // holds more than what may be in flight.
        guard from > chosenUpTo else { return sendChosen(from: from, to: sender, at: now) }
        guard ballot >= durable.promised, mayPromise(to: ballot.node, at: now) else {
            return send(.refused(ballot: ballot, promised: durable.promised), to: sender)
        }
        guard !isCanvass else { return send(.willing(ballot), to: sender) }
        promise(ballot)
        sendOnceDurable(.promise(ballot, accepted: accepted(from: from)), to: sender)
    }

    /// What it has accepted from `from` on, in the order of the slots.
    func accepted(from: Slot) -> [AcceptedEntry] {
        durable.accepted.values.filter { $0.slot >= from }.sorted { $0.slot < $1.slot }
    }

    /// A leader, which has the promises of a quorum, wants entries accepted (Paxos Made Simple §2.2, phase 2), or is
    /// heard to be there.
    mutating func acceptReceived(_ accept: Message.Accept, from sender: NodeID, at now: TimestampInterval) {
        guard accept.ballot >= durable.promised else {
            return send(.refused(ballot: accept.ballot, promised: durable.promised), to: sender)
        }
        promise(accept.ballot)
        canvass = nil
        leader = accept.ballot.node
        attempts = 0
        var slot = accept.first
        for entry in accept.entries {
            if slot > chosenUpTo, durable.accepted[slot]?.ballot != accept.ballot {
                record(.accepted(AcceptedEntry(slot: slot, ballot: accept.ballot, entry: entry)))
            }
            slot = slot.next
        }
        let expiry = grantLease(to: accept.ballot, until: accept.leaseExpiry, at: now)
        learn(upTo: accept.chosenUpTo, of: accept.ballot, from: sender, at: now)
        sendOnceDurable(
            .accepted(
                Message.Accepted(
                    ballot: accept.ballot, first: accept.first, count: accept.entries.count, chosenUpTo: chosenUpTo,
                    round: accept.round, leaseExpiry: expiry)),
            to: sender)
    }

    /// Accepts nothing under a smaller ballot from here on.
    mutating func promise(_ ballot: Ballot) {
        guard ballot > durable.promised else { return }
        stepDown()
        record(.promised(ballot))
    }

    // MARK: Leases

    /// Whether a promise to `candidate` breaks no word given to another node.
    ///
    /// A leader that holds a lease from a quorum can thus not be overtaken before a time that the clocks of both sides
    /// agree has passed.
    func mayPromise(to candidate: NodeID, at now: TimestampInterval) -> Bool {
        guard promisesFrom == .zero || now.isAfter(promisesFrom) else { return false }
        guard let grant, grant.ballot.node != candidate else { return true }
        return now.isAfter(grant.expiry)
    }

    /// Grants the leader of `ballot` a lease: returns its end.
    mutating func grantLease(to ballot: Ballot, until expiry: Timestamp, at now: TimestampInterval) -> Timestamp {
        // The bound makes the wait after a restart long enough.
        var granted = min(expiry, now.earliest.advanced(byNanoseconds: timing.grantNanosecondsMax))
        if let grant, grant.ballot == ballot { granted = max(granted, grant.expiry) }
        grant = Grant(ballot: ballot, expiry: granted)
        postponeElection(from: granted)
        return granted
    }

    /// The leader gave its lease back.
    mutating func releaseReceived(_ ballot: Ballot, successor: NodeID?, at now: TimestampInterval) {
        guard let grant, grant.ballot == ballot else { return }
        self.grant = nil
        leader = nil
        guard leadership == nil, canvass == nil else { return }
        if successor == node { return startCanvass(at: now) }
        // The successor comes first.
        postponeElection(from: now.latest.advanced(byNanoseconds: timing.backOffNanoseconds))
    }
}
