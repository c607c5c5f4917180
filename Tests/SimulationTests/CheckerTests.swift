import Testing
import TransactionCore
import TwoPhaseCommit

@testable import SimulationKit

private let a = ShardID("a")!
private let b = ShardID("b")!
private let x = RowKey(shard: a, table: .register, row: 0)
private let y = RowKey(shard: b, table: .register, row: 0)

/// Histories made by hand: time runs in small numbers, transaction `n` writes values `n * 10`.
@Suite struct CheckerTests {
    @Test("a history in which everything is right passes every checker")
    func good() {
        let history = History(
            initial: [x: Value(amount: 0, writer: 0), y: Value(amount: 0, writer: 0)],
            transactions: [
                makeTransaction(1, 10...20, at: 15, saw: [(x, 0), (y, 0)], wrote: [x, y]),
                makeTransaction(2, 30...40, at: 35, saw: [(x, 1)], wrote: [x]),
                makeTransaction(3, 30...45, .aborted(.serializationFailure), wrote: [x]),
                makeTransaction(4, 30...45, .unknown, wrote: [y]),
            ],
            reads: [
                makeRead(5, .strong, 21...25, at: 15, saw: [(x, 1), (y, 1)]),
                makeRead(6, .at(Timestamp(rawValue: 5)), 50...60, at: 5, saw: [(x, 0), (y, 0)]),
                makeRead(7, .maxStaleness(.nanoseconds(20)), 50...60, at: 36, saw: [(x, 2), (y, 1)]),
            ],
            log: [
                makeCommit(a, at: 15, (x, 0, 1)), makeCommit(b, at: 15, (y, 0, 1)), makeCommit(a, at: 35, (x, 1, 2)),
            ])
        #expect(history.violations() == [])
    }

    @Test("a cluster that does not serve again is noticed")
    func progress() {
        check(
            ProgressChecker.self, finds: "a strong read of everything got no answer", of: [],
            in: History(servesAgain: false))
    }

    @Test("a transaction that is still prepared is residue")
    func residue() {
        check(
            ResidueChecker.self, finds: "meridian:a:1:1:1025 is still prepared on shard b", of: [],
            in: History(prepared: [(b, "meridian:a:1:1:1025")]))
    }

    @Test("a transaction on one of its two shards is not atomic")
    func atomicity() {
        let transaction = makeTransaction(1, 10...20, at: 15, wrote: [x, y])
        check(
            AtomicityChecker.self, finds: "t1 committed a.register[0] on shard a, but not b.register[0]", of: [1],
            in: History(transactions: [transaction], log: [makeCommit(a, at: 15, (x, 0, 1))]))
        check(
            AtomicityChecker.self, finds: "t1 committed on shard a at 15 and on shard b at 16", of: [1],
            in: History(
                transactions: [transaction], log: [makeCommit(a, at: 15, (x, 0, 1)), makeCommit(b, at: 16, (y, 0, 1))]))
    }

    @Test("what a client was told of its transaction must be so")
    func outcome() {
        let log = [makeCommit(a, at: 15, (x, 0, 1))]
        check(
            OutcomeChecker.self, finds: "the client of t1 was told that it committed at 15; it is not there", of: [1],
            in: History(transactions: [makeTransaction(1, 10...20, at: 15, wrote: [x])]))
        check(
            OutcomeChecker.self, finds: "the client of t1 was told timestamp 16; it committed at 15", of: [1],
            in: History(transactions: [makeTransaction(1, 10...20, at: 16, wrote: [x])], log: log))
        check(
            OutcomeChecker.self, finds: "the client of t1 was told 40001; it committed at 15", of: [1],
            in: History(
                transactions: [makeTransaction(1, 10...20, .aborted(.serializationFailure), wrote: [x])], log: log))
        var resolved = makeTransaction(1, 10...20, .unknown, wrote: [x])
        resolved.resolution = .abort
        check(
            OutcomeChecker.self, finds: "t1 was found to have aborted; it committed at 15", of: [1],
            in: History(transactions: [resolved], log: log))
        resolved.resolution = .commit
        check(
            OutcomeChecker.self, finds: "t1 was found to have committed; it is not there", of: [1],
            in: History(transactions: [resolved]))
    }

    @Test("two transactions at one timestamp are noticed")
    func uniqueTimestamps() {
        check(
            UniqueTimestampChecker.self, finds: "t1 and t2 both committed at 15", of: [1, 2],
            in: History(
                transactions: [
                    makeTransaction(1, 10...20, at: 15, wrote: [x]), makeTransaction(2, 10...20, at: 15, wrote: [y]),
                ], log: [makeCommit(a, at: 15, (x, 0, 1)), makeCommit(b, at: 15, (y, 0, 2))]))
    }

