import BoundedTime
import EventLoops
import TransactionCore
import TwoPhaseCommit

/// Who is told what other nodes say about the catalog. Called on the engine's loop.
public protocol CatalogPeer: AnyObject, Sendable {
    /// Peers that have been asked and have not answered.
    var unanswering: [Incarnation] { get }
    func received(_ message: CatalogHolds.Message, from peer: Incarnation)
    /// All of that incarnation is settled.
    func fenced(_ peer: Incarnation)
    /// Some time has passed.
    func ticked()
    /// The engine has let go of the shards: nobody will be heard any more.
    func stopped()
}

/// What an engine does with its peers. Confined to the engine.
struct PeerWork {
    enum Question: Hashable {
        case timestamps(ClosedTimestamps.Question)
        case catalog
    }

    weak var catalog: (any CatalogPeer)?
    /// By node: its newest life that is gone, and who fences it.
    var gone: [NodeID: Incarnation] = [:]
    var fencing: [NodeID: Task<Void, Never>] = [:]
    var activationWaits: [WaitList.ID] = []
    var roundWaits: [(round: UInt64, wait: WaitList.ID)] = []
    /// Up to where a round has closed, for those who have waited for it and not gone on yet.
    var bounds: [WaitList.ID: Timestamp] = [:]
    /// By session: the numbers of peers' transactions.
    var owners: [SessionID: UInt64] = [:]
    /// Peers that have not said yet which sessions are theirs.
    var ownersMissing: Set<Incarnation> = []
    /// Since when peers have not answered, and had commits that did not end; see ``TransactionEngine/holdingUp(for:)``.
    var unansweredSince: [Incarnation: (question: Question, since: ContinuousClock.Instant)] = [:]
    var hangingSince: [Incarnation: ContinuousClock.Instant] = [:]
    var inFlightSince: [ClosedTimestamps.TimestampOnShard: ContinuousClock.Instant] = [:]
    var probe: Task<Void, Never>?
    /// When a timestamp was wanted last.
    var lastActivity = ContinuousClock.now
}

/// Other nodes that coordinate the same shards (R6, R8, R9; decision 0018).
extension TransactionEngine {
    /// How often what is not answered is asked again, and peers are told what is closed.
    private static let peerInterval = Duration.milliseconds(50)
    /// A node that has had nothing to commit for so long falls silent: its peers' reads need not ask it.
    private static let silenceAfter = Duration.seconds(1)

    // MARK: The coordination's calls

    /// Begins to hear peers, with what they were told while the engine started.
    func beginCoordination(after newest: Timestamp) {
        guard let coordination = configuration.coordination else { return }
        let gone: [Incarnation]
        (peers, tracker, gone) = coordination.serves(self)
        tracker.begins(after: newest)
        for peer in gone { peerVanished(peer) }
        keep(Task(executorPreference: loop) { await self.lookAfterPeers() })
    }

    func peerAppeared(_ peer: Incarnation) { peers.appeared(peer, &tracker) }

    func peerVanished(_ peer: Incarnation) {
        guard peers.knows(peer) else { return }
        peerWork.gone[peer.node] = max(peerWork.gone[peer.node] ?? peer, peer)
        guard peerWork.fencing[peer.node] == nil else { return }
        peerWork.fencing[peer.node] = Task(executorPreference: loop) { await self.goOnWithout(peer.node) }
    }

    // MARK: Those who serve clients

    /// Who else may be planning or choosing, for who must ask them all.
    public var peerIncarnations: [Incarnation] { peers.peerIncarnations }

    /// `listener` hears what peers say about the catalog from here on. Until then they are told that this node plans
    /// nothing.
    public func hear(_ listener: any CatalogPeer) { peerWork.catalog = listener }

    /// Tells a peer something about the catalog.
    public func tell(_ message: CatalogHolds.Message, to peer: Incarnation) { send(.catalog(message), to: peer) }

    // MARK: Messages

    private func send(_ message: PeerMessage, to peer: Incarnation) {
        configuration.coordination?.send(message, to: peer)
    }

    func received(_ bytes: [UInt8], from sender: Incarnation) {
        // One that has not appeared yet asks again.
        guard !isStopped, peers.knows(sender) else { return }
        let message: PeerMessage
        do throws(MalformedBytes) {
            message = try PeerMessage(encoded: bytes)
        } catch {
            return logger.error("a message of \(sender) can't be read: \(error)")
        }
        switch message {
        case .timestamps(let message): perform(peers.received(message, from: sender, &tracker))
        case .catalog(let message):
            guard let catalog = peerWork.catalog else {
                if let answer = message.answerOfWhoPlansNothing { send(.catalog(answer), to: sender) }
                return
            }
            catalog.received(message, from: sender)
        case .findOwners(let sessions):
            let owners = sessions.compactMap { session in
                owner(of: session.process, on: session.shard).map {
                    PeerMessage.SessionOwner(session: session, number: $0.number)
                }
            }
            send(.owners(owners), to: sender)
        case .owners(let owners):
            for owner in owners { peerWork.owners[owner.session] = owner.number }
            peerWork.ownersMissing.remove(sender)
        case .deadlock(let cycle): abortFirst(of: cycle)
        }
    }

