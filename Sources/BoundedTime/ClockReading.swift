/// What two clocks of one machine showed at one moment.
///
/// The monotonic clock must run at the wall clock's rate and differ from it by a constant, so that the difference
/// changes only when somebody sets the wall clock. Read the monotonic clock first: a delay between the two reads then
/// looks like a step forward, which costs a poll, and never like a step back, which would refuse timestamps.
public struct ClockReading: Hashable, Sendable {
    /// The wall clock: nanoseconds since the Unix epoch.
    public var wallNanoseconds: Int64
    /// The monotonic clock: nanoseconds since a moment that stays the same while the process lives.
    public var monotonicNanoseconds: Int64

    /// Makes a reading of what both clocks showed.
    public init(wallNanoseconds: Int64, monotonicNanoseconds: Int64) {
        self.wallNanoseconds = wallNanoseconds
        self.monotonicNanoseconds = monotonicNanoseconds
    }
}

/// What a clock source answers when it is asked how wrong the wall clock may be: at most so much, or why it can't tell.
public typealias ClockPoll = Result<Duration, ClockError>
