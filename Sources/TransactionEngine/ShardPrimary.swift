import EventLoops
import Logging
import ShardBackend
import ShardSchema
import TransactionCore

/// Which server is a shard's primary: every session of an engine is opened through this (decision 0017).
///
/// Servers of a shard are told apart by their timeline, which PostgreSQL raises whenever a standby is promoted. Three
/// rules, on one loop so that no step comes between a look and what follows from it:
/// - *Never back*: a server whose timeline is older than one seen or heard of is a former primary, and is refused.
/// - *One at a time*: the first session on a newer timeline, or the first word of it, closes all those on older ones.
/// - *Taken over first*: sessions that serve clients wait until the newest timeline has been taken over; see
///   `TransactionEngine.takeOver(_:of:by:)` for what is done meanwhile.
actor ShardPrimary: LoopActor {
    nonisolated let loop: EventLoop
    nonisolated let shard: ShardID
    private let logger: Logger

    /// The newest timeline seen or heard of; 0 before any.
    private(set) var newest: Int64 = 0
    /// The timeline whose server serves clients; 0 before any.
    private(set) var takenOver: Int64 = 0
    /// Which of the servers was the primary last; nil when it has to be found.
    private var place: Int?
    private var search: Task<Result<Int, ShardError>, Never>?
    private var sessions: [(connection: ShardConnection, timeline: Int64)] = []

    nonisolated var unownedExecutor: UnownedSerialExecutor { loop.asUnownedSerialExecutor() }

    /// How long one of several servers may take to answer.
    private static let patience = Duration.seconds(2)

    init(_ shard: ShardID, on loop: EventLoop, logger: Logger) {
        (self.shard, self.loop, self.logger) = (shard, loop, logger)
    }

    // MARK: Sessions

    /// Opens a session on the primary, wherever it is by now.
    ///
    /// - Parameter isForClients: it waits until the primary is taken over.
    /// - Throws: ``ShardError``; the next attempt asks all servers, where there are several.
    func connect(
        to settings: ConnectionSettings, isForClients: Bool, deadline: ContinuousClock.Instant,
        handlers: ShardConnection.Handlers = .init()
    ) async throws(ShardError) -> ShardConnection {
        let servers = settings.servers
        var patience = deadline
        if servers.count > 1 {
            if place == nil { place = try await find(among: servers, deadline).get() }
            patience = min(deadline, .now + Self.patience)
        }
        do throws(ShardError) {
            let connection = try await ShardConnection.connect(
                to: servers[place ?? 0], on: loop, deadline: patience, handlers: handlers)
            do throws(ShardError) {
                let timeline = try await Self.timeline(of: connection, patience)
                try seen(timeline, by: connection)
                if isForClients { try await waitUntilTakenOver(timeline, deadline) }
                return connection
            } catch {
                await connection.close()
                throw error
            }
        } catch {
            place = nil
            throw error
        }
    }

    /// ``connect(to:isForClients:deadline:handlers:)`` for a pool.
    nonisolated func connector(isForClients: Bool) -> ConnectionPool.Connect {
        { settings, deadline, handlers throws(ShardError) in
            try await self.connect(to: settings, isForClients: isForClients, deadline: deadline, handlers: handlers)
        }
    }

    private func seen(_ timeline: Int64, by connection: ShardConnection) throws(ShardError) {
        guard timeline >= newest else { throw formerPrimary(timeline) }
        heard(of: timeline)
        sessions.append((connection, timeline))
    }

    /// The shard has come to that timeline, as somebody knows who has been there. Has every session of an older one end
    /// before anything is done on the newer one.
    func heard(of timeline: Int64) {
        guard timeline >= newest else { return }
        let former = sessions.filter { $0.timeline < timeline }
        sessions = sessions.filter { $0.timeline == timeline && $0.connection.onLoop { $0.isOpen } }
        if newest > 0, timeline > newest {
            logger.notice("shard \(shard) has a new primary, on timeline \(timeline) instead of \(newest)")
        }
        newest = timeline
        for session in former { session.connection.onLoop { $0.close() } }
    }

    private func waitUntilTakenOver(
        _ timeline: Int64, _ deadline: ContinuousClock.Instant
    ) async throws(ShardError) {
        while takenOver < timeline {
            guard ContinuousClock.now < deadline, (try? await loop.sleep(for: .milliseconds(10))) != nil else {
                throw ShardError(.notConnected(nil), "the shard's new primary is not taken over yet")
            }
        }
        guard timeline == newest else { throw formerPrimary(timeline) }
    }

    /// The server of that timeline serves clients from here on.
    func tookOver(_ timeline: Int64) { takenOver = timeline }

    private func formerPrimary(_ timeline: Int64) -> ShardError {
        ShardError(
            .notConnected(nil),
            "the server is a former primary of shard \(shard): it writes on timeline \(timeline), "
                + "and the shard has come to timeline \(newest)")
    }

    // MARK: Finding it

    /// Asks all servers which of them accepts writes; of several, the one that was promoted last is the primary. Who
    /// comes meanwhile shares the answer.
    private func find(
        among servers: [ConnectionSettings], _ deadline: ContinuousClock.Instant
    ) async -> Result<Int, ShardError> {
        if let search { return await search.value }
        let loop = loop
        let deadline = min(deadline, .now + Self.patience)
        let search = Task(executorPreference: loop) { () -> Result<Int, ShardError> in
            let answers = await Self.ask(servers, on: loop, deadline)
            let primaries = answers.enumerated().compactMap { place, answer in
                (try? answer.get()).map { (place: place, timeline: $0) }
            }
            if let newest = primaries.max(by: { $0.timeline < $1.timeline }) { return .success(newest.place) }
            return .failure(Self.noPrimary(answers))
        }
        self.search = search
        defer { self.search = nil }
        return await search.value
    }

    /// The timelines of the servers that accept writes, and why the others don't.
    private static func ask(
        _ servers: [ConnectionSettings], on loop: EventLoop, _ deadline: ContinuousClock.Instant
    ) async -> [Result<Int64, ShardError>] {
        await withTaskGroup(of: (Int, Result<Int64, ShardError>).self) { group in
            for (place, server) in servers.enumerated() {
                group.addTask(executorPreference: loop) {
                    do throws(ShardError) {
                        let connection = try await ShardConnection.connect(to: server, on: loop, deadline: deadline)
                        let timeline: Result<Int64, ShardError>
                        do throws(ShardError) {
                            timeline = .success(try await Self.timeline(of: connection, deadline))
                        } catch {
                            timeline = .failure(error)
                        }
                        await connection.close()
                        return (place, timeline)
                    } catch {
                        return (place, .failure(error))
                    }
                }
            }
            return await group.reduce(into: []) { $0.append($1) }.sorted { $0.0 < $1.0 }.map(\.1)
        }
    }

    private static func timeline(
        of connection: ShardConnection, _ deadline: ContinuousClock.Instant
    ) async throws(ShardError) -> Int64 {
        do throws(ShardError) {
            return try await connection.run([ShardSchema.timeline], deadline: deadline)[0][0].int64(0)
        } catch  where error.sqlState == .objectNotInPrerequisiteState {
            // Not to be taken for a shard that knows of a successor.
            throw ShardError(.notConnected(nil), "the server is a standby, and accepts no writes")
        }
    }

    private static func noPrimary(_ answers: [Result<Int64, ShardError>]) -> ShardError {
        let failures = answers.compactMap { answer -> ShardError? in
            if case .failure(let error) = answer { error } else { nil }
        }
        // A server that has a reason of its own, like too many connections, is the one to hear.
        let told = failures.compactMap { failure -> SQLState? in
            if case .notConnected(let state) = failure.kind { state } else { nil }
        }
        return ShardError(.notConnected(told.first), failures.map(\.message).joined(separator: "; "))
    }
}
