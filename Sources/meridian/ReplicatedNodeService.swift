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
import UnixSignals

/// A node among several: it takes part in the metadata, and the nodes elect the one that coordinates transactions. The
/// others hand their clients on to it, and one of them takes over when it goes.
///
/// A coordinator that was cut off, or stood still, may not know yet that another one was elected. It can't finish
/// anything: the successor has ended its sessions on every shard and raised the epoch before it serves (R6).
struct ReplicatedNodeService: Service {
    let configuration: ClusterConfiguration
    let replication: ReplicationSettings
    let door: GatewayConfiguration
    /// SIGHUP has the gateway's files read again; a node that hands clients on reads them when it is elected.
    let reloads: Bool

    /// A node that does not renew its session for so long is taken for gone. It bounds how long clients of a
    /// coordinator that died wait, together with the metadata's own lease.
    private static let sessionDuration = Duration.milliseconds(800)
    private static let logger = Logger(label: "meridian.node")

    func run() async throws {
        let clock = SystemBoundedClock(source: configuration.clock)
        let loops = (metadata: try EventLoop(name: "metadata"), clients: try EventLoop(name: "clients"))
        defer {
            loops.metadata.shutdown()
            loops.clients.shutdown()
        }
        let seat = CoordinatorSeat(founders: replication.founders.values.map(\.host))
        let door = try ClientDoor.open(
            host: door.host, port: door.port, clientsMax: door.clientsMax, on: loops.clients, logger: Self.logger,
            seat.directory)
        seat.stands(at: clientAddress(port: door.port))
        seat.whenChanged { door.destinationChanged() }
        do {
            let metadata = try await MetadataNode.start(
                replication.metadata(of: configuration.engine.node), clock: clock, loop: loops.metadata,
                logger: Logger(label: "meridian.metadata"))
            let status = NodeStatus { seat.knowsWhoServes }
            let result = await Result {
                try await configuration.withAdminInterface(status, clock) {
                    try await join(metadata, clock)
                    print("ready: \(configuration.gateway.url(port: door.port))")
                    try await takePart(in: metadata, clock, door, loops.clients, seat, status)
                }
            }
            if await metadata.isRemoved { print("removed: node \(node) is no member of the cluster any more") }
            await metadata.stop()
            try result.get()
        } catch {
            await door.close()
            throw error
        }
        await door.close()
    }

    private var node: NodeID { configuration.engine.node }

    /// Has the others make this node a voter, unless it is one already: it may have been stopped when it was a learner.
    private func join(_ metadata: MetadataNode, _ clock: SystemBoundedClock) async throws {
        guard replication.founders[node] == nil, await !metadata.status.membership.voters.contains(node) else { return }
        print("joining: node \(node) asks the nodes of cluster \(replication.name)")
        let remote = try await replication.connect(
            asking: nil, loop: metadata.loop, logger: Logger(label: "meridian.metadata"))
        let record = NodeRecord(
            node, .joining, clientAddress: "-", peerAddress: replication.address.description)
        let result = await Result {
            while !Task.isShuttingDownGracefully {
                do {
                    return try await cancelWhenGracefulShutdown {
                        try await remote.add(record, clock: clock, deadline: .now + .seconds(10))
                    }
                } catch let error as MetadataError where error.kind == .noLeader {
                    Self.logger.warning("not part of the cluster yet", metadata: ["error": "\(error)"])
                }
            }
        }
        await remote.close()
        try result.get()
    }

