import BoundedTime
import TransactionCore

/// One node's part in Multi-Paxos: acceptor and learner always, and proposer while it leads.
///
/// A shell owns it, tells it what has happened, and carries out what ``takeOrders(at:)`` returns. Many inputs may come
/// between two of those: their records then share a flush and their proposals a message.
///
/// Safety rests on ballots and quorums alone (Paxos Made Simple §2). Time decides only who tries to lead, and whether
/// a leader may read without asking (``readRequested(byLease:at:)``).
public struct Replica: Sendable {
    public let node: NodeID
    let timing: ConsensusTiming
    /// What it has promised, accepted and learned.
    public private(set) var durable: DurableState
    /// Whom it follows, as far as it knows.
    public internal(set) var leader: NodeID?
    var grant: Grant?
    /// Before this time it promises nothing: it may have granted a lease before it was started.
    let promisesFrom: Timestamp
    /// When it tries to lead, unless a leader is heard of before.
    var electionDue: Timestamp
    /// How many times in a row it has tried in vain.
    var attempts = 0
    /// The largest round it has heard of.
    var highestRound: UInt64 = 0
    /// Asks whether it could lead. At most one of this and ``leadership`` is there.
    var canvass: Canvass?
    var leadership: Leadership?
    /// Some leader knows every slot up to here to be chosen.
    var heardChosenUpTo = Slot.zero
    /// Before then it does not ask again for entries that it lacks.
    var catchUpDue = Timestamp.zero
    /// Before then a node is not sent the snapshot again.
    var snapshotDue: [NodeID: Timestamp] = [:]
    var readCount: UInt64 = 0
    var random: Jitter
    var orders = Orders()

    /// Names a read that waits.
    public struct ReadID: Hashable, Sendable {
        let rawValue: UInt64
    }

    /// Until when this node promises nothing to a node other than the ballot's.
    struct Grant: Hashable, Sendable {
        var ballot: Ballot
        var expiry: Timestamp
    }

    struct Canvass: Hashable, Sendable {
        let ballot: Ballot
        var willing: NodeSet
        let deadline: Timestamp
    }

    /// More would only lengthen the line in front of what comes next.
    static let inFlightMax = 1_024
    static let inFlightBytesMax = 16 << 20
    static let queueMax = 16_384
    /// The longest command. A slot is one write and one message on every node.
    public static let commandBytesMax = 4 << 20
    /// How many slots a learner may lack when it becomes a voter.
    static let promotionLagMax: Int64 = 256

    /// Takes up with what storage holds. `seed` differs from node to node: it draws the back-off.
    public init(
        node: NodeID, durable: DurableState, timing: ConsensusTiming = .standard, seed: UInt64,
        at now: TimestampInterval
    ) {
        self.node = node
        self.durable = durable
        self.timing = timing
        self.random = Jitter(state: seed)
        let hasGranted = !durable.isFresh && durable.membership.voters != [node]
        self.promisesFrom = hasGranted ? now.latest.advanced(byNanoseconds: timing.grantNanosecondsMax) : .zero
        self.electionDue = now.latest
        if durable.membership.voters != [node] { postponeElection(from: max(now.latest, promisesFrom)) }
    }

    // MARK: What happened

    /// A message came, over the network or from the node itself.
    public mutating func received(_ message: Message, from sender: NodeID, at now: TimestampInterval) {
        switch message {
        case .prepare(let ballot, let from, let isCanvass):
            prepareReceived(ballot, from: from, isCanvass: isCanvass, sender: sender, at: now)
        case .willing(let ballot): willingReceived(ballot, from: sender, at: now)
        case .promise(let ballot, let accepted): promiseReceived(ballot, accepted, from: sender, at: now)
        case .accept(let accept): acceptReceived(accept, from: sender, at: now)
        case .accepted(let accepted): acceptedReceived(accepted, from: sender, at: now)
        case .refused(let ballot, let promised): refusalReceived(of: ballot, promised: promised, at: now)
        case .chosenUpTo(let ballot, let slot): learn(upTo: slot, of: ballot, from: sender, at: now)
        case .catchUp(let first): sendChosen(from: first, to: sender, at: now)
        case .chosen(let first, let entries): chosenReceived(entries, first: first, from: sender, at: now)
        case .snapshot(let snapshot): snapshotReceived(snapshot, from: sender, at: now)
        case .release(let ballot, let successor): releaseReceived(ballot, successor: successor, at: now)
        }
    }

