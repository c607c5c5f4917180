import Testing

@testable import SimulationKit

/// Random histories: against a search for a serial order, and with mistakes put in.
@Suite struct ListAppendRandomTests {
    @Test("small histories are accepted exactly when some serial order explains them in real time", arguments: 0..<8)
    func exact(block: UInt64) {
        var accepted = 0
        let seeds = (block * 500 + 1)...(block * 500 + 500)
        for seed in seeds {
            var database = WeakDatabase(seed: seed)
            let history = database.run()
            let isSerializable = hasSerialOrder(history)
            let anomalies = ListAppendChecker().check(history)
            #expect(anomalies.isEmpty == isSerializable, "seed \(seed): \(anomalies), \(history)")
            accepted += isSerializable ? 1 : 0
        }
        #expect(accepted > 50 && accepted < 450, "\(accepted) of \(seeds.count) are serializable")
    }

    @Test("what one transaction after the other did is accepted, however they overlapped", arguments: 1...20)
    func serial(seed: UInt64) {
        #expect(ListAppendChecker().check(SerialRun(seed: seed).history) == [])
    }

    @Test("a mistake put into a right history is found", arguments: Mistake.allCases)
    func mistakes(mistake: Mistake) throws {
        for seed in 1...5 as ClosedRange<UInt64> {
            var run = SerialRun(seed: seed)
            let made = run.make(mistake)
            let expected = try #require(made, "\(mistake) has no place in the history of seed \(seed)")
            let found = ListAppendChecker().check(run.history)
            #expect(!expected.isDisjoint(with: found.map(\.kind)), "seed \(seed): \(found)")
        }
    }

