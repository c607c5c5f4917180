import Testing
import TransactionCore

@testable import TwoPhaseCommit

@Suite struct SafeTimeTrackerTests {
    /// A tracker that started after timestamp 100, and has these in flight on shard a.
    private func make(_ inFlight: Int64...) -> Box<SafeTimeTracker> {
        var tracker = SafeTimeTracker(node: node, newest: makeTimestamp(100))
        for number in inFlight { _ = tracker.choose(at: interval(number), writing: [a]) }
        return Box(tracker)
    }

    private func interval(_ number: Int64) -> TimestampInterval {
        TimestampInterval(earliest: makeTimestamp(number - 1), latest: makeTimestamp(number))
    }

    private func waiter(_ action: SafeTimeTracker.ReadAction) throws -> SafeTimeTracker.WaiterID {
        guard case .wait(let waiter) = action else { throw Proceeded() }
        return waiter
    }

    private struct Proceeded: Error {}

    // MARK: Choosing

    @Test("a commit timestamp is no smaller than the latest that it can be now, and names its node (R1)")
    func chooseLatest() {
        let tracker = make()
        let latest = Timestamp(rawValue: 1_000_000)
        let now = TimestampInterval(earliest: Timestamp(rawValue: 900_000), latest: latest)
        let chosen = tracker.value.choose(at: now, writing: [a])
        #expect(chosen >= latest && chosen.nanoseconds(since: latest) <= 1024)
        #expect(chosen.node == node)
    }

    @Test("commit timestamps only grow, also when the clock does not (R1)")
    func chooseGrowing() {
        let tracker = make()
        let chosen = [200, 200, 150, 50, 201].map { tracker.value.choose(at: interval($0), writing: [a]) }
        #expect(chosen == chosen.sorted() && Set(chosen).count == chosen.count, "\(chosen)")
    }

    @Test("no commit timestamp is at or before the newest of an earlier coordinator (R1)")
    func chooseAfterNewest() {
        #expect(make().value.choose(at: interval(1), writing: [a]) > makeTimestamp(100))
    }

    @Test("no commit timestamp is at or before one that was read at (R8)")
    func chooseAfterRead() {
        let tracker = make()
        let read = Timestamp(rawValue: makeTimestamp(500).rawValue + 7)
        #expect(tracker.value.readRequested(at: read, on: b) == .proceed)
        #expect(tracker.value.choose(at: interval(400), writing: [a]) > read)
    }

    // MARK: Plain reads

    @Test("what a shard holds is its state at a timestamp while nothing later is, was or may be applied there (R10)")
    func current() {
        let tracker = make()
        #expect(tracker.value.isCurrent(at: makeTimestamp(100), on: a))
        #expect(!tracker.value.isCurrent(at: makeTimestamp(99), on: a))
        let chosen = tracker.value.choose(at: interval(200), writing: [a])
        #expect(!tracker.value.isCurrent(at: makeTimestamp(150), on: a))
        // In flight: it may be visible already or not yet.
        #expect(!tracker.value.isCurrent(at: chosen, on: a))
        #expect(tracker.value.isCurrent(at: makeTimestamp(150), on: b))
        _ = tracker.value.retire(chosen, on: a)
        #expect(tracker.value.isCurrent(at: chosen, on: a))
        #expect(!tracker.value.isCurrent(at: makeTimestamp(150), on: a))
    }

    // MARK: Reads wait

    @Test("a transaction is in flight on every shard it wrote from the moment its timestamp is chosen (R8)")
    func inFlightAtOnce() {
        let tracker = make()
        let chosen = tracker.value.choose(at: interval(200), writing: [a, b])
        for shard in [a, b] {
            #expect(tracker.value.inFlight(on: shard) == [chosen])
            #expect(tracker.value.readRequested(at: chosen, on: shard) != .proceed)
            #expect(tracker.value.safeTime(of: shard).successor == chosen)
        }
        #expect(tracker.value.readRequested(at: chosen, on: c) == .proceed, "c is not written")
    }

    @Test("a read waits for what is in flight at its timestamp or before, and for nothing later (R8)")
    func waitsForEarlier() {
        let tracker = make(200)
        let chosen = makeTimestamp(200)
        #expect(tracker.value.readRequested(at: chosen.advanced(byNanoseconds: -1), on: a) == .proceed)
        #expect(tracker.value.readRequested(at: chosen, on: a) != .proceed)
        #expect(tracker.value.readRequested(at: chosen.successor, on: a) != .proceed)
    }

