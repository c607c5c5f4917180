import TransactionCore
import TwoPhaseCommit

/// What a node says to its peers, so that each may read what the others write (R8, R9).
extension SimulatedNode {
    /// How often a node asks again, tells what is closed, or falls silent.
    private static let tickNanoseconds: ClosedRange<Nanoseconds> = 2 * millisecond...8 * millisecond

    /// Calls `body` when a timestamp may be chosen, in one step with that.
    func whenActive(_ body: @escaping () -> Void) {
        guard !closed.isActive else { return body() }
        if bug == .chooseBeforeActivated {
            perform(closed.activate())
            return body()
        }
        waitingCommits.append(body)
        perform(closed.activate())
    }

    /// Calls `then` when a round has ended that began after this, with what it has closed.
    func afterRound(upTo timestamp: Timestamp, then: @escaping (Timestamp) -> Void) {
        let (round, actions) = closed.requestRound(upTo: timestamp)
        waitingRounds.append((round, then))
        perform(actions)
    }

    func received(_ message: ClosedTimestamps.Message, from peer: Incarnation) {
        guard hasJoined else { return }
        if let activity = message.activity { activities[peer] = max(activities[peer] ?? 0, activity) }
        perform(closed.received(message, from: peer, &tracker))
    }

    func perform(_ actions: [ClosedTimestamps.Action]) {
        for action in actions {
            switch action {
            case .send(let message, let peer): send(message, to: peer)
            case .activated:
                let commits = waitingCommits
                waitingCommits = []
                for commit in commits { commit() }
            case .roundEnded(let round, let upTo):
                let ended = waitingRounds.filter { $0.round <= round }
                waitingRounds.removeAll { $0.round <= round }
                for read in ended { read.then(upTo) }
            case .release(let waiters): release(waiters)
            }
        }
    }

    private func send(_ message: ClosedTimestamps.Message, to peer: Incarnation) {
        switch message {
        case .close(let round, let upTo) where bug == .roundIgnoringPeer && peer == closed.peerIncarnations.first:
            // What it would say with nothing in flight.
            let report = ClosedTimestamps.Report(
                activity: activities[peer] ?? 0, round: round, strongReadTimestamp: .zero,
                promise: .closed(upTo: upTo, inFlight: []))
            after(0) { [self] in perform(closed.received(.report(report), from: peer, &tracker)) }
        case .report(var report):
            if bug == .reportWithoutInFlight, case .closed(let upTo, _) = report.promise {
                report.promise = .closed(upTo: upTo, inFlight: [])
            }
            cluster.peerNetwork.send(.report(report), from: incarnation, to: peer)
        default: cluster.peerNetwork.send(message, from: incarnation, to: peer)
        }
    }

    /// Goes on for as long as the node serves.
    func tick() {
        guard phase == .serving else { return }
        perform(closed.ticked(tracker))
        if scheduler.random.chance(0.3) { fallSilent() }
        if scheduler.random.chance(0.2), let now = try? clock.now() {
            perform(closed.broadcast(closing: now.latest, &tracker))
        }
        after(scheduler.random.number(in: Self.tickNanoseconds)) { [self] in tick() }
    }

    private func fallSilent() {
        guard waitingCommits.isEmpty, let now = try? clock.now() else { return }
        let wasActive = closed.isActive
        switch bug {
        case .silentWhileInFlight:
            var forgetful = SafeTimeTracker(node: id, newest: tracker.strongReadTimestamp)
            perform(closed.fallSilent(at: now, &forgetful))
        case .silentWithoutNewest where live.isEmpty && now.isAfter(tracker.newestChosen):
            var forgetful = SafeTimeTracker(node: id, newest: .zero)
            perform(closed.fallSilent(at: now, &forgetful))
        default: perform(closed.fallSilent(at: now, &tracker))
        }
        if wasActive, !closed.isActive { note("falls silent") }
    }
}

extension ClosedTimestamps.Message {
    fileprivate var activity: UInt64? {
        switch self {
        case .activate(let activity): activity
        case .report(let report): report.activity
        case .activated, .close, .applied: nil
        }
    }
}
