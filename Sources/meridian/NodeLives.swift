import EventLoops
import Foundation
import Gateway
import Logging
import Metadata
import ReplicatedMetadata
import SQLSessions
import ServiceLifecycle
import SystemClock
import TransactionCore
import TransactionEngine

/// What a node does for clients while it takes part in the metadata: one life as a coordinator after another, each with
/// a session, an epoch and an engine of its own.
///
/// A node that was cut off, or stood still, may not know yet that it is over. It can't finish anything then: the others
/// count on it until its presence has ended, and before they go on they have ended its sessions on every shard and
/// raised its epoch there (R6).
struct NodeLives: Sendable {
    let configuration: ClusterConfiguration
    let metadata: MetadataNode
    let clock: SystemBoundedClock
    /// Clients and shards.
    let loop: EventLoop
    let door: ClientDoor
    let nodes: ServingNodes
    let status: NodeStatus
    /// What the others are to know of this node.
    let record: NodeRecord

    /// A node that does not renew its session for so long is taken for gone. It bounds how long the other nodes' reads
    /// wait for one that died, together with the metadata's own lease.
    private static let sessionDuration = Duration.milliseconds(800)
    /// A node that is present, and does not answer for so long, is accused. It is longer than a connection that is cut
    /// takes to be noticed, and made again.
    private static let silenceMax = Duration.seconds(2)
    /// How long it takes to the next attempt after one that failed: the first of these, twice as long each time, up to
    /// the second. Each attempt that gets as far as the shards makes the other nodes fence it there.
    private static let backOff = Duration.milliseconds(100)...Duration.seconds(1)
    /// What the metadata is asked takes no longer, while more than half of the nodes run.
    private static let patience = Duration.seconds(5)
    private static let logger = Logger(label: "meridian.node")

    /// Until the node is to stop, was removed, or can't take part any more.
    func run() async throws {
        // What the shards know of epochs that the metadata has not given.
        var known = Epoch(rawValue: 0)
        var pause = Self.backOff.lowerBound
        while !Task.isShuttingDownGracefully, await !metadata.isRemoved {
            do {
                let session = try await cancelWhenGracefulShutdown {
                    try await NodeSession.open(
                        on: metadata, duration: Self.sessionDuration, clock: clock, deadline: .now + Self.patience)
                }
                let result = await Result { try await live(under: session, above: known) }
                try? await session.close(deadline: .now + .seconds(1))
                try result.get()
                pause = Self.backOff.lowerBound
            } catch  where Task.isShuttingDownGracefully {
                return
            } catch let error as MetadataError where error.kind == .failed {
                throw error
            } catch {
                if let newest = (error as? EngineStartError)?.newestEpoch { known = max(known, newest) }
                Self.logger.warning("this node serves nobody at the moment", metadata: ["error": "\(error)"])
                try? await cancelWhenGracefulShutdown { [pause] in try await Task.sleep(for: pause) }
                pause = min(pause * 2, Self.backOff.upperBound)
            }
        }
    }

    /// One life: until the session is over, the node is to stop, or others have taken it for gone.
    private func live(under session: NodeSession, above known: Epoch) async throws {
        try await session.write(record, deadline: .now + Self.patience)
        try await reachOthers(session)
        let presence = try await NodePresence.begin(under: session, above: known, deadline: .now + Self.patience)
        let own = presence.incarnation
        let coordination = Coordination(own, peers: presence.others, newest: presence.newest, loop: loop) {
            [metadata] incarnation in
            try await metadata.records(PresenceRecord.self, deadline: .now + Self.patience)
                .contains { $0.incarnation == incarnation }
        } send: { [metadata] message, recipient in
            metadata.send(message, from: own, to: recipient)
        }
        await metadata.listen(as: own) { coordination.received($0, from: $1) }
        let result = await Result {
            try await withThrowingTaskGroup(of: Void.self) { group in
                group.addTask { await tell(coordination, of: presence) }
                defer { group.cancelAll() }
                let engine = try await startEngine(coordination)
                group.addTask { await accuseSilent(presence, engine) }
                try await serve(session, presence, engine)
            }
        }
        await metadata.stopListening()
        try result.get()
    }

