import ShardBackend
import TransactionCore
import TwoPhaseCommit

/// Everything that SET and SHOW know of a session: what the shards are told, and what Meridian keeps for itself.
struct SessionVariables: Sendable {
    var settings = SessionSettings()
    /// Timeouts that the node sees to, by name, as a server shows them. The pooled sessions must not have them.
    var limits: [String: String] = [:]
    var applicationName = ""
    /// `default_transaction_read_only`
    var isReadOnlyByDefault = false
    /// `default_transaction_deferrable`
    var isDeferrableByDefault = false
    /// `meridian.read_staleness` as it was given.
    var readStaleness = "strong"
    /// `meridian.read_timestamp`; nil: none.
    var readTimestamp: Timestamp?
    /// What LISTEN has named.
    var channels: Set<String> = []
    /// Of the session's last transaction that wrote.
    var commitTimestamp: Timestamp?

    /// The names of ``limits``.
    static let limitNames: Set<String> = ["idle_in_transaction_session_timeout", "idle_session_timeout"]

    /// Takes the limits out of what the shards are told.
    mutating func separateLimits() {
        for name in Self.limitNames {
            if let value = settings[name] { limits[name] = value }
            settings[name] = nil
        }
    }

    /// Reads a timeout as a server shows it, `300ms` or `5min`; a bare number is milliseconds. Nil for none.
    static func limit(_ text: String) -> Duration? {
        let number = text.prefix { $0.isNumber }
        guard let count = Int64(number), count > 0, count < 1 << 31 else { return nil }
        return switch text.dropFirst(number.count).drop(while: { $0 == " " }) {
        case "", "ms": .milliseconds(count)
        case "us": .microseconds(count)
        case "s": .seconds(count)
        case "min": .seconds(count * 60)
        case "h": .seconds(count * 3_600)
        case "d": .seconds(count * 86_400)
        default: nil
        }
    }

    /// A read outside a block is a strong one, and as long as it likes.
    var isReadPlain: Bool { readTimestamp == nil && readStaleness == "strong" && settings["statement_timeout"] == nil }

    /// How fresh reads are to be.
    func readBound() throws(TransactionError) -> ReadBound {
        if let readTimestamp { return .at(readTimestamp) }
        // As a rule, and once a transaction.
        return readStaleness == "strong" ? .strong : try Self.bound(readStaleness)
    }

    /// Reads `strong`, `exact 15s`, `max 10s` or `min 1795409434737509378`.
    static func bound(_ text: String) throws(TransactionError) -> ReadBound {
        let words = text.split(separator: " ")
        switch words.first {
        case "strong" where words.count == 1: return .strong
        case "exact" where words.count == 2: if let age = duration(words[1]) { return .exactStaleness(age) }
        case "max" where words.count == 2: if let age = duration(words[1]) { return .maxStaleness(age) }
        case "min" where words.count == 2:
            if let timestamp = Int64(words[1]) { return .minTimestamp(Timestamp(rawValue: timestamp)) }
        default: break
        }
        throw TransactionError(
            .invalidParameterValue, "invalid value for parameter \"meridian.read_staleness\": \"\(text)\"",
            hint: "it is 'strong', 'exact 15s', 'max 10s' or 'min <timestamp>'; the units are us, ms, s, min, h")
    }

    static func timestamp(_ text: String) throws(TransactionError) -> Timestamp? {
        if text.isEmpty { return nil }
        guard let number = Int64(text), number > 0 else {
            throw TransactionError(
                .invalidParameterValue, "invalid value for parameter \"meridian.read_timestamp\": \"\(text)\"",
                hint: "a timestamp is nanoseconds since 1970, as SHOW meridian.commit_timestamp says it")
        }
        return Timestamp(rawValue: number)
    }

    private static func duration(_ text: Substring) -> Duration? {
        let digits = text.prefix { $0.isNumber }
        guard let number = Int64(digits), number < 1 << 31 else { return nil }
        return switch text.dropFirst(digits.count) {
        case "us": .microseconds(number)
        case "ms": .milliseconds(number)
        case "s": .seconds(number)
        case "min": .seconds(number * 60)
        case "h": .seconds(number * 3600)
        default: nil
        }
    }
}
