import SimulationKit
import Testing

typealias ListTransaction = ListAppendTransaction<String, Int>

/// A transaction of a history made by hand.
func make(
    _ interval: ClosedRange<Int64>, _ operations: ListTransaction.Operation...,
    outcome: ListTransaction.Outcome = .committed, timestamp: Int64? = nil
) -> ListTransaction {
    ListTransaction(
        client: 0, began: interval.lowerBound, ended: interval.upperBound, outcome: outcome, timestamp: timestamp,
        operations)
}

/// A history and what a checker must say of it.
struct JudgedHistory: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let expected: Set<ListAppendAnomaly.Kind>
    let history: [ListTransaction]

    init(_ description: String, _ expected: Set<ListAppendAnomaly.Kind> = [], _ history: ListTransaction...) {
        (testDescription, self.expected, self.history) = (description, expected, history)
    }
}

@Suite struct ListAppendCheckerTests {
    @Test("what is wrong with a history is called by its name", arguments: bad)
    func rejects(_ judged: JudgedHistory) {
        let found = ListAppendChecker().check(judged.history)
        #expect(Set(found.map(\.kind)) == judged.expected, "\(found)")
        for anomaly in found {
            #expect(Set(anomaly.witnesses).isSubset(of: Set(judged.history.indices)))
            let words = anomaly.message.split { !$0.isLetter && !$0.isNumber }
            for witness in anomaly.witnesses { #expect(words.contains("t\(witness)"), "\(anomaly)") }
        }
    }

    @Test("every kind of anomaly is in the list of bad histories")
    func everyKind() {
        let shown = Self.bad.reduce(into: Set()) { $0.formUnion($1.expected) }
        #expect(shown == Set(ListAppendAnomaly.Kind.allCases))
    }

    @Test("a history that has a serial order in real time is accepted", arguments: good)
    func accepts(_ judged: JudgedHistory) {
        #expect(ListAppendChecker().check(judged.history) == [])
    }

    @Test("a cycle says why each of its transactions comes before the next")
    func reasons() {
        let skew = ListAppendChecker().check([
            make(0...10, .read("x", []), .read("y", []), .append("x", 1)),
            make(0...10, .read("x", []), .read("y", []), .append("y", 2)),
            make(20...30, .read("x", [1]), .read("y", [2])),
        ])
        #expect(skew.map(\.witnesses) == [[0, 1]])
        #expect(
            skew.map(\.description) == ["G2-item: t0 read y = [], without 2 of t1; t1 read x = [], without 1 of t0"])
        let stale = ListAppendChecker().check([
            make(0...10, .append("x", 1)), make(0...10, .append("x", 2)), make(15...17, .read("x", [1, 2])),
            make(20...30, .read("x", [1])),
        ])
        #expect(
            stale.map(\.description) == [
                "G-single-realtime: t3 read x = [1], without 2 of t1; t1 ended at 10, t3 began at 20"
            ])
    }

    @Test("independent contradictions are shown each, the same one once")
    func independent() {
        let found = ListAppendChecker().check([
            make(0...100, .read("x", []), .append("y", 1)), make(0...100, .read("y", []), .append("x", 1)),
            make(0...100, .append("a", 1), .append("b", 1)), make(0...100, .read("a", [1]), .read("b", [])),
            make(0...100, .append("c", 1)), make(0...100, .read("c", [1]), .append("d", 1)),
            make(0...100, .read("d", [1]), .read("c", [])),
        ])
        #expect(found.map(\.kind.rawValue).sorted() == ["G-single", "G-single", "G2-item"], "\(found)")
        #expect(Set(found.map { Set($0.witnesses) }) == [[0, 1], [2, 3], [4, 5, 6]])
    }
}

