/// One of those who want a lock: each makes a numbered key of its session under one prefix, and the smallest key holds.
///
/// A contender watches only the key before its own, so whoever leaves wakes one other. It gets its turn in the order in
/// which the keys were made.
///
/// The token is larger than that of every holder before. What a holder changes elsewhere should be refused when it
/// comes with a smaller token than came before, because a holder that was paused does not know that its session is
/// over.
public struct Contender: Sendable {
    /// Where the contenders for a lock are; nil when `name` can't be a part of a key.
    public static func lock(_ name: String) -> MetadataPrefix? { MetadataPrefix("/locks/\(name)/") }

    /// What is to be done; answers come back as inputs.
    public enum Action: Hashable, Sendable {
        /// As a command of the session (``MetadataSession/submit(_:)``).
        case submit(MetadataTransaction)
        /// Linearizable.
        case read(MetadataQuery)
        case watch(MetadataKey, after: Revision)
        case unwatch(MetadataKey)
        /// The lock is held.
        case held(token: Revision)
        /// It is over, and nothing is held.
        case ended
    }

    /// What the contender knows.
    public enum State: Hashable, Sendable {
        /// The key is being made. `isWanted` is false when it is to be given back at once.
        case entering(isWanted: Bool)
        /// Not known yet whose turn it is.
        case looking(own: Turn)
        case waiting(own: Turn, for: MetadataKey)
        case holding(own: Turn)
        /// The key is being deleted.
        case leaving
        case ended
    }

    /// The contender's key.
    public struct Turn: Hashable, Sendable {
        public var key: MetadataKey
        /// When it was made.
        public var token: Revision
    }

    public let prefix: MetadataPrefix
    public private(set) var state = State.entering(isWanted: true)

    /// Enters with a value that all may read.
    public static func enter(_ prefix: MetadataPrefix, value: [UInt8]) -> (contender: Contender, actions: [Action]) {
        (Contender(prefix: prefix), [.submit(MetadataTransaction(then: [.create(prefix, value, ephemeral: true)]))])
    }

    private init(prefix: MetadataPrefix) {
        self.prefix = prefix
    }

    // MARK: Inputs

    /// The answer to what was submitted.
    public mutating func answered(_ answer: MetadataAnswer) -> [Action] {
        switch (state, answer) {
        case (.entering(let isWanted), .transaction(let done)):
            guard case .created(let key, let before) = done.results.first else { return [] }
            let own = Turn(key: key, token: done.revision)
            guard isWanted else { return leave(own) }
            return before.map { wait(own, for: $0, after: done.revision) } ?? hold(own)
        case (.leaving, .transaction), (_, .refused):
            return sessionEnded()
        case (.looking, _), (.waiting, _), (.holding, _), (.ended, _), (.entering, _), (.leaving, _):
            return []
        }
    }

    /// The answer to what was read.
    public mutating func found(_ answer: QueryAnswer) -> [Action] {
        guard case .looking(let own) = state else { return [] }
        guard answer.entries.first?.key == own.key else { return end() }
        guard answer.entries.count > 1 else { return hold(own) }
        return wait(own, for: answer.entries[1].key, after: answer.revision)
    }

    /// A change of a watched key.
    public mutating func changed(_ change: MetadataChange) -> [Action] {
        guard case .waiting(let own, change.key) = state, change.entry == nil else { return [] }
        return [.unwatch(change.key)] + look(own)
    }

    /// The watch is over for want of history.
    public mutating func watchLost(_ key: MetadataKey) -> [Action] {
        guard case .waiting(let own, key) = state else { return [] }
        return look(own)
    }

    /// Gives the lock back, or does not want it any more.
    public mutating func release() -> [Action] {
        switch state {
        case .entering:
            state = .entering(isWanted: false)
            return []
        case .waiting(let own, let before): return [.unwatch(before)] + leave(own)
        case .looking(let own), .holding(let own): return leave(own)
        case .leaving, .ended: return []
        }
    }

    /// The session is over, or may be: its holder can't call it alive.
    public mutating func sessionEnded() -> [Action] {
        switch state {
        case .waiting(_, let before): return [.unwatch(before)] + end()
        case .entering, .looking, .holding, .leaving: return end()
        case .ended: return []
        }
    }

    // MARK: Steps

    private mutating func hold(_ own: Turn) -> [Action] {
        state = .holding(own: own)
        return [.held(token: own.token)]
    }

    /// The one before may leave without ever having held, so its end only means to look again.
    private mutating func wait(_ own: Turn, for before: MetadataKey, after revision: Revision) -> [Action] {
        state = .waiting(own: own, for: before)
        return [.watch(before, after: revision)]
    }

    /// Its own key is read too: without it, nobody before it would not mean that it holds.
    private mutating func look(_ own: Turn) -> [Action] {
        state = .looking(own: own)
        return [.read(.last(prefix, through: own.key, limit: 2))]
    }

    private mutating func leave(_ own: Turn) -> [Action] {
        state = .leaving
        return [.submit(MetadataTransaction(then: [.delete(.key(own.key))]))]
    }

    private mutating func end() -> [Action] {
        state = .ended
        return [.ended]
    }
}
