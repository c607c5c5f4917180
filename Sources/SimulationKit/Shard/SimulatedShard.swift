import TransactionCore

/// How long things take on a shard and how often they fail.
struct ShardConditions: Hashable {
    var serviceNanoseconds: ClosedRange<Nanoseconds> = 20 * microsecond...200 * microsecond
    var flushNanoseconds: ClosedRange<Nanoseconds> = 500 * microsecond...2 * millisecond
    var lockTimeoutNanoseconds: ClosedRange<Nanoseconds> = 20 * millisecond...60 * millisecond
    /// How often a flush takes much longer, as when a disk's cache is full.
    var stallProbability = 0.0
    /// How often a statement that writes is refused, as by a full disk.
    var refusalProbability = 0.0
    /// How many times slower than usual the shard is.
    var slowness: Int64 = 1
}

/// A PostgreSQL server, as far as Meridian can tell the difference: row locks and a unique index that wait, READ
/// COMMITTED statements, prepared transactions, a write-ahead log that is flushed before anything becomes visible, and
/// crashes that lose what was not.
final class SimulatedShard {
    let id: ShardID
    let scheduler: Scheduler
    var conditions: ShardConditions
    private let initialRows: [RowKey: Value]

    private var log: [WALRecord] = []
    private var flushedCount = 0

    // What a crash loses.
    private(set) var storage: ShardStorage
    var locks = LockTable()
    var waiting: [LockTable.Ticket: () -> Void] = [:]
    private(set) var sessions: [SimulatedSession] = []
    /// Prepared transactions that a session is just ending.
    var busy: Set<TransactionID> = []
    private(set) var isUp = true

    private var startCount = 0
    private var ownerCount = 0

    init(id: ShardID, rows: [RowKey: Value], conditions: ShardConditions, scheduler: Scheduler) {
        self.id = id
        self.scheduler = scheduler
        self.conditions = conditions
        self.initialRows = rows
        self.storage = ShardStorage(rows: rows)
    }

    // MARK: Time

    /// Lets `body` happen later, unless the server has crashed meanwhile.
    func after(_ delay: Nanoseconds, _ body: @escaping () -> Void) {
        let start = startCount
        scheduler.after(delay * conditions.slowness) { [self] in
            if isUp, startCount == start { body() }
        }
    }

    func afterServiceTime(_ body: @escaping () -> Void) {
        after(scheduler.random.delay(in: conditions.serviceNanoseconds), body)
    }

    /// Appends `record`, and makes it visible after its flush; everything logged before is flushed with it.
    func write(_ record: WALRecord, by session: SimulatedSession, then: @escaping () -> Void) {
        log.append(record)
        let count = log.count
        session.isFlushing = true
        after(flushTime()) { [self] in
            flushedCount = max(flushedCount, count)
            // Durable, and nobody can see it yet: the moment in which a crash loses the answer alone.
            after(scheduler.random.delay(in: 1 * microsecond...200 * microsecond)) { [self] in
                session.isFlushing = false
                storage.apply(record)
                then()
            }
        }
    }

    private func flushTime() -> Nanoseconds {
        let stall = scheduler.random.chance(conditions.stallProbability)
        return scheduler.random.delay(in: conditions.flushNanoseconds)
            + (stall ? scheduler.random.number(in: 10 * millisecond...50 * millisecond) : 0)
    }

    // MARK: Sessions

    /// Starts a session; nil while the server is down.
    func connect(onEnd: @escaping () -> Void) -> SimulatedSession? {
        guard isUp else { return nil }
        let session = SimulatedSession(shard: self, owner: nextOwner(), onEnd: onEnd)
        sessions.append(session)
        return session
    }

    func sessionEnded(_ session: SimulatedSession) {
        sessions.removeAll { $0 === session }
    }

    func nextOwner() -> Int {
        ownerCount += 1
        return ownerCount
    }

    func release(_ owner: Int) {
        grant(locks.release(owner))
    }

    func grant(_ tickets: [LockTable.Ticket]) {
        for ticket in tickets {
            guard let proceed = waiting.removeValue(forKey: ticket) else { continue }
            after(0, proceed)
        }
    }

    // MARK: Crashes

    /// The server dies: sessions and locks are gone, and of what was not flushed yet as much of the log as luck has it.
    func crash() {
        guard isUp else { return }
        isUp = false
        startCount += 1
        log.removeLast(log.count - Int(scheduler.random.number(in: Int64(flushedCount)...Int64(log.count))))
        flushedCount = log.count
        scheduler.note(.shard(id), "crashed")
        let dying = sessions
        sessions = []
        for session in dying { session.crashed() }
    }

    /// The server is started again: its state is what the log says, prepared transactions hold their locks again.
    func restart() {
        guard !isUp else { return }
        isUp = true
        storage = ShardStorage(rows: initialRows)
        for record in log { storage.apply(record) }
        locks = LockTable()
        waiting = [:]
        busy = []
        for (_, transaction) in storage.prepared.sorted(by: { $0.key.commitTimestamp < $1.key.commitTimestamp }) {
            for (target, mode) in transaction.locks { _ = locks.request(target, mode, by: transaction.owner) }
        }
        scheduler.note(.shard(id), "restarted")
    }
}
