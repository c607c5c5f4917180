/// Dates and timestamps in ISO 8601's form, the one that PostgreSQL reads alike under every DateStyle.
enum CalendarText {
    /// Days since 2000-01-01 of `YYYY-MM-DD`; nil for any other form.
    static func days(_ bytes: [UInt8]) -> Int32? {
        var rest = bytes[...]
        guard let days = takeDate(&rest), rest.isEmpty else { return nil }
        return Int32(days)
    }

    /// Microseconds since 2000-01-01 00:00 of `YYYY-MM-DD HH:MM[:SS[.ffffff]]`, with `T` or a space between; nil for
    /// any other form. `withZone` asks for an offset such as `+02`, `-03:30` or `Z`; without it there may be none.
    static func microseconds(_ bytes: [UInt8], withZone: Bool) -> Int64? {
        var rest = bytes[...]
        guard let days = takeDate(&rest) else { return nil }
        if rest.isEmpty { return withZone ? nil : Int64(days) * 86_400_000_000 }
        guard rest.first == UInt8(ascii: " ") || rest.first == UInt8(ascii: "T") else { return nil }
        rest = rest.dropFirst()
        guard let hour = take(2, &rest), skip(":", &rest), let minute = take(2, &rest), hour < 24, minute < 60
        else { return nil }
        var time = Int64(hour * 60 + minute) * 60_000_000
        if skip(":", &rest) {
            guard let second = take(2, &rest), second < 60 else { return nil }
            time += Int64(second) * 1_000_000
            if skip(".", &rest) {
                let digits = rest.prefix { (0x30...0x39).contains($0) }
                guard (1...6).contains(digits.count), let fraction = take(digits.count, &rest) else { return nil }
                time += Int64(fraction) * [100_000, 10_000, 1000, 100, 10, 1][digits.count - 1]
            }
        }
        var offset: Int64 = 0
        if withZone {
            guard let seconds = takeOffset(&rest) else { return nil }
            offset = seconds * 1_000_000
        }
        return rest.isEmpty ? Int64(days) * 86_400_000_000 + time - offset : nil
    }

    private static func takeOffset(_ rest: inout ArraySlice<UInt8>) -> Int64? {
        if skip("Z", &rest) { return 0 }
        let isWest = skip("-", &rest)
        guard isWest || skip("+", &rest), let hours = take(2, &rest), hours < 16 else { return nil }
        // Local mean times of old have seconds too.
        var seconds = Int64(hours) * 3600
        for unit: Int64 in [60, 1] where skip(":", &rest) {
            guard let read = take(2, &rest), read < 60 else { return nil }
            seconds += Int64(read) * unit
        }
        return isWest ? -seconds : seconds
    }

    private static func takeDate(_ rest: inout ArraySlice<UInt8>) -> Int? {
        guard let year = take(4, &rest), skip("-", &rest), let month = take(2, &rest), skip("-", &rest),
            let day = take(2, &rest), year > 0, (1...12).contains(month), day >= 1
        else { return nil }
        let isLeap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
        let lengths = [31, isLeap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
        guard day <= lengths[month - 1] else { return nil }
        // Days from civil: years begin in March, so that a leap day comes last.
        let shifted = month <= 2 ? year - 1 : year
        let era = shifted / 400
        let yearOfEra = shifted - era * 400
        let dayOfYear = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1
        let dayOfEra = yearOfEra * 365 + yearOfEra / 4 - yearOfEra / 100 + dayOfYear
        return era * 146_097 + dayOfEra - 730_425
    }

    private static func take(_ count: Int, _ rest: inout ArraySlice<UInt8>) -> Int? {
        let digits = rest.prefix(count)
        guard digits.count == count, digits.allSatisfy({ (0x30...0x39).contains($0) }) else { return nil }
        rest = rest.dropFirst(count)
        return digits.reduce(0) { $0 * 10 + Int($1 - 0x30) }
    }

    private static func skip(_ mark: Unicode.Scalar, _ rest: inout ArraySlice<UInt8>) -> Bool {
        guard rest.first == UInt8(ascii: mark) else { return false }
        rest = rest.dropFirst()
        return true
    }
}
