import BoundedTime
import Testing
import TransactionCore

@Suite struct IntervalClockTests {
    private let clock = SimulatedIntervalClock(result: .success(makeInterval(100, 200)))
    private let shard: ShardID

    init() throws {
        shard = try #require(ShardID("s1"))
    }

    @Test("a timestamp on a shard that may have passed is accepted", arguments: [.min, 0, 100, 200])
    func accepted(newest: Int64) {
        #expect(throws: Never.self) { try clock.check(newestTimestamp: Timestamp(rawValue: newest), on: shard) }
    }

    @Test("a timestamp on a shard that can't have passed shows that the clock is behind", arguments: [201, .max])
    func refused(newest: Int64) {
        let timestamp = Timestamp(rawValue: newest)
        #expect(throws: ClockError.behind(newestTimestamp: timestamp, shard: shard, by: .nanoseconds(newest - 200))) {
            try clock.check(newestTimestamp: timestamp, on: shard)
        }
    }

    @Test("a clock that gives no time accepts no shard")
    func noTime() {
        let clock = SimulatedIntervalClock(result: .failure(.unpolled))
        #expect(throws: ClockError.unpolled) { try clock.check(newestTimestamp: .zero, on: shard) }
    }

    @Test("every clock error is one code with facts and a next step, and nothing was committed")
    func transactionErrors() {
        let errors: [ClockError] = [
            .unpolled, .unsynchronised(detail: "the status is 64", hint: "start chronyd"),
            .pollTooOld(age: .seconds(31), limit: .seconds(30)), .steppedBack(by: .milliseconds(1_500)),
            .behind(newestTimestamp: Timestamp(rawValue: 7), shard: shard, by: .seconds(2)),
        ]
        for error in errors.map(\.transactionError) {
            #expect(error.sqlState == .clockNotTrusted)
            #expect(error.outcome == .aborted)
            #expect(!error.isRetryable)
            #expect(error.message.first?.isLowercase == true && !error.message.hasSuffix("."))
            #expect(error.detail?.isEmpty == false && error.hint?.isEmpty == false)
        }
        #expect(errors[3].transactionError.detail == "it is 1.5 seconds behind where it would be")
        #expect(errors[4].transactionError.shard == shard)
    }
}