extension ListAppendCheckerTests {
    static let bad: [JudgedHistory] = [
        JudgedHistory(
            "appends in two orders", [.writeCycle], make(0...10, .append("x", 1), .append("y", 1)),
            make(0...10, .append("x", 2), .append("y", 2)), make(20...30, .read("x", [1, 2]), .read("y", [2, 1]))),
        JudgedHistory(
            "one transaction's appends around another's", [.writeCycle],
            make(0...10, .append("x", 1), .append("x", 3)), make(0...10, .append("x", 2)),
            make(20...30, .read("x", [1, 2, 3]))),
        JudgedHistory(
            "a read of what aborted", [.abortedRead], make(0...10, .append("x", 1), outcome: .aborted),
            make(0...10, .read("x", [1]))),
        JudgedHistory(
            "an append onto what aborted", [.abortedRead], make(0...10, .append("x", 1), outcome: .aborted),
            make(0...10, .append("x", 2)), make(20...30, .read("x", [1, 2]))),
        JudgedHistory(
            "a read between a transaction's appends", [.intermediateRead, .singleAntidependency],
            make(0...10, .append("x", 1), .append("x", 2)), make(0...10, .read("x", [1])),
            make(0...10, .read("x", [1, 2]))),
        JudgedHistory(
            "two that read each other's appends", [.circularRead], make(0...10, .append("x", 1), .read("y", [2])),
            make(0...10, .append("y", 2), .read("x", [1]))),
        JudgedHistory(
            "half of a transaction seen (read skew)", [.singleAntidependency],
            make(0...10, .append("x", 1), .append("y", 1)), make(0...10, .read("x", [1]), .read("y", []))),
        JudgedHistory(
            "a snapshot that misses what it depends on", [.singleAntidependency], make(0...10, .append("x", 1)),
            make(0...10, .read("x", [1]), .append("y", 1)), make(0...10, .read("y", [1]), .read("x", []))),
        JudgedHistory(
            "write skew", [.antidependencyCycle], make(0...10, .read("x", []), .append("y", 1)),
            make(0...10, .read("y", []), .append("x", 1)), make(20...30, .read("x", [1]), .read("y", [1]))),
        JudgedHistory(
            "write skew of three, of which nobody sees anything", [.antidependencyCycle],
            make(0...10, .read("x", []), .append("y", 1)), make(0...10, .read("y", []), .append("z", 1)),
            make(0...10, .read("z", []), .append("x", 1))),
        JudgedHistory(
            "long fork", [.antidependencyCycle], make(0...10, .append("x", 1)), make(0...10, .append("y", 1)),
            make(0...10, .read("x", [1]), .read("y", [])), make(0...10, .read("x", []), .read("y", [1]))),
        JudgedHistory(
            "an append overlooked by who has a later timestamp (R7)", [.timestampOrder],
            make(0...20, .read("x", []), .append("y", 1), timestamp: 8), make(0...10, .append("x", 1), timestamp: 7),
            make(30...40, .read("x", [1]), .read("y", [1]))),
        JudgedHistory(
            "two at one timestamp", [.timestampOrder], make(0...10, .append("x", 1), timestamp: 7),
            make(0...10, .read("x", [1]), .append("y", 1), timestamp: 7)),
        JudgedHistory(
            "a lost update", [.lostUpdate, .singleAntidependency], make(0...10, .read("x", []), .append("x", 1)),
            make(0...10, .read("x", []), .append("x", 2)), make(20...30, .read("x", [1, 2]))),
        JudgedHistory(
            "a lost update whose update is gone", [.lostUpdate, .singleAntidependency],
            make(0...10, .read("x", []), .append("x", 1)), make(0...10, .read("x", []), .append("x", 2)),
            make(20...30, .read("x", [2]))),
        JudgedHistory(
            "a stale read, wrong in real time only", [.singleAntidependencyInRealTime],
            make(0...10, .append("x", 1)), make(20...30, .read("x", []))),
        JudgedHistory(
            "an acknowledged append that is gone", [.singleAntidependencyInRealTime],
            make(0...10, .append("x", 1)), make(0...10, .append("x", 2)), make(20...30, .read("x", [1])),
            make(40...50, .read("x", [1]))),
        JudgedHistory(
            "two readers that see one append go and come", [.singleAntidependencyInRealTime],
            make(0...100, .append("x", 1)), make(10...20, .read("x", [1])), make(30...40, .read("x", []))),
        JudgedHistory(
            "a later append before an earlier one", [.writeCycleInRealTime], make(0...10, .append("x", 1)),
            make(20...30, .append("x", 2)), make(40...50, .read("x", [2, 1]))),
        JudgedHistory(
            "a read of the future", [.circularReadInRealTime], make(0...10, .read("x", [1])),
            make(20...30, .append("x", 1))),
        JudgedHistory(
            "a read of an old row that nobody locked, past a later commit (R10)", [.antidependencyCycleInRealTime],
            make(5...30, .read("x", []), .append("y", 1)), make(0...10, .append("x", 1)),
            make(20...40, .read("y", []))),
        JudgedHistory(
            "real time between two whom a crowd separates", [.singleAntidependencyInRealTime],
            make(0...10, .append("x", 1)), make(11...20, .append("y", 1)), make(12...20, .append("y", 2)),
            make(21...30, .append("z", 1)), make(31...40, .read("x", []), .read("y", [1, 2]))),
        JudgedHistory(
            "two orders of one list", [.incompatibleOrder], make(0...10, .append("x", 1)),
            make(0...10, .append("x", 2)),
            make(20...30, .read("x", [1, 2])), make(20...30, .read("x", [2, 1]))),
        JudgedHistory(
            "a list that lost its beginning", [.incompatibleOrder], make(0...10, .append("x", 1)),
            make(0...10, .append("x", 2)), make(20...30, .read("x", [2])), make(20...30, .read("x", [1, 2]))),
        JudgedHistory(
            "an append done twice", [.duplicateElement], make(0...10, .append("x", 1)), make(0...10, .append("x", 2)),
            make(20...30, .read("x", [1, 2, 1]))),
        JudgedHistory("an element out of nowhere", [.unwrittenElement], make(0...10, .read("x", [9]))),
        JudgedHistory(
            "a transaction that misses its own append", [.internalInconsistency],
            make(0...10, .append("x", 1), .read("x", []))),
        JudgedHistory(
            "a read that can't be repeated", [.internalInconsistency, .singleAntidependency],
            make(0...10, .append("x", 1)), make(0...10, .read("x", []), .read("x", [1]))),
        JudgedHistory(
            "a transaction without an outcome whose append comes and goes", [.singleAntidependencyInRealTime],
            make(0...10, .append("x", 1), outcome: .unknown), make(20...30, .read("x", [1])),
            make(40...50, .read("x", []))),
        JudgedHistory(
            "a transaction without an outcome that committed on a stale read", [.singleAntidependencyInRealTime],
            make(0...10, .append("y", 1)), make(20...30, .read("y", []), .append("x", 1), outcome: .unknown),
            make(20...50, .read("x", [1]))),
    ]

