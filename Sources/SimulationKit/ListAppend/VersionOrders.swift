/// The order of every key's elements, as far as a history's reads show it, and who appended them.
struct VersionOrders<Key: Hashable & Sendable, Element: Hashable & Sendable> {
    typealias Transaction = ListAppendTransaction<Key, Element>

    struct Append {
        let transaction: Int
        /// The transaction's last one to the key.
        let isLast: Bool
    }

    struct KeyOrder {
        let key: Key
        var appends: [Element: Append] = [:]
        /// The longest list that a committed transaction read, and which one that was.
        var elements: [Element] = []
        var reader: Int?
        /// Where each of the elements stands.
        var positions: [Element: Int] = [:]
        /// Elements that were complained of, for whichever reason.
        var suspects: Set<Element> = []
        /// Its reads contradict each other: no order follows from them.
        var isContested = false
        /// Who appended each of the elements; -1 for nobody that committed.
        var writers: [Int] = []
    }

    let history: [Transaction]
    var keys: [KeyOrder] = []
    /// Committed, or of unknown outcome and seen by somebody who is.
    private(set) var isCommitted: [Bool]
    var anomalies: [ListAppendAnomaly] = []

    private var numbers: [Key: Int] = [:]
    /// Committed transactions whose reads are still to be looked at.
    private var pending: [Int] = []

    init(_ history: [Transaction]) {
        self.history = history
        isCommitted = history.map { $0.outcome == .committed }
        for transaction in history.indices { collectAppends(of: transaction) }
    }

    /// Finds the orders, and what reads say by themselves.
    mutating func infer() {
        pending = history.indices.reversed().filter { isCommitted[$0] }
        while let transaction = pending.popLast() {
            for case .read(let key, let list) in history[transaction].operations {
                observe(list, of: number(of: key), by: transaction)
            }
        }
        for key in keys.indices {
            keys[key].writers = keys[key].elements.map { element in
                guard let writer = keys[key].appends[element]?.transaction, isCommitted[writer] else { return -1 }
                return writer
            }
        }
        for transaction in history.indices where isCommitted[transaction] { checkInside(transaction) }
        checkUpdates()
    }

    /// A key's number: keys are numbered as they come.
    mutating func number(of key: Key) -> Int {
        if let number = numbers[key] { return number }
        numbers[key] = keys.count
        keys.append(KeyOrder(key: key))
        return keys.count - 1
    }

    mutating func report(_ kind: ListAppendAnomaly.Kind, _ message: String, _ witnesses: Int...) {
        anomalies.append(ListAppendAnomaly(kind: kind, message: message, witnesses: witnesses))
    }

    // MARK: Appends

    private mutating func collectAppends(of transaction: Int) {
        var appendedLater: Set<Int> = []
        for case .append(let key, let element) in history[transaction].operations.reversed() {
            let number = number(of: key)
            let isLast = appendedLater.insert(number).inserted
            let other = keys[number].appends.updateValue(
                Append(transaction: transaction, isLast: isLast), forKey: element)
            precondition(
                other == nil, "t\(other?.transaction ?? -1) and t\(transaction) both append \(element) to \(key)")
        }
    }

    // MARK: Reads

    private mutating func observe(_ list: [Element], of key: Int, by transaction: Int) {
        let known = keys[key].elements
        if list.count <= known.count {
            if known.starts(with: list) { return }
        } else if list.starts(with: known) {
            for position in known.count..<list.count {
                observe(list[position], of: key, in: list, by: transaction)
                if keys[key].positions.updateValue(position, forKey: list[position]) != nil {
                    reportDuplicate(list[position], of: key, in: list, by: transaction)
                }
            }
            keys[key].elements = list
            keys[key].reader = transaction
            return
        }
        observeContradiction(list, of: key, by: transaction)
    }

    /// Neither what is known nor `list` is the beginning of the other.
    private mutating func observeContradiction(_ list: [Element], of key: Int, by transaction: Int) {
        let other = keys[key].reader ?? transaction
        let known = keys[key].elements
        let same = zip(known, list).prefix { $0 == $1 }.count
        report(
            .incompatibleOrder,
            "t\(other) read \(keys[key].key) = \(text(of: known, around: same)), t\(transaction) read "
                + text(of: list, around: same), other, transaction)
        keys[key].isContested = true
        var seen: Set<Element> = []
        for element in list {
            observe(element, of: key, in: list, by: transaction)
            if !seen.insert(element).inserted { reportDuplicate(element, of: key, in: list, by: transaction) }
        }
    }

