/// Values by key, in the order of the keys.
///
/// A list of short runs: finding is a binary search, inserting moves a run at most. A copy of the map shares all runs
/// that are not changed afterwards, so a snapshot can be written from a copy while the original goes on.
struct SortedMap<Key: Comparable & Sendable, Value: Sendable>: Sendable {
    struct Element: Sendable {
        let key: Key
        var value: Value
    }

    /// Long enough for few runs, short enough that copying one takes about a microsecond.
    private static var runLengthMax: Int { 128 }

    /// None is empty.
    private var runs: [[Element]] = []
    private(set) var count = 0

    /// Where an element is, or would be: within a run, or at the end of the last.
    private struct Position {
        var run: Int
        var index: Int
    }

    var isEmpty: Bool { count == 0 }
    var runCount: Int { runs.count }

    subscript(key: Key) -> Value? {
        let position = firstPosition(notBefore: key)
        return holds(key, position) ? runs[position.run][position.index].value : nil
    }

    /// Changes a value in place; returns nil, and does nothing, when the key isn't there.
    mutating func update<Result>(_ key: Key, _ change: (inout Value) -> Result) -> Result? {
        let position = firstPosition(notBefore: key)
        guard holds(key, position) else { return nil }
        return change(&runs[position.run][position.index].value)
    }

    /// Returns the value that was there before.
    @discardableResult
    mutating func set(_ key: Key, _ value: Value) -> Value? {
        var position = firstPosition(notBefore: key)
        if holds(key, position) {
            let previous = runs[position.run][position.index].value
            runs[position.run][position.index].value = value
            return previous
        }
        if position.run == runs.count {
            if runs.isEmpty { runs.append([]) }
            position = Position(run: runs.count - 1, index: runs[runs.count - 1].count)
        }
        runs[position.run].insert(Element(key: key, value: value), at: position.index)
        count += 1
        split(position)
        return nil
    }

    /// Returns the value that was there.
    @discardableResult
    mutating func remove(_ key: Key) -> Value? {
        let position = firstPosition(notBefore: key)
        guard holds(key, position) else { return nil }
        let removed = runs[position.run].remove(at: position.index).value
        count -= 1
        if runs[position.run].isEmpty { runs.remove(at: position.run) }
        return removed
    }

    /// The elements from `key` on, in order.
    func elements(from key: Key) -> Elements {
        let position = firstPosition(notBefore: key)
        return Elements(runs: runs, run: position.run, index: position.index)
    }

    /// All elements, in order.
    var elements: Elements { Elements(runs: runs, run: 0, index: 0) }

    /// The last element of all.
    var last: Element? { runs.last?.last }

    /// The last element before `key`.
    func last(before key: Key) -> Element? {
        let position = firstPosition(notBefore: key)
        if position.index > 0 { return runs[position.run][position.index - 1] }
        return position.run > 0 ? runs[position.run - 1].last : nil
    }

    /// Elements in order.
    struct Elements: Sequence, IteratorProtocol {
        fileprivate let runs: [[Element]]
        fileprivate var run: Int
        fileprivate var index: Int

        mutating func next() -> Element? {
            guard run < runs.count else { return nil }
            defer {
                index += 1
                if index == runs[run].count { (run, index) = (run + 1, 0) }
            }
            return runs[run][index]
        }
    }

    private func holds(_ key: Key, _ position: Position) -> Bool {
        position.run < runs.count && runs[position.run][position.index].key == key
    }

    private func firstPosition(notBefore key: Key) -> Position {
        let run = firstIndex(below: runs.count) { runs[$0][runs[$0].count - 1].key >= key }
        guard run < runs.count else { return Position(run: run, index: 0) }
        return Position(run: run, index: firstIndex(below: runs[run].count) { runs[run][$0].key >= key })
    }

    /// Keys that come in rising order leave full runs behind.
    private mutating func split(_ position: Position) {
        let run = runs[position.run]
        guard run.count > Self.runLengthMax else { return }
        let middle = position.index == run.count - 1 ? run.count - 1 : run.count / 2
        runs[position.run] = Array(run[..<middle])
        runs.insert(Array(run[middle...]), at: position.run + 1)
    }
}

/// The first index for which `isReached` holds, as it does for all after; `count` when for none.
func firstIndex(below count: Int, where isReached: (Int) -> Bool) -> Int {
    var (low, high) = (0, count)
    while low < high {
        let middle = (low + high) / 2
        if isReached(middle) { high = middle } else { low = middle + 1 }
    }
    return low
}
