import TransactionCore

/// Turns readings of a machine's clock into intervals that contain the true time, or refuses to.
///
/// This is Spanner's TrueTime (OSDI 2012, §3) for one machine. A source says now and then how wrong the wall clock may
/// be; between polls that uncertainty grows by a drift bound. The owner reads the clocks, asks the source whenever
/// ``isPollDue(at:)``, and must hand readings in the order in which they were taken.
///
/// **Steps.** The monotonic clock tells what the wall clock would show had nobody set it. By as much as the two
/// disagree the interval is wider, so it holds the truth on either one's word. Disagreement beyond the uncertainty is a
/// step, and the last poll is void, because it spoke of a clock that is no more. After a step *forward* a new poll is
/// enough: whatever was given before lies before whatever is given after. After a step *back* nothing is given before
/// the wall clock shows again what it would have shown without the step, even when the source vouches for it sooner:
/// a process that has not looked since before the step may have given timestamps up to there.
public struct BoundedClock: Sendable {
    /// Spanner's bound on the drift of a machine's clock, in microseconds per second that it shows (OSDI 2012, §3).
    public static let spannerDriftPartsPerMillion: Int64 = 200

    /// After so many missed polls the last one no longer counts: Spanner polls every 30 s, we every second.
    public static let missedPollsMax: Int64 = 30

    /// By how much wall and monotonic clock may seem to disagree only because they are not read in one instant; such a
    /// step, were it one, is shorter than the way of a message from one process to another.
    public static let readingToleranceNanoseconds: Int64 = 10_000

    private let driftPartsPerMillion: Int64
    private let pollIntervalNanoseconds: Int64?
    /// The last poll that vouched for the wall clock on its present course: none before the first, none after a step.
    private var reference: Reference?
    /// What the source said instead of vouching for the clock, if that is the last it said.
    private var refusal: ClockError?
    /// What the wall clock must show before timestamps are given again after a step back.
    private var regainedAtNanoseconds = Int64.min
    private var lastGiven: TimestampInterval?

    /// Makes a clock that gives nothing before its first poll.
    ///
    /// `pollInterval` is how long a poll holds before another is due; nil for a source that needs asking only once and
    /// again after a step. A poll ``missedPollsMax`` times that old is no longer believed.
    public init(
        driftPartsPerMillion: Int64 = spannerDriftPartsPerMillion, pollInterval: Duration? = .seconds(1)
    ) {
        precondition(driftPartsPerMillion >= 0, "a drift bound is not negative: \(driftPartsPerMillion)")
        self.driftPartsPerMillion = driftPartsPerMillion
        self.pollIntervalNanoseconds = pollInterval?.nanoseconds
    }

    /// The source should be asked before a timestamp is wanted at `reading`.
    public func isPollDue(at reading: ClockReading) -> Bool {
        guard refusal == nil, let reference, !hasStepped(from: reference, at: reading) else { return true }
        guard let pollIntervalNanoseconds else { return false }
        return reference.elapsedNanoseconds(at: reading) >= pollIntervalNanoseconds
    }

    /// The source has answered; `reading` was taken just before it was asked, so that a step made meanwhile is noticed.
    public mutating func pollReceived(_ poll: ClockPoll, at reading: ClockReading) {
        noticeStep(at: reading)
        switch poll {
        case .success(let uncertainty):
            let nanoseconds = uncertainty.nanoseconds
            precondition(nanoseconds >= 0, "an uncertainty is not negative: \(uncertainty)")
            reference = Reference(reading: reading, uncertaintyNanoseconds: nanoseconds)
            refusal = nil
        case .failure(let error):
            // The reference stays: a step made while the source is silent must not go unnoticed.
            refusal = error
        }
    }

    /// `TT.now()`: the interval that the present lies in. Neither end is ever smaller than one given before.
    ///
    /// Throws when the source does not vouch for the clock, has not been asked for too long, or the clock stepped back.
    public mutating func now(_ reading: ClockReading) throws(ClockError) -> TimestampInterval {
        noticeStep(at: reading)
        guard reading.wallNanoseconds >= regainedAtNanoseconds else {
            throw .steppedBack(by: .nanoseconds(regainedAtNanoseconds - reading.wallNanoseconds))
        }
        if let refusal { throw refusal }
        guard let reference else { throw .unpolled }
        try checkAge(of: reference, at: reading)

        let uncertainty =
            uncertaintyNanoseconds(since: reference, at: reading)
            + abs(reference.shiftNanoseconds(at: reading))
        var interval = TimestampInterval(
            earliest: Timestamp(rawValue: reading.wallNanoseconds - uncertainty),
            latest: Timestamp(rawValue: reading.wallNanoseconds + uncertainty))
        if let lastGiven {
            interval = TimestampInterval(
                earliest: max(interval.earliest, lastGiven.earliest), latest: max(interval.latest, lastGiven.latest))
        }
        lastGiven = interval
        return interval
    }

    private func checkAge(of reference: Reference, at reading: ClockReading) throws(ClockError) {
        guard let pollIntervalNanoseconds else { return }
        let age = reference.elapsedNanoseconds(at: reading)
        let limit = pollIntervalNanoseconds * Self.missedPollsMax
        guard age <= limit else { throw .pollTooOld(age: .nanoseconds(age), limit: .nanoseconds(limit)) }
    }

    private mutating func noticeStep(at reading: ClockReading) {
        guard let reference, hasStepped(from: reference, at: reading) else { return }
        let shift = reference.shiftNanoseconds(at: reading)
        if shift < 0 {
            regainedAtNanoseconds = max(regainedAtNanoseconds, reading.wallNanoseconds - shift)
        }
        self.reference = nil
    }

    private func hasStepped(from reference: Reference, at reading: ClockReading) -> Bool {
        abs(reference.shiftNanoseconds(at: reading))
            > uncertaintyNanoseconds(since: reference, at: reading) + Self.readingToleranceNanoseconds
    }

    /// The uncertainty polled plus what drift can have added since, rounded up to the next millisecond of drift.
    private func uncertaintyNanoseconds(since reference: Reference, at reading: ClockReading) -> Int64 {
        let milliseconds = reference.elapsedNanoseconds(at: reading) / 1_000_000 + 1
        return reference.uncertaintyNanoseconds + milliseconds * driftPartsPerMillion
    }
}

/// A poll, and what the clocks showed when it was made.
private struct Reference {
    var reading: ClockReading
    var uncertaintyNanoseconds: Int64

    func elapsedNanoseconds(at later: ClockReading) -> Int64 {
        let elapsed = later.monotonicNanoseconds - reading.monotonicNanoseconds
        precondition(elapsed >= 0, "readings out of order: \(later) after \(reading)")
        return elapsed
    }

    /// By how much the wall clock is ahead of (or, negative, behind) what it would show had nobody set it.
    func shiftNanoseconds(at later: ClockReading) -> Int64 {
        later.wallNanoseconds - reading.wallNanoseconds - elapsedNanoseconds(at: later)
    }
}
