extension Duration {
    /// The duration in whole nanoseconds, rounded towards zero. Durations of up to 292 years fit.
    package var nanoseconds: Int64 {
        let (seconds, attoseconds) = components
        return seconds * 1_000_000_000 + attoseconds / 1_000_000_000
    }
}