    /// Waits until every node that is present hears this one, and is heard. One that was accused is back no earlier, so
    /// it can't hold the others up again and again.
    private func reachOthers(_ session: NodeSession) async throws {
        while true {
            let present = try await metadata.records(PresenceRecord.self, deadline: .now + Self.patience)
            var missing: [NodeID] = []
            for other in present.map(\.incarnation.node) where other != record.node {
                if await !metadata.isConnectedBothWays(to: other, within: .seconds(1)) { missing.append(other) }
            }
            guard !missing.isEmpty else { return }
            guard await session.isAlive, await !metadata.isRemoved else {
                throw MetadataError(.noLeader, "nodes that are present can't be reached", detail: "\(missing)")
            }
            try await cancelWhenGracefulShutdown { try await Task.sleep(for: .milliseconds(50)) }
        }
    }

    private func startEngine(_ coordination: Coordination) async throws -> TransactionEngine {
        var settings = configuration.engine
        settings.faultHook = try FaultInjection.hook(from: ProcessInfo.processInfo.environment)
        settings.coordination = coordination
        return try await TransactionEngine.start(settings, clock: clock, loop: loop)
    }

    // MARK: Other nodes

    /// Until this node is not present any more.
    private func tell(_ coordination: Coordination, of presence: NodePresence) async {
        do {
            while await !presence.isOver {
                for event in try await presence.next() {
                    switch event {
                    case .appeared(let peer): coordination.appeared(peer)
                    case .vanished(let peer): coordination.vanished(peer)
                    }
                }
            }
        } catch is CancellationError {
        } catch {
            Self.logger.error("who is present is not known any more", metadata: ["error": "\(error)"])
        }
    }

    /// Two nodes that can't reach each other, while both reach the metadata's leader, would wait for each other's
    /// answers for ever: one of them has to go. Whose accusation is first in the log decides.
    private func accuseSilent(_ presence: NodePresence, _ engine: TransactionEngine) async {
        // Those of the last look: an engine that was busy for long has yet to see answers that have come meanwhile.
        var suspects: Set<Incarnation> = []
        while (try? await Task.sleep(for: .milliseconds(100))) != nil {
            let silent = await engine.holdingUp(for: Self.silenceMax)
            defer { suspects = Set(silent) }
            for peer in silent where suspects.contains(peer) {
                guard (try? await presence.accuse(peer, deadline: .now + .seconds(1))) == true else { continue }
                Self.logger.error("a node is taken for gone: it does not answer", metadata: ["peer": "\(peer)"])
            }
        }
    }

    // MARK: Clients

    private func serve(_ session: NodeSession, _ presence: NodePresence, _ engine: TransactionEngine) async throws {
        do {
            let users = try configuration.gateway.loadUsers()
            let sessions = try await SessionNode(engine, database: configuration.gateway.database, users: users)
            let gateway = try Gateway(
                try configuration.gateway.load(), provider: sessions, behind: door,
                logger: Logger(label: "meridian.gateway"))
            nodes.begin(gateway) { [configuration] in configuration.gateway.reload(gateway, sessions) }
            status.coordinates(by: engine)
            let end = await Result {
                try await presence.become(.serving, deadline: .now + Self.patience)
                return await untilOver(session, presence, engine)
            }
            let isStopping = (try? end.get()) ?? false
            // Whoever comes from now on is served by others.
            if isStopping { try? await presence.become(.leaving, deadline: .now + .seconds(1)) }
            status.coordinates(by: nil)
            nodes.end()
            await gateway.shutdown(grace: isStopping ? NodeService.grace : .zero)
            await engine.shutdown(grace: isStopping ? NodeService.grace : .zero)
            _ = try end.get()
        } catch {
            await engine.shutdown(grace: .zero)
            throw error
        }
    }

    /// Returns when this life may be over, or when the node is to stop or was removed (true).
    private func untilOver(
        _ session: NodeSession, _ presence: NodePresence, _ engine: TransactionEngine
    ) async -> Bool {
        while await session.isAlive, await !presence.isOver, await !engine.isFenced {
            if Task.isShuttingDownGracefully { return true }
            if await metadata.isRemoved { return true }
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: .milliseconds(20)) }
        }
        Self.logger.error(
            "this node begins anew: its session may be over, or others have taken it for gone",
            metadata: ["was": "\(presence.incarnation)"])
        return false
    }
}

extension Result where Failure == any Error {
    /// What an asynchronous body returns or throws.
    init(catching body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
