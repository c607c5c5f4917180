import BoundedTime
import CLinux
import Testing
import TransactionCore

@testable import SystemClock

@Suite struct SystemBoundedClockTests {
    @Test("the host's clock gives an interval as wide as its uncertainty, and it moves on")
    func host() throws {
        let clock = SystemBoundedClock(source: .host(uncertainty: .milliseconds(1)))
        var last = try clock.now()
        #expect(last.uncertaintyNanoseconds >= 1_000_000)
        for _ in 0..<10_000 {
            let next = try clock.now()
            #expect(next.earliest >= last.earliest && next.latest >= last.latest)
            last = next
        }
        #expect(last.earliest.rawValue > 1_700_000_000_000_000_000)
    }

    @Test("with an uncertainty of zero the host's clock still gives the time, from several threads at once")
    func concurrent() async throws {
        let clock = SystemBoundedClock(source: .host(uncertainty: .zero))
        try await withThrowingTaskGroup { group in
            for _ in 0..<4 {
                group.addTask {
                    for _ in 0..<20_000 {
                        let s = try clock.now().latest
                        #expect(try clock.now().latest >= s)
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    @Test("the kernel's clock gives the time exactly when the kernel calls it synchronised")
    func kernel() {
        let clock = SystemBoundedClock(source: .kernel(uncertaintyMin: .milliseconds(1)))
        switch (KernelClock.poll(uncertaintyMin: .zero), Result { () throws(ClockError) in try clock.now() }) {
        case (.success, .success(let interval)):
            #expect(interval.uncertaintyNanoseconds >= 1_000_000)
        case (.failure(let polled), .failure(let refused)):
            #expect("\(polled)".prefix(40) == "\(refused)".prefix(40))
        case (let polled, let given):
            Issue.record("\(polled), but \(given)")
        }
    }

    @Test("the two clocks of a close reading differ by the same amount every time")
    func closeReadings() {
        let differences = (0..<1_000).map { _ in
            let reading = KernelClock.readClosely()
            return reading.wallNanoseconds - reading.monotonicNanoseconds
        }.sorted()
        // The middle half: a reading may be preempted eight times out of eight on a busy machine.
        #expect(differences[750] - differences[250] < BoundedClock.readingToleranceNanoseconds)
    }
}

@Suite struct KernelClockTests {
    private func poll(_ change: (inout timex) -> Void, min: Duration = .zero) -> ClockPoll {
        var state = timex()
        state.maxerror = 3_000
        change(&state)
        return KernelClock.poll(of: state, isSynchronised: true, uncertaintyMin: min)
    }

    @Test("the uncertainty is the kernel's maximum error, what it has still to slew, and a second of drift")
    func uncertainty() {
        #expect(poll { _ in } == .success(.microseconds(3_200)))
        #expect(poll { $0.offset = -40 } == .success(.microseconds(3_240)))
        #expect(
            poll {
                $0.offset = 5_000
                $0.status = STA_NANO
            } == .success(.microseconds(3_205)))
        #expect(poll({ _ in }, min: .milliseconds(50)) == .success(.microseconds(50_200)))
    }

    @Test("an unsynchronised or faulty kernel clock is refused with what to do", arguments: [STA_UNSYNC, STA_CLOCKERR])
    func unsynchronised(status: Int32) throws {
        guard case .failure(.unsynchronised(let detail, let hint)) = poll({ $0.status = status | STA_PLL }) else {
            Issue.record("status \(status) was accepted")
            return
        }
        #expect(detail.contains("\(status | STA_PLL)") && hint.contains("chronyd"))
        guard case .failure = KernelClock.poll(of: timex(), isSynchronised: false, uncertaintyMin: .zero) else {
            Issue.record("TIME_ERROR was accepted")
            return
        }
    }

    @Test("a kernel clock that may be wrong by more than ten seconds is refused")
    func tooUncertain() {
        guard case .failure(.unsynchronised) = poll({ $0.maxerror = 10_000_000 }) else {
            Issue.record("10 s and drift were accepted")
            return
        }
    }
}

@Suite struct ClockSourceTests {
    @Test("a source is read by its name, with an uncertainty from nothing to ten seconds")
    func named() throws {
        #expect(try ClockSource(name: "host") == .host(uncertainty: .milliseconds(1)))
        #expect(try ClockSource(name: "host", uncertainty: .zero) == .host(uncertainty: .zero))
        #expect(try ClockSource(name: "kernel", uncertainty: .seconds(10)) == .kernel(uncertaintyMin: .seconds(10)))
    }

    @Test("another name or uncertainty is refused with what to choose")
    func refused() {
        #expect(throws: ClockSourceError.unknownName("Host")) { try ClockSource(name: "Host") }
        for uncertainty in [Duration.nanoseconds(-1), .seconds(10) + .nanoseconds(1)] {
            #expect(throws: ClockSourceError.uncertaintyOutOfRange(uncertainty)) {
                try ClockSource(name: "kernel", uncertainty: uncertainty)
            }
        }
        #expect("\(ClockSourceError.unknownName("ntp"))".contains("HINT:"))
        #expect("\(ClockSourceError.uncertaintyOutOfRange(.seconds(11)))".contains("from 0 to 10.0 seconds"))
    }
}
