/// What a bounded clock knows of the present: it lies between ``earliest`` and ``latest`` (Spanner, OSDI 2012, §3).
public struct TimestampInterval: Hashable, Sendable {
    /// No moment before this one is the present.
    public let earliest: Timestamp
    /// No moment after this one is the present.
    public let latest: Timestamp

    /// Makes an interval; `earliest` must not be after `latest`.
    public init(earliest: Timestamp, latest: Timestamp) {
        precondition(earliest <= latest, "an interval ends before it begins: \(earliest) > \(latest)")
        self.earliest = earliest
        self.latest = latest
    }

    /// Half the interval's width, in nanoseconds: Spanner's epsilon.
    public var uncertaintyNanoseconds: Int64 { latest.nanoseconds(since: earliest) / 2 }

    /// `TT.after(t)`: `timestamp` has certainly passed.
    public func isAfter(_ timestamp: Timestamp) -> Bool { earliest > timestamp }

    /// `TT.before(t)`: `timestamp` has certainly not arrived.
    public func isBefore(_ timestamp: Timestamp) -> Bool { latest < timestamp }
}
