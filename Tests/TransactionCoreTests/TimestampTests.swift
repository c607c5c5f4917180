import Testing
import TransactionCore

@Suite struct TimestampTests {
    private static let nodes: [UInt16] = [0, 1, 511, NodeID.maximum]

    @Test(
        "rounding up gives the node's smallest timestamp that is no smaller",
        arguments: [.min, -1_025, -1, 0, 1, 1_023, 1_024, 1_700_000_000_123_456_789, .max - 2_048] as [Int64],
        nodes)
    func roundedUp(rawValue: Int64, number: UInt16) throws {
        let node = try #require(NodeID(rawValue: number))
        let timestamp = Timestamp(rawValue: rawValue)
        let rounded = timestamp.roundedUp(for: node)
        #expect(rounded >= timestamp)
        #expect(rounded.nanoseconds(since: timestamp) < 1_024)
        #expect(rounded.node == node)
        #expect(rounded.roundedUp(for: node) == rounded)
    }

    @Test("rounding keeps the order of timestamps, and the next one of a node is 1024 ns later", arguments: nodes)
    func monotone(number: UInt16) throws {
        let node = try #require(NodeID(rawValue: number))
        var last = Timestamp.zero.roundedUp(for: node)
        for rawValue in Int64(0)..<3_000 {
            let rounded = Timestamp(rawValue: rawValue).roundedUp(for: node)
            #expect(rounded >= last)
            last = rounded
        }
        #expect(last.successor.roundedUp(for: node).nanoseconds(since: last) == 1_024)
    }

    @Test("two nodes never get the same timestamp")
    func uniqueBetweenNodes() {
        let timestamp = Timestamp(rawValue: 1_700_000_000_123_456_789)
        let all = (0...NodeID.maximum).compactMap { NodeID(rawValue: $0) }.map { timestamp.roundedUp(for: $0) }
        #expect(Set(all).count == 1_024)
    }

    @Test("arithmetic is in nanoseconds, and goes both ways")
    func arithmetic() {
        let timestamp = Timestamp(rawValue: 1_000)
        #expect(timestamp.advanced(byNanoseconds: -1) < timestamp)
        #expect(timestamp.advanced(byNanoseconds: 7).nanoseconds(since: timestamp) == 7)
        #expect(timestamp.nanoseconds(since: timestamp.successor) == -1)
    }

    @Test("arithmetic ends at the first and the last timestamp")
    func arithmeticClamped() {
        #expect(Timestamp(rawValue: 1).advanced(byNanoseconds: .max) == Timestamp(rawValue: .max))
        #expect(Timestamp(rawValue: -2).advanced(byNanoseconds: .min) == Timestamp(rawValue: .min))
    }

    @Test(
        "the text is the decimal number, and reads back",
        arguments: [Int64.min, -5, 0, 1_700_000_000_123_456_789, .max])
    func text(rawValue: Int64) {
        let timestamp = Timestamp(rawValue: rawValue)
        #expect(timestamp.description == "\(rawValue)")
        #expect(Timestamp(timestamp.description) == timestamp)
    }

    @Test("a text that is no number is refused", arguments: ["", " 1", "1.0", "0x10", "9223372036854775808"])
    func textRefused(text: String) {
        #expect(Timestamp(text) == nil)
    }
}

@Suite struct TimestampIntervalTests {
    private let interval = TimestampInterval(earliest: Timestamp(rawValue: 100), latest: Timestamp(rawValue: 201))

    @Test("what lies inside an interval is neither certainly past nor certainly future", arguments: [100, 150, 201])
    func inside(rawValue: Int64) {
        #expect(!interval.isAfter(Timestamp(rawValue: rawValue)))
        #expect(!interval.isBefore(Timestamp(rawValue: rawValue)))
    }

    @Test("what lies outside is one of both")
    func outside() {
        #expect(interval.isAfter(Timestamp(rawValue: 99)) && !interval.isBefore(Timestamp(rawValue: 99)))
        #expect(interval.isBefore(Timestamp(rawValue: 202)) && !interval.isAfter(Timestamp(rawValue: 202)))
    }

    @Test("the uncertainty is half the width")
    func uncertainty() {
        #expect(interval.uncertaintyNanoseconds == 50)
    }

    @Test("an interval that ends before it begins is not made")
    func backwards() async {
        await #expect(processExitsWith: .failure) {
            _ = TimestampInterval(earliest: Timestamp(rawValue: 1), latest: .zero)
        }
    }
}
