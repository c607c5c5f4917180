import Testing
import TransactionCore

@testable import Consensus

@Suite struct ReplicaTests {
    // MARK: Acceptor

    @Test("a promise is durable before anybody hears of it, and tells what was accepted")
    func promise() {
        var acceptor = makeReplica(1)
        acceptor.accept(ballot(1, 2), slot: 1, "a")
        let orders = acceptor.receives(
            .prepare(ballot(2, 3), from: Slot(rawValue: 1), isCanvass: false), from: 3, at: 900)
        #expect(orders.records == [.promised(ballot(2, 3))])
        #expect(orders.messages.isEmpty)
        #expect(
            orders.messagesOnceDurable == [
                Envelope(
                    recipient: id(3),
                    message: .promise(ballot(2, 3), accepted: [entry(1, ballot(1, 2), "a")]))
            ])
    }

    @Test("nothing is accepted or promised under a smaller ballot than the one promised")
    func smallerBallots() {
        var acceptor = makeReplica(1)
        _ = acceptor.receives(.prepare(ballot(5, 3), from: Slot(rawValue: 1), isCanvass: false), from: 3)
        for message in [
            Message.prepare(ballot(4, 2), from: Slot(rawValue: 1), isCanvass: false), accept(ballot(4, 2), 1, "a"),
        ] {
            let orders = acceptor.receives(message, from: 2, at: 900)
            #expect(orders.records.isEmpty && orders.messagesOnceDurable.isEmpty)
            #expect(
                orders.messages == [
                    Envelope(recipient: id(2), message: .refused(ballot: ballot(4, 2), promised: ballot(5, 3)))
                ])
        }
    }

    @Test("who has granted a lease promises nothing to another node before the clocks agree that it has passed")
    func grants() {
        var acceptor = makeReplica(1)
        _ = acceptor.receives(accept(ballot(1, 2), 1, "a", lease: 100), from: 2, at: 10)
        let prepare = Message.prepare(ballot(2, 3), from: Slot(rawValue: 1), isCanvass: false)
        // At 101 the present may still be 99: the leader may take its lease for good.
        #expect(acceptor.receives(prepare, from: 3, at: 101).messagesOnceDurable.isEmpty)
        #expect(
            acceptor.receives(.prepare(ballot(2, 2), from: Slot(rawValue: 1), isCanvass: false), from: 2, at: 101)
                .messagesOnceDurable.count == 1)
        #expect(acceptor.receives(prepare, from: 3, at: 103).messagesOnceDurable.count == 1)
    }

    @Test("a restarted acceptor promises nothing while a lease that it has forgotten may last")
    func restart() {
        var durable = DurableState(membership: three)
        durable.append(.promised(ballot(1, 2)))
        var acceptor = Replica(node: id(1), durable: durable, timing: timing, seed: 1, at: time(1_000))
        let prepare = Message.prepare(ballot(2, 3), from: Slot(rawValue: 1), isCanvass: false)
        #expect(acceptor.receives(prepare, from: 3, at: 1_190).messagesOnceDurable.isEmpty)
        #expect(acceptor.receives(prepare, from: 3, at: 1_210).messagesOnceDurable.count == 1)
        // One that was never there has forgotten nothing.
        var fresh = Replica(
            node: id(1), durable: DurableState(membership: three), timing: timing, seed: 1, at: time(1_000))
        #expect(fresh.receives(prepare, from: 3, at: 1_001).messagesOnceDurable.count == 1)
    }

    @Test("a canvass changes nothing and can't unseat a leader")
    func canvass() {
        var acceptor = makeReplica(1)
        let canvass = Message.prepare(ballot(7, 3), from: Slot(rawValue: 1), isCanvass: true)
        let orders = acceptor.receives(canvass, from: 3)
        #expect(orders.records.isEmpty)
        #expect(orders.messages == [Envelope(recipient: id(3), message: .willing(ballot(7, 3)))])
        #expect(acceptor.receives(accept(ballot(1, 2), 1, "a"), from: 2, at: 900).messagesOnceDurable.count == 1)
    }

    @Test("who asks for promises about slots that are chosen gets the entries instead")
    func behind() {
        var acceptor = makeReplica(1)
        acceptor.accept(ballot(1, 2), slot: 1, "a")
        _ = acceptor.receives(.chosenUpTo(ballot(1, 2), upTo: Slot(rawValue: 1)), from: 2)
        let orders = acceptor.receives(
            .prepare(ballot(2, 3), from: Slot(rawValue: 1), isCanvass: false), from: 3, at: 900)
        #expect(orders.records.isEmpty)
        #expect(
            orders.messages == [
                Envelope(
                    recipient: id(3), message: .chosen(first: Slot(rawValue: 1), entries: [.command(Array("a".utf8))]))
            ])
    }

    // MARK: Proposer

    @Test("a new leader proposes the value of the largest ballot in each slot, and nothing in a gap")
    func recovery() {
        var leader = makeReplica(1)
        leader.prepares(at: 1_000)
        let ballot = leader.durable.promised
        _ = leader.receives(.promise(ballot, accepted: []), from: 1, at: 1_000)
        let orders = leader.receives(
            .promise(
                ballot,
                accepted: [entry(1, .init(round: 0, node: id(2)), "old"), entry(3, .init(round: 0, node: id(3)), "x")]),
            from: 2, at: 1_000)
        let sent = orders.messages.compactMap { envelope -> Message.Accept? in
            if case .accept(let accept) = envelope.message, envelope.recipient == id(2) { accept } else { nil }
        }
        #expect(sent.map(\.entries) == [[.command(Array("old".utf8)), .noOperation, .command(Array("x".utf8))]])
        // Until they are chosen it does not know what its predecessors had chosen: no read by lease.
        #expect(!leader.knowsAllChosen)
    }

    @Test("an entry is chosen by a quorum of acceptances, the own one once it is durable, in the order of the slots")
    func choosing() {
        var leader = makeReplica(1)
        leader.leads(with: 2, at: 1_000)
        #expect(leader.propose(Array("a".utf8)) == .queued)
        #expect(leader.propose(Array("b".utf8)) == .queued)
        let proposed = leader.takeOrders(at: time(1_000))
        #expect(proposed.chosen.isEmpty)
        // Slot 2 alone has a quorum: nothing is chosen before slot 1 is.
        let second = leader.receives(makeAccepted(leader, first: 2, count: 1), from: 2, at: 1_001)
        #expect(second.chosen.isEmpty)
        let own = leader.receives(makeAccepted(leader, first: 1, count: 2), from: 1, at: 1_001)
        #expect(own.chosen.isEmpty)
        let both = leader.receives(makeAccepted(leader, first: 1, count: 1), from: 3, at: 1_001)
        #expect(both.chosen.map(\.slot.rawValue) == [1, 2])
    }

    @Test("after a change of membership nothing is proposed until it is chosen, and then by the new members")
    func membership() {
        var leader = makeReplica(1)
        leader.leads(with: 2, at: 1_000)
        #expect(leader.changeMembership(.remove(id(2))) == .proposed)
        #expect(leader.changeMembership(.remove(id(3))) == .busy)
        #expect(leader.propose(Array("a".utf8)) == .queued)
        let orders = leader.takeOrders(at: time(1_000))
        #expect(orders.records.count { if case .accepted = $0 { true } else { false } } == 1)
        _ = leader.receives(makeAccepted(leader, first: 1, count: 1), from: 1, at: 1_001)
        _ = leader.receives(makeAccepted(leader, first: 1, count: 1), from: 2, at: 1_001)
        #expect(leader.membership.voters == [id(1), id(3)])
        // Node 3 has not promised yet, and node 2's promise does not count any more.
        #expect(!leader.isLeading)
        _ = leader.receives(.promise(leader.durable.promised, accepted: []), from: 3, at: 1_002)
        #expect(leader.isLeading)
        _ = leader.receives(makeAccepted(leader, first: 2, count: 1), from: 1, at: 1_002)
        let old = leader.receives(makeAccepted(leader, first: 2, count: 1), from: 2, at: 1_002)
        #expect(old.chosen.isEmpty)
        let new = leader.receives(makeAccepted(leader, first: 2, count: 1), from: 3, at: 1_002)
        #expect(new.chosen.map(\.slot.rawValue) == [2])
    }

    @Test("what is heard to be chosen late leaves the slots of a ballot under way alone")
    func lateNews() {
        var candidate = makeReplica(1)
        candidate.accept(ballot(1, 2), slot: 1, "a")
        candidate.prepares(at: 1_000)
        let orders = candidate.receives(.chosenUpTo(ballot(1, 2), upTo: Slot(rawValue: 1)), from: 2, at: 1_001)
        #expect(orders.chosen.isEmpty)
        // Its own promises say what is in slot 1: it is proposed there again, and nothing else is.
        let ballot = candidate.durable.promised
        _ = candidate.receives(
            .promise(ballot, accepted: candidate.accepted(from: Slot(rawValue: 1))), from: 1, at: 1_001)
        #expect(candidate.propose(Array("b".utf8)) == .queued)
        _ = candidate.receives(.promise(ballot, accepted: []), from: 2, at: 1_002)
        _ = candidate.receives(makeAccepted(candidate, first: 1, count: 1), from: 1, at: 1_002)
        let chosen = candidate.receives(makeAccepted(candidate, first: 1, count: 1), from: 2, at: 1_002).chosen
        #expect(chosen.map(\.slot.rawValue) == [1] && chosen.map(\.entry) == [.command(Array("a".utf8))])
    }

    @Test("a leader that is no voter any more reads nothing by lease, and goes once the others know")
    func leaving() {
        var leader = makeReplica(1)
        leader.leads(with: 2, at: 1_000)
        #expect(leader.holdsLease(at: time(1_010)))
        #expect(leader.changeMembership(.remove(id(1))) == .proposed)
        _ = leader.takeOrders(at: time(1_010))
        for voter in [1, 2] as [UInt16] {
            _ = leader.receives(makeAccepted(leader, first: 1, count: 1), from: voter, at: 1_011)
        }
        #expect(leader.membership.voters == [id(2), id(3)])
        _ = leader.receives(.promise(leader.durable.promised, accepted: []), from: 3, at: 1_012)
        for voter in [2, 3] as [UInt16] {
            _ = leader.receives(makeAccepted(leader, first: 1, count: 0, round: 2), from: voter, at: 1_013)
        }
        #expect(leader.isLeading && !leader.holdsLease(at: time(1_013)))
        var informed: [Envelope] = []
        for voter in [2, 3] as [UInt16] {
            let known = makeAccepted(leader, first: 2, count: 0, round: 3, chosenUpTo: 1)
            informed += leader.receives(known, from: voter, at: 1_014).messages
        }
        #expect(!leader.isLeading)
        #expect(informed.contains { if case .release = $0.message { true } else { false } })
    }

    // MARK: Reads

    @Test("a read is answered by the lease while it lasts for certain, and else by a round that began after it")
    func reads() {
        var leader = makeReplica(1)
        leader.leads(with: 2, at: 1_000)
        #expect(leader.readRequested(at: time(1_050)) == .ready)
        // The lease of 100 ends at 1,099 for the leader, whose clock may be 1 behind.
        guard case .waits(let read) = leader.readRequested(at: time(1_099)) else {
            Issue.record("a lease that may have ended was used")
            return
        }
        let asked = leader.takeOrders(at: time(1_099))
        #expect(asked.messages.contains { if case .accept = $0.message { true } else { false } })
        _ = leader.receives(makeAccepted(leader, first: 1, count: 0, round: 1), from: 2, at: 1_100)
        let late = leader.receives(makeAccepted(leader, first: 1, count: 0, round: 1), from: 1, at: 1_100)
        #expect(late.readsReady.isEmpty)
        _ = leader.receives(makeAccepted(leader, first: 1, count: 0, round: 2), from: 2, at: 1_100)
        let answered = leader.receives(makeAccepted(leader, first: 1, count: 0, round: 2), from: 1, at: 1_100)
        #expect(answered.readsReady == [read])
    }

    @Test("what a node knows after a restart is what it knew, also from the fewest records")
    func durableState() {
        var state = DurableState(membership: three)
        for number in 1...6 as ClosedRange<Int64> {
            state.append(
                .accepted(AcceptedEntry(slot: Slot(rawValue: number), ballot: ballot(1, 2), entry: .noOperation)))
        }
        state.append(.chosenUpTo(Slot(rawValue: 3)))
        state.append(.promised(ballot(9, 1)))
        state.append(.snapshot(Snapshot(slot: Slot(rawValue: 2), membership: three, state: [1])))
        var again = DurableState(membership: .none)
        for record in state.records { again.append(record) }
        #expect(again == state)
        // A snapshot from somebody else leaves what was accepted above it.
        state.append(.snapshot(Snapshot(slot: Slot(rawValue: 5), membership: three, state: [2])))
        #expect(state.accepted.keys.map(\.rawValue) == [6])
        #expect(state.promised == ballot(9, 1))
    }
}

