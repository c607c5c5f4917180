import BoundedTime
import Testing

@Suite struct DurationNanosecondsTests {
    @Test("nanoseconds are whole and rounded towards zero")
    func nanoseconds() {
        #expect(Duration.seconds(-2).nanoseconds == -2_000_000_000)
        #expect(Duration.nanoseconds(.max / 2).nanoseconds == .max / 2)
        #expect(Duration(secondsComponent: 0, attosecondsComponent: 1_999_999_999).nanoseconds == 1)
    }

    @Test("a duration beyond 292 years counts as about 292 years, and can be negated")
    func clamped() {
        for seconds in [Int64.max, 9_223_372_036, 9_223_372_037] {
            let longest = Duration(secondsComponent: seconds, attosecondsComponent: 999_999_999_999_999_999)
            let negative = Duration(secondsComponent: -seconds, attosecondsComponent: 0)
            #expect(longest.nanoseconds > .max - 3_000_000_000)
            #expect(negative.nanoseconds < -.max + 3_000_000_000)
        }
    }
}