    private mutating func observe(_ element: Element, of key: Int, in list: [Element], by transaction: Int) {
        guard let append = keys[key].appends[element] else {
            guard keys[key].suspects.insert(element).inserted else { return }
            return report(
                .unwrittenElement,
                "t\(transaction) read \(keys[key].key) = \(text(of: list)), and nobody appended \(element)",
                transaction)
        }
        switch history[append.transaction].outcome {
        case .committed: break
        case .unknown:
            guard !isCommitted[append.transaction] else { return }
            isCommitted[append.transaction] = true
            pending.append(append.transaction)
        case .aborted:
            guard keys[key].suspects.insert(element).inserted else { return }
            report(
                .abortedRead,
                "t\(transaction) read \(keys[key].key) = \(text(of: list)), in which \(element) is of "
                    + "t\(append.transaction), which aborted", transaction, append.transaction)
        }
    }

    private mutating func reportDuplicate(_ element: Element, of key: Int, in list: [Element], by transaction: Int) {
        keys[key].isContested = true
        guard keys[key].suspects.insert(element).inserted else { return }
        report(
            .duplicateElement, "t\(transaction) read \(keys[key].key) = \(text(of: list)), with \(element) twice",
            transaction)
    }

    // MARK: One transaction by itself

    /// A key as one transaction has seen it: what was there before, once it has read it, and what it appended.
    private struct View {
        var before: ArraySlice<Element>?
        var own: [Element] = []

        func agrees(with list: [Element]) -> Bool {
            guard list.count >= own.count, list.suffix(own.count).elementsEqual(own) else { return false }
            return before?.elementsEqual(list.dropLast(own.count)) ?? true
        }
    }

    private mutating func checkInside(_ transaction: Int) {
        var views: [Int: View] = [:]
        for operation in history[transaction].operations {
            switch operation {
            case .append(let key, let element):
                views[number(of: key), default: View()].own.append(element)
            case .read(let key, let list):
                let key = number(of: key)
                var view = views[key] ?? View()
                if view.agrees(with: list) {
                    view.before = list.dropLast(view.own.count)
                    views[key] = view
                } else {
                    let expected = (view.before.map { Array($0) } ?? []) + view.own
                    report(
                        .internalInconsistency,
                        "t\(transaction) read \(keys[key].key) = \(text(of: list)), and after what it had done itself "
                            + (view.before == nil ? "the end is " : "it is ") + text(of: expected), transaction)
                }
                checkEnd(of: list, key, transaction)
            }
        }
    }

    private mutating func checkEnd(of list: [Element], _ key: Int, _ transaction: Int) {
        guard let element = list.last, let append = keys[key].appends[element], !append.isLast,
            append.transaction != transaction, keys[key].suspects.insert(element).inserted
        else { return }
        report(
            .intermediateRead,
            "t\(transaction) read \(keys[key].key) = \(text(of: list)), and \(element) is not the last that "
                + "t\(append.transaction) appended", transaction, append.transaction)
    }

    // MARK: Updates

    /// Of the transactions that read the same list and appended to it, all but one have lost sight of another.
    private mutating func checkUpdates() {
        var first: [Int: [Int: Int]] = [:]
        for transaction in history.indices where isCommitted[transaction] {
            var appended: Set<Int> = []
            for case .append(let key, _) in history[transaction].operations { appended.insert(number(of: key)) }
            guard !appended.isEmpty else { continue }
            var checked: Set<Int> = []
            for case .read(let key, let list) in history[transaction].operations {
                let key = number(of: key)
                guard appended.contains(key), checked.insert(key).inserted, !keys[key].isContested else { continue }
                let version = version(of: list, key, readBy: transaction)
                guard let other = first[key, default: [:]].updateValue(transaction, forKey: version) else { continue }
                report(
                    .lostUpdate,
                    "t\(other) and t\(transaction) both read \(keys[key].key) = "
                        + "\(text(of: Array(list.prefix(version)))) and appended to it", other, transaction)
            }
        }
    }

    /// How many elements of a list that `transaction` read were there before its own.
    func version(of list: [Element], _ key: Int, readBy transaction: Int) -> Int {
        var count = list.count
        while count > 0, keys[key].appends[list[count - 1]]?.transaction == transaction { count -= 1 }
        return count
    }

    // MARK: Text

    /// A list, in short: its last elements, or those around a place.
    func text(of list: [Element], around place: Int? = nil) -> String {
        let shown = 4
        let end = min(list.count, place.map { $0 + 2 } ?? list.count)
        let start = max(0, end - shown)
        let elements = list[start..<end].map { "\($0)" }
        return "[" + ((start > 0 ? ["…"] : []) + elements + (end < list.count ? ["…"] : [])).joined(separator: ", ")
            + "]"
    }
}