// MARK: Making things

private let timing = ConsensusTiming(leaseNanoseconds: 10_000_000).scaled
private let three = Membership(voters: [id(1), id(2), id(3)])

extension ConsensusTiming {
    /// A lease of 100, heartbeats of 10.
    fileprivate var scaled: ConsensusTiming {
        var timing = self
        (timing.leaseNanoseconds, timing.heartbeatNanoseconds) = (100, 10)
        (timing.resendNanoseconds, timing.backOffNanoseconds) = (25, 25)
        return timing
    }
}

private func id(_ number: UInt16) -> NodeID { NodeID(rawValue: number)! }
private func ballot(_ round: UInt64, _ node: UInt16) -> Ballot { Ballot(round: round, node: id(node)) }
private func time(_ middle: Int64) -> TimestampInterval {
    TimestampInterval(earliest: Timestamp(rawValue: middle - 1), latest: Timestamp(rawValue: middle + 1))
}

private func entry(_ slot: Int64, _ ballot: Ballot, _ text: String) -> AcceptedEntry {
    AcceptedEntry(slot: Slot(rawValue: slot), ballot: ballot, entry: .command(Array(text.utf8)))
}

private func makeReplica(_ number: UInt16) -> Replica {
    Replica(node: id(number), durable: DurableState(membership: three), timing: timing, seed: 1, at: time(0))
}

