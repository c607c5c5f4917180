import TransactionCore

/// The locks of one shard, PostgreSQL's where it matters: share and exclusive, first come first served, held to the end
/// of the transaction.
struct LockTable {
    enum Mode: Hashable, Sendable {
        case share
        case exclusive
    }

    /// What can be locked.
    enum Target: Hashable {
        case row(RowKey)
        /// The unique index on the commit log's timestamp: a second inserter waits for the first one's end.
        case logRow(Timestamp)
        /// The advisory lock of the one coordinator at a time.
        case coordinator
    }

    /// A waiting request.
    typealias Ticket = Int

    private struct Waiter {
        let owner: Int
        let mode: Mode
        let ticket: Ticket
    }

    private struct Lock {
        var holders: [(owner: Int, mode: Mode)] = []
        var waiters: [Waiter] = []

        func admits(_ owner: Int, _ mode: Mode) -> Bool {
            holders.allSatisfy { $0.owner == owner || (mode == .share && $0.mode == .share) }
        }

        mutating func hold(_ owner: Int, _ mode: Mode) {
            guard let index = holders.firstIndex(where: { $0.owner == owner }) else {
                return holders.append((owner, mode))
            }
            if mode == .exclusive { holders[index].mode = .exclusive }
        }
    }

    private var locks: [Target: Lock] = [:]
    private var targets: [Int: [Target]] = [:]
    private var ticketCount = 0

    /// Asks for a lock: nil when it is held now, else the ticket to wait with.
    mutating func request(_ target: Target, _ mode: Mode, by owner: Int) -> Ticket? {
        var lock = locks[target] ?? Lock()
        let holdsAlready = lock.holders.contains { $0.owner == owner }
        if !(targets[owner]?.contains(target) ?? false) { targets[owner, default: []].append(target) }
        defer { locks[target] = lock }
        if lock.admits(owner, mode), holdsAlready || lock.waiters.isEmpty {
            lock.hold(owner, mode)
            return nil
        }
        ticketCount += 1
        let waiter = Waiter(owner: owner, mode: mode, ticket: ticketCount)
        // Whoever holds a share lock and wants more goes first: everybody behind waits for it anyhow.
        lock.waiters.insert(waiter, at: holdsAlready ? 0 : lock.waiters.endIndex)
        return ticketCount
    }

    /// A waiter gives up: returns the tickets that are granted by that.
    mutating func cancel(_ ticket: Ticket, for target: Target) -> [Ticket] {
        locks[target]?.waiters.removeAll { $0.ticket == ticket }
        return grant(target)
    }

    /// The owner's transaction has ended: returns the tickets that are granted by that.
    mutating func release(_ owner: Int) -> [Ticket] {
        var granted: [Ticket] = []
        for target in targets.removeValue(forKey: owner) ?? [] {
            locks[target]?.holders.removeAll { $0.owner == owner }
            locks[target]?.waiters.removeAll { $0.owner == owner }
            granted += grant(target)
        }
        return granted
    }

    /// What `owner` holds, to be taken again after a restart.
    func held(by owner: Int) -> [(target: Target, mode: Mode)] {
        (targets[owner] ?? []).compactMap { target in
            locks[target]?.holders.first { $0.owner == owner }.map { (target, $0.mode) }
        }
    }

    private mutating func grant(_ target: Target) -> [Ticket] {
        guard var lock = locks[target] else { return [] }
        var granted: [Ticket] = []
        while let waiter = lock.waiters.first, lock.admits(waiter.owner, waiter.mode) {
            lock.hold(waiter.owner, waiter.mode)
            lock.waiters.removeFirst()
            granted.append(waiter.ticket)
        }
        locks[target] = lock.holders.isEmpty && lock.waiters.isEmpty ? nil : lock
        return granted
    }
}
