import Consensus
import Metadata
import TransactionCore

/// Reads, and watching.
extension MetadataNode {
    /// How long a node waits for the leader's word before it asks again.
    private static let askAgain = Duration.milliseconds(100)

    public func read(
        _ query: MetadataQuery, deadline: ContinuousClock.Instant
    ) async throws(MetadataError) -> QueryAnswer {
        try await catchUp(deadline: deadline)
        return state.read(query)
    }

    /// Waits until this node has applied everything that was answered to anybody before the call.
    ///
    /// The leader's word costs nothing while it holds its lease; from another node it is one round trip.
    public func catchUp(deadline: ContinuousClock.Instant) async throws(MetadataError) {
        while true {
            try checkRunning()
            guard !Task.isCancelled else { throw .cancelled }
            if let slot = await askForReadIndex() { return try await apply(upTo: slot, deadline: deadline) }
            guard .now < deadline else {
                throw MetadataError(
                    .noLeader, "no leader answered in time",
                    hint: "are more than half of the nodes running, and can they reach each other?")
            }
            try? await loop.sleep(until: min(deadline, .now + .milliseconds(10)))
        }
    }

    private func askForReadIndex() async -> Slot? {
        await withUnsafeContinuation { continuation in
            readIndex { slot in
                if let slot { return continuation.resume(returning: slot) }
                self.assumeIsolated { node in
                    guard let leader = node.replica.leader, leader != node.node, node.isRunning else {
                        return continuation.resume(returning: nil)
                    }
                    node.transport.request(
                        [], kind: PeerKind.readIndex.rawValue, of: leader, within: Self.askAgain
                    ) { answer in
                        var reader = ByteReader((try? answer.get()) ?? [])
                        let slot = try? reader.number(max: UInt64(Int64.max))
                        continuation.resume(returning: slot.map { Slot(rawValue: Int64($0)) })
                    }
                }
            }
        }
    }

    /// Calls `body` with the slot that a read must wait for, if this node leads and still does when it has asked; on
    /// the loop.
    func readIndex(_ body: @escaping @Sendable (Slot?) -> Void) {
        let now = now()
        switch replica.readRequested(byLease: isClockTrusted, at: now) {
        case .ready: body(appliedUpTo)
        case .notLeader: body(nil)
        case .waits(let id):
            pendingReads[id] = body
            // Heartbeats may have stopped, as when the clock tells no time.
            loop.schedule(at: .now + Self.askAgain) { [weak self] in
                self?.assumeIsolated { $0.pendingReads.removeValue(forKey: id)?(nil) }
            }
            schedulePump()
        }
    }

    private func apply(upTo slot: Slot, deadline: ContinuousClock.Instant) async throws(MetadataError) {
        guard appliedUpTo < slot else { return }
        // Behind by so much that it takes long, the node gets a snapshot; this ends all the same.
        let timer = loop.schedule(at: deadline) { [weak self] in
            self?.assumeIsolated { node in
                let late = node.pendingApplications
                node.pendingApplications = []
                for pending in late { pending.resume() }
            }
        }
        defer { timer.cancel() }
        while appliedUpTo < slot {
            try checkRunning()
            guard .now < deadline else { throw MetadataError(.noLeader, "this node has not caught up in time") }
            await withUnsafeContinuation { continuation in
                pendingApplications.append((slot, { continuation.resume() }))
                // It may have been applied on the way to this place, or there is nothing to wait for any more.
                if isRunning, .now < deadline {
                    applicationsDone()
                } else {
                    pendingApplications.removeLast().resume()
                }
            }
        }
    }

    public func changes(
        of selection: MetadataSelection, after revision: Revision, within duration: Duration
    ) async throws -> MetadataChanges {
        let deadline = ContinuousClock.now + duration
        let id = watches.watch(selection, after: revision).id
        let timer = loop.schedule(at: deadline) { [weak self] in self?.assumeIsolated { $0.wake(id) } }
        defer {
            timer.cancel()
            watches.cancel(id)
        }
        while true {
            try checkRunning()
            try Task.checkCancellation()
            let (changes, hasMore) = try watches.take(id, from: state)
            if let last = changes.last {
                return MetadataChanges(changes, through: hasMore ? last.revision : max(revision, state.revision))
            }
            guard .now < deadline else { return MetadataChanges([], through: max(revision, state.revision)) }
            await waitForWatch(id, deadline)
        }
    }

    /// Returns when there may be something to take, or no use in waiting.
    private func waitForWatch(_ id: Watches.WatchID, _ deadline: ContinuousClock.Instant) async {
        await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                watchers[id] = { continuation.resume() }
                // A task that doesn't prefer the loop is queued anew on the way to this place. What happened meanwhile
                // has woken nobody, and a watch that has something is not named again.
                if Task.isCancelled || !isRunning || watches.isReady(id) || deadline <= .now { wake(id) }
            }
        } onCancel: {
            loop.execute { [weak self] in self?.assumeIsolated { $0.wake(id) } }
        }
    }

    func wake(_ id: Watches.WatchID) { watchers.removeValue(forKey: id)?() }
}
