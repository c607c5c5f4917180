/// The simulation's only source of chance: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
///
/// The distributions are its own as well, so that a seed means the same run whatever the standard library does.
public struct SeededGenerator: RandomNumberGenerator, Hashable, Sendable {
    private var state: UInt64

    /// Makes the generator of `seed`; neighbouring seeds give unrelated sequences.
    public init(seed: UInt64) {
        state = seed
    }

    public mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }

    /// A generator of its own for one part of the simulation.
    mutating func split() -> SeededGenerator {
        SeededGenerator(seed: next())
    }

    /// A whole number in `range`, all equally likely.
    mutating func number(in range: ClosedRange<Int64>) -> Int64 {
        let width = UInt64(bitPattern: range.upperBound &- range.lowerBound) &+ 1
        return range.lowerBound &+ Int64(bitPattern: next().multipliedFullWidth(by: width).high)
    }

    /// A whole number in `0 ..< count`.
    mutating func index(below count: Int) -> Int {
        Int(number(in: 0...Int64(count - 1)))
    }

    /// `true` with this probability.
    mutating func chance(_ probability: Double) -> Bool {
        Double(next() >> 11) * 0x1p-53 < probability
    }

    /// One of `elements`, which must not be empty.
    mutating func element<Element>(of elements: [Element]) -> Element {
        elements[index(below: elements.count)]
    }

    /// A delay that is mostly in the lower part of `range` and now and then far up.
    mutating func delay(in range: ClosedRange<Int64>) -> Int64 {
        number(in: range.lowerBound...number(in: range))
    }
}
