import TransactionCore

/// What coordinators promise each other about the timestamps they choose, so that each may read what the others write
/// (R8, R9).
///
/// A node is *silent* or *active* for each peer. The silent one chooses no commit timestamp until it has asked
/// (``Message/activate(_:)``) and every peer has said up to where it has read meanwhile; its peers read as if it was
/// not there. Of an active one a read at `T` needs to know that it chooses none at or before `T` any more
/// (``Message/close(round:upTo:)``), what it had chosen by then, and when that is applied. A strong read also needs
/// what it has acknowledged: one round trip, which all reads share that begin while another is under way.
///
/// What a peer reports stays true, so it does not matter how late it comes or how often. Messages may be lost:
/// ``ticked()`` asks again. A peer that does not answer holds reads up until it is fenced on every shard
/// (``fenced(_:readingFrom:_:)``); nothing else may be taken for its silence.
///
/// The value keeps its ``SafeTimeTracker`` informed, which each function is handed.
///
/// Of the shell it asks:
/// - ``isActive`` and the choice of a timestamp, ``isClosed(upTo:)`` and the tracker's request to read, are one step
///   each: a message that comes between them may change the answer.
/// - What becomes visible is acknowledged in the tracker before it is ``retired(_:on:)``, also when its client was told
///   before that the outcome is unknown: a peer that is told may show it to a client, who reads here next (R9).
/// - Whoever tells a client that another node's transaction committed has acknowledged it in the tracker, is active,
///   and has made sure since, by a session of its epoch, that it is not fenced: its peers ask it, or fence it later and
///   read from later than that (R9).
public struct ClosedTimestamps: Sendable {
    /// What one incarnation says to another.
    public enum Message: Hashable, Sendable {
        /// The sender is to choose timestamps, in its activity of that number.
        case activate(UInt64)
        /// The recipient may, from that activity on, but none up to `closed`: the sender may have read at those.
        case activated(UInt64, closed: Timestamp)
        /// Asks to choose no timestamp up to `upTo` any more, and for a ``Report`` then.
        case close(round: UInt64, upTo: Timestamp)
        case report(Report)
        /// What was reported in flight has been applied on a shard, or never will be visible there.
        case applied([TimestampOnShard])
    }

    /// A transaction's part on a shard.
    public struct TimestampOnShard: Hashable, Comparable, Sendable {
        public var timestamp: Timestamp
        public var shard: ShardID

        public init(_ timestamp: Timestamp, _ shard: ShardID) {
            (self.timestamp, self.shard) = (timestamp, shard)
        }

        public static func < (lhs: Self, rhs: Self) -> Bool {
            (lhs.timestamp, lhs.shard) < (rhs.timestamp, rhs.shard)
        }
    }

    /// What an incarnation tells of itself.
    public struct Report: Hashable, Sendable {
        public enum Promise: Hashable, Sendable {
            /// Chooses no timestamp until it has asked again; the newest it has chosen. All are applied.
            case silent(newest: Timestamp)
            /// Chooses no timestamp up to this one any more; of those it has chosen, these are not applied everywhere.
            case closed(upTo: Timestamp, inFlight: [TimestampOnShard])
        }

        /// The number of its activity, which rises.
        public var activity: UInt64
        /// The newest round of the recipient that it answers; 0 for none.
        public var round: UInt64
        /// No commit that it has acknowledged, nor a timestamp that it has read at, is later (R9).
        public var strongReadTimestamp: Timestamp
        public var promise: Promise

        public init(activity: UInt64, round: UInt64, strongReadTimestamp: Timestamp, promise: Promise) {
            (self.activity, self.round) = (activity, round)
            (self.strongReadTimestamp, self.promise) = (strongReadTimestamp, promise)
        }
    }

