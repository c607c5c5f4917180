import BoundedTime
import Testing

@Suite struct SourceAgreementTests {
    @Test("without sources there is no agreement; a single one is believed")
    func fewest() {
        #expect(SourceAgreement(of: []) == nil)
        #expect(SourceAgreement(of: [3...5])?.offsetNanoseconds == 3...5)
    }

    @Test("two sources agree on what they share, be it one point, and on nothing when they contradict each other")
    func two() {
        #expect(SourceAgreement(of: [0...10, 5...20])?.offsetNanoseconds == 5...10)
        #expect(SourceAgreement(of: [0...10, 10...20])?.offsetNanoseconds == 10...10)
        #expect(SourceAgreement(of: [0...10, 11...20]) == nil)
    }

    @Test("one outlier among three is rejected and named")
    func outlier() {
        let agreement = SourceAgreement(of: [8...12, 1_000...1_001, 10...14])
        #expect(agreement?.offsetNanoseconds == 10...12)
        #expect(agreement?.outliers == [1])
    }

    @Test("a faulty source that overlaps sound ones does not cut the truth off")
    func overlappingLiar() {
        // The truth may be 12, which the first two share; what all three share ends at 9.
        let agreement = SourceAgreement(of: [8...12, 6...14, 0...9])
        #expect(agreement?.offsetNanoseconds == 6...12)
        #expect(agreement?.outliers == [])
    }

    @Test("half against half is no agreement")
    func split() {
        #expect(SourceAgreement(of: [0...1, 0...1, 5...6, 5...6]) == nil)
        #expect(SourceAgreement(of: [0...1, 3...4, 6...7]) == nil)
    }

    @Test("while fewer than half are faulty the truth is within, whatever those say", arguments: UInt64(1)...200)
    func containsTruth(seed: UInt64) throws {
        var generator = SplitMix(state: seed)
        let count = Int.random(in: 1...9, using: &generator)
        let truth = Int64.random(in: -100...100, using: &generator)
        let sources = (0..<count).map { index in
            if index < (count - 1) / 2 {
                let start = Int64.random(in: -150...150, using: &generator)
                return start...(start + Int64.random(in: 0...100, using: &generator))
            }
            let below = Int64.random(in: 0...50, using: &generator)
            return (truth - below)...(truth + Int64.random(in: 0...50, using: &generator))
        }
        let agreement = try #require(SourceAgreement(of: sources.shuffled(using: &generator)))
        #expect(agreement.offsetNanoseconds.contains(truth))
    }
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
private struct SplitMix: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