    func perform(_ actions: [ClosedTimestamps.Action]) {
        for action in actions {
            switch action {
            case .send(let message, let peer): send(.timestamps(message), to: peer)
            case .activated:
                for place in peerWork.activationWaits { waits.end(place, .granted) }
                peerWork.activationWaits = []
            case .roundEnded(let round, let bound):
                tracker.close(upTo: bound)
                for (_, place) in peerWork.roundWaits.filter({ $0.round <= round }) {
                    if waits.end(place, .granted) { peerWork.bounds[place] = bound }
                }
                peerWork.roundWaits.removeAll { $0.round <= round }
            case .release(let waiters): release(waiters)
            }
        }
    }

    /// Tells all peers that are known.
    func tellPeers(_ message: PeerMessage) {
        for peer in peers.peerIncarnations { send(message, to: peer) }
    }

    // MARK: What waits for peers

    /// Makes sure that a timestamp may be chosen.
    func activate() async throws(TransactionError) {
        prepareToActivate()
        while !peers.isActive {
            let place = waits.begin()
            peerWork.activationWaits.append(place)
            try await waitForPeers(place) { $0.activationWaits.removeAll { $0 == place } }
            prepareToActivate()
        }
    }

    /// A commit is to come: has peers told, if they must be.
    func prepareToActivate() {
        peerWork.lastActivity = .now
        if !peers.isActive { perform(peers.activate()) }
    }

    /// Has all peers close `timestamp`, and tell what they have acknowledged.
    ///
    /// - Returns: up to where timestamps are closed; at least `timestamp`.
    func closeAmongPeers(_ timestamp: Timestamp) async throws(TransactionError) -> Timestamp {
        let place = waits.begin()
        let (round, actions) = peers.requestRound(upTo: timestamp)
        peerWork.roundWaits.append((round, place))
        perform(actions)
        try await waitForPeers(place) { $0.roundWaits.removeAll { $0.wait == place } }
        return peerWork.bounds.removeValue(forKey: place)!
    }

    private func waitForPeers(
        _ place: WaitList.ID, otherwise: (inout PeerWork) -> Void
    ) async throws(TransactionError) {
        let end = await wait(place, for: configuration.safeTimeTimeout)
        guard end != .granted else { return }
        otherwise(&peerWork)
        guard end == .expired else { throw Self.cancelled }
        let missing = peers.unanswered.keys.sorted().map(\.description).joined(separator: "; ")
        throw TransactionError(
            .cannotConnectNow, "other nodes did not answer within \(configuration.safeTimeTimeout)",
            detail: "waiting for: \(missing.isEmpty ? "nobody any more" : missing)",
            hint: "try again; a node that is gone is replaced as soon as all shards can be reached")
    }

    // MARK: Upkeep

    /// Repeats what is not answered, tells peers what is closed, and falls silent when there is nothing to do.
    func lookAfterPeers() async {
        while (try? await loop.sleep(until: .now + Self.peerInterval)) != nil {
            perform(peers.ticked(tracker))
            peerWork.catalog?.ticked()
            lookForHoldUps()
            guard peers.isActive, let now = try? clock.now() else { continue }
            if isIdle, ContinuousClock.now - peerWork.lastActivity >= Self.silenceAfter {
                perform(peers.fallSilent(at: now, &tracker))
            } else {
                perform(peers.broadcast(closing: now.earliest, &tracker))
            }
        }
    }

    /// Fences what is gone of a node, however long it takes, and goes on without it.
    private func goOnWithout(_ node: NodeID) async {
        defer { peerWork.fencing[node] = nil }
        while let peer = peerWork.gone[node], !isStopped {
            guard await fence(peer) else { return }
            do throws(TransactionError) {
                // What it has acknowledged is no later than this (R9).
                let newest = try present().latest
                try await waitOut(newest)
                perform(peers.fenced(peer, readingFrom: newest, &tracker))
                peerWork.catalog?.fenced(peer)
                if peerWork.gone[node] == peer { peerWork.gone[node] = nil }
            } catch {
                // Without the time nothing is read or committed anyway.
                do { try await loop.sleep(for: Self.peerInterval) } catch { return }
            }
        }
    }
}