    @Test("ten thousand transactions are checked within seconds, right or wrong")
    func large() {
        var run = SerialRun(seed: 1, transactions: 10_000, keys: 400, overlap: 160)
        let clock = ContinuousClock()
        let right = clock.measure { #expect(ListAppendChecker().check(run.history) == []) }
        for _ in 0..<5 { _ = run.make(.staleRead) }
        let wrong = clock.measure { #expect(!ListAppendChecker().check(run.history).isEmpty) }
        // Without optimisation a tenth of that, on a processor that has nothing else to do.
        #expect(right < .seconds(30) && wrong < .seconds(60), "\(right), with mistakes \(wrong)")
    }

    @Test("the number of edges grows with the history, not with its square")
    func edges() {
        let crowds: [[ListTransaction]] = [
            (0..<1_000).map { make($0 < 500 ? 0...10 : 20...30, .append("x", $0)) },
            (0..<1_000).map { make(0...10, .read("x", []), .append("x", $0)) },
            (0..<1_000).map { $0 < 500 ? make(0...10, .read("x", [])) : make(0...10, .append("x", $0)) },
        ]
        for crowd in crowds {
            var orders = VersionOrders(crowd)
            orders.infer()
            #expect(orders.dependencyGraph().edges.count < 10_000)
        }
    }
}

// MARK: A search for a serial order

/// Whether some order of the committed transactions, and of any of those without an outcome, explains every read and
/// agrees with real time.
private func hasSerialOrder(_ history: [ListTransaction]) -> Bool {
    func place(_ left: Set<Int>, _ lists: [String: [Int]]) -> Bool {
        if left.allSatisfy({ history[$0].outcome == .unknown }) { return true }
        return left.contains { next in
            let mustComeFirst = left.contains {
                history[$0].outcome == .committed && history[$0].ended < history[next].began
            }
            guard !mustComeFirst else { return false }
            var lists = lists
            for operation in history[next].operations {
                switch operation {
                case .append(let key, let element): lists[key, default: []].append(element)
                case .read(let key, let list): if lists[key, default: []] != list { return false }
                }
            }
            return place(left.subtracting([next]), lists)
        }
    }
    return place(Set(history.indices.filter { history[$0].outcome != .aborted }), [:])
}

/// Makes histories of a few transactions that are wrong about half of the time.
private struct WeakDatabase {
    private var chance: SeededGenerator
    private var lists: [String: [Int]] = [:]

    init(seed: UInt64) { chance = SeededGenerator(seed: seed) }

    mutating func run() -> [ListTransaction] {
        let weakness = chance.element(of: [0, 0.1, 0.2])
        var history: [ListTransaction] = []
        let count = chance.index(below: 5) + 2
        for moment in 0..<count {
            let before = lists
            let outcome: ListTransaction.Outcome = chance.element(
                of: [.committed, .committed, .committed, .unknown, .aborted])
            let operations = (0...chance.index(below: 3)).map { operation(moment * 10 + $0, weakness) }
            let isForgotten = outcome == .aborted || (outcome == .unknown && chance.chance(0.5))
            if isForgotten, !chance.chance(weakness) { lists = before }
            if chance.chance(weakness * 2) { lists = before }
            let began = Int64(moment * 10) - chance.number(in: 0...20)
            let ended = Int64(moment * 10) + chance.number(in: chance.chance(weakness) ? -20...20 : 0...20)
            history.append(
                ListTransaction(client: moment, began: began, ended: max(began, ended), outcome: outcome, operations))
        }
        history.shuffle(using: &chance)
        return history
    }

    private mutating func operation(_ element: Int, _ weakness: Double) -> ListTransaction.Operation {
        let key = chance.element(of: ["x", "y"])
        var list = lists[key] ?? []
        if chance.chance(0.5) {
            lists[key] = list + [element]
            return .append(key, element)
        }
        if chance.chance(weakness) { list = list.dropLast() }
        if chance.chance(weakness / 2) { list.append(list.first ?? 99) }
        if chance.chance(weakness / 2) { list.shuffle(using: &chance) }
        return .read(key, list)
    }
}

// MARK: Right histories and mistakes

/// A way to make a right history wrong.
enum Mistake: CaseIterable, Sendable {
    case staleRead, abortedWriter, swappedElements, doubledElement, lostBeginning, unrepeatableRead, inventedElement
    case writeSkew, longFork, exchangedTimes, forgottenAppend
}

/// Transactions that were done one after the other, each within the time that it took.
private struct SerialRun {
    private(set) var history: [ListTransaction] = []
    private var chance: SeededGenerator

    init(seed: UInt64, transactions: Int = 300, keys: Int = 12, overlap: Int64 = 100) {
        chance = SeededGenerator(seed: seed)
        var lists: [Int: [Int]] = [:]
        for number in 0..<transactions {
            let isUnknown = chance.chance(0.02)
            let isAborted = chance.chance(0.05) || (isUnknown && chance.chance(0.5))
            let before = lists
            let operations = (0...chance.index(below: 5)).map { index -> ListTransaction.Operation in
                let key = chance.index(below: keys) + number * 4 / transactions * keys
                guard chance.chance(0.5) else { return .read("k\(key)", lists[key] ?? []) }
                lists[key, default: []].append(number * 10 + index)
                return .append("k\(key)", number * 10 + index)
            }
            if isAborted { lists = before }
            let moment = Int64(number) * 10
            history.append(
                ListTransaction(
                    client: number % 16, began: moment - chance.number(in: 0...overlap),
                    ended: moment + chance.number(in: 0...overlap),
                    outcome: isUnknown ? .unknown : isAborted ? .aborted : .committed, operations))
        }
        history.shuffle(using: &chance)
    }

    /// Puts a mistake in; what must be found then, or nil when there is no place for it.
    mutating func make(_ mistake: Mistake) -> Set<ListAppendAnomaly.Kind>? {
        switch mistake {
        case .staleRead: staleRead()
        case .abortedWriter: abortedWriter()
        case .swappedElements: changeRead(minimum: 2, [.incompatibleOrder]) { list in list.swapAt(0, 1) }
        case .doubledElement: changeRead(minimum: 1, [.duplicateElement]) { list in list.append(list[0]) }
        case .lostBeginning: changeRead(minimum: 2, [.incompatibleOrder]) { list in list.removeFirst() }
        case .inventedElement: changeRead(minimum: 1, [.unwrittenElement]) { list in list[list.count - 1] = -1 }
        case .unrepeatableRead: unrepeatableRead()
        case .writeSkew: writeSkew()
        case .longFork: longFork()
        case .exchangedTimes: exchangedTimes()
        case .forgottenAppend: forgottenAppend()
        }
    }

    private mutating func replace(
        _ number: Int, outcome: ListTransaction.Outcome? = nil, _ operations: [ListTransaction.Operation]
    ) {
        let old = history[number]
        history[number] = ListTransaction(
            client: old.client, began: old.began, ended: old.ended, outcome: outcome ?? old.outcome, operations)
    }

    private var writers: [Int: Int] {
        var writers: [Int: Int] = [:]
        for (number, transaction) in history.enumerated() {
            for case .append(_, let element) in transaction.operations { writers[element] = number }
        }
        return writers
    }

    /// The reads of committed transactions that do nothing else to the key, in random order.
    private mutating func lonelyReads() -> [(number: Int, operation: Int, key: String, list: [Int])] {
        var reads: [(number: Int, operation: Int, key: String, list: [Int])] = []
        for (number, transaction) in history.enumerated() where transaction.outcome == .committed {
            for (place, operation) in transaction.operations.enumerated() {
                guard case .read(let key, let list) = operation else { continue }
                let uses = transaction.operations.count { other in
                    switch other {
                    case .append(key, _), .read(key, _): true
                    default: false
                    }
                }
                if uses == 1 { reads.append((number, place, key, list)) }
            }
        }
        return reads.shuffled(using: &chance)
    }

    private mutating func changeRead(
        minimum: Int, _ expected: Set<ListAppendAnomaly.Kind>, _ change: (inout [Int]) -> Void
    ) -> Set<ListAppendAnomaly.Kind>? {
        let reads = lonelyReads()
        // Somebody else has read as much of the list.
        let found = reads.first { read in
            read.list.count >= minimum
                && reads.contains { $0.number != read.number && $0.key == read.key && $0.list.count >= read.list.count }
        }
        guard let (number, place, key, list) = found else { return nil }
        var operations = history[number].operations
        var changed = list
        change(&changed)
        operations[place] = .read(key, changed)
        replace(number, operations)
        return expected
    }

    private mutating func staleRead() -> Set<ListAppendAnomaly.Kind>? {
        let writers = writers
        let found = lonelyReads().first { read in
            guard let last = read.list.last, let writer = writers[last] else { return false }
            return history[writer].outcome == .committed && history[writer].ended < history[read.number].began
        }
        guard let (number, place, key, list) = found else { return nil }
        var operations = history[number].operations
        operations[place] = .read(key, list.dropLast())
        replace(number, operations)
        return Set(ListAppendAnomaly.Kind.allCases.filter { $0.rawValue.hasPrefix("G") })
    }

    private mutating func abortedWriter() -> Set<ListAppendAnomaly.Kind>? {
        let writers = writers
        guard
            let writer = lonelyReads().lazy.compactMap({ read in read.list.last.flatMap { writers[$0] } })
                .first(where: { _ in true })
        else { return nil }
        replace(writer, outcome: .aborted, history[writer].operations)
        return [.abortedRead]
    }

    private mutating func unrepeatableRead() -> Set<ListAppendAnomaly.Kind>? {
        guard let read = lonelyReads().first(where: { !$0.list.isEmpty }) else { return nil }
        replace(read.number, history[read.number].operations + [.read(read.key, read.list.dropLast())])
        return [.internalInconsistency]
    }

    private mutating func append(_ operations: [ListTransaction.Operation]) {
        history.append(ListTransaction(client: 99, began: -200, ended: 100_000, operations))
    }

    private mutating func writeSkew() -> Set<ListAppendAnomaly.Kind>? {
        append([.read("a", []), .append("b", -2)])
        append([.read("b", []), .append("a", -1)])
        return [.antidependencyCycle]
    }

    private mutating func longFork() -> Set<ListAppendAnomaly.Kind>? {
        append([.append("a", -1)])
        append([.append("b", -2)])
        append([.read("a", [-1]), .read("b", [])])
        append([.read("a", []), .read("b", [-2])])
        return [.antidependencyCycle]
    }

    /// A reader and one whom it has read, long before, change their times.
    private mutating func exchangedTimes() -> Set<ListAppendAnomaly.Kind>? {
        let writers = writers
        for read in lonelyReads() {
            guard let element = read.list.last, let writer = writers[element], history[writer].outcome == .committed,
                history[writer].ended < history[read.number].began
            else { continue }
            let (one, other) = (history[writer], history[read.number])
            history[writer] = ListTransaction(
                client: one.client, began: other.began, ended: other.ended, one.operations)
            history[read.number] = ListTransaction(
                client: other.client, began: one.began, ended: one.ended, other.operations)
            return Set(ListAppendAnomaly.Kind.allCases.filter { $0.rawValue.hasPrefix("G") })
        }
        return nil
    }

    /// An append is acknowledged after a list was read for the last time but one, and never seen.
    private mutating func forgottenAppend() -> Set<ListAppendAnomaly.Kind>? {
        let latest = history.indices.filter { history[$0].outcome == .committed }.max {
            history[$0].began < history[$1].began
        }
        guard let latest else { return nil }
        history.append(ListTransaction(client: 99, began: -300, ended: -200, [.append("lost", -1)]))
        replace(latest, history[latest].operations + [.read("lost", [])])
        return [.singleAntidependencyInRealTime]
    }
}
