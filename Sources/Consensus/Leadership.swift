import DequeModule
import TransactionCore

/// What a node knows while it leads, or tries to: one ballot's worth.
struct Leadership: Hashable, Sendable {
    let ballot: Ballot
    /// Who has promised the ballot.
    var promises: NodeSet = []
    /// What they had accepted: in each slot the entry of the largest ballot (Paxos Made Simple §2.2, P2c).
    var recovered: [Slot: AcceptedEntry] = [:]
    /// The last slot that may hold a value of an earlier ballot.
    var recoveredUpTo: Slot
    /// Proposed and not known to be chosen, in the order of their slots.
    var inFlight: Deque<Proposal> = []
    var inFlightBytes = 0
    /// Where the next proposal goes.
    var nextSlot: Slot
    /// Something was proposed that nobody had proposed before.
    var hasProposedNew = false
    /// Not proposed yet.
    var queue: Deque<Entry> = []
    /// From here on the other acceptors have not been sent anything.
    var firstUnsent: Slot
    /// The others have been told that every slot up to here is chosen.
    var toldUpTo: Slot
    var followers: [NodeID: Follower] = [:]
    /// The last round of accepts or heartbeats that was sent.
    var round: UInt64 = 0
    var heartbeatDue = Timestamp.zero
    /// When a quorum last answered something new, or the attempt began.
    var quorumHeard: Timestamp
    var reads: [WaitingRead] = []
    /// The slot that takes this node out of the membership, once that is chosen.
    var leavesAfter: Slot?

    struct Proposal: Hashable, Sendable {
        let entry: Entry
        var acceptedBy: NodeSet = []
    }

    /// What the leader knows of another node, or of itself as an acceptor.
    struct Follower: Hashable, Sendable {
        var chosenUpTo = Slot.zero
        /// The last round that it answered.
        var round: UInt64 = 0
        var leaseExpiry = Timestamp.zero
        /// Before then nothing is sent again.
        var resendDue = Timestamp.zero
    }

    struct WaitingRead: Hashable, Sendable {
        let id: Replica.ReadID
        /// A quorum must have answered this round, or a later one.
        let round: UInt64
    }

    init(ballot: Ballot, from: Slot, at now: TimestampInterval) {
        self.ballot = ballot
        recoveredUpTo = from.previous
        nextSlot = from
        firstUnsent = from
        toldUpTo = from.previous
        quorumHeard = now.latest
    }

    /// Takes in what another acceptor, or the own one, had accepted. Slots in which this ballot has proposed already
    /// stay as they are: the promises of a quorum were there before. And once it has proposed something of its own it
    /// knew that nothing was chosen in that slot, nor thus in a later one.
    mutating func promiseReceived(from node: NodeID, accepted: [AcceptedEntry]) {
        promises.insert(node)
        guard !hasProposedNew else { return }
        for entry in accepted where entry.slot >= nextSlot {
            if let known = recovered[entry.slot], known.ballot >= entry.ballot { continue }
            recovered[entry.slot] = entry
            recoveredUpTo = max(recoveredUpTo, entry.slot)
        }
    }

    /// What is to be proposed in the next slot: what may have been chosen there, else nothing where later slots may
    /// hold something, else what is next in the queue.
    mutating func takeNextEntry() -> Entry? {
        guard nextSlot > recoveredUpTo else { return recovered.removeValue(forKey: nextSlot)?.entry ?? .noOperation }
        guard let entry = queue.popFirst() else { return nil }
        hasProposedNew = true
        return entry
    }

    /// After a change of membership is proposed nothing more is until it is chosen: only then is it known whose
    /// promises and acceptances count.
    var awaitsMembership: Bool {
        if case .membership = inFlight.last?.entry { return true }
        return false
    }

    /// A change of membership is in the line or under way.
    var changesMembership: Bool {
        awaitsMembership || queue.contains { if case .membership = $0 { true } else { false } }
    }

    /// An acceptor has accepted entries, or answered a heartbeat.
    mutating func acceptedReceived(_ accepted: Message.Accepted, from sender: NodeID) {
        var follower = followers[sender] ?? Follower()
        follower.chosenUpTo = max(follower.chosenUpTo, accepted.chosenUpTo)
        follower.round = max(follower.round, accepted.round)
        follower.leaseExpiry = max(follower.leaseExpiry, accepted.leaseExpiry)
        followers[sender] = follower
        let offset = Int(firstInFlight.distance(to: accepted.first))
        for index in max(0, offset)..<max(0, offset, min(inFlight.count, offset + accepted.count)) {
            inFlight[index].acceptedBy.insert(sender)
        }
    }

    private var firstInFlight: Slot { nextSlot.advanced(by: -Int64(inFlight.count)) }

    /// What is proposed from `first` (in flight) on, as much as one message carries.
    func entries(from first: Slot) -> [Entry] {
        let offset = max(0, Int(firstInFlight.distance(to: first)))
        return inFlight.dropFirst(offset).lazy.map(\.entry).oneMessage
    }

    /// The first slot in flight that `node` has not accepted as far as is known.
    func firstMissing(of node: NodeID) -> Slot {
        let index = inFlight.firstIndex { !$0.acceptedBy.contains(node) } ?? inFlight.count
        return firstInFlight.advanced(by: Int64(index))
    }

    /// Until when a quorum of `membership` has promised nothing to anybody else.
    func leaseExpiry(in membership: Membership) -> Timestamp {
        quorumValue(in: membership, .zero) { $0.leaseExpiry }
    }

    /// The newest round that a quorum of `membership` has answered.
    func answeredRound(in membership: Membership) -> UInt64 {
        quorumValue(in: membership, 0) { $0.round }
    }

    private func quorumValue<Value: Comparable>(
        in membership: Membership, _ none: Value, _ value: (Follower) -> Value
    ) -> Value {
        guard !membership.voters.isEmpty else { return none }
        let values = membership.voters.nodes.map { followers[$0].map(value) ?? none }.sorted(by: >)
        return values[membership.quorumCount - 1]
    }
}