    @Test("money that is lost is noticed, at the end and in a read of all accounts")
    func conservation() {
        let account = RowKey(shard: a, table: .account, row: 0)
        let initial = [account: Value(amount: 100, writer: 0)]
        let change = Change(key: account, old: Value(amount: 100, writer: 0), new: Value(amount: 90, writer: 1))
        check(
            ConservationChecker.self, finds: "the accounts held 100 and hold 90", of: [],
            in: History(
                initial: initial, log: [LoggedCommit(shard: a, timestamp: Timestamp(rawValue: 15), changes: [change])]))
        var read = makeRead(2, .strong, 10...20, at: 15, saw: [])
        read.observations = [Observation(key: account, value: Value(amount: 99, writer: 0))]
        check(
            ConservationChecker.self, finds: "read t2 found 99 in all accounts, not 100", of: [2],
            in: History(initial: initial, reads: [read]))
    }

    @Test("a write that overwrote the future is noticed (ww)")
    func writeWrite() {
        check(
            ConflictOrderChecker.self, finds: "t2 at 15 overwrote 10 of t1", of: [2, 0, 1],
            in: History(
                transactions: [
                    makeTransaction(1, 10...40, at: 35, wrote: [x]), makeTransaction(2, 10...40, at: 15, wrote: [x]),
                ], log: [makeCommit(a, at: 35, (x, 0, 1)), makeCommit(a, at: 15, (x, 1, 2))]))
    }

    @Test("a locked read that saw the future is noticed (wr)")
    func writeRead() {
        check(
            ConflictOrderChecker.self, finds: "t2 at 15 saw 10 of t1 in a.register[0] under its lock", of: [2, 0, 1],
            in: History(
                transactions: [
                    makeTransaction(1, 10...40, at: 35, wrote: [x]),
                    makeTransaction(2, 10...40, at: 15, saw: [(x, 1)], wrote: [y]),
                ], log: [makeCommit(a, at: 35, (x, 0, 1)), makeCommit(b, at: 15, (y, 0, 2))]))
    }

    @Test("a locked read that missed the past, as in a write skew across shards, is noticed (rw)")
    func readWrite() {
        check(
            ConflictOrderChecker.self, finds: "t2 at 35 saw 0 of t0 in a.register[0] under its lock", of: [2, 1, 0],
            in: History(
                transactions: [
                    makeTransaction(1, 10...40, at: 15, saw: [(y, 0)], wrote: [x]),
                    makeTransaction(2, 10...40, at: 35, saw: [(x, 0)], wrote: [y]),
                ], log: [makeCommit(a, at: 15, (x, 0, 1)), makeCommit(b, at: 35, (y, 0, 2))]))
    }

    @Test("a transaction that began after another was acknowledged must have the larger timestamp")
    func realTimeOrder() {
        check(
            RealTimeOrderChecker.self, finds: "t2 has timestamp 14 and began after t1 at 15 was over", of: [1, 2],
            in: History(
                transactions: [
                    makeTransaction(1, 10...20, at: 15, wrote: [x]), makeTransaction(2, 30...40, at: 14, wrote: [y]),
                ], log: [makeCommit(a, at: 15, (x, 0, 1)), makeCommit(b, at: 14, (y, 0, 2))]))
    }

    @Test("a transaction must not commit before what a finished read has seen")
    func realTimeOrderOfReads() {
        check(
            RealTimeOrderChecker.self, finds: "t2 has timestamp 34 and began after t1 at 35 was over", of: [1, 2],
            in: History(
                transactions: [makeTransaction(2, 30...40, at: 34, wrote: [x])],
                reads: [makeRead(1, .strong, 10...20, at: 35, saw: [])], log: [makeCommit(a, at: 34, (x, 0, 2))]))
    }

    @Test("a timestamp lies between its transaction's begin and acknowledgement")
    func timestampsAreTrueTime() {
        check(
            RealTimeOrderChecker.self, finds: "t1 was acknowledged at 20, before its timestamp 25 had come", of: [1],
            in: History(transactions: [makeTransaction(1, 10...20, at: 25, wrote: [])]))
        check(
            RealTimeOrderChecker.self, finds: "t1 began at 10 and has the earlier timestamp 5", of: [1],
            in: History(transactions: [makeTransaction(1, 10...20, at: 5, wrote: [])]))
    }

