import Testing
import TransactionCore
import TwoPhaseCommit

@testable import SimulationKit

/// The simulated shard does what PostgreSQL does where Meridian leans on it.
@Suite struct SimulatedShardTests {
    private let scheduler = Scheduler(seed: 1)
    private let shard: SimulatedShard
    private let row = RowKey(shard: ShardID("a")!, table: .account, row: 0)
    private let id = TransactionID(
        home: ShardID("a")!, epoch: Epoch(rawValue: 1), commitTimestamp: Timestamp(rawValue: 1025))
    private let one = Incarnation(NodeID(rawValue: 1)!, Epoch(rawValue: 1))

    init() {
        shard = SimulatedShard(
            id: ShardID("a")!, rows: [row: Value(amount: 100, writer: 0)], conditions: ShardConditions(),
            scheduler: scheduler)
    }

    @Test("a statement sees what is committed when its lock is granted")
    func readCommitted() {
        let (first, second) = (Client(shard), Client(shard))
        first.run(.begin, .update(row, .add(-10, writer: 1)))
        second.run(.begin, .lock(row, .share))
        pass(5)
        #expect(second.answers == nil, "the row is locked")
        first.run(.logCommit(id), .commit)
        pass(5)
        #expect(second.answers == [.done, .value(Value(amount: 90, writer: 1))])
    }

    @Test("a lock wait ends by its timeout, and the transaction has failed")
    func lockTimeout() {
        let (first, second) = (Client(shard), Client(shard))
        first.run(.begin, .lock(row, .share))
        second.run(.begin, .update(row, .add(1, writer: 2)))
        pass(100)
        #expect(second.errors == [.serializationFailure])
        second.run(.commit)
        pass(5)
        #expect(second.errors == [.serializationFailure, .inFailedTransaction])
        second.run(.rollback)
        pass(5)
        #expect(second.answers == [.done])
    }

    @Test("the second inserter of a commit timestamp waits for the first one's end, and fails when that committed")
    func uniqueTimestamp() {
        let (first, second) = (Client(shard), Client(shard))
        first.run(.begin, .update(row, .add(1, writer: 1)), .logCommit(id))
        pass(2)
        second.run(.insertTombstone(id))
        pass(10)
        #expect(second.answers == nil && second.errors.isEmpty, "the outcome of the first insert is open")
        first.run(.commit)
        pass(10)
        #expect(second.answers == [.inserted(false)])
    }

    @Test("the second inserter of a commit timestamp succeeds when the first one rolled back, and then bars it")
    func tombstone() {
        let (first, second) = (Client(shard), Client(shard))
        first.run(.begin, .logCommit(id))
        pass(2)
        second.run(.insertTombstone(id))
        pass(2)
        first.run(.rollback)
        pass(10)
        #expect(second.answers == [.inserted(true)])
        first.run(.begin, .logCommit(id), .commit)
        pass(10)
        #expect(first.errors == [.uniqueViolation])
    }

    @Test("a prepared transaction outlives a crash with its locks, and ends by its name alone")
    func preparedSurvives() {
        let client = Client(shard)
        client.run(.begin, .update(row, .add(-10, writer: 1)), .logCommit(id), .prepare(id))
        pass(10)
        #expect(client.answers?.count == 4)
        shard.crash()
        shard.restart()
        let (reader, other) = (Client(shard), Client(shard))
        reader.run(.begin, .lock(row, .share))
        other.run(.listPrepared)
        pass(10)
        #expect(reader.answers == nil, "the prepared transaction still locks the row")
        #expect(other.answers == [.prepared(["meridian:a:1:1:1025"])])
        other.run(.commitPrepared(id))
        pass(10)
        #expect(reader.answers?.last == .value(Value(amount: 90, writer: 1)))
        other.run(.commitPrepared(id))
        pass(10)
        #expect(other.errors == [.undefinedObject])
    }

