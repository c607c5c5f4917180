import EventLoops
import Foundation
import Gateway
import Logging
import Metadata
import ReplicatedMetadata
import SQLSessions
import ServiceLifecycle
import Synchronization
import SystemClock
import TransactionCore
import TransactionEngine
import UnixSignals

import enum NIOCore.SocketAddress

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
    private static let seat = Contender.election("coordinator")!

    func run() async throws {
        let clock = SystemBoundedClock(source: configuration.clock)
        let metadataLoop = try EventLoop(name: "metadata")
        defer { metadataLoop.shutdown() }
        let metadata = try await MetadataNode.start(
            replication.metadata(of: configuration.engine.node), clock: clock, loop: metadataLoop,
            logger: Logger(label: "meridian.metadata"))
        let coordinator = CoordinatorAddress()
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await coordinator.follow(Self.seat, on: metadata) }
            if reloads {
                let signals = await UnixSignalsSequence(trapping: .sighup)
                group.addTask { for await _ in signals { coordinator.reload() } }
            }
            await takePart(in: metadata, clock, coordinator)
            group.cancelAll()
        }
        await metadata.stop()
    }

    /// One session after the other, until the node is to stop.
    private func takePart(
        in metadata: MetadataNode, _ clock: SystemBoundedClock, _ coordinator: CoordinatorAddress
    ) async {
        while !Task.isShuttingDownGracefully {
            do {
                let session = try await NodeSession.open(
                    on: metadata, duration: Self.sessionDuration, clock: clock, deadline: .now + .seconds(5))
                let result = await Result { try await serve(under: session, clock, coordinator) }
                try? await session.close(deadline: .now + .seconds(1))
                try result.get()
            } catch is CancellationError {
                // Asked to stop.
            } catch {
                Self.logger.warning("not part of the cluster at the moment", metadata: ["error": "\(error)"])
                try? await Task.sleep(for: .milliseconds(100))
            }
        }
    }

    /// Hands clients on until this node is elected; then coordinates until its session is over or it is to stop.
    private func serve(
        under session: NodeSession, _ clock: SystemBoundedClock, _ coordinator: CoordinatorAddress
    ) async throws {
        let loop = try EventLoop(name: "clients")
        defer { loop.shutdown() }
        let relay = try ClientRelay.start(
            host: door.host, port: door.port, on: loop, logger: Self.logger, target: { coordinator.address })
        coordinator.whenChanged { relay.targetChanged() }
        print("ready: \(configuration.gateway.url(port: relay.port))")
        var address = "\(door.host):\(relay.port)"
        if door.host.contains(":") { address = "[\(door.host)]:\(relay.port)" }
        let lock: HeldLock
        do {
            lock = try await cancelWhenGracefulShutdown { [address] in
                try await session.acquire(Self.seat, value: Array(address.utf8))
            }
        } catch {
            await relay.close()
            throw error
        }
        Self.logger.notice("elected to coordinate", metadata: ["token": "\(lock.token)"])
        await relay.close()
        try await coordinate(port: relay.port, under: session, on: loop, clock, coordinator)
        try? await lock.release(deadline: .now + .seconds(1))
    }

    private func coordinate(
        port: Int, under session: NodeSession, on loop: EventLoop, _ clock: SystemBoundedClock,
        _ coordinator: CoordinatorAddress
    ) async throws {
        var settings = configuration.engine
        settings.faultHook = try FaultInjection.hook(from: ProcessInfo.processInfo.environment)
        settings.isElected = { await session.isAlive }
        let engine = try await TransactionEngine.start(settings, clock: clock, loop: loop)
        do {
            let users = try configuration.gateway.loadUsers()
            let sessions = try await SessionNode(engine, database: configuration.gateway.database, users: users)
            var door = try configuration.gateway.load()
            door.port = port
            let gateway = try Gateway.start(
                door, provider: sessions, on: loop, logger: Logger(label: "meridian.gateway"))
            coordinator.whenReloading { [configuration] in configuration.gateway.reload([gateway], sessions) }
            let isStopping = await untilOver(session, engine)
            coordinator.whenReloading {}
            await gateway.shutdown(grace: isStopping ? NodeService.grace : .zero)
        } catch {
            await engine.shutdown()
            throw error
        }
        await engine.shutdown()
    }

    /// Returns when the session may be over or another node has taken over, or when the node is to stop (true).
    private func untilOver(_ session: NodeSession, _ engine: TransactionEngine) async -> Bool {
        while await session.isAlive, await !engine.isFenced {
            guard !Task.isShuttingDownGracefully else { return true }
            try? await cancelWhenGracefulShutdown { try await Task.sleep(for: .milliseconds(20)) }
        }
        Self.logger.error("this node was cut off from the others and coordinates no more")
        return false
    }
}

/// Where the coordinator serves clients, as this node knows it.
private final class CoordinatorAddress: Sendable {
    private struct Current {
        var address: SocketAddress?
        var changed: @Sendable () -> Void = {}
        var reload: @Sendable () -> Void = {}
    }

    private let current = Mutex(Current())

    /// Nil while nobody coordinates.
    var address: SocketAddress? { current.withLock { $0.address } }

    /// Calls `body`, and no other from now on, when another node coordinates, or none.
    func whenChanged(_ body: @escaping @Sendable () -> Void) {
        current.withLock { $0.changed = body }
    }

    /// What reads the gateway's files again while this node coordinates.
    func whenReloading(_ body: @escaping @Sendable () -> Void) {
        current.withLock { $0.reload = body }
    }

    func reload() { current.withLock { $0.reload }() }

    /// Keeps it up to date until the task is cancelled.
    func follow(_ seat: MetadataPrefix, on metadata: MetadataNode) async {
        while !Task.isCancelled {
            do {
                let state = await metadata.state
                look(state.read(Contender.holder(in: seat)))
                let watch = await metadata.watch(.prefix(seat), after: state.revision)
                defer { Task { await watch.cancel() } }
                while true {
                    _ = try await watch.next()
                    look(await metadata.state.read(Contender.holder(in: seat)))
                }
            } catch is CompactedError {
                continue
            } catch {
                return
            }
        }
    }

    private func look(_ holder: QueryAnswer) {
        let text = holder.entries.first.map { String(decoding: $0.value, as: UTF8.self) }
        let address = text.flatMap(GatewaySettings.address).flatMap {
            try? SocketAddress.makeAddressResolvingHost($0.host, port: $0.port)
        }
        let changed = current.withLock { current in
            defer { current.address = address }
            return current.address == address ? {} : current.changed
        }
        changed()
    }
}

extension Result where Failure == any Error {
    /// What an asynchronous body returns or throws.
    fileprivate init(catching body: () async throws -> Success) async {
        do { self = .success(try await body()) } catch { self = .failure(error) }
    }
}
