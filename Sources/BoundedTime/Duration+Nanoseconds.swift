extension Duration {
    /// The duration in whole nanoseconds, rounded towards zero. What is longer than 292 years counts as 292 years,
    /// since clients may ask for any staleness.
    package var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        let longest = Int64.max / 1_000_000_000 - 1
        return min(max(seconds, -longest), longest) * 1_000_000_000 + attoseconds / 1_000_000_000
    }
}
