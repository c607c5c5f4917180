import Testing
import TransactionCore

@testable import TwoPhaseCommit

@Suite struct ReadBoundTests {
    private let now = makeInterval(1_000_000, 1_020_000)

    /// Acknowledged up to 800 (in commit timestamps), with 700 in flight on shard a and 900 on shard b.
    private func make() -> SafeTimeTracker {
        var tracker = SafeTimeTracker(node: node, newest: makeTimestamp(100))
        for (number, shard) in [(Int64(700), a), (800, c), (900, b)] {
            _ = tracker.choose(at: TimestampInterval(earliest: .zero, latest: makeTimestamp(number)), writing: [shard])
        }
        _ = tracker.retire(makeTimestamp(800), on: c)
        tracker.acknowledged(makeTimestamp(800))
        return tracker
    }

    private func timestamp(_ bound: ReadBound, over shards: [ShardID]) -> Timestamp {
        make().readTimestamp(for: bound, over: shards, at: now)
    }

    @Test("a strong read runs at the newest timestamp acknowledged, on every shard (R9)")
    func strong() {
        #expect(timestamp(.strong, over: [a, b, c]) == makeTimestamp(800))
    }

    @Test("a read timestamp is taken as it is")
    func exact() {
        #expect(timestamp(.at(Timestamp(rawValue: 42)), over: [a]) == Timestamp(rawValue: 42))
    }

    @Test("exact staleness counts back from the earliest that it can be now, so that the timestamp has passed")
    func exactStaleness() {
        #expect(timestamp(.exactStaleness(.nanoseconds(300)), over: [a]) == Timestamp(rawValue: 999_700))
    }

    @Test("max staleness gives the newest state that needs no waiting, below everything in flight")
    func maxStaleness() {
        let staleness = ReadBound.maxStaleness(.microseconds(900))
        #expect(timestamp(staleness, over: [a, c]).successor == makeTimestamp(700))
        #expect(timestamp(staleness, over: [c]) == makeTimestamp(800))
        #expect(timestamp(staleness, over: [b]) == makeTimestamp(800), "not past what was acknowledged")
    }

    @Test("max staleness is never older than it says, counted back from the latest that it can be now")
    func maxStalenessBound() {
        #expect(timestamp(.maxStaleness(.nanoseconds(20)), over: [a]) == Timestamp(rawValue: 1_019_980))
    }

    @Test("a min timestamp is kept to, and exceeded when that needs no waiting")
    func minTimestamp() {
        #expect(timestamp(.minTimestamp(makeTimestamp(500)), over: [c]) == makeTimestamp(800))
        #expect(timestamp(.minTimestamp(makeTimestamp(750)), over: [a]) == makeTimestamp(750))
        #expect(timestamp(.minTimestamp(makeTimestamp(850)), over: [c]) == makeTimestamp(850))
    }

    @Test("no staleness a client may ask for is too long or too negative to compute with")
    func extremes() {
        for staleness in [Duration.seconds(Int64.max), .seconds(-Int64.max)] {
            let past = staleness > .zero
            #expect((timestamp(.exactStaleness(staleness), over: [a]) < .zero) == past)
            #expect((timestamp(.maxStaleness(staleness), over: [a]).successor == makeTimestamp(700)) == past)
        }
    }

    @Test("without a shard named, a bounded read runs at the strong timestamp")
    func noShards() {
        #expect(timestamp(.maxStaleness(.microseconds(900)), over: []) == makeTimestamp(800))
    }
}
