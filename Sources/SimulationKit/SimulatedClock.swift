import BoundedTime
import TransactionCore

/// What is wrong with a machine's wall clock, and what its source claims of it.
public struct ClockFault: Hashable, Sendable {
    /// How far the wall clock is ahead of the true time when the machine starts, in nanoseconds.
    public var offsetNanoseconds: Int64
    /// How much faster than the true time it runs, in millionths; within 200 for a clock within Spanner's bound.
    public var driftPartsPerMillion: Int64
    /// What the source says the error is at most, in nanoseconds; nil for an honest source.
    public var claimedUncertaintyNanoseconds: Int64?

    public init(
        offsetNanoseconds: Int64, driftPartsPerMillion: Int64 = 0, claimedUncertaintyNanoseconds: Int64? = nil
    ) {
        self.offsetNanoseconds = offsetNanoseconds
        self.driftPartsPerMillion = driftPartsPerMillion
        self.claimedUncertaintyNanoseconds = claimedUncertaintyNanoseconds
    }
}

/// A machine's clock: the true time and what is wrong with it, read through the real ``BoundedClock``.
final class SimulatedClock {
    private let scheduler: Scheduler
    private let started: Timestamp
    private var fault: ClockFault
    /// By how much the wall clock was set since the start.
    private var steps: Nanoseconds = 0
    /// An honest source claims the error at hand and this much more.
    private let margin: Nanoseconds
    private var clock = BoundedClock()

    init(scheduler: Scheduler, fault: ClockFault, margin: Nanoseconds) {
        self.scheduler = scheduler
        self.started = scheduler.now
        self.fault = fault
        self.margin = margin
    }

    /// How far the wall clock is ahead of the true time.
    var errorNanoseconds: Nanoseconds {
        let elapsed = scheduler.now.nanoseconds(since: started)
        return fault.offsetNanoseconds + steps + elapsed / 1_000 * fault.driftPartsPerMillion / 1_000
    }

    /// Somebody sets the wall clock ahead by this much, or back when it is negative.
    func step(by nanoseconds: Nanoseconds) {
        steps += nanoseconds
    }

    /// `TT.now()`.
    func now() throws(ClockError) -> TimestampInterval {
        let wall = scheduler.now.rawValue + errorNanoseconds
        let reading = ClockReading(
            wallNanoseconds: wall, monotonicNanoseconds: wall - steps - Scheduler.epoch.rawValue)
        if clock.isPollDue(at: reading) {
            let claim = fault.claimedUncertaintyNanoseconds ?? abs(errorNanoseconds) + margin
            clock.pollReceived(.success(.nanoseconds(claim)), at: reading)
        }
        return try clock.now(reading)
    }

    /// Throws when `newestTimestamp` on `shard` can't have passed yet.
    func check(newestTimestamp: Timestamp, on shard: ShardID) throws(ClockError) {
        try ReadClock(interval: now()).check(newestTimestamp: newestTimestamp, on: shard)
    }

    private struct ReadClock: IntervalClock {
        let interval: TimestampInterval
        func now() -> TimestampInterval { interval }
    }
}
