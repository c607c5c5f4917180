import Gateway
import Metadata
import ReplicatedMetadata
import Synchronization
import TransactionCore

import enum NIOCore.SocketAddress

/// Who coordinates, as this node knows it: for its door, and for what is to be done when that changes.
final class CoordinatorSeat: Sendable {
    /// Where nodes contend; the first one's value is where its clients come to.
    static let prefix = Contender.election("coordinator")!

    private struct State {
        /// The one elected, wherever it is.
        var elected: SocketAddress?
        /// This node's own, while it serves.
        var gateway: Gateway?
        /// Where this node's clients come to: while it does not serve, nobody is to be sent there.
        var own: SocketAddress?
        /// Addresses from which nodes come.
        var nodes: Set<String> = []
        var changed: @Sendable () -> Void = {}
        var reload: @Sendable () -> Void = {}
    }

    private let state = Mutex(State())
    private let founders: [String]

    /// - Parameter founders: the hosts by which nodes are known before the metadata tells of them.
    init(founders: [String]) {
        self.founders = founders
    }

    /// What the door asks.
    var directory: ClientDoor.Directory {
        ClientDoor.Directory(
            destination: { [self] in
                state.withLock { state in
                    if let gateway = state.gateway { return .here(gateway) }
                    guard let elected = state.elected, elected != state.own else { return .nobody }
                    return .node(elected)
                }
            },
            isNode: { [self] address in
                state.withLock { address.ipAddress.map($0.nodes.contains) ?? false }
            })
    }

    /// Whether clients that come now are served, here or by another node.
    var knowsWhoServes: Bool {
        if case .nobody = directory.destination() { false } else { true }
    }

    /// Calls `body` when somebody else coordinates, or nobody.
    func whenChanged(_ body: @escaping @Sendable () -> Void) {
        state.withLock { $0.changed = body }
    }

    /// This node's clients come to that address: `host:port`.
    func stands(at address: String) {
        let own = GatewaySettings.address(address).flatMap { Self.resolve($0.host, $0.port) }
        state.withLock { $0.own = own }
    }

    /// This node serves clients by `gateway`, whose files `reload` reads again.
    func take(_ gateway: Gateway, reload: @escaping @Sendable () -> Void) {
        state.withLock { ($0.gateway, $0.reload) = (gateway, reload) }
    }

    /// It does not any more.
    func leave() {
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
                        Self.prefix.contains($0.key) || NodeRecord.selection.contains($0.key)
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

    private func look(_ metadataState: MetadataState) {
        let holder = metadataState.read(Contender.holder(in: Self.prefix)).entries.first
        let text = holder.map { String(decoding: $0.value, as: UTF8.self) }
        let elected = text.flatMap(GatewaySettings.address).flatMap { Self.resolve($0.host, $0.port) }
        let hosts =
            founders
            + metadataState.records(NodeRecord.self).compactMap { record in
                GatewaySettings.address(record.peerAddress)?.host
            }
        let nodes = Set(hosts.compactMap { Self.resolve($0, 0)?.ipAddress })
        let changed = state.withLock { state in
            defer { (state.elected, state.nodes) = (elected, nodes) }
            return state.elected == elected ? {} : state.changed
        }
        changed()
    }

    private static func resolve(_ host: String, _ port: Int) -> SocketAddress? {
        try? SocketAddress.makeAddressResolvingHost(host, port: port)
    }
}
