import ArgumentParser

/// A length of time as people write it: `500us`, `1ms`, `2.5s`, `1h`; 0 needs no unit.
struct DurationArgument: ExpressibleByArgument, Hashable, Sendable, CustomStringConvertible {
    /// What every message that refuses one says.
    static let explanation = "a duration is a number and its unit, one of ns, us, ms, s, min, h and d: 1ms, 2.5s, 1h"

    private static let units: [(name: String, nanoseconds: Double)] = [
        ("d", 86_400e9), ("h", 3_600e9), ("min", 60e9), ("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1),
    ]

    /// The duration, to the nanosecond.
    let duration: Duration

    init(_ duration: Duration) {
        self.duration = duration
    }

    /// Returns nil when `argument` is not a duration that is written so, is negative, or is longer than 1000 years.
    init?(argument: String) {
        let number = argument.prefix { $0.isASCII && ($0.isNumber || $0 == ".") }
        let unit = argument[number.endIndex...]
        guard let count = Double(number) else { return nil }
        if unit.isEmpty, count == 0 {
            duration = .zero
            return
        }
        guard let nanoseconds = Self.units.first(where: { $0.name == unit })?.nanoseconds,
            count * nanoseconds <= 1000 * 365 * 86_400e9
        else { return nil }
        duration = .nanoseconds(Int64((count * nanoseconds).rounded()))
    }

    /// The same duration in the largest unit that needs no fraction.
    var description: String {
        let (seconds, attoseconds) = duration.components
        let nanoseconds = seconds * 1_000_000_000 + attoseconds / 1_000_000_000
        if nanoseconds == 0 { return "0" }
        let unit = Self.units.first { nanoseconds.isMultiple(of: Int64($0.nanoseconds)) }
        return unit.map { "\(nanoseconds / Int64($0.nanoseconds))\($0.name)" } ?? "\(nanoseconds)ns"
    }
}
