import Gateway
import Metadata
import ReplicatedMetadata
import Synchronization
import TransactionCore

import enum NIOCore.SocketAddress

/// Which nodes serve clients, as this one knows it: for its door, and for what is to be done when one of them is gone.
final class ServingNodes: Sendable {
    private struct State {
        /// This node's own, while it serves.
        var gateway: Gateway?
        /// Where clients of the other nodes come to that serve those who come.
        var serving: [SocketAddress] = []
        /// Likewise of all that are present.
        var present: Set<SocketAddress> = []
        /// Addresses from which nodes come.
        var nodes: Set<String> = []
        var whenGone: @Sendable () -> Void = {}
        var reload: @Sendable () -> Void = {}
    }

    private let state = Mutex(State())
    private let node: NodeID
    private let founders: [String]

    /// - Parameter founders: the hosts by which nodes are known before the metadata tells of them.
    init(besides node: NodeID, founders: [String]) {
        (self.node, self.founders) = (node, founders)
    }

    /// What the door asks.
    var directory: ClientDoor.Directory {
        ClientDoor.Directory(
            destination: { [self] in
                state.withLock { state in
                    if let gateway = state.gateway { return .here(gateway) }
                    // Another one each time: they share the clients, and one that can't be reached is not all there is.
                    return state.serving.randomElement().map { .node($0) } ?? .nobody
                }
            },
            isPresent: { [self] address in state.withLock { $0.present.contains(address) } },
            isNode: { [self] address in
                state.withLock { address.ipAddress.map($0.nodes.contains) ?? false }
            })
    }

    /// Whether clients that come now are served, here or by another node.
    var areThere: Bool {
        if case .nobody = directory.destination() { false } else { true }
    }

    /// Calls `body` when another node is not present any more.
    func whenGone(_ body: @escaping @Sendable () -> Void) {
        state.withLock { $0.whenGone = body }
    }

    /// This node serves clients by `gateway`, whose files `reload` reads again.
    func begin(_ gateway: Gateway, reload: @escaping @Sendable () -> Void) {
        state.withLock { ($0.gateway, $0.reload) = (gateway, reload) }
    }

    /// It does not any more.
    func end() {
        state.withLock { ($0.gateway, $0.reload) = (nil, {}) }
    }

    func reload() { state.withLock { $0.reload }() }

    /// Keeps up to date until the task is cancelled or the metadata fails.
    func follow(_ metadata: MetadataNode) async {
        while !Task.isCancelled {
            // What comes after the state that was looked at, and not after a later one.
            let seen = await metadata.state
            look(seen)
            var watch = metadata.watch(.prefix(.all), after: seen.revision)
            do {
                while true {
                    let changes = try await watch.next()
                    let isRelevant = changes.contains {
                        PresenceRecord.selection.contains($0.key) || NodeRecord.selection.contains($0.key)
                    }
                    if isRelevant { look(await metadata.state) }
                }
            } catch is CompactedError {
                continue
            } catch {
                return
            }
        }
    }

    private func look(_ metadata: MetadataState) {
        let records = metadata.records(NodeRecord.self)
        let nodes = Set((founders + records.compactMap { Self.split($0.peerAddress)?.host }).compactMap(Self.resolve))
        var addresses: [NodeID: SocketAddress] = [:]
        for record in records where record.node != node {
            addresses[record.node] = Self.split(record.clientAddress).flatMap {
                try? SocketAddress.makeAddressResolvingHost($0.host, port: $0.port)
            }
        }
        let presences = metadata.records(PresenceRecord.self)
        let serving = presences.filter { $0.state == .serving }.compactMap { addresses[$0.incarnation.node] }
        let present = Set(presences.compactMap { addresses[$0.incarnation.node] })
        let whenGone = state.withLock { state in
            defer { (state.serving, state.present, state.nodes) = (serving, present, nodes) }
            return state.present.isSubset(of: present) ? {} : state.whenGone
        }
        whenGone()
    }

    private static func split(_ address: String) -> (host: String, port: Int)? { GatewaySettings.address(address) }

    private static func resolve(_ host: String) -> String? {
        try? SocketAddress.makeAddressResolvingHost(host, port: 0).ipAddress
    }
}
