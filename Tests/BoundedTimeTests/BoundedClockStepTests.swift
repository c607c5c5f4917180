import BoundedTime
import Testing
import TransactionCore

/// What ``BoundedClock`` does when somebody sets the wall clock.
@Suite struct BoundedClockStepTests {
    private var machine = SimulatedMachine()
    private var clock = BoundedClock(driftPartsPerMillion: 0, pollInterval: nil)

    private mutating func now() throws(ClockError) -> TimestampInterval { try clock.now(machine.reading) }

    /// As the owner does it.
    private mutating func pollIfDue(_ uncertainty: Duration = .milliseconds(1)) {
        guard clock.isPollDue(at: machine.reading) else { return }
        clock.pollReceived(.success(uncertainty), at: machine.reading)
    }

    @Test(
        "a step back within the uncertainty widens the interval and neither end goes back", arguments: [1, 500, 1_000])
    mutating func smallStepBack(microseconds: Int64) throws {
        pollIfDue()
        let before = try now()
        machine.step(by: .microseconds(-microseconds))
        #expect(!clock.isPollDue(at: machine.reading))
        let after = try now()
        #expect(after.earliest >= before.earliest)
        #expect(after.latest == before.latest)
        machine.advance(by: .seconds(1))
        #expect(try now().contains(machine.present))
        #expect(try now().uncertaintyNanoseconds == 1_000_000 + microseconds * 1_000)
    }

    @Test("small steps back add up: together above the uncertainty they are refused")
    mutating func stepsAddUp() throws {
        pollIfDue()
        machine.step(by: .microseconds(-600))
        #expect(throws: Never.self) { try now() }
        machine.step(by: .microseconds(-600))
        #expect(throws: ClockError.steppedBack(by: .microseconds(1_200))) { try now() }
    }

    @Test("after a step back nothing is given until the wall clock shows what it would have shown")
    mutating func stepBack() throws {
        pollIfDue()
        let before = try now()
        machine.advance(by: .seconds(1))
        machine.step(by: .seconds(-10))
        #expect(clock.isPollDue(at: machine.reading))
        // The source vouches for the clock at once; that alone does not do.
        pollIfDue()
        #expect(throws: ClockError.steppedBack(by: .seconds(10))) { try now() }
        machine.advance(by: .seconds(10) - .nanoseconds(1))
        #expect(throws: ClockError.steppedBack(by: .nanoseconds(1))) { try now() }
        machine.advance(by: .nanoseconds(1))
        pollIfDue()
        let after = try now()
        #expect(after.latest > before.latest)
        #expect(after.latest.rawValue == machine.reading.wallNanoseconds + 1_000_000)
    }

    @Test("a step back that happened while nobody looked is refused although no reading went back")
    mutating func stepBackUnseen() throws {
        pollIfDue()
        _ = try now()
        machine.advance(by: .seconds(60))
        machine.step(by: .seconds(-5))
        pollIfDue()
        #expect(throws: ClockError.steppedBack(by: .seconds(5))) { try now() }
    }

    @Test("setting the clock right again ends the refusal at once")
    mutating func stepBackUndone() throws {
        pollIfDue()
        machine.step(by: .seconds(-3_600))
        pollIfDue()
        machine.advance(by: .seconds(1))
        #expect(throws: ClockError.steppedBack(by: .seconds(3_599))) { try now() }
        machine.step(by: .seconds(3_600))
        pollIfDue()
        #expect(try now().contains(machine.present))
    }

    @Test("a second step back while the first is being made good counts from where the clock was")
    mutating func secondStepBack() throws {
        pollIfDue()
        machine.step(by: .seconds(-10))
        pollIfDue()
        #expect(throws: ClockError.steppedBack(by: .seconds(10))) { try now() }
        machine.advance(by: .seconds(4))
        machine.step(by: .seconds(-2))
        pollIfDue()
        #expect(throws: ClockError.steppedBack(by: .seconds(8))) { try now() }
        machine.advance(by: .seconds(8))
        #expect(throws: Never.self) { try now() }
    }

    @Test("a step back is noticed while the source is silent, and by the poll that ends its silence")
    mutating func stepBackWhileUnsynchronised() throws {
        pollIfDue()
        clock.pollReceived(.failure(.unsynchronised(detail: "", hint: "")), at: machine.reading)
        machine.advance(by: .seconds(1))
        machine.step(by: .seconds(-5))
        pollIfDue()
        #expect(throws: ClockError.steppedBack(by: .seconds(5))) { try now() }
    }

    @Test("a step forward voids the poll; once the source vouches again the clock goes on from there")
    mutating func stepForward() throws {
        pollIfDue()
        let before = try now()
        machine.step(by: .seconds(10))
        #expect(clock.isPollDue(at: machine.reading))
        #expect(throws: ClockError.unpolled) { try now() }
        pollIfDue()
        let after = try now()
        #expect(after.earliest > before.latest)
        #expect(after.contains(Timestamp(rawValue: machine.reading.wallNanoseconds)))
    }

    @Test("a delay between the reads of the two clocks looks like a step forward and costs a poll, no more")
    mutating func delayedReading() throws {
        pollIfDue()
        var delayed = machine.reading
        delayed.wallNanoseconds += 20_000_000
        #expect(clock.isPollDue(at: delayed))
        machine.advance(by: .milliseconds(20))
        pollIfDue()
        #expect(try now().contains(machine.present))
    }

    @Test(
        "two processes on one machine agree on the order of time across any step",
        arguments: [-10_000, -900, 0, 900, 10_000])
    mutating func twoProcesses(stepMicroseconds: Int64) throws {
        var other = clock
        pollIfDue()
        other.pollReceived(.success(.milliseconds(1)), at: machine.reading)
        // This process waits until `s` has passed; then somebody sets the clock; then the other process looks.
        let s = try now().latest
        machine.advance(by: .milliseconds(2) + .nanoseconds(1))
        #expect(try now().isAfter(s))
        machine.step(by: .microseconds(stepMicroseconds))
        if other.isPollDue(at: machine.reading) {
            other.pollReceived(.success(.milliseconds(1)), at: machine.reading)
        }
        let later = Result { () throws(ClockError) in try other.now(machine.reading) }
        switch later {
        case .success(let interval): #expect(interval.latest > s)
        case .failure(let error): #expect(error == .steppedBack(by: .microseconds(-stepMicroseconds)))
        }
    }
}
