import BoundedTime
import Testing

@Suite struct DurationNanosecondsTests {
    @Test("nanoseconds are whole and rounded towards zero")
    func nanoseconds() {
        #expect(Duration.seconds(-2).nanoseconds == -2_000_000_000)
        #expect(Duration(secondsComponent: 0, attosecondsComponent: 1_999_999_999).nanoseconds == 1)
    }
}
