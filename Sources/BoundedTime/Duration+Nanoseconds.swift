extension Duration {
    /// The duration in whole nanoseconds, rounded towards zero. Durations of up to 292 years fit.
    package var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        return seconds * 1_000_000_000 + attoseconds / 1_000_000_000
    }

    /// Reads a whole number with a unit (`ns`, `us`, `ms`, `s`, `min`, `h`), as in `250us`; nil for anything else.
    package init?(text: String) {
        let digits = text.prefix { $0.isASCII && $0.isNumber }
        let unitNanoseconds: Int64
        switch text.dropFirst(digits.count) {
        case "ns": unitNanoseconds = 1
        case "us": unitNanoseconds = 1_000
        case "ms": unitNanoseconds = 1_000_000
        case "s": unitNanoseconds = 1_000_000_000
        case "min": unitNanoseconds = 60_000_000_000
        case "h": unitNanoseconds = 3_600_000_000_000
        default: return nil
        }
        guard let count = Int64(digits) else { return nil }
        let (nanoseconds, overflow) = count.multipliedReportingOverflow(by: unitNanoseconds)
        guard !overflow else { return nil }
        self = .nanoseconds(nanoseconds)
    }
}