    /// What the shell is to do.
    public enum Action: Hashable, Sendable {
        case send(Message, to: Incarnation)
        /// ``isActive`` from here on: those who wait may choose.
        case activated
        /// All peers have answered this round, and with it all before; none chooses a timestamp up to `upTo` any more.
        /// The shell closes it in the tracker in the same step, so that one that asks to become active is told.
        case roundEnded(UInt64, upTo: Timestamp)
        /// The reads may take their snapshots.
        case release([SafeTimeTracker.WaiterID])
    }

    private enum State {
        /// Has promised to choose none.
        case silent
        /// Waits for peers to know of it.
        case activating
        case active
    }

    private struct Peer {
        // What it chooses.
        var activity: UInt64 = 0
        /// The newest one that it was told it may choose in.
        var answeredActivity: UInt64 = 0
        /// Unless told otherwise, it may choose.
        var isSilent = false
        var closed = Timestamp.zero
        var inFlight: Set<TimestampOnShard> = []
        var answeredRound: UInt64 = 0
        // What it knows of this node.
        /// It asks before it reads what this node might choose.
        var knowsOfActivity: Bool
        var answeredOwnRound: UInt64 = 0
        /// What it was told of as in flight, and waits for.
        var told: Set<TimestampOnShard> = []
    }

    public let own: Incarnation
    private var state = State.silent
    private var activity: UInt64 = 0
    private var peers: [Incarnation: Peer] = [:]
    /// By node: epochs up to this one are fenced.
    private var fencedEpochs: [NodeID: Epoch] = [:]
    private var round: UInt64 = 0
    /// Up to where the round that is under way closes; nil when none is.
    private var roundBound: Timestamp?
    /// Likewise of the one that begins when it has ended; nil when nobody has asked for one.
    private var nextRoundBound: Timestamp?

    /// Begins silent. `peers` are those that were present when this incarnation had made itself known; those that come
    /// later take it for active until it tells them otherwise (``appeared(_:_:)``).
    ///
    /// Made at once, it answers peers while the incarnation still fences and settles, so that none waits for that; the
    /// tracker is told of the shards' newest timestamp afterwards (``SafeTimeTracker/begins(after:)``). What is told
    /// before must be remembered: nobody else may answer in its place.
    public init(_ own: Incarnation, peers: some Sequence<Incarnation>, _ tracker: inout SafeTimeTracker) {
        self.own = own
        for peer in peers where peer.node != own.node { self.peers[peer] = Peer(knowsOfActivity: false) }
        tracker.peersChoose(upTo: .zero, isSole: isSole)
    }

    // MARK: Peers

    /// The peers, fenced ones left out.
    public var peerIncarnations: [Incarnation] { peers.keys.sorted() }

    /// Whether it is one of them: it has appeared, and is not fenced.
    public func knows(_ peer: Incarnation) -> Bool { peers[peer] != nil }

    /// Every peer is silent: what this node knows is all that there is to know.
    public var isSole: Bool { peers.values.allSatisfy(\.isSilent) }

    /// What peers have told to be in flight.
    public var inFlight: [(peer: Incarnation, parts: Set<TimestampOnShard>)] {
        peers.filter { !$0.value.inFlight.isEmpty }.sorted { $0.key < $1.key }.map { ($0.key, $0.value.inFlight) }
    }

    /// No active peer chooses a timestamp up to this one any more; nil where all are silent.
    public var closedByPeers: Timestamp? { peers.values.filter { !$0.isSilent }.map(\.closed).min() }

    /// What a peer was asked and has not answered.
    public enum Question: Hashable, Sendable {
        case close(round: UInt64)
        case activate(UInt64)
    }

    /// Whose answers are waited for, and to which question.
    public var unanswered: [Incarnation: Question] {
        var unanswered: [Incarnation: Question] = [:]
        for (peer, known) in peers {
            if isMissing(peer) {
                unanswered[peer] = .close(round: round)
            } else if state == .activating, !known.knowsOfActivity {
                unanswered[peer] = .activate(activity)
            }
        }
        return unanswered
    }