    /// One session after the other, until the node is to stop, was removed, or can't take part any more.
    private func takePart(
        in metadata: MetadataNode, _ clock: SystemBoundedClock, _ door: ClientDoor, _ loop: EventLoop,
        _ seat: CoordinatorSeat, _ status: NodeStatus
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { await seat.follow(metadata) }
            if reloads {
                let signals = await UnixSignalsSequence(trapping: .sighup)
                group.addTask { for await _ in signals { seat.reload() } }
            }
            defer { group.cancelAll() }
            while !Task.isShuttingDownGracefully, await !metadata.isRemoved {
                do {
                    let session = try await cancelWhenGracefulShutdown {
                        try await NodeSession.open(
                            on: metadata, duration: Self.sessionDuration, clock: clock, deadline: .now + .seconds(5))
                    }
                    let result = await Result {
                        try await serve(under: session, of: metadata, clock, door, loop, seat, status)
                    }
                    try? await session.close(deadline: .now + .seconds(1))
                    try result.get()
                } catch  where Task.isShuttingDownGracefully {
                    return
                } catch is CancellationError {
                    // Removed.
                } catch let error as MetadataError where error.kind == .failed {
                    throw error
                } catch {
                    Self.logger.warning("not part of the cluster at the moment", metadata: ["error": "\(error)"])
                    try? await cancelWhenGracefulShutdown { try await Task.sleep(for: .milliseconds(100)) }
                }
            }
        }
    }

    /// Waits until this node is elected; then coordinates until its session is over or it is to stop.
    private func serve(
        under session: NodeSession, of metadata: MetadataNode, _ clock: SystemBoundedClock, _ door: ClientDoor,
        _ loop: EventLoop, _ seat: CoordinatorSeat, _ status: NodeStatus
    ) async throws {
        let address = clientAddress(port: door.port)
        let record = NodeRecord(
            node, .serving, clientAddress: address, peerAddress: replication.address.description)
        try await session.write(record, deadline: .now + .seconds(5))
        let lock = try await cancelWhenGracefulShutdown {
            try await whileMember(of: metadata) {
                try await session.acquire(CoordinatorSeat.prefix, value: Array(address.utf8))
            }
        }
        Self.logger.notice("elected to coordinate", metadata: ["token": "\(lock.token)"])
        try await coordinate(under: session, of: metadata, behind: door, on: loop, clock, seat, status)
        try? await lock.release(deadline: .now + .seconds(1))
    }

    /// Where other nodes find this one's door: at the host by which they know it, where the door is at all addresses of
    /// the machine.
    private func clientAddress(port: Int) -> String {
        let host = ["0.0.0.0", "::"].contains(door.host) ? replication.address.host : door.host
        return host.contains(":") ? "[\(host)]:\(port)" : "\(host):\(port)"
    }

    private func coordinate(
        under session: NodeSession, of metadata: MetadataNode, behind door: ClientDoor, on loop: EventLoop,
        _ clock: SystemBoundedClock, _ seat: CoordinatorSeat, _ status: NodeStatus
    ) async throws {
        var settings = configuration.engine
        settings.faultHook = try FaultInjection.hook(from: ProcessInfo.processInfo.environment)
        settings.isElected = { await session.isAlive }
        let engine = try await TransactionEngine.start(settings, clock: clock, loop: loop)
        do {
            let users = try configuration.gateway.loadUsers()
            let sessions = try await SessionNode(engine, database: configuration.gateway.database, users: users)
            let gateway = try Gateway(
                try configuration.gateway.load(), provider: sessions, behind: door,
                logger: Logger(label: "meridian.gateway"))
            seat.take(gateway) { [configuration] in configuration.gateway.reload(gateway, sessions) }
            status.coordinates(by: engine)
            let isStopping = await untilOver(session, of: metadata, engine)
            status.coordinates(by: nil)
            seat.leave()
            await gateway.shutdown(grace: isStopping ? NodeService.grace : .zero)
            await engine.shutdown(grace: isStopping ? NodeService.grace : .zero)
        } catch {
            await engine.shutdown(grace: .zero)
            throw error
        }
    }

    /// Does `body`; throws `CancellationError` when the node is removed before it is done.
    private func whileMember<Value: Sendable>(
        of metadata: MetadataNode, _ body: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        try await withThrowingTaskGroup(of: Value?.self) { group in
            group.addTask { try await body() }
            group.addTask {
                while await !metadata.isRemoved { try await Task.sleep(for: .milliseconds(100)) }
                return nil
            }
            defer { group.cancelAll() }
            guard let value = try await group.next() ?? nil else { throw CancellationError() }
            return value
        }
    }

    /// Returns when the session may be over or another node has taken over, or when the node is to stop or was removed
    /// (true).
    private func untilOver(
        _ session: NodeSession, of metadata: MetadataNode, _ engine: TransactionEngine
    ) async -> Bool {
        while await session.isAlive, await !engine.isFenced {
            if Task.isShuttingDownGracefully { return true }
            if await metadata.isRemoved { return true }
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: .milliseconds(20)) }
        }
        Self.logger.error("this node coordinates no more: its session may be over, or another one has taken over")
        return false
    }
}

extension Result where Failure == any Error {
    /// What an asynchronous body returns or throws.
    fileprivate init(catching body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
