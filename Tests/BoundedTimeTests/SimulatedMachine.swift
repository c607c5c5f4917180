import BoundedTime
import TransactionCore

/// A machine whose clocks go wrong on demand, in nanoseconds of true time.
struct SimulatedMachine {
    var trueNanoseconds: Int64 = 1_700_000_000_000_000_000
    /// How far ahead of the true time the wall clock is.
    var offsetNanoseconds: Int64 = 0
    /// How much the clocks gain, in microseconds per second that they show.
    var driftPartsPerMillion: Int64 = 0
    private var monotonicNanoseconds: Int64 = 5_000_000_000

    /// Both clocks go on by `duration`, and the true time by as much but for the drift.
    mutating func advance(by duration: Duration) {
        let drift = duration.nanoseconds / 1_000_000 * driftPartsPerMillion
        trueNanoseconds += duration.nanoseconds - drift
        monotonicNanoseconds += duration.nanoseconds
        offsetNanoseconds += drift
    }

    /// Somebody sets the wall clock.
    mutating func step(by duration: Duration) {
        offsetNanoseconds += duration.nanoseconds
    }

    var reading: ClockReading {
        ClockReading(
            wallNanoseconds: trueNanoseconds + offsetNanoseconds, monotonicNanoseconds: monotonicNanoseconds)
    }

    var present: Timestamp { Timestamp(rawValue: trueNanoseconds) }
}

extension TimestampInterval {
    func contains(_ timestamp: Timestamp) -> Bool { earliest <= timestamp && timestamp <= latest }
}

/// An interval clock that always says the same.
struct SimulatedIntervalClock: IntervalClock {
    var result: Result<TimestampInterval, ClockError>

    func now() throws(ClockError) -> TimestampInterval { try result.get() }
}

func makeInterval(_ earliest: Int64, _ latest: Int64) -> TimestampInterval {
    TimestampInterval(earliest: Timestamp(rawValue: earliest), latest: Timestamp(rawValue: latest))
}
