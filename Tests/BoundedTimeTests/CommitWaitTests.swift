import BoundedTime
import Testing
import TransactionCore

@Suite struct CommitWaitTests {
    private let wait = CommitWait(until: Timestamp(rawValue: 1_000))

    @Test(
        "the wait lasts until the earliest possible present is after the timestamp",
        arguments: [(0, 1_001), (999, 2), (1_000, 1)])
    func waiting(earliest: Int64, nanoseconds: Int64) {
        #expect(wait.progress(at: makeInterval(earliest, earliest + 5_000)) == .waiting(.nanoseconds(nanoseconds)))
    }

    @Test("having slept as long as it was told, it is over")
    func sleepingIsEnough() {
        guard case .waiting(let duration) = wait.progress(at: makeInterval(300, 700)) else {
            Issue.record("the timestamp had not passed")
            return
        }
        let slept = duration.nanoseconds
        guard case .passed(let passed) = wait.progress(at: makeInterval(300 + slept, 700 + slept)) else {
            Issue.record("the wait goes on")
            return
        }
        #expect(passed.timestamp == wait.timestamp)
    }

    @Test("an interval around the timestamp does not end the wait, however narrow it is")
    func notByLatest() {
        #expect(wait.progress(at: makeInterval(1_000, 1_001)) == .waiting(.nanoseconds(1)))
    }
}
