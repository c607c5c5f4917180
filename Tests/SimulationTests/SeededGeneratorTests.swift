import Testing

@testable import SimulationKit

@Suite struct SeededGeneratorTests {
    @Test("a seed gives SplitMix64's sequence")
    func reference() {
        var generator = SeededGenerator(seed: 1_234_567)
        let expected: [UInt64] = [
            6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423,
            4_593_380_528_125_082_431, 16_408_922_859_458_223_821,
        ]
        #expect(expected.map { _ in generator.next() } == expected)
    }

    @Test("numbers stay in their range and reach its ends")
    func ranges() {
        var generator = SeededGenerator(seed: 1)
        let numbers = (0..<1000).map { _ in generator.number(in: -2...2) }
        #expect(Set(numbers) == [-2, -1, 0, 1, 2])
        let delays = (0..<1000).map { _ in generator.delay(in: 10...1000) }
        #expect(delays.allSatisfy { (10...1000).contains($0) })
        #expect(delays.count { $0 < 505 } > 700, "most delays are short")
        let chances = [0, 0.1, 1].map { probability in (0..<1000).count { _ in generator.chance(probability) } }
        #expect(chances[0] == 0 && (50..<200).contains(chances[1]) && chances[2] == 1000, "\(chances)")
    }
}
