import Consensus
import EventLoops
import Metadata
import TransactionCore

/// Commands on their way to the log and back.
extension MetadataNode {
    /// How long a command waits for its answer before it is handed in once more, perhaps to another leader. A long one
    /// waits longer: what is on its way to all nodes must not be put behind itself again and again.
    private static func resendInterval(_ bytes: [UInt8]) -> Duration { .milliseconds(250) * (1 + bytes.count >> 15) }

    /// Returns when this node has applied the command.
    public func submit(
        _ command: MetadataCommand, deadline: ContinuousClock.Instant
    ) async throws(MetadataError) -> MetadataAnswer {
        try checkRunning()
        commandCount += 1
        let number = commandCount
        let bytes = try ProposedCommand(origin: origin, number: number, command: command).encoded()
        let timer = loop.schedule(at: deadline) { [weak self] in
            self?.assumeIsolated { node in
                let error = MetadataError(
                    .noLeader, "no leader answered in time",
                    detail: node.replica.leader.map { "node \($0) was the last one known" } ?? "none is known",
                    hint: "are more than half of the nodes running, and can they reach each other?")
                node.pendingCommands.removeValue(forKey: number)?.resume(.failure(error))
            }
        }
        defer { timer.cancel() }
        return try await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                pendingCommands[number] = PendingCommand(bytes: bytes, sendDue: .now) {
                    continuation.resume(returning: $0)
                }
                handIn(number)
                if Task.isCancelled || !isRunning { giveUp(number) }
            }
        } onCancel: {
            loop.execute { [weak self] in self?.assumeIsolated { $0.giveUp(number) } }
        }.get()
    }

    private func giveUp(_ number: UInt64) {
        pendingCommands.removeValue(forKey: number)?.resume(.failure(.cancelled))
    }

    /// Gives the command to the leader, if one is known.
    private func handIn(_ number: UInt64) {
        guard let pending = pendingCommands[number] else { return }
        if case .notLeader(let leader) = replica.propose(pending.bytes) {
            guard let leader, transport.send(pending.bytes, kind: PeerKind.propose.rawValue, to: leader) else { return }
        }
        pendingCommands[number]!.sendDue = .now + Self.resendInterval(pending.bytes)
        schedulePump()
    }

    func resendCommands() {
        guard !pendingCommands.isEmpty else { return }
        let now = ContinuousClock.now
        for number in pendingCommands.filter({ $0.value.sendDue <= now }).keys.sorted() { handIn(number) }
    }

    /// The connection to `peer` is new: what was sent over the last one may be lost.
    func resendCommands(to peer: NodeID) {
        guard replica.leader == peer || peer == node else { return }
        for number in pendingCommands.keys.sorted() { handIn(number) }
    }

    /// Proposes the end of sessions that were not renewed, while this node leads.
    func expireSessions() {
        let now = now()
        guard isClockTrusted, replica.holdsLease(at: now) else { return expiryProposed.removeAll() }
        for command in state.expirations(at: now) {
            guard case .expireSession(let session, _) = command else { continue }
            if let last = expiryProposed[session], .now - last < .seconds(1) { continue }
            expiryProposed[session] = .now
            logger.notice("a session was not renewed", metadata: ["session": "\(session)"])
            commandCount += 1
            let proposed = ProposedCommand(origin: origin, number: commandCount, command: command)
            if let bytes = try? proposed.encoded() { _ = replica.propose(bytes) }
        }
    }
}