    /// A node has made itself known, after this one has: it takes this one for active until it is told otherwise, and
    /// is silent itself, for it found this one present and asks it before it chooses anything.
    ///
    /// Presence alone makes a peer: what comes from one that has not appeared is not heard, and asked again. It may be
    /// one that was fenced before this incarnation began, which nobody would ever call gone.
    public mutating func appeared(_ peer: Incarnation, _ tracker: inout SafeTimeTracker) {
        guard peer.node != own.node, peers[peer] == nil, !isFenced(peer) else { return }
        peers[peer] = Peer(isSilent: true, knowsOfActivity: true)
        tracker.peersChoose(upTo: .zero, isSole: isSole)
    }

    /// Everything of that incarnation is over on every shard: its sessions have ended, what it had prepared is settled,
    /// and it can begin nothing any more (R6). So it is with its predecessors.
    ///
    /// - Parameter timestamp: has passed, after that: what the peer has acknowledged is no later (R9).
    public mutating func fenced(
        _ peer: Incarnation, readingFrom timestamp: Timestamp, _ tracker: inout SafeTimeTracker
    ) -> [Action] {
        fencedEpochs[peer.node] = max(fencedEpochs[peer.node] ?? peer.epoch, peer.epoch)
        tracker.acknowledged(timestamp)
        var released: [SafeTimeTracker.WaiterID] = []
        for gone in peers.keys.sorted() where gone.node == peer.node && gone.epoch <= peer.epoch {
            released += retire(peers.removeValue(forKey: gone)!.inFlight, &tracker)
        }
        tracker.peersChoose(upTo: timestamp, isSole: isSole)
        return release(released) + activatedIfKnown() + endRoundIfAnswered()
    }

    private func isFenced(_ peer: Incarnation) -> Bool { fencedEpochs[peer.node].map { peer.epoch <= $0 } ?? false }

    // MARK: Choosing

    /// Timestamps may be chosen.
    public var isActive: Bool { state == .active }

    /// A timestamp is to be chosen soon: ``isActive`` at once, or when ``Action/activated`` comes.
    public mutating func activate() -> [Action] {
        guard state == .silent else { return [] }
        state = .activating
        activity += 1
        return askToActivate() + activatedIfKnown()
    }

    private func askToActivate() -> [Action] {
        guard state == .activating else { return [] }
        return peers.keys.sorted().filter { !peers[$0]!.knowsOfActivity }.map { .send(.activate(activity), to: $0) }
    }

    private mutating func activatedIfKnown() -> [Action] {
        guard state == .activating, peers.values.allSatisfy(\.knowsOfActivity) else { return [] }
        state = .active
        return [.activated]
    }

    /// Nothing is to be chosen for a while: peers need not ask before they read. Does nothing while something is in
    /// flight, or the newest that was chosen has not passed.
    public mutating func fallSilent(at now: TimestampInterval, _ tracker: inout SafeTimeTracker) -> [Action] {
        guard state == .active, !tracker.hasOwnInFlight, now.isAfter(tracker.newestChosen) else { return [] }
        state = .silent
        // Strong reads are no earlier, so that what the tables hold is what they are to see.
        tracker.acknowledged(tracker.newestChosen)
        return peers.keys.sorted().map { report(to: $0, tracker) }
    }

    /// The transaction at `timestamp` is applied on `shard`, or never will be visible there; tells those who wait.
    public mutating func retired(_ timestamp: Timestamp, on shard: ShardID) -> [Action] {
        guard !peers.isEmpty else { return [] }
        let part = TimestampOnShard(timestamp, shard)
        return peers.keys.sorted().compactMap { peer in
            peers[peer]!.told.remove(part).map { Action.send(.applied([$0]), to: peer) }
        }
    }