    @Test("a read goes on once the last transaction at or before its timestamp is applied, in any order (R8)")
    func released() throws {
        let tracker = make(200, 300, 400)
        let early = try waiter(tracker.value.readRequested(at: makeTimestamp(200), on: a))
        let middle = try waiter(tracker.value.readRequested(at: makeTimestamp(350), on: a))
        let late = try waiter(tracker.value.readRequested(at: makeTimestamp(400), on: a))
        #expect(tracker.value.retire(makeTimestamp(300), on: a) == [], "an earlier one is in flight")
        #expect(tracker.value.retire(makeTimestamp(200), on: a) == [early, middle])
        #expect(tracker.value.retire(makeTimestamp(400), on: a) == [late])
        #expect(tracker.value.inFlight(on: a) == [])
    }

    @Test("what is retired on one shard is still in flight on the others (R8)")
    func retiredByShard() throws {
        let tracker = make()
        let chosen = tracker.value.choose(at: interval(200), writing: [a, b])
        let onB = try waiter(tracker.value.readRequested(at: chosen, on: b))
        #expect(tracker.value.retire(chosen, on: a) == [])
        #expect(tracker.value.readRequested(at: chosen, on: a) == .proceed)
        #expect(tracker.value.retire(chosen, on: b) == [onB])
    }

    @Test("retiring twice, or what was never in flight, lets no read go on")
    func retireStray() {
        let tracker = make(200, 300)
        _ = tracker.value.readRequested(at: makeTimestamp(300), on: a)
        #expect(tracker.value.retire(makeTimestamp(200), on: a) == [])
        #expect(tracker.value.retire(makeTimestamp(200), on: a) == [])
        #expect(tracker.value.retire(makeTimestamp(250), on: a) == [])
        #expect(tracker.value.retire(makeTimestamp(300), on: b) == [])
        #expect(tracker.value.inFlight(on: a) == [makeTimestamp(300)])
    }

    @Test("a read that gave up is not named any more")
    func cancelled() throws {
        let tracker = make(200)
        let first = try waiter(tracker.value.readRequested(at: makeTimestamp(200), on: a))
        let second = try waiter(tracker.value.readRequested(at: makeTimestamp(200), on: a))
        tracker.value.readCancelled(first, on: a)
        #expect(tracker.value.retire(makeTimestamp(200), on: a) == [second])
    }

    @Test("a single row waits like everything else: an earlier transaction in flight holds back a later read (R10)")
    func noWayAround() {
        // R10's counter-example: the first is in flight on a, the second committed there and was acknowledged.
        let tracker = make(200)
        let second = tracker.value.choose(at: interval(300), writing: [a])
        _ = tracker.value.retire(second, on: a)
        tracker.value.acknowledged(second)
        #expect(tracker.value.readRequested(at: tracker.value.strongReadTimestamp, on: a) != .proceed)
    }

    // MARK: Strong reads

    @Test("a strong read is no earlier than any commit acknowledged or timestamp read before (R9)")
    func strong() {
        let tracker = make(200, 300)
        #expect(tracker.value.strongReadTimestamp == makeTimestamp(100), "the newest on any shard")
        tracker.value.acknowledged(makeTimestamp(300))
        #expect(tracker.value.strongReadTimestamp == makeTimestamp(300))
        tracker.value.acknowledged(makeTimestamp(200))
        #expect(tracker.value.strongReadTimestamp == makeTimestamp(300), "it never goes back")
        _ = tracker.value.readRequested(at: makeTimestamp(350), on: b)
        #expect(tracker.value.strongReadTimestamp == makeTimestamp(350))
    }

    @Test("an unacknowledged commit does not delay a strong read")
    func strongWaitsLeast() {
        let tracker = make(200)
        #expect(tracker.value.readRequested(at: tracker.value.strongReadTimestamp, on: a) == .proceed)
    }

    @Test("safe time is what no later commit can get, and below everything in flight")
    func safeTime() {
        let tracker = make()
        #expect(tracker.value.safeTime(of: a) == makeTimestamp(100))
        _ = tracker.value.choose(at: interval(200), writing: [a])
        _ = tracker.value.choose(at: interval(300), writing: [b])
        #expect(tracker.value.safeTime(of: a).successor == makeTimestamp(200))
        #expect(tracker.value.safeTime(of: c) == makeTimestamp(300))
    }
}
