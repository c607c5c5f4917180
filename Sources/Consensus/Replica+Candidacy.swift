import TransactionCore

/// From follower to leader.
extension Replica {
    /// Asks around whether a quorum would promise. Nobody's state changes by that, so a node that was cut off can't
    /// unseat a leader that all the others follow.
    mutating func startCanvass(at now: TimestampInterval) {
        guard membership.voters.contains(node), mayPromise(to: node, at: now) else {
            // It may be a voter without knowing it, and needed; or know what voters lack who can't lead without it.
            // Under a ballot that nobody ever had they take nothing for chosen, and ask.
            for other in others {
                send(.catchUp(from: chosenUpTo.next), to: other)
                send(.chosenUpTo(.zero, upTo: chosenUpTo), to: other)
            }
            return tryLater(at: now)
        }
        let ballot = Ballot(round: max(durable.promised.round, highestRound) + 1, node: node)
        canvass = Canvass(
            ballot: ballot, willing: [node],
            deadline: now.latest.advanced(byNanoseconds: timing.resendNanoseconds))
        leader = nil
        for voter in membership.voters.nodes where voter != node {
            send(.prepare(ballot, from: chosenUpTo.next, isCanvass: true), to: voter)
        }
        startPreparing(at: now)
    }

    mutating func willingReceived(_ ballot: Ballot, from sender: NodeID, at now: TimestampInterval) {
        guard canvass?.ballot == ballot else { return }
        canvass!.willing.insert(sender)
        startPreparing(at: now)
    }

    /// Asks for the promises, once a quorum is willing. The own one comes first and is durable before anybody hears of
    /// the ballot: after a crash the node must not use it again.
    private mutating func startPreparing(at now: TimestampInterval) {
        guard let canvass, membership.hasQuorum(canvass.willing) else { return }
        let from = chosenUpTo.next
        promise(canvass.ballot)
        leadership = Leadership(ballot: canvass.ballot, from: from, at: now)
        for other in others { sendPrepare(to: other, at: now) }
        sendOnceDurable(.promise(canvass.ballot, accepted: accepted(from: from)), to: node)
    }

    mutating func sendPrepare(to recipient: NodeID, at now: TimestampInterval) {
        guard let ballot = leadership?.ballot else { return }
        sendOnceDurable(.prepare(ballot, from: chosenUpTo.next, isCanvass: false), to: recipient)
        leadership!.followers[recipient, default: .init()].resendDue =
            now.latest.advanced(byNanoseconds: timing.resendNanoseconds)
    }

    mutating func promiseReceived(
        _ ballot: Ballot, _ accepted: [AcceptedEntry], from sender: NodeID, at now: TimestampInterval
    ) {
        guard leadership?.ballot == ballot else { return }
        let wasLeading = isLeading
        leadership!.promiseReceived(from: sender, accepted: accepted)
        if isLeading, !wasLeading {
            leader = node
            attempts = 0
            leadership!.quorumHeard = now.latest
            // Everybody hears of it at once.
            leadership!.heartbeatDue = now.latest
        }
        proposeQueued()
    }

    mutating func refusalReceived(of ballot: Ballot, promised: Ballot, at now: TimestampInterval) {
        highestRound = max(highestRound, promised.round)
        // Of those who have granted a lease there may be too few to matter: the canvass goes on to its end.
        if canvass?.ballot == ballot, promised >= ballot { return tryLater(at: now) }
        guard let leadership, leadership.ballot == ballot, promised > ballot else { return }
        guard isLeading, !now.isAfter(leadership.leaseExpiry(in: membership)) else { return tryLater(at: now) }
        // A node that follows by the lease's word has promised somebody else before: it needs a larger ballot. Those
        // who granted the lease promise it at once.
        let ballot = Ballot(round: highestRound + 1, node: node)
        canvass = Canvass(ballot: ballot, willing: membership.voters, deadline: now.latest)
        let queue = leadership.queue
        startPreparing(at: now)
        self.leadership!.queue = queue
    }

    /// It did not come to lead, or does not any more.
    mutating func tryLater(at now: TimestampInterval) {
        stepDown()
        attempts += 1
        postponeElection(from: now.latest)
    }
}
