import TransactionCore

/// Waiting until a commit timestamp has certainly passed (R2; Spanner, OSDI 2012, §4.1.2).
///
/// The owner asks ``progress(at:)``, sleeps as long as it is told, and asks again with a new interval.
public struct CommitWait: Hashable, Sendable {
    /// The timestamp that must have passed.
    public let timestamp: Timestamp

    /// Starts to wait for `timestamp`.
    public init(until timestamp: Timestamp) {
        self.timestamp = timestamp
    }

    /// Whether the wait is over.
    public enum Progress: Hashable, Sendable {
        /// It lasts at least this long still.
        case waiting(Duration)
        /// It is over.
        case passed(PassedTimestamp)
    }

    /// How the wait stands at `now`.
    public func progress(at now: TimestampInterval) -> Progress {
        guard now.isAfter(timestamp) else {
            return .waiting(.nanoseconds(timestamp.nanoseconds(since: now.earliest) + 1))
        }
        return .passed(PassedTimestamp(timestamp))
    }
}

/// A timestamp that has certainly passed, so that what was written at it may become visible. Only ``CommitWait`` makes
/// one.
public struct PassedTimestamp: Hashable, Sendable {
    /// The timestamp.
    public let timestamp: Timestamp

    init(_ timestamp: Timestamp) {
        self.timestamp = timestamp
    }
}