    static let good: [JudgedHistory] = [
        JudgedHistory("nothing"),
        JudgedHistory(
            "one after the other", [], make(0...10, .append("x", 1)), make(20...30, .read("x", [1]), .append("x", 2)),
            make(40...50, .read("x", [1, 2]))),
        JudgedHistory(
            "timestamps in the order of what was read and appended", [],
            make(0...20, .read("x", []), .append("y", 1), timestamp: 7), make(0...10, .append("x", 1), timestamp: 8),
            make(30...40, .read("x", [1]), .read("y", [1]), .append("y", 2), timestamp: 9)),
        JudgedHistory(
            "concurrent reads, before and after", [], make(0...30, .append("x", 1), .append("y", 1)),
            make(10...20, .read("x", []), .read("y", [])), make(10...20, .read("x", [1]), .read("y", [1]))),
        JudgedHistory(
            "the end of one is the begin of another, which is no order", [], make(0...10, .append("x", 1)),
            make(10...20, .read("x", []))),
        JudgedHistory(
            "its own appends, seen and added to", [], make(0...5, .append("x", 1)),
            make(10...20, .append("x", 2), .read("x", [1, 2]), .append("x", 3), .read("x", [1, 2, 3])),
            make(30...40, .read("x", [1, 2, 3]))),
        JudgedHistory(
            "an unknown outcome that nobody saw", [], make(0...10, .append("x", 1), .read("y", [7]), outcome: .unknown),
            make(20...30, .read("x", []))),
        JudgedHistory(
            "an unknown outcome that took effect after its client gave up", [],
            make(0...10, .append("x", 1), outcome: .unknown), make(20...30, .read("x", [])),
            make(40...50, .read("x", [1]))),
        JudgedHistory(
            "an unknown outcome known by another of those", [], make(0...10, .append("x", 1), outcome: .unknown),
            make(0...10, .read("x", [1]), .append("y", 1), outcome: .unknown), make(20...30, .read("y", [1])),
            make(40...50, .read("x", [1]))),
        JudgedHistory(
            "what an aborted transaction claims to have read", [], make(0...10, .append("x", 1)),
            make(20...30, .read("x", [5, 6]), .append("x", 2), outcome: .aborted), make(40...50, .read("x", [1]))),
        JudgedHistory(
            "appends that nobody ever reads", [], make(0...10, .read("x", []), .append("x", 1)),
            make(20...30, .append("x", 2)), make(20...30, .append("x", 3), .append("y", 1))),
        JudgedHistory(
            "long fork in which both see one order", [], make(0...10, .append("x", 1)), make(0...10, .append("y", 1)),
            make(0...10, .read("x", [1]), .read("y", [])), make(0...10, .read("x", [1]), .read("y", [1]))),
    ]
}
