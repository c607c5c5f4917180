/// What several clock sources agree on although some may be faulty: Marzullo's algorithm (Marzullo and Owicki,
/// "Maintaining the Time in a Distributed System", PODC 1983).
///
/// Each source says by how much the wall clock may be off, as a range that contains the true offset unless the source
/// is faulty. Of `n` sources fewer than half may be: the result spans every offset that at least `n - f` could mean,
/// `f = (n - 1) / 2`, and thus contains the true one. The better known variant, the offsets that *most* sources share,
/// is narrower, and wrong as soon as a faulty source overlaps the sound ones to one side of the truth.
public struct SourceAgreement: Hashable, Sendable {
    /// Where the true offset lies, in nanoseconds.
    public let offsetNanoseconds: ClosedRange<Int64>
    /// The sources, by index, that share nothing with the range: faulty, if fewer than half are.
    public let outliers: [Int]

    /// Returns nil when no offset is shared by so many sources that fewer than half are faulty.
    public init?(of sources: [ClosedRange<Int64>]) {
        let quorum = sources.count - (sources.count - 1) / 2
        let opening = sources.map { (offset: $0.lowerBound, opens: true) }
        let closing = sources.map { (offset: $0.upperBound, opens: false) }
        // Ranges that only touch share that point, so one opens before the other closes.
        let ends = (opening + closing).sorted { $0.offset == $1.offset ? $0.opens && !$1.opens : $0.offset < $1.offset }
        var shared = 0
        var lower: Int64?
        var upper: Int64?
        for end in ends {
            if end.opens {
                shared += 1
                if shared == quorum, lower == nil { lower = end.offset }
            } else {
                if shared == quorum { upper = end.offset }
                shared -= 1
            }
        }
        guard let lower, let upper else { return nil }
        offsetNanoseconds = lower...upper
        outliers = sources.indices.filter { !sources[$0].overlaps(lower...upper) }
    }
}
