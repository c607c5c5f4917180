import PostgresWire
import TestSupport

/// Reads what a server answers to a script and holds it to the protocol (PostgreSQL documentation, "Message Flow").
struct FuzzJudge {
    struct Verdict: Error, CustomStringConvertible {
        let description: String
    }

    /// The connection is over.
    private struct Ended: Error {}

    /// What a message was answered: the SQLSTATE of its error, and how the transaction stands if that was said.
    struct Outcome: Hashable, CustomStringConvertible {
        var sqlState: String?
        var status: TransactionStatus?

        var description: String { "\(sqlState ?? "ok")\(status.map { " \($0)" } ?? "")" }
    }

    private let client: RawClient
    /// PostgreSQL itself has some.
    private let mayHaveInternalErrors: Bool
    private var isSkipping = false
    private var isCopying = false
    private var status = TransactionStatus.idle

    init(_ client: RawClient, mayHaveInternalErrors: Bool) {
        (self.client, self.mayHaveInternalErrors) = (client, mayHaveInternalErrors)
    }

    /// The outcomes of a script's messages, as far as the connection lasted. Throws what breaks the protocol.
    ///
    /// A client that ends the connection need not be answered any more what it sent before.
    mutating func outcomes(of script: [FuzzMessage]) async throws -> [Outcome] {
        let mayEnd = if case .end = script.last?.answer { true } else { false }
        var outcomes: [Outcome] = []
        for message in script {
            do {
                let outcome = try await self.outcome(of: message.answer)
                outcomes.append(outcome)
                if let status = outcome.status { self.status = status }
            } catch is Ended where mayEnd {
                return outcomes
            } catch is Ended {
                throw Verdict(description: "the connection ended at: \(message.text)")
            } catch let verdict as Verdict {
                throw Verdict(description: "\(verdict) for: \(message.text)")
            } catch let failure as RawClient.Failure {
                throw Verdict(description: "\(failure) for: \(message.text)")
            }
            switch message.answer {
            case .fatal, .end: return outcomes
            default: if outcomes.last?.sqlState == Self.ended { return outcomes }
            }
        }
        return outcomes
    }

    /// Stands for a connection that a FATAL error has ended where the script did not ask for that.
    static let ended = "FATAL"

    private mutating func outcome(of answer: FuzzMessage.Answer) async throws -> Outcome {
        if isSkipping, answer.isSkippable { return Outcome() }
        switch answer {
        case .query: return try await toReady(mayCopy: true)
        case .functionCall, .sync:
            isSkipping = false
            return try await toReady(mayCopy: false)
        case .copyData, .flush: return Outcome()
        case .copyEnd:
            guard isCopying else { return Outcome() }
            isCopying = false
            return try await toReady(mayCopy: false)
        case .error: return try await one { _ in false }
        case .parse: return try await one { if case .parseComplete = $0 { true } else { false } }
        case .bind: return try await one { if case .bindComplete = $0 { true } else { false } }
        case .close: return try await one { if case .closeComplete = $0 { true } else { false } }
        case .describeStatement:
            let first = try await one { if case .parameterDescription = $0 { true } else { false } }
            return first.sqlState == nil ? try await one(Self.isDescription) : first
        case .describePortal: return try await one(Self.isDescription)
        case .execute: return try await execution()
        case .fatal:
            guard case .errorResponse(let fields) = try await received(), try check(fields) == "FATAL" else {
                throw Verdict(description: "no FATAL error")
            }
            try await end()
            return Outcome(sqlState: fields[.sqlState])
        case .end:
            try await end()
            return Outcome()
        }
    }

    private static func isDescription(_ message: BackendMessage) -> Bool {
        switch message {
        case .rowDescription, .noData: true
        default: false
        }
    }

    // MARK: Reading

    /// The next message that is an answer.
    private func received() async throws -> BackendMessage {
        guard let message = try await next() else { throw Ended() }
        return message
    }

    /// The next message but notices and the like, which may come at any time; nil at the end.
    private func next() async throws -> BackendMessage? {
        while let message = try await client.nextMessage() {
            switch message {
            case .noticeResponse(let fields): _ = try check(fields)
            case .parameterStatus, .notificationResponse: break
            default: return message
            }
        }
        return nil
    }

    /// One answer of the extended protocol, or an error.
    private mutating func one(_ isExpected: (BackendMessage) -> Bool) async throws -> Outcome {
        let message = try await received()
        if case .errorResponse(let fields) = message { return try await failed(fields, isExtended: true) }
        guard isExpected(message) else { throw Verdict(description: "answered by \(Self.name(message))") }
        return Outcome()
    }

    private mutating func execution() async throws -> Outcome {
        while true {
            let message = try await received()
            switch message {
            case .dataRow, .copyOutResponse, .copyData, .copyDone: break
            case .commandComplete, .emptyQueryResponse, .portalSuspended: return Outcome()
            case .errorResponse(let fields): return try await failed(fields, isExtended: true)
            default: throw Verdict(description: "answered by \(Self.name(message))")
            }
        }
    }

    /// Everything up to ReadyForQuery; nothing may follow an error but that.
    private mutating func toReady(mayCopy: Bool) async throws -> Outcome {
        var outcome = Outcome()
        while true {
            let message = try await received()
            switch message {
            case .readyForQuery(let status):
                outcome.status = status
                return outcome
            case .errorResponse(let fields) where outcome.sqlState == nil:
                outcome = try await failed(fields, isExtended: false)
                if outcome.sqlState == Self.ended { return outcome }
            case .copyInResponse where mayCopy && outcome.sqlState == nil:
                isCopying = true
                return outcome
            case .rowDescription, .dataRow, .commandComplete, .emptyQueryResponse, .copyOutResponse, .copyData,
                .copyDone, .functionCallResponse:
                guard outcome.sqlState == nil else {
                    throw Verdict(description: "\(Self.name(message)) behind an error")
                }
            default: throw Verdict(description: "answered by \(Self.name(message))")
            }
        }
    }

    private mutating func failed(_ fields: ErrorFields, isExtended: Bool) async throws -> Outcome {
        if try check(fields) == "ERROR" {
            isSkipping = isExtended
            return Outcome(sqlState: fields[.sqlState])
        }
        try await end()
        return Outcome(sqlState: Self.ended)
    }

    private func end() async throws {
        while let message = try await next() {
            // A script may end the connection in the middle of its own answers.
            if case .errorResponse = message { throw Verdict(description: "an error where the connection should end") }
            throw Verdict(description: "answered by \(Self.name(message)) where the connection should end")
        }
    }

    /// Holds an error or notice to having all that clients rely on; its severity.
    private func check(_ fields: ErrorFields) throws -> String {
        guard let severity = fields[.severity], severity == fields[.localizedSeverity],
            let state = fields[.sqlState], state.utf8.count == 5, state != "00000" || severity == "NOTICE",
            let message = fields[.message], !message.isEmpty
        else { throw Verdict(description: "an error without all of its fields: \(fields)") }
        guard state != "XX000" || mayHaveInternalErrors else {
            throw Verdict(description: "an internal error: \(message)")
        }
        return severity
    }

    private static func name(_ message: BackendMessage) -> String { String("\(message)".prefix(200)) }
}
