import BoundedTime

/// Who vouches for the machine's wall clock.
public enum ClockSource: Hashable, Sendable {
    /// The machine's own clock is the time, because every process of the cluster reads it. `uncertainty` is fixed.
    case host(uncertainty: Duration)
    /// The kernel's `adjtimex` knows how wrong the clock may be, because a time daemon keeps telling it. At least
    /// `uncertaintyMin` is claimed.
    case kernel(uncertaintyMin: Duration)

    /// 1 ms: what it costs in commit-wait is hidden by the flush that a commit waits for anyway.
    public static let uncertaintyDefault = Duration.milliseconds(1)

    /// 10 s: a commit that waits longer would be taken for hung.
    public static let uncertaintyMax = Duration.seconds(10)

    /// The source that a configuration names, `host` or `kernel`, with an uncertainty of 0 to ``uncertaintyMax``.
    public init(name: String, uncertainty: Duration = uncertaintyDefault) throws(ClockSourceError) {
        guard (.zero...Self.uncertaintyMax).contains(uncertainty) else { throw .uncertaintyOutOfRange(uncertainty) }
        switch name {
        case "host": self = .host(uncertainty: uncertainty)
        case "kernel": self = .kernel(uncertaintyMin: uncertainty)
        default: throw .unknownName(name)
        }
    }
}

/// Why a configured clock source is refused.
public enum ClockSourceError: Error, Hashable, Sendable, CustomStringConvertible {
    /// There is no source of that name.
    case unknownName(String)
    /// The uncertainty is negative or above ``ClockSource/uncertaintyMax``.
    case uncertaintyOutOfRange(Duration)

    public var description: String {
        switch self {
        case .unknownName(let name):
            "unknown clock source \"\(name)\"\nHINT:  use \"host\" or \"kernel\""
        case .uncertaintyOutOfRange(let uncertainty):
            "a clock uncertainty of \(uncertainty) is out of range\n"
                + "HINT:  choose from 0 to \(ClockSource.uncertaintyMax)"
        }
    }
}
