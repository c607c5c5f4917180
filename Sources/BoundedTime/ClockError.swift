import TransactionCore

/// Why a clock gives no timestamp. Nothing is read at a timestamp or committed until it does again.
public enum ClockError: Error, Hashable, Sendable {
    /// The clock's source has not been asked since the start or since the wall clock was set.
    case unpolled
    /// The clock's source does not vouch for it: why, and what to do.
    case unsynchronised(detail: String, hint: String)
    /// The last answer of the clock's source is `age` old, and no longer believed after `limit`.
    case pollTooOld(age: Duration, limit: Duration)
    /// The wall clock was set back, and still lacks this much to where it would be.
    case steppedBack(by: Duration)
    /// The newest timestamp on a shard lies beyond all that this clock takes for the present, by this much.
    case behind(newestTimestamp: Timestamp, shard: ShardID, by: Duration)
}

extension ClockError {
    /// The error that a transaction or read ends with when it needed the time; nothing of it was committed.
    public var transactionError: TransactionError {
        switch self {
        case .unpolled:
            TransactionError(
                .clockNotTrusted, "the clock has no known uncertainty",
                detail: "its source has not been asked since the start or since the clock was set",
                hint: "try again")
        case .unsynchronised(let detail, let hint):
            TransactionError(.clockNotTrusted, "the clock is not synchronised", detail: detail, hint: hint)
        case .pollTooOld(let age, let limit):
            TransactionError(
                .clockNotTrusted, "the clock's source has not answered for too long",
                detail: "the last answer is \(age) old, the limit is \(limit)",
                hint: "see why the clock source can't be asked")
        case .steppedBack(let shortfall):
            TransactionError(
                .clockNotTrusted, "the clock was set back",
                detail: "it is \(shortfall) behind where it would be",
                hint: "wait until it has caught up, or set it right; "
                    + "have it slewed, not set, while Meridian runs (chrony: no makestep after the start)")
        case .behind(let newestTimestamp, let shard, let shortfall):
            TransactionError(
                .clockNotTrusted, "the clock is behind the newest timestamp on shard \(shard)",
                detail: "timestamp \(newestTimestamp) is \(shortfall) later than the latest that it can be now",
                hint: "see which machine's clock is wrong; if this one's, set it right", shard: shard)
        }
    }
}

extension ClockError: CustomStringConvertible {
    public var description: String { transactionError.description }
}