    /// Time has passed. To be called a few times in each heartbeat interval.
    public mutating func ticked(at now: TimestampInterval) {
        if leadership != nil { return leaderTicked(at: now) }
        if let canvass, now.latest > canvass.deadline { tryLater(at: now) }
        guard canvass == nil, now.isAfter(electionDue) else { return }
        startCanvass(at: now)
    }

    /// The state machine's state after `slot`, which it has applied, may take the place of the entries up to there.
    public mutating func snapshotTaken(after slot: Slot, state: [UInt8]) {
        precondition(slot <= durable.chosenUpTo, "a snapshot of slot \(slot) after \(durable.chosenUpTo) chosen ones")
        guard slot > durable.snapshot.slot else { return }
        record(.snapshot(Snapshot(slot: slot, membership: durable.membership(after: slot), state: state)))
    }

    // MARK: What to do

    /// What is to be done for everything that has happened since the last call.
    public mutating func takeOrders(at now: TimestampInterval) -> Orders {
        sendProposals(at: now)
        defer { orders = Orders() }
        return orders
    }

    // MARK: What it knows

    /// Everything up to here is chosen, and has been given out to be applied.
    public var chosenUpTo: Slot { durable.chosenUpTo }

    /// Who takes part.
    public var membership: Membership { durable.membership }

    /// Whether it may propose: a quorum has promised its ballot.
    public var isLeading: Bool {
        guard let leadership else { return false }
        return membership.hasQuorum(leadership.promises)
    }

    /// Whether it leads, and everything that an earlier leader may have had chosen is known to be, and applied.
    public var knowsAllChosen: Bool { isLeading && chosenUpTo >= leadership!.recoveredUpTo }

    /// Whether it may answer reads by itself: nobody else can have anything chosen before its lease expires.
    ///
    /// One that is no voter any more has none: a voter that is the only one left need not remember its grant.
    public func holdsLease(at now: TimestampInterval) -> Bool {
        knowsAllChosen && membership.voters.contains(node)
            && now.isBefore(leadership!.leaseExpiry(in: membership))
    }

    // MARK: Pieces

    mutating func record(_ record: DurableRecord) {
        durable.append(record)
        orders.records.append(record)
    }

    mutating func send(_ message: Message, to recipient: NodeID) {
        orders.messages.append(Envelope(recipient: recipient, message: message))
    }

    mutating func sendOnceDurable(_ message: Message, to recipient: NodeID) {
        orders.messagesOnceDurable.append(Envelope(recipient: recipient, message: message))
    }

    /// The other members, voters or not.
    var others: [NodeID] { membership.members.nodes.filter { $0 != node } }

    /// Stops leading or trying to.
    mutating func stepDown() {
        orders.readsLost += leadership?.reads.map(\.id) ?? []
        if leadership != nil, leader == node { leader = nil }
        leadership = nil
        canvass = nil
    }

    /// Draws when it tries next if it hears of no leader: some time after `start`, the longer the more often it failed.
    mutating func postponeElection(from start: Timestamp) {
        let span = timing.backOffNanoseconds << Int64(min(attempts, 4))
        electionDue = start.advanced(byNanoseconds: random.next(below: span))
    }
}

/// What spreads the attempts of several nodes: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), a function of its seed.
struct Jitter: Hashable, Sendable {
    var state: UInt64

    mutating func next(below bound: Int64) -> Int64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        mixed ^= mixed >> 31
        return Int64(mixed.multipliedFullWidth(by: UInt64(max(1, bound))).high)
    }
}