    @Test("a strong read must not miss what was acknowledged, found out or read before")
    func strongReads() {
        let log = [makeCommit(a, at: 15, (x, 0, 1))]
        let read = makeRead(3, .strong, 30...40, at: 14, saw: [(x, 0)])
        let message = "strong read t3 at 14 misses the write at 15, which t"
        check(
            StrongReadChecker.self, finds: message + "1 had written or seen", of: [1, 3],
            in: History(
                transactions: [makeTransaction(1, 10...20, at: 15, wrote: [x])], reads: [read], log: log))
        var resolved = makeTransaction(1, 10...20, .unknown, wrote: [x])
        resolved.resolution = .commit
        check(
            StrongReadChecker.self, finds: message + "1 had written or seen", of: [1, 3],
            in: History(transactions: [resolved], reads: [read], log: log))
        check(
            StrongReadChecker.self, finds: message + "2 had written or seen", of: [2, 3],
            in: History(reads: [makeRead(2, .strong, 10...20, at: 16, saw: [(x, 1)]), read], log: log))
        // What a read could not see, because it looked elsewhere, it has not seen.
        let elsewhere = makeRead(2, .strong, 10...20, at: 16, saw: [(y, 0)])
        #expect(StrongReadChecker().check(History(reads: [elsewhere, read], log: log)) == [])
        // What nobody had been told when the read began need not be in it.
        let concurrent = makeTransaction(1, 10...31, at: 15, wrote: [x])
        #expect(StrongReadChecker().check(History(transactions: [concurrent], reads: [read], log: log)) == [])
    }

    @Test("a read outside its bound is noticed")
    func readBounds() {
        let bounds: [(ReadBound, Int64)] = [
            (.at(Timestamp(rawValue: 50)), 51), (.exactStaleness(.nanoseconds(100)), 105),
            (.maxStaleness(.nanoseconds(100)), 0), (.minTimestamp(Timestamp(rawValue: 50)), 49),
        ]
        for (bound, timestamp) in bounds {
            let read = makeRead(1, bound, 101...200, at: timestamp, saw: [])
            check(ReadBoundChecker.self, finds: "read t1, begun at 101 with bound", of: [1], in: History(reads: [read]))
        }
    }

    @Test("a read that saw too little, too much or a mixture is not a state of the log")
    func snapshotReads() {
        let log = [
            makeCommit(a, at: 15, (x, 0, 1)), makeCommit(b, at: 15, (y, 0, 1)), makeCommit(a, at: 35, (x, 1, 2)),
        ]
        check(
            SnapshotReadChecker.self, finds: "read t3 at 20 saw 0 of t0 in b.register[0]; as of then t1 had written",
            of: [3, 1, 0],
            in: History(reads: [makeRead(3, .strong, 10...20, at: 20, saw: [(x, 1), (y, 0)])], log: log))
        check(
            SnapshotReadChecker.self, finds: "read t3 at 20 saw 20 of t2 in a.register[0]; as of then t1 had written",
            of: [3, 1, 2], in: History(reads: [makeRead(3, .strong, 10...20, at: 20, saw: [(x, 2)])], log: log))
    }

    // MARK: Making histories

    private func check(
        _ checker: any HistoryChecker.Type, finds message: String, of witnesses: [Int], in history: History,
        sourceLocation: SourceLocation = #_sourceLocation
    ) {
        let found = checker.init().check(history)
        #expect(
            found.contains { $0.message.contains(message) && $0.witnesses == witnesses }, "\(found)",
            sourceLocation: sourceLocation)
    }

    private func makeValue(_ writer: Int) -> Value { Value(amount: Int64(writer) * 10, writer: writer) }

    private func makeTransaction(
        _ number: Int, _ interval: ClosedRange<Int64>, _ outcome: TransactionRecord.Outcome, saw: [(RowKey, Int)] = [],
        wrote: [RowKey]
    ) -> TransactionRecord {
        var record = TransactionRecord(number: number, client: 0, begun: Timestamp(rawValue: interval.lowerBound))
        record.ended = Timestamp(rawValue: interval.upperBound)
        record.outcome = outcome
        record.observations = saw.map { Observation(key: $0, value: makeValue($1)) }
        record.written = wrote
        return record
    }

    private func makeTransaction(
        _ number: Int, _ interval: ClosedRange<Int64>, at timestamp: Int64, saw: [(RowKey, Int)] = [], wrote: [RowKey]
    ) -> TransactionRecord {
        makeTransaction(number, interval, .committed(Timestamp(rawValue: timestamp)), saw: saw, wrote: wrote)
    }

    private func makeRead(
        _ number: Int, _ bound: ReadBound, _ interval: ClosedRange<Int64>, at timestamp: Int64, saw: [(RowKey, Int)]
    ) -> ReadRecord {
        ReadRecord(
            number: number, client: 0, bound: bound, begun: Timestamp(rawValue: interval.lowerBound),
            ended: Timestamp(rawValue: interval.upperBound), timestamp: Timestamp(rawValue: timestamp),
            observations: saw.map { Observation(key: $0, value: makeValue($1)) })
    }

    private func makeCommit(_ shard: ShardID, at timestamp: Int64, _ change: (RowKey, Int, Int)) -> LoggedCommit {
        LoggedCommit(
            shard: shard, timestamp: Timestamp(rawValue: timestamp),
            changes: [Change(key: change.0, old: makeValue(change.1), new: makeValue(change.2))])
    }
}
