public import Consensus
public import EventLoops
public import Logging
public import Metadata
public import PeerTransport
public import TransactionCore

/// The metadata as a process sees it that is no node: it asks one node after the other until one answers.
public actor RemoteMetadata: MetadataClient {
    /// After that time another node is asked, which may reach more than this one does.
    private static let attemptDuration = Duration.seconds(2)

    public nonisolated let loop: EventLoop
    public nonisolated var node: NodeID { .client }
    public nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    private let transport: PeerTransport
    /// The nodes that are known, in the order in which they are asked.
    private var order: [NodeID] = []
    private var waiting: [UInt64: UnsafeContinuation<ClientAnswer?, Never>] = [:]
    private var requestCount: UInt64 = 0
    private var isClosed = false

    /// Begins to connect to all of `nodes`; `preferred` is asked first, then the others by their numbers. Reads the
    /// files of `tls`.
    public static func connect(
        cluster: String, tls: PeerTLS?, nodes: [NodeID: PeerAddress], preferring preferred: NodeID?, loop: EventLoop,
        logger: Logger
    ) async throws(PeerTransportError) -> RemoteMetadata {
        let transport = try PeerTransport.start(
            PeerConfiguration(cluster: cluster, node: .client, tls: tls), listeningOn: nil, loop: loop, logger: logger,
            events: PeerEvents(received: { _, _, _ in }))
        let remote = RemoteMetadata(transport, loop: loop)
        await remote.add(nodes, preferring: preferred)
        return remote
    }

    private init(_ transport: PeerTransport, loop: EventLoop) {
        self.transport = transport
        self.loop = loop
    }

    private func add(_ nodes: [NodeID: PeerAddress], preferring preferred: NodeID? = nil) {
        for node in nodes.keys.sorted() where node != .client {
            transport.setPeer(node, at: nodes[node]!)
            guard !order.contains(node) else { continue }
            if node == preferred { order.insert(node, at: 0) } else { order.append(node) }
        }
    }

    /// Also asks the nodes that have joined since the configuration was written.
    public func learnAddresses(deadline: ContinuousClock.Instant) async throws(MetadataError) -> [NodeRecord] {
        let records = try await records(NodeRecord.self, deadline: deadline)
        var addresses: [NodeID: PeerAddress] = [:]
        for record in records where record.state != .left { addresses[record.node] = PeerAddress(record.peerAddress) }
        add(addresses)
        return records
    }

    /// Ends all connections. What waits is told so.
    public func close() async {
        isClosed = true
        for id in waiting.keys { answered(id, nil) }
        await transport.close()
    }

    // MARK: Requests

    public func submit(
        _ command: MetadataCommand, deadline: ContinuousClock.Instant
    ) async throws(MetadataError) -> MetadataAnswer {
        _ = try command.bytes()
        guard case .metadata(.answer(let answer)) = try await ask(.metadata(.submit(command)), deadline: deadline)
        else {
            throw Self.outOfTurn
        }
        return answer
    }

    public func read(
        _ query: MetadataQuery, deadline: ContinuousClock.Instant
    ) async throws(MetadataError) -> QueryAnswer {
        guard case .metadata(.found(let answer)) = try await ask(.metadata(.read(query)), deadline: deadline) else {
            throw Self.outOfTurn
        }
        return answer
    }

    /// Goes on with another node when the one that it asks is lost, for as long as it takes.
    public func changes(
        of selection: MetadataSelection, after revision: Revision, within duration: Duration
    ) async throws -> MetadataChanges {
        let request = ClientRequest.metadata(.changes(of: selection, after: revision))
        while true {
            try Task.checkCancellation()
            do {
                switch try await ask(request, deadline: .now + ClientRequest.withinMax, attempt: duration) {
                case .metadata(.changes(let found)): return found
                case .metadata(.compacted(let error)): throw error
                case .metadata(.found), .metadata(.answer), .status, .done, .failed: throw Self.outOfTurn
                }
            } catch let error as MetadataError where error.kind == .noLeader {
                continue
            }
        }
    }

    public func change(_ change: Membership.Change, deadline: ContinuousClock.Instant) async throws(MetadataError) {
        guard case .done = try await ask(.change(change), deadline: deadline) else { throw Self.outOfTurn }
    }

    public func lead(_ successor: NodeID, deadline: ContinuousClock.Instant) async throws(MetadataError) {
        guard case .done = try await ask(.lead(successor), deadline: deadline) else { throw Self.outOfTurn }
    }

    /// What the first node that answers knows of the cluster.
    public func status(deadline: ContinuousClock.Instant) async throws(MetadataError) -> MetadataStatus {
        guard case .status(let status) = try await ask(.status, deadline: deadline) else { throw Self.outOfTurn }
        return status
    }

    /// What that node says of itself; nil where it does not answer.
    public func status(of node: NodeID, within duration: Duration) async -> MetadataStatus? {
        let deadline = ContinuousClock.now + duration
        while .now < deadline, !transport.isConnected(to: node), transport.failure(of: node) == nil {
            try? await loop.sleep(for: .milliseconds(5))
        }
        guard case .status(let status)? = await exchange(.status, with: node, within: duration) else { return nil }
        return status
    }

    private static let outOfTurn = MetadataError(
        .refused, "a node gave the answer to another question", hint: "is its program older than this one?")

    private func ask(
        _ request: ClientRequest, deadline: ContinuousClock.Instant, attempt: Duration = attemptDuration
    ) async throws(MetadataError) -> ClientAnswer {
        var last: MetadataError?
        while !isClosed {
            let left = deadline - .now
            guard left > .zero, !Task.isCancelled else { throw last ?? unreachable }
            if let peer = nextToAsk {
                switch await exchange(request, with: peer, within: min(left, attempt)) {
                case .failed(let error)? where !error.isOfOneNode: throw error
                case .failed(let error)?: last = error
                case let answer?: return answer
                case nil: break
                }
                order.removeAll { $0 == peer }
                order.append(peer)
            }
            try? await loop.sleep(for: .milliseconds(10))
        }
        throw MetadataError(.stopped, "the connections to the nodes were closed")
    }

    /// The first in the order that there is a connection to; nil while it is not known whether there will be one.
    private var nextToAsk: NodeID? {
        for node in order {
            if transport.isConnected(to: node) { return node }
            if transport.failure(of: node) == nil { return nil }
        }
        return nil
    }

    private var unreachable: MetadataError {
        let reasons = order.sorted().map { "node \($0): \(transport.failure(of: $0) ?? "no answer")" }
        return MetadataError(
            .noLeader, "no node of the cluster answers", detail: reasons.joined(separator: "; "),
            hint: "are the nodes running, and are the configuration's cluster.name and cluster.nodes theirs?")
    }

    /// Asks one node once. Returns nil without its answer.
    private func exchange(_ request: ClientRequest, with peer: NodeID, within duration: Duration) async -> ClientAnswer?
    {
        requestCount += 1
        let id = requestCount
        return await withTaskCancellationHandler {
            await withUnsafeContinuation { continuation in
                waiting[id] = continuation
                guard !Task.isCancelled, !isClosed else { return answered(id, nil) }
                // The node's answer, that it could not do it in time, has a second to come.
                transport.request(
                    request.encoded(within: duration), kind: PeerKind.client.rawValue, of: peer,
                    within: duration + .seconds(1)
                ) { [weak self] answer in
                    let answer = (try? answer.get()).flatMap { try? ClientAnswer(encoded: $0) }
                    self?.assumeIsolated { $0.answered(id, answer) }
                }
            }
        } onCancel: {
            loop.execute { [weak self] in self?.assumeIsolated { $0.answered(id, nil) } }
        }
    }

    private func answered(_ id: UInt64, _ answer: ClientAnswer?) {
        waiting.removeValue(forKey: id)?.resume(returning: answer)
    }
}
