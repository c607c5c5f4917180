import BoundedTime
import Synchronization
import TransactionCore

/// The machine's clock as an interval clock. One per process, used from any thread.
///
/// The source is asked from within ``now()``, when its last answer is a second old or the wall clock was set: no task
/// runs in the background, and a clock that becomes trustworthy again is used at once.
public final class SystemBoundedClock: IntervalClock {
    private let source: ClockSource
    private let clock: Mutex<BoundedClock>

    /// Makes a clock that asks `source` when the time is first wanted.
    public init(source: ClockSource) {
        self.source = source
        switch source {
        // The wall clock is the time by definition: it can't drift from itself, and no answer grows old.
        case .host: clock = Mutex(BoundedClock(driftPartsPerMillion: 0, pollInterval: nil))
        case .kernel: clock = Mutex(BoundedClock())
        }
    }

    /// The interval that the present lies in; about 90 ns, and a microsecond or two more when the source is asked.
    public func now() throws(ClockError) -> TimestampInterval {
        // The clocks are read under the lock, so that readings arrive in the order in which they were taken.
        try clock.withLock { clock throws(ClockError) in
            let reading = KernelClock.read()
            guard clock.isPollDue(at: reading) else { return try clock.now(reading) }
            let reference = KernelClock.readClosely()
            clock.pollReceived(poll(), at: reference)
            return try clock.now(reference)
        }
    }

    private func poll() -> ClockPoll {
        switch source {
        case .host(let uncertainty): .success(uncertainty)
        case .kernel(let uncertaintyMin): KernelClock.poll(uncertaintyMin: uncertaintyMin)
        }
    }
}
