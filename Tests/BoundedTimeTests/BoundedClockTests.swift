import BoundedTime
import Testing
import TransactionCore

@Suite struct BoundedClockTests {
    private var machine = SimulatedMachine()
    private var clock = BoundedClock(driftPartsPerMillion: 200)

    private mutating func now() throws(ClockError) -> TimestampInterval { try clock.now(machine.reading) }

    private mutating func poll(_ uncertainty: Duration) {
        clock.pollReceived(.success(uncertainty), at: machine.reading)
    }

    @Test("no timestamp is given before the source was asked")
    mutating func unpolled() {
        #expect(clock.isPollDue(at: machine.reading))
        #expect(throws: ClockError.unpolled) { try now() }
    }

    @Test("right after a poll the interval is the wall clock give or take the uncertainty and a millisecond of drift")
    mutating func afterPoll() throws {
        poll(.milliseconds(1))
        let interval = try now()
        let wall = machine.reading.wallNanoseconds
        #expect(interval == makeInterval(wall - 1_000_200, wall + 1_000_200))
        #expect(interval.uncertaintyNanoseconds == 1_000_200)
    }

    @Test("between polls the uncertainty grows by 200 µs a second")
    mutating func driftGrowth() throws {
        poll(.milliseconds(1))
        machine.advance(by: .seconds(5))
        #expect(try now().uncertaintyNanoseconds == 1_000_000 + 5 * 200_000 + 200)
    }

    @Test("a clock without a drift bound keeps its uncertainty")
    mutating func noDrift() throws {
        clock = BoundedClock(driftPartsPerMillion: 0, pollInterval: nil)
        poll(.zero)
        machine.advance(by: .seconds(100_000_000))
        #expect(!clock.isPollDue(at: machine.reading))
        #expect(try now() == makeInterval(machine.present.rawValue, machine.present.rawValue))
    }

    @Test(
        "the interval contains the present while the clock's error and drift keep to their bounds",
        arguments: [-1_000_000, 0, 1_000_000], [-200, 0, 200])
    mutating func contains(offset: Int64, drift: Int64) throws {
        machine.offsetNanoseconds = offset
        machine.driftPartsPerMillion = drift
        poll(.milliseconds(1))
        for _ in 0..<1_000 {
            #expect(try now().contains(machine.present))
            machine.advance(by: .milliseconds(29))
        }
    }

    @Test("a clock that drifts more than its bound is caught missing the present, so the check above can fail")
    mutating func fastDrift() throws {
        machine.driftPartsPerMillion = 2_000
        poll(.milliseconds(1))
        machine.advance(by: .seconds(1))
        #expect(try !now().contains(machine.present))
    }

    @Test("a poll is due after a second and no longer believed after thirty")
    mutating func pollAge() throws {
        poll(.milliseconds(1))
        machine.advance(by: .milliseconds(999))
        #expect(!clock.isPollDue(at: machine.reading))
        machine.advance(by: .milliseconds(1))
        #expect(clock.isPollDue(at: machine.reading))
        machine.advance(by: .seconds(29))
        #expect(throws: Never.self) { try now() }
        machine.advance(by: .nanoseconds(1))
        let limit = Duration.seconds(30)
        #expect(throws: ClockError.pollTooOld(age: limit + .nanoseconds(1), limit: limit)) { try now() }
        poll(.milliseconds(1))
        #expect(throws: Never.self) { try now() }
    }

    @Test("an unsynchronised source stops the clock, and a synchronised one starts it again")
    mutating func unsynchronised() throws {
        poll(.milliseconds(1))
        let refusal = ClockError.unsynchronised(detail: "no server answers", hint: "start one")
        clock.pollReceived(.failure(refusal), at: machine.reading)
        #expect(clock.isPollDue(at: machine.reading))
        #expect(throws: refusal) { try now() }
        poll(.milliseconds(1))
        #expect(throws: Never.self) { try now() }
    }

    @Test("neither end of the interval goes back when a poll narrows it")
    mutating func narrowing() throws {
        poll(.milliseconds(50))
        let wide = try now()
        poll(.milliseconds(1))
        let narrow = try now()
        #expect(narrow.earliest > wide.earliest)
        #expect(narrow.latest == wide.latest)
        poll(.milliseconds(90))
        let wider = try now()
        #expect(wider.earliest == narrow.earliest)
        #expect(wider.latest > narrow.latest)
    }

    @Test("a source that asks to be polled may claim no negative uncertainty, and readings come in order")
    func preconditions() async {
        await #expect(processExitsWith: .failure) {
            var clock = BoundedClock()
            clock.pollReceived(
                .success(.nanoseconds(-1)), at: ClockReading(wallNanoseconds: 0, monotonicNanoseconds: 0))
        }
        await #expect(processExitsWith: .failure) {
            var clock = BoundedClock()
            clock.pollReceived(.success(.zero), at: ClockReading(wallNanoseconds: 9, monotonicNanoseconds: 9))
            _ = try clock.now(ClockReading(wallNanoseconds: 9, monotonicNanoseconds: 8))
        }
    }
}