private func accept(_ ballot: Ballot, _ slot: Int64, _ text: String, lease: Int64 = 0) -> Message {
    .accept(
        Message.Accept(
            ballot: ballot, first: Slot(rawValue: slot), entries: [.command(Array(text.utf8))], chosenUpTo: .zero,
            round: 1,
            leaseExpiry: Timestamp(rawValue: lease)))
}

private func makeAccepted(
    _ leader: Replica, first: Int64, count: Int, round: UInt64 = 1, chosenUpTo: Int64 = 0
) -> Message {
    .accepted(
        Message.Accepted(
            ballot: leader.durable.promised, first: Slot(rawValue: first), count: count,
            chosenUpTo: Slot(rawValue: chosenUpTo),
            round: round,
            leaseExpiry: Timestamp(rawValue: 1_099)))
}

extension Replica {
    fileprivate mutating func receives(_ message: Message, from sender: UInt16, at now: Int64 = 5) -> Orders {
        received(message, from: id(sender), at: time(now))
        return takeOrders(at: time(now))
    }

    fileprivate mutating func accept(_ ballot: Ballot, slot: Int64, _ text: String) {
        received(makeAccept(ballot, slot, text), from: ballot.node, at: time(5))
        _ = takeOrders(at: time(5))
    }

    /// Gets as far as asking for promises.
    fileprivate mutating func prepares(at now: Int64) {
        ticked(at: time(now))
        let asked = takeOrders(at: time(now))
        guard case .prepare(let ballot, _, true)? = asked.messages.first?.message else {
            Issue.record("no canvass: \(asked)")
            return
        }
        received(.willing(ballot), from: id(2), at: time(now))
        _ = takeOrders(at: time(now))
    }

    /// Leads with the promises and the lease of itself and another node.
    fileprivate mutating func leads(with other: UInt16, at now: Int64) {
        prepares(at: now)
        let ballot = durable.promised
        _ = receives(.promise(ballot, accepted: []), from: node.rawValue, at: now)
        _ = receives(.promise(ballot, accepted: []), from: other, at: now)
        for voter in [node.rawValue, other] {
            _ = receives(makeAccepted(self, first: 1, count: 0), from: voter, at: now)
        }
    }
}

private func makeAccept(_ ballot: Ballot, _ slot: Int64, _ text: String) -> Message { accept(ballot, slot, text) }