    /// Tells all peers what is closed by now, so that reads of the past need not ask.
    ///
    /// - Parameter timestamp: no later one than would be chosen now.
    public mutating func broadcast(closing timestamp: Timestamp, _ tracker: inout SafeTimeTracker) -> [Action] {
        guard state == .active else { return [] }
        tracker.close(upTo: timestamp)
        return peers.keys.sorted().map { report(to: $0, tracker) }
    }

    private mutating func report(to peer: Incarnation, _ tracker: SafeTimeTracker) -> Action {
        let promise: Report.Promise
        if state == .silent {
            peers[peer]!.knowsOfActivity = false
            peers[peer]!.told = []
            promise = .silent(newest: tracker.newestChosen)
        } else {
            let inFlight = tracker.ownInFlight
            peers[peer]!.told = Set(inFlight)
            promise = .closed(upTo: tracker.closed, inFlight: inFlight)
        }
        let report = Report(
            activity: activity, round: peers[peer]!.answeredOwnRound, strongReadTimestamp: tracker.strongReadTimestamp,
            promise: promise)
        return .send(.report(report), to: peer)
    }

    // MARK: Reading

    /// Whether nobody chooses a timestamp up to `timestamp` any more, and all such timestamps of peers are known to the
    /// tracker; `self` closes it when it reads.
    public func isClosed(upTo timestamp: Timestamp) -> Bool {
        peers.values.allSatisfy { $0.isSilent || timestamp <= $0.closed }
    }

    /// Asks all peers to close `timestamp`, and what they have acknowledged: ``Action/roundEnded(_:upTo:)`` comes with
    /// the returned number or a later one.
    ///
    /// - Parameter timestamp: for a strong read, one that no commit acknowledged by now exceeds: `now.latest`.
    public mutating func requestRound(upTo timestamp: Timestamp) -> (round: UInt64, actions: [Action]) {
        guard roundBound == nil else {
            nextRoundBound = max(nextRoundBound ?? timestamp, timestamp)
            return (round + 1, [])
        }
        let actions = beginRound(upTo: timestamp)
        return (round, actions + endRoundIfAnswered())
    }

    private mutating func beginRound(upTo timestamp: Timestamp) -> [Action] {
        round += 1
        roundBound = timestamp
        return askToClose()
    }

    private func askToClose() -> [Action] {
        guard let roundBound else { return [] }
        return peers.keys.sorted().filter(isMissing).map { .send(.close(round: round, upTo: roundBound), to: $0) }
    }

    /// Its answer may be one that it gave while it was silent, and be heard of from a later report: that it has closed
    /// the round's timestamp is a question of its own.
    private func isMissing(_ peer: Incarnation) -> Bool {
        guard let roundBound, let known = peers[peer], !known.isSilent else { return false }
        return known.answeredRound < round || known.closed < roundBound
    }

    private mutating func endRoundIfAnswered() -> [Action] {
        guard let bound = roundBound, !peers.keys.contains(where: isMissing) else { return [] }
        roundBound = nil
        let ended = Action.roundEnded(round, upTo: bound)
        guard let next = nextRoundBound else { return [ended] }
        nextRoundBound = nil
        return [ended] + beginRound(upTo: next) + endRoundIfAnswered()
    }

    /// Some time has passed: asks once more for what has not been answered, and after what is in flight for long.
    public mutating func ticked(_ tracker: SafeTimeTracker) -> [Action] {
        var actions = askToActivate() + askToClose()
        for (peer, known) in peers.sorted(by: { $0.key < $1.key }) where !known.inFlight.isEmpty && !isMissing(peer) {
            actions.append(.send(.close(round: round, upTo: known.closed), to: peer))
        }
        return actions
    }

    // MARK: Messages