    @Test("a commit that was answered survives a crash; one that was not flushed never becomes visible")
    func durability() {
        let client = Client(shard)
        client.run(.begin, .update(row, .add(-10, writer: 1)), .logCommit(id), .commit)
        pass(10)
        #expect(client.answers?.count == 4)
        shard.crash()
        shard.restart()
        #expect(shard.storage.row(row) == Value(amount: 90, writer: 1))
        #expect(shard.storage.newestTimestamp == id.commitTimestamp)

        let late = Client(shard)
        late.run(.begin, .update(row, .add(-10, writer: 2)))
        pass(2)
        shard.crash()
        shard.restart()
        pass(10)
        #expect(shard.storage.row(row) == Value(amount: 90, writer: 1))
        #expect(late.hasEnded)
    }

    @Test("raising the epoch ends older sessions, lets none of them open again, and returns when they are gone")
    func fencing() {
        let (old, new) = (Client(shard), Client(shard))
        let one = Incarnation(NodeID(rawValue: 1)!, Epoch(rawValue: 1))
        old.run(.openSession(one), .begin, .update(row, .add(1, writer: 1)), .logCommit(id), .commit)
        scheduler.run(until: scheduler.now.advanced(byNanoseconds: 300 * microsecond))
        new.run(.raiseEpoch(Epoch(rawValue: 2), of: nil, .awaited))
        pass(20)
        #expect(new.answers == [.done])
        #expect(old.hasEnded)
        #expect(!shard.sessions.contains { $0.incarnation == one })
        let again = Client(shard)
        again.run(.openSession(one))
        pass(5)
        #expect(again.errors == [.objectNotInPrerequisiteState])
    }

    @Test("raising one node's epoch leaves the sessions of others alone")
    func fencingOne() {
        let other = Incarnation(NodeID(rawValue: 2)!, Epoch(rawValue: 1))
        let (old, bystander, new) = (Client(shard), Client(shard), Client(shard))
        old.run(.openSession(one))
        bystander.run(.openSession(other))
        pass(5)
        new.run(.raiseEpoch(Epoch(rawValue: 2), of: one.node, .awaited))
        pass(20)
        #expect(old.hasEnded && !bystander.hasEnded)
        let (again, another) = (Client(shard), Client(shard))
        again.run(.openSession(one))
        another.run(.openSession(other))
        pass(5)
        #expect(again.errors == [.objectNotInPrerequisiteState] && another.errors.isEmpty)
        shard.crash()
        shard.restart()
        #expect(shard.storage.epoch(of: one.node) == Epoch(rawValue: 2))
    }

    @Test("a read at a timestamp undoes what is later, as its snapshot sees it")
    func readAsOf() {
        let (writer, reader) = (Client(shard), Client(shard))
        for (amount, timestamp) in [(Int64(90), Int64(2049)), (80, 4097)] {
            let id = TransactionID(
                home: shard.id, epoch: Epoch(rawValue: 1), commitTimestamp: Timestamp(rawValue: timestamp))
            writer.run(.begin, .update(row, .set(amount, writer: Int(amount))), .logCommit(id), .commit)
            pass(10)
            if amount == 90 { reader.run(.takeSnapshot) }
            pass(10)
        }
        func read(at timestamp: Int64) -> Int64? {
            reader.run(.read([row], at: Timestamp(rawValue: timestamp)))
            pass(2)
            guard case .values(let values)? = reader.answers?.last else { return nil }
            return values[0].amount
        }
        #expect([2048, 2049, 4096, 9999].map(read) == [100, 90, 90, 90], "the snapshot is older than the last commit")
        reader.run(.takeSnapshot)
        #expect([2048, 2049, 4096, 4097].map(read) == [100, 90, 90, 80])
    }

    private func pass(_ milliseconds: Int64) {
        scheduler.run(until: scheduler.now.advanced(byNanoseconds: milliseconds * millisecond))
    }
}

/// A session and what it was answered.
private final class Client {
    private var session: SimulatedSession?
    private(set) var answers: [Answer]?
    private(set) var errors: [SQLState] = []
    private(set) var hasEnded = false

    init(_ shard: SimulatedShard) {
        session = shard.connect { [unowned self] in hasEnded = true }
    }

    func run(_ statements: Statement...) {
        answers = nil
        session?.received(statements) { [unowned self] result in
            switch result {
            case .success(let answers): self.answers = answers
            case .failure(let failure): errors.append(failure.error.sqlState)
            }
        }
    }
}
