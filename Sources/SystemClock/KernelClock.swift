import BoundedTime
import CLinux
import Glibc

/// Linux's clocks, as ``BoundedClock`` wants them.
///
/// The monotonic clock is `CLOCK_BOOTTIME`: the kernel keeps its difference to `CLOCK_REALTIME` constant to the
/// nanosecond through slews and through suspend, until somebody sets the wall clock. `CLOCK_MONOTONIC` stands still
/// while the machine is suspended and `CLOCK_MONOTONIC_RAW` is not slewed, so either would show steps that are none.
enum KernelClock {
    /// Both clocks, in about 50 ns: neither read enters the kernel.
    static func read() -> ClockReading {
        let monotonic = nanoseconds(of: CLOCK_BOOTTIME)
        return ClockReading(wallNanoseconds: nanoseconds(of: CLOCK_REALTIME), monotonicNanoseconds: monotonic)
    }

    /// Both clocks, the reads closer together: of several readings the one in which least time passed between the two.
    ///
    /// A preempted reading would make every later one look like a step back, were it the one that those are held to.
    static func readClosely() -> ClockReading {
        let readings = (0..<8).map { _ in read() }
        return readings.min { $0.differenceNanoseconds < $1.differenceNanoseconds } ?? read()
    }

    /// What the kernel knows of the wall clock's error, by `adjtimex`.
    static func poll(uncertaintyMin: Duration) -> ClockPoll {
        var state = timex()
        let result = adjtimex(&state)
        guard result >= 0 else {
            let reason = String(cString: strerror(errno))
            return .failure(
                .unsynchronised(
                    detail: "adjtimex failed: \(reason)", hint: "let the process call adjtimex, which only reads here"))
        }
        return poll(of: state, isSynchronised: result != TIME_ERROR, uncertaintyMin: uncertaintyMin)
    }

    static func poll(of state: timex, isSynchronised: Bool, uncertaintyMin: Duration) -> ClockPoll {
        guard isSynchronised, state.status & (STA_UNSYNC | STA_CLOCKERR) == 0 else {
            return .failure(
                .unsynchronised(
                    detail: "the kernel's clock status is \(state.status), its maximum error \(state.maxerror) us",
                    hint: "start chronyd and wait until \"chronyc waitsync\" returns; "
                        + "where all nodes run on this one machine, use the clock source \"host\""))
        }
        // What the kernel has still to slew is error too. And the kernel lets maxerror grow once a second only, so it
        // may lack a second of drift.
        let slewing = Duration.nanoseconds(abs(state.offset) * (state.status & STA_NANO == 0 ? 1_000 : 1))
        let drift = Duration.microseconds(BoundedClock.spannerDriftPartsPerMillion)
        let uncertainty = max(uncertaintyMin, .microseconds(state.maxerror) + slewing) + drift
        guard uncertainty <= ClockSource.uncertaintyMax else {
            return .failure(
                .unsynchronised(
                    detail: "the clock may be wrong by \(uncertainty), the limit is \(ClockSource.uncertaintyMax)",
                    hint: "see whether the time daemon reaches its servers (chronyc sources)"))
        }
        return .success(uncertainty)
    }

    private static func nanoseconds(of clock: clockid_t) -> Int64 {
        var time = timespec()
        let result = clock_gettime(clock, &time)
        precondition(result == 0, "clock \(clock) can't be read: errno \(errno)")
        return Int64(time.tv_sec) * 1_000_000_000 + Int64(time.tv_nsec)
    }
}

extension ClockReading {
    fileprivate var differenceNanoseconds: Int64 { wallNanoseconds - monotonicNanoseconds }
}
