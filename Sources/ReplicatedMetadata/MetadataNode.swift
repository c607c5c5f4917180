import BoundedTime
import Consensus
import EventLoops
import Logging
import Metadata
import MetadataStorage
import PeerTransport
import TransactionCore

/// One node's share in the replicated metadata: its replica with storage, peers and the state that the log makes.
///
/// Everything runs on the event loop. Whatever happens in one turn of it shares a flush and the messages to each node.
public actor MetadataNode: MetadataClient {
    public nonisolated let node: NodeID
    public nonisolated let loop: EventLoop
    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    let configuration: MetadataNodeConfiguration
    private let clock: any IntervalClock
    let logger: Logger
    private let storage: MetadataStorage
    var transport: PeerTransport!
    var replica: Replica
    /// What the log has made, up to ``appliedUpTo``.
    public private(set) var state: MetadataState
    private(set) var appliedUpTo: Slot
    private var chosenSinceSnapshot = 0
    /// Records that no message waits for.
    private var unhurriedRecords: [DurableRecord] = []
    var watches: Watches
    /// Nodes to which connections are kept.
    var connectedPeers: Set<NodeID> = []
    private var lastLeader: NodeID?
    /// Whoever waits for a watch to have something; see ``wake(_:)``.
    var watchers: [Watches.WatchID: @Sendable () -> Void] = [:]

    /// What the clock told last. While it does not tell, nothing is done by lease, and leases seem not to end.
    private var lastNow: TimestampInterval
    private(set) var isClockTrusted = true
    private var isPumpScheduled = false
    private var ticker: ScheduledTimer?
    private var failure: MetadataError?

    let origin: ProposedCommand.Origin
    var commandCount: UInt64 = 0
    var pendingCommands: [UInt64: PendingCommand] = [:]
    var pendingReads: [Replica.ReadID: (Slot?) -> Void] = [:]
    /// Who waits until a slot is applied.
    var pendingApplications: [(slot: Slot, resume: () -> Void)] = []
    /// When the expiry of a session was proposed last.
    var expiryProposed: [SessionID: ContinuousClock.Instant] = [:]
    /// Whom what other nodes' coordinators say is for; see ``listen(as:_:)``.
    var coordinator: (epoch: Epoch, received: @Sendable ([UInt8], Incarnation) -> Void)?
    /// How many others wait for an answer of this node.
    var clientRequestCount = 0
    /// It has been a member since it knows of any.
    var wasMember: Bool
    /// It was a member, and is none any more: it can only end.
    public internal(set) var isRemoved: Bool
    /// When others are asked next whether it was removed.
    var removalAskDue = ContinuousClock.now

    struct PendingCommand {
        let bytes: [UInt8]
        /// When it is handed to a leader once more.
        var sendDue: ContinuousClock.Instant
        let resume: (Result<MetadataAnswer, MetadataError>) -> Void
    }

    // MARK: Life

    /// Opens the storage and begins to listen; the cluster is there when a quorum of its nodes is. May block: it reads
    /// the log.
    public static func start(
        _ configuration: MetadataNodeConfiguration, clock: any IntervalClock, loop: EventLoop, logger: Logger
    ) async throws -> MetadataNode {
        let now = try clock.now()
        let (storage, durable) = try MetadataStorage.open(
            directory: configuration.directory,
            identity: StorageIdentity(cluster: configuration.peers.cluster, node: configuration.peers.node),
            membership: Membership(voters: configuration.founders), callbacksOn: loop, logger: logger)
        do {
            let node = try MetadataNode(
                configuration, clock: clock, now: now, storage: storage, durable: durable, loop: loop, logger: logger)
            try await node.run()
            return node
        } catch {
            await storage.close()
            throw error
        }
    }

    private init(
        _ configuration: MetadataNodeConfiguration, clock: any IntervalClock, now: TimestampInterval,
        storage: MetadataStorage, durable: DurableState, loop: EventLoop, logger: Logger
    ) throws {
        self.configuration = configuration
        self.clock = clock
        self.loop = loop
        self.logger = logger
        self.storage = storage
        node = configuration.peers.node
        lastNow = now
        replica = Replica(
            node: node, durable: durable, timing: configuration.timing, seed: UInt64.random(in: 0 ... .max), at: now)
        state = try durable.snapshot.state.isEmpty ? MetadataState() : MetadataState(snapshot: durable.snapshot.state)
        appliedUpTo = durable.snapshot.slot
        watches = Watches(of: state)
        let isMember = durable.membership.contains(configuration.peers.node)
        wasMember = isMember
        isRemoved = !isMember && configuration.founders.contains(configuration.peers.node)
        origin = ProposedCommand.Origin(node: node, process: UInt64.random(in: 0 ... .max))
        for entry in durable.chosen {
            if case .command(let bytes) = entry {
                _ = state.apply(
                    try ProposedCommand(encoded: bytes).command, at: Revision(rawValue: appliedUpTo.rawValue + 1))
            }
            appliedUpTo = appliedUpTo.next
        }
        watches = Watches(of: state)
        chosenSinceSnapshot = durable.chosen.count
    }

    private func run() throws {
        let events = PeerEvents(
            received: { [weak self] sender, kind, payload in
                self?.assumeIsolated { $0.received(kind: kind, payload, from: sender) }
            },
            requested: { [weak self] sender, kind, payload, answer in
                self?.assumeIsolated { $0.requested(kind: kind, payload, answer) }
            },
            connectionChanged: { [weak self] peer, isConnected in
                self?.assumeIsolated { $0.connectionChanged(peer, isConnected) }
            })
        transport = try PeerTransport.start(
            configuration.peers, listeningOn: configuration.listenAddress, loop: loop, logger: logger, events: events)
        connectToPeers()
        tick()
    }

    /// Where it listens for the other nodes.
    public var peerPort: Int { transport.port }

    /// Hands the leadership over, and ends. What waits is told so.
    public func stop() async {
        replica.handOver(at: now())
        pump()
        fail(MetadataError(.stopped, "this node ends"))
        await transport.close()
        await storage.close()
    }

    /// From here on nothing is done any more.
    func fail(_ error: MetadataError) {
        guard failure == nil else { return }
        failure = error
        ticker?.cancel()
        for pending in pendingCommands.values { pending.resume(.failure(error)) }
        pendingCommands = [:]
        for resume in pendingReads.values { resume(nil) }
        pendingReads = [:]
        for pending in pendingApplications { pending.resume() }
        pendingApplications = []
        for id in watchers.keys { wake(id) }
        // The others are to take it for gone.
        if error.kind == .failed { Task { await transport.close() } }
    }

    var isRunning: Bool { failure == nil }

    func checkRunning() throws(MetadataError) {
        if let failure { throw failure }
    }

    private func tick() {
        let interval = Duration.nanoseconds(configuration.timing.heartbeatNanoseconds / 3)
        ticker = loop.schedule(at: .now + interval) { [weak self] in
            self?.assumeIsolated { node in
                guard node.failure == nil else { return }
                node.replica.ticked(at: node.now())
                node.resendCommands()
                node.expireSessions()
                node.lookForRemoval()
                node.pump()
                node.tick()
            }
        }
    }

    /// The present; while the clock does not tell it, what it was.
    func now() -> TimestampInterval {
        do {
            lastNow = try clock.now()
            isClockTrusted = true
        } catch {
            if isClockTrusted {
                logger.error("the clock does not tell the time: no reads by lease", metadata: ["error": "\(error)"])
            }
            isClockTrusted = false
        }
        return lastNow
    }

    // MARK: Orders

    /// Carries out what the replica orders, after everything that is to happen in this turn of the loop.
    func schedulePump() {
        guard !isPumpScheduled else { return }
        isPumpScheduled = true
        loop.execute { [weak self] in self?.assumeIsolated { $0.pump() } }
    }

    private func pump() {
        isPumpScheduled = false
        guard failure == nil else { return }
        let orders = replica.takeOrders(at: now())
        for envelope in orders.messages { send(envelope) }
        write(orders)
        if let snapshot = orders.installed { install(snapshot) }
        for chosen in orders.chosen { apply(chosen) }
        for id in orders.readsReady { pendingReads.removeValue(forKey: id)?(appliedUpTo) }
        for id in orders.readsLost { pendingReads.removeValue(forKey: id)?(nil) }
        if !orders.chosen.isEmpty || orders.installed != nil { applicationsDone() }
        if replica.leader != lastLeader {
            lastLeader = replica.leader
            if let lastLeader { resendCommands(to: lastLeader) }
        }
        takeSnapshot()
    }

    /// Records that no message waits for (mostly: what is chosen) are written with the next ones, at the latest before
    /// the answer to a heartbeat. A flush for them alone would be in the way of the next entry's.
    private func write(_ orders: Orders) {
        unhurriedRecords += orders.records
        let messages = orders.messagesOnceDurable
        guard !messages.isEmpty else { return }
        storage.append(unhurriedRecords) { [weak self] outcome in
            self?.assumeIsolated { $0.written(messages, outcome) }
        }
        unhurriedRecords = []
    }

    private func written(_ messages: [Envelope], _ outcome: MetadataStorage.Outcome) {
        guard failure == nil else { return }
        if case .failure(let error) = outcome {
            return fail(
                MetadataError(
                    .failed, "this node's storage failed", detail: "\(error)",
                    hint: "mend the disk and start the node again"))
        }
        for envelope in messages {
            if envelope.recipient == node {
                replica.received(envelope.message, from: node, at: now())
            } else {
                send(envelope)
            }
        }
        schedulePump()
    }

    private func send(_ envelope: Envelope) {
        transport.send(envelope.message.encoded, kind: PeerKind.consensus.rawValue, to: envelope.recipient)
    }

    // MARK: The state

    private func install(_ snapshot: Snapshot) {
        do {
            state = try MetadataState(snapshot: snapshot.state)
        } catch {
            return failForState("a snapshot from another node can't be read", error)
        }
        appliedUpTo = snapshot.slot
        chosenSinceSnapshot = 0
        connectToPeers()
        membershipChosen(snapshot.membership)
        for id in watches.installed(state) { wake(id) }
    }

    private func apply(_ chosen: ChosenEntry) {
        guard failure == nil else { return }
        appliedUpTo = chosen.slot
        chosenSinceSnapshot += 1
        guard case .command(let bytes) = chosen.entry else {
            if case .membership(let membership) = chosen.entry { membershipChosen(membership) }
            return
        }
        let proposed: ProposedCommand
        do {
            proposed = try ProposedCommand(encoded: bytes)
        } catch {
            return failForState("the log holds a command that this node can't read", error)
        }
        let revision = Revision(rawValue: chosen.slot.rawValue)
        let (answer, changes) = state.apply(proposed.command, at: revision)
        if proposed.origin == origin {
            pendingCommands.removeValue(forKey: proposed.number)?.resume(.success(answer))
        }
        if changes.contains(where: { NodeRecord.selection.contains($0.key) }) { connectToPeers() }
        for id in watches.applied(changes, at: revision) { wake(id) }
    }

    /// A node that leaves out what it does not understand would have another state than the others.
    private func failForState(_ message: String, _ error: any Error) {
        logger.critical("\(message)", metadata: ["error": "\(error)"])
        fail(
            MetadataError(
                .failed, message, detail: "\(error)", hint: "is this program older than that of the other nodes?"))
    }

    func applicationsDone() {
        guard !pendingApplications.isEmpty else { return }
        let done = pendingApplications.filter { $0.slot <= appliedUpTo }
        pendingApplications.removeAll { $0.slot <= appliedUpTo }
        for pending in done { pending.resume() }
    }

    private func takeSnapshot() {
        guard chosenSinceSnapshot >= configuration.snapshotEntriesMax else { return }
        chosenSinceSnapshot = 0
        replica.snapshotTaken(after: appliedUpTo, state: state.snapshot)
        schedulePump()
    }
}
