import BoundedTime
import Testing

@Suite struct DurationTextTests {
    @Test(
        "a whole number with a unit is read",
        arguments: [
            ("0s", .zero), ("250us", .microseconds(250)), ("1ms", .milliseconds(1)), ("7ns", .nanoseconds(7)),
            ("90s", .seconds(90)), ("2min", .seconds(120)), ("1h", .seconds(3_600)),
        ] as [(String, Duration)])
    func read(text: String, duration: Duration) {
        #expect(Duration(text: text) == duration)
    }

    @Test(
        "anything else is refused",
        arguments: ["", "1", "ms", "-1ms", "+1ms", "1.5s", "1 ms", "1MS", "1msec", "٣s", "9223372036854775807s"])
    func refused(text: String) {
        #expect(Duration(text: text) == nil)
    }

    @Test("nanoseconds are whole and rounded towards zero")
    func nanoseconds() {
        #expect(Duration.seconds(-2).nanoseconds == -2_000_000_000)
        #expect(Duration(secondsComponent: 0, attosecondsComponent: 1_999_999_999).nanoseconds == 1)
    }
}
