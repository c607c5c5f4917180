public import Metadata
public import TransactionCore

/// One life of a node as a coordinator, as it stands in the metadata: for as long as its record is there, under the
/// node's session, the others count on it; afterwards they fence it.
public actor NodePresence {
    public nonisolated let incarnation: Incarnation
    /// Who was present when this node became so. Whoever comes later finds this node present.
    public nonisolated let others: [Incarnation]
    /// The newest epochs of all nodes at that moment: what is not among ``others`` is gone, or yet to come.
    public nonisolated let newest: [Incarnation]
    public nonisolated var unownedExecutor: UnownedSerialExecutor { session.client.loop.asUnownedSerialExecutor() }
    private nonisolated let session: NodeSession
    private var own: PresenceRecord
    private var present: PresentNodes
    private var watch: MetadataWatch
    /// The record is gone, and the others fence this life of the node, or will.
    public private(set) var isOver = false

    /// Makes the node known with a new epoch, as ``PresenceRecord/State/starting``, and finds out who else is present:
    /// both in one transaction, so that of two nodes one always finds the other.
    ///
    /// - Parameter known: what shards may know already; the epoch is larger.
    public static func begin(
        under session: NodeSession, above known: Epoch, deadline: ContinuousClock.Instant
    ) async throws -> NodePresence {
        let client = session.client
        let raised = try await client.submit(.raiseEpoch(client.node, above: known), deadline: deadline)
        guard case .epoch(let epoch) = raised else { throw MetadataError(.refused, "no epoch was given: \(raised)") }
        let own = PresenceRecord(Incarnation(client.node, epoch), .starting)
        let answer = try await session.transaction(
            MetadataTransaction(then: [own.put, .read(PresentNodes.query), .read(PresentNodes.newestEpochs)]),
            deadline: deadline)
        guard answer.results.count == 3, case .read(let found) = answer.results[1], found.isComplete,
            case .read(let epochs) = answer.results[2], epochs.isComplete
        else {
            throw MetadataError(.refused, "the nodes that are present can't be listed", detail: "\(answer.results)")
        }
        return NodePresence(
            session, own, PresentNodes(found.entries), epochs.entries.compactMap { Incarnation(epochEntry: $0) },
            at: answer.revision)
    }

    private init(
        _ session: NodeSession, _ own: PresenceRecord, _ present: PresentNodes, _ newest: [Incarnation],
        at revision: Revision
    ) {
        (self.session, self.own, self.present, self.newest) = (session, own, present, newest)
        incarnation = own.incarnation
        others = present.incarnations.filter { $0.node != own.incarnation.node }
        watch = session.client.watch(PresenceRecord.selection, after: revision)
    }

    /// Says what the node is about from now on. Throws ``MetadataError/Kind/refused`` when it is over.
    public func become(_ state: PresenceRecord.State, deadline: ContinuousClock.Instant) async throws {
        let next = PresenceRecord(incarnation, state)
        let answer = try await session.transaction(
            MetadataTransaction(compares: [own.stands], then: [next.put]), deadline: deadline)
        guard answer.held else {
            isOver = true
            throw MetadataError(.refused, "\(incarnation) is not present any more")
        }
        own = next
    }

    /// Waits for what becomes of the nodes after ``others`` were listed: every event once, in order, those of this node
    /// among them. Returns none when this one is over, which it also is when it does not hear of the others any more.
    public func next() async throws -> [PresentNodes.Event] {
        while !isOver {
            do {
                let events = try await nextEvents()
                if events.contains(.vanished(incarnation)) { isOver = true }
                if !events.isEmpty { return events }
            } catch {
                isOver = true
                throw error
            }
        }
        return []
    }

    private func nextEvents() async throws -> [PresentNodes.Event] {
        do {
            var watch = watch
            let changes = try await watch.next()
            self.watch = watch
            return changes.flatMap { present.changed($0) }
        } catch is CompactedError {
            let client = session.client
            let found = try await client.read(PresentNodes.query, deadline: .now + .seconds(10))
            watch = client.watch(PresenceRecord.selection, after: found.revision)
            return present.replace(by: found.entries)
        }
    }

    /// Has a node taken for gone that is present, but does not answer this one. Each may accuse the other: the log puts
    /// one of them first, and the other one is not present any more when its turn comes.
    ///
    /// - Returns: whether it was done; not if either has become, or begun, something else meanwhile.
    public func accuse(_ peer: Incarnation, deadline: ContinuousClock.Instant) async throws -> Bool {
        guard !isOver, peer.node != incarnation.node, let record = present.records[peer.node],
            record.incarnation == peer
        else { return false }
        let accusation = MetadataTransaction(
            compares: [own.stands, record.stands], then: [.delete(.key(record.key!))])
        return try await session.transaction(accusation, deadline: deadline).held
    }
}

extension PresenceRecord {
    /// Puts it, to go with the session.
    fileprivate var put: MetadataOperation { .put(key!, value, ephemeral: true) }
    /// It is what the metadata has.
    fileprivate var stands: MetadataCompare { .value(key!, value) }
}
