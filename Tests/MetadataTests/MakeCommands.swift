import Foundation
import SimulationKit
import TransactionCore

@testable import Metadata

/// The seed that the environment names, or one by chance, which is printed.
func makeSeed(_ test: String) -> UInt64 {
    let given = ProcessInfo.processInfo.environment["MERIDIAN_TEST_SEED"].flatMap { UInt64($0) }
    let seed = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
    print("\(test): MERIDIAN_TEST_SEED=\(seed)")
    return seed
}

func key(_ text: String) -> MetadataKey { MetadataKey(text)! }
func prefix(_ text: String) -> MetadataPrefix { MetadataPrefix(text)! }
func revision(_ number: Int64) -> Revision { Revision(rawValue: number) }
func time(_ nanoseconds: Int64) -> Timestamp { Timestamp(rawValue: nanoseconds) }
func node(_ number: UInt16) -> NodeID { NodeID(rawValue: number)! }
func bytes(_ text: String) -> [UInt8] { Array(text.utf8) }

/// A state with a session, whose commands are numbered.
struct Subject {
    var state = MetadataState()
    var session: SessionID
    private var number: UInt64 = 0

    init() {
        _ = state.apply(.openSession(node: node(1), expiry: time(1_000)), at: revision(1))
        session = SessionID(openedAt: revision(1))
    }

    /// Applies a command at the next revision.
    @discardableResult
    mutating func apply(_ command: MetadataCommand) -> (answer: MetadataAnswer, changes: [MetadataChange]) {
        state.apply(command, at: revision(state.revision.rawValue + 1))
    }

    mutating func open(expiry: Int64 = 1_000) -> SessionID {
        apply(.openSession(node: node(2), expiry: time(expiry)))
        return SessionID(openedAt: state.revision)
    }

    mutating func next() -> CommandNumber {
        number += 1
        return CommandNumber(session: session, number: number, answeredBelow: number)
    }

    /// What the transaction came to; nil when it was refused.
    mutating func done(_ transaction: MetadataTransaction) -> TransactionAnswer? {
        guard case .transaction(let answer) = apply(.transaction(next(), transaction)).answer else { return nil }
        return answer
    }

    @discardableResult
    mutating func results(_ operations: MetadataOperation...) -> [OperationResult] {
        done(MetadataTransaction(then: operations))?.results ?? []
    }

    func entry(_ text: String) -> MetadataEntry? { state.read(.get(key(text))).entries.first }
    func value(_ text: String) -> String? { entry(text).map { String(decoding: $0.value, as: UTF8.self) } }
    func keys(_ query: MetadataQuery) -> [String] { state.read(query).entries.map(\.key.rawValue) }
}

/// Commands by chance, over few keys and sessions so that they meet.
struct CommandSource {
    var generator: SeededGenerator
    private var sessions: [SessionID] = []
    private var sent: [MetadataCommand] = []
    private var numbers: [SessionID: UInt64] = [:]
    private var now: Int64 = 0

    init(seed: UInt64) {
        generator = SeededGenerator(seed: seed)
    }

    mutating func number(_ range: ClosedRange<Int>) -> Int { Int.random(in: range, using: &generator) }
    mutating func pick<Value>(_ values: [Value]) -> Value { values[number(0...(values.count - 1))] }

    /// A command that is to be applied at `revision`.
    mutating func next(at revision: Revision) -> MetadataCommand {
        now += Int64(number(0...3))
        let command: MetadataCommand
        switch number(0...99) {
        case 0..<4:
            sessions.append(SessionID(openedAt: revision))
            command = .openSession(node: node(UInt16(number(0...4))), expiry: later())
        case 4..<10: command = .renewSession(session(), expiry: later())
        case 10..<12: command = .closeSession(session())
        case 12..<16: command = .expireSession(session(), expiry: time(now))
        case 16..<19:
            command = .raiseEpoch(node(UInt16(number(0...4))), above: Epoch(rawValue: Int64(number(0...20))))
        case 19..<29 where !sent.isEmpty: command = sent[number(max(0, sent.count - 80)...(sent.count - 1))]
        default: command = .transaction(nextNumber(), transaction())
        }
        sent.append(command)
        return command
    }

    private mutating func later() -> Timestamp { time(now + Int64(number(0...200))) }

    private mutating func session() -> SessionID {
        sessions.isEmpty
            ? SessionID(openedAt: revision(99)) : sessions[number(max(0, sessions.count - 5)...(sessions.count - 1))]
    }

    private mutating func nextNumber() -> CommandNumber {
        let session = session()
        let number = numbers[session, default: 0] + 1
        numbers[session] = number
        return CommandNumber(
            session: session, number: number, answeredBelow: number - min(number, UInt64(self.number(0...40))))
    }

    private mutating func transaction() -> MetadataTransaction {
        MetadataTransaction(
            compares: (0..<number(0...2)).map { _ in compare() }, then: (0..<number(1...3)).map { _ in operation() },
            otherwise: (0..<number(0...2)).map { _ in operation() })
    }

    private mutating func anyKey() -> MetadataKey { key(pick(["/a/", "/b/", "/a/x/", "/c"]) + String(number(0...5))) }

    private mutating func anyPrefix() -> MetadataPrefix {
        number(0...30) == 0 ? pick([prefix("/"), prefix("/epochs/")]) : prefix(pick(["/a/", "/b/", "/a/x/"]))
    }

    private mutating func value() -> [UInt8] { (0..<number(0...2)).map { _ in UInt8(number(0...3)) } }

    private mutating func compare() -> MetadataCompare {
        switch number(0...4) {
        case 0: .exists(anyKey())
        case 1: .absent(anyKey())
        case 2: .modified(anyKey(), revision(Int64(number(0...40))))
        case 3: .version(anyKey(), UInt64(number(1...3)))
        default: .value(anyKey(), value())
        }
    }

    private mutating func operation() -> MetadataOperation {
        switch number(0...11) {
        case 0...4: .put(anyKey(), value(), ephemeral: number(0...2) == 0)
        case 5...6: .create(anyPrefix(), value(), ephemeral: number(0...1) == 0)
        case 7...8: .delete(.key(anyKey()))
        case 9: .delete(.prefix(anyPrefix()))
        default: .read(query())
        }
    }

    mutating func query() -> MetadataQuery {
        switch number(0...2) {
        case 0: .get(anyKey())
        case 1: .first(anyPrefix(), after: number(0...1) == 0 ? nil : anyKey(), limit: number(0...6))
        default: .last(anyPrefix(), through: anyKey(), limit: number(0...6))
        }
    }
}