    /// A message came, for this incarnation.
    public mutating func received(
        _ message: Message, from peer: Incarnation, _ tracker: inout SafeTimeTracker
    ) -> [Action] {
        guard peers[peer] != nil else { return [] }
        switch message {
        case .activate(let number): return activateReceived(number, from: peer, &tracker)
        case .activated(let number, let closed):
            guard number == activity, state == .activating else { return [] }
            tracker.close(upTo: closed)
            peers[peer]!.knowsOfActivity = true
            return activatedIfKnown()
        case .close(let round, let timestamp):
            if state != .silent { tracker.close(upTo: timestamp) }
            peers[peer]!.answeredOwnRound = max(peers[peer]!.answeredOwnRound, round)
            return [report(to: peer, tracker)]
        case .report(let report): return reportReceived(report, from: peer, &tracker)
        case .applied(let parts):
            let applied = peers[peer]!.inFlight.intersection(parts)
            peers[peer]!.inFlight.subtract(applied)
            return release(retire(applied, &tracker))
        }
    }

    private mutating func activateReceived(
        _ number: UInt64, from peer: Incarnation, _ tracker: inout SafeTimeTracker
    ) -> [Action] {
        var known = peers[peer]!
        guard number >= known.activity else { return [] }
        var released: [SafeTimeTracker.WaiterID] = []
        if number > known.answeredActivity {
            released = begin(number, of: &known, &tracker)
            known.answeredActivity = number
            known.isSilent = false
            // It chooses none that this node may have read at by now. When it asks again it may have the first answer
            // already, and not wait for another: what this node has read at since does not bind it.
            known.closed = max(known.closed, tracker.closed)
            peers[peer] = known
            tracker.peersChoose(upTo: .zero, isSole: isSole)
        }
        // A round that is under way began without it.
        let questions = isMissing(peer) ? [Action.send(.close(round: round, upTo: roundBound!), to: peer)] : []
        return release(released) + [.send(.activated(number, closed: known.closed), to: peer)] + questions
    }

    private mutating func reportReceived(
        _ report: Report, from peer: Incarnation, _ tracker: inout SafeTimeTracker
    ) -> [Action] {
        var known = peers[peer]!
        // What it said before it was silent, or fell silent before it asked again, is of no more use.
        guard report.activity > known.activity || report.activity == known.activity && !known.isSilent else {
            return []
        }
        var released = begin(report.activity, of: &known, &tracker)
        known.answeredRound = max(known.answeredRound, report.round)
        let earlier = known.inFlight
        var newest = Timestamp.zero
        switch report.promise {
        case .silent(let chosen):
            newest = chosen
            known.isSilent = true
            known.inFlight = []
        case .closed(let closed, let inFlight):
            known.isSilent = false
            if closed > known.closed {
                known.inFlight = Set(inFlight)
            } else if closed == known.closed {
                known.inFlight.formIntersection(inFlight)
            }
            known.closed = max(known.closed, closed)
        }
        peers[peer] = known
        tracker.acknowledged(report.strongReadTimestamp)
        for part in known.inFlight.subtracting(earlier).sorted() { tracker.enter(part.timestamp, on: part.shard) }
        released += retire(earlier.subtracting(known.inFlight), &tracker)
        tracker.peersChoose(upTo: newest, isSole: isSole)
        return release(released) + endRoundIfAnswered()
    }

    /// When a later activity begins, all that was chosen in an earlier one is applied.
    private func begin(
        _ activity: UInt64, of peer: inout Peer, _ tracker: inout SafeTimeTracker
    ) -> [SafeTimeTracker.WaiterID] {
        guard activity > peer.activity else { return [] }
        peer.activity = activity
        defer { peer.inFlight = [] }
        return retire(peer.inFlight, &tracker)
    }

    private func retire(
        _ parts: Set<TimestampOnShard>, _ tracker: inout SafeTimeTracker
    ) -> [SafeTimeTracker.WaiterID] {
        parts.sorted().flatMap { tracker.retire($0.timestamp, on: $0.shard) }
    }

    private func release(_ waiters: [SafeTimeTracker.WaiterID]) -> [Action] {
        waiters.isEmpty ? [] : [.release(waiters)]
    }
}
