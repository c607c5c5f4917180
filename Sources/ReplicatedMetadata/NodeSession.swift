import BoundedTime
import EventLoops
import Metadata
import TransactionCore

/// A session in the metadata: it renews itself, numbers what is done in it, and ends with its process.
public actor NodeSession {
    nonisolated let client: any MetadataClient
    public nonisolated var unownedExecutor: UnownedSerialExecutor { client.loop.asUnownedSerialExecutor() }
    private let clock: any IntervalClock
    private var session: MetadataSession
    private var renewing: Task<Void, Never>?
    /// It is over: what belonged to it is gone.
    public private(set) var isOver = false {
        didSet { if isOver { waiting?.cancel() } }
    }
    /// What a contender waits for.
    private var waiting: Task<([MetadataChange], MetadataWatch), any Error>?

    /// Opens a session that others take for over when it was not renewed for `duration`.
    public static func open(
        on client: any MetadataClient, duration: Duration, clock: any IntervalClock, deadline: ContinuousClock.Instant
    ) async throws -> NodeSession {
        let nanoseconds = Int64(duration / .nanoseconds(1))
        let now = try clock.now()
        let opening = MetadataSession.opening(node: client.node, durationNanoseconds: nanoseconds, at: now)
        guard case .session(let id, let expiry) = try await client.submit(opening, deadline: deadline) else {
            throw MetadataError(.refused, "no session was opened")
        }
        let session = NodeSession(
            client, MetadataSession(id, expiry: expiry, durationNanoseconds: nanoseconds), clock: clock)
        await session.keepAlive(every: duration / 6)
        return session
    }

    /// Does `body` in a session of its own, which ends with it.
    public static func with<Value: Sendable>(
        _ client: any MetadataClient, clock: any IntervalClock, deadline: ContinuousClock.Instant,
        _ body: @Sendable (NodeSession) async throws -> Value
    ) async throws -> Value {
        let session = try await open(on: client, duration: .seconds(10), clock: clock, deadline: deadline)
        let result: Result<Value, any Error>
        do {
            result = .success(try await body(session))
        } catch {
            result = .failure(error)
        }
        try? await session.close(deadline: .now + .seconds(1))
        return try result.get()
    }

    private init(_ client: any MetadataClient, _ session: MetadataSession, clock: any IntervalClock) {
        self.client = client
        self.session = session
        self.clock = clock
    }

    public var id: SessionID { session.id }

    /// Without a quorum for so long, whoever contends begins anew.
    private static let patience = Duration.seconds(10)

    /// Whether nobody can take it for over yet. Until ``expiry`` what it owns is this node's.
    public var isAlive: Bool {
        guard !isOver, let now = try? clock.now() else { return false }
        return session.isAlive(at: now)
    }

    /// For how long nobody can take it for over yet; zero when somebody may.
    public var timeLeft: Duration {
        guard !isOver, let now = try? clock.now() else { return .zero }
        return .nanoseconds(max(0, session.expiry.nanoseconds(since: now.latest)))
    }

    /// Until when it lives, as far as is known.
    public var expiry: Timestamp { session.expiry }

    /// Does a transaction once, whoever leads. Throws when the session is over.
    public func transaction(
        _ transaction: MetadataTransaction, deadline: ContinuousClock.Instant
    ) async throws(MetadataError) -> TransactionAnswer {
        while true {
            guard !isOver else { throw MetadataError(.refused, "session \(session.id) is over") }
            if let command = session.submit(transaction), case .transaction(let number, _) = command {
                // Answered or given up: either way nobody waits for it any more.
                defer { session.answered(number.number) }
                let answer = try await client.submit(command, deadline: deadline)
                switch answer {
                case .transaction(let answer): return answer
                case .refused(.sessionUnknown):
                    isOver = true
                    throw MetadataError(.refused, "session \(session.id) is over", detail: "it was not renewed in time")
                case .refused(let refusal): throw MetadataError(.refused, "the transaction was refused: \(refusal)")
                case .session, .ended, .epoch: preconditionFailure("\(answer) is no answer to a transaction")
                }
            }
            guard .now < deadline else { throw MetadataError(.noLeader, "too many commands wait for their answers") }
            try? await client.loop.sleep(for: .milliseconds(1))
        }
    }

    /// Waits for its turn among all that contend for `prefix` (``Contender``): returns what is held until it is
    /// released or the session is over. `value` is for others to read.
    public func acquire(_ prefix: MetadataPrefix, value: [UInt8]) async throws -> HeldLock {
        var (contender, actions) = Contender.enter(prefix, value: value)
        while true {
            guard !actions.isEmpty else { throw MetadataError(.refused, "session \(session.id) is over") }
            switch actions.removeFirst() {
            case .submit(let transaction):
                let answer = try await self.transaction(transaction, deadline: .now + Self.patience)
                actions += contender.answered(.transaction(answer))
            case .read(let query):
                actions += contender.found(try await client.read(query, deadline: .now + Self.patience))
            case .watch(let key, let revision):
                actions += try await change(of: key, after: revision, for: &contender)
            case .unwatch: waiting?.cancel()
            case .held(let token):
                guard case .holding(let own) = contender.state else { preconditionFailure("held, and not holding") }
                return HeldLock(session: self, key: own.key, token: token)
            case .ended: throw MetadataError(.refused, "session \(session.id) is over")
            }
        }
    }

    /// Waits until something happens to the key before the contender's own.
    private func change(
        of key: MetadataKey, after revision: Revision, for contender: inout Contender
    ) async throws -> [Contender.Action] {
        guard !isOver else { return contender.sessionEnded() }
        var watch = client.watch(.key(key), after: revision)
        do {
            while true {
                let next = Task { [watch] in
                    var watch = watch
                    return (try await watch.next(), watch)
                }
                waiting = next
                let changes: [MetadataChange]
                (changes, watch) = try await withTaskCancellationHandler {
                    try await next.value
                } onCancel: {
                    next.cancel()
                }
                for change in changes {
                    let actions = contender.changed(change)
                    if !actions.isEmpty { return actions }
                }
            }
        } catch is CompactedError {
            return contender.watchLost(key)
        } catch is CancellationError where !Task.isCancelled {
            return contender.sessionEnded()
        }
    }

    /// Ends it; what belongs to it goes at once.
    public func close(deadline: ContinuousClock.Instant) async throws(MetadataError) {
        isOver = true
        renewing?.cancel()
        _ = try await client.submit(.closeSession(session.id), deadline: deadline)
    }

    private func keepAlive(every interval: Duration) {
        renewing = Task(executorPreference: client.loop) { [weak self, loop = client.loop] in
            while !Task.isCancelled {
                try? await loop.sleep(for: interval)
                guard let self, await self.renew() else { return }
            }
        }
    }

    /// Renews it where it is time; returns false when it is over.
    private func renew() async -> Bool {
        guard !isOver else { return false }
        guard let now = try? clock.now(), let renewal = session.renewal(at: now) else { return true }
        switch try? await client.submit(renewal, deadline: .now + .seconds(1)) {
        case .session(_, let expiry): session.renewed(until: expiry)
        case .refused, .ended: isOver = true
        case .epoch, .transaction, nil: break
        }
        return !isOver
    }
}

/// A lock that is held, for as long as its session lives.
public struct HeldLock: Sendable {
    public let session: NodeSession
    public let key: MetadataKey
    /// Larger than that of every holder before: what is done under the lock can be refused where a larger one has been.
    public let token: Revision

    /// Gives it back: the next one has its turn.
    public func release(deadline: ContinuousClock.Instant) async throws(MetadataError) {
        _ = try await session.transaction(MetadataTransaction(then: [.delete(.key(key))]), deadline: deadline)
    }
}
