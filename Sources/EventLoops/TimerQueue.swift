import HeapModule

/// The timers of one event loop, soonest first.
package struct TimerQueue {
    /// Names a timer for its removal.
    package struct ID: Hashable, Sendable {
        fileprivate let number: UInt64
    }

    private struct Entry: Comparable {
        let deadline: ContinuousClock.Instant
        let id: ID

        static func < (lhs: Entry, rhs: Entry) -> Bool {
            (lhs.deadline, lhs.id.number) < (rhs.deadline, rhs.id.number)
        }
    }

    private var heap = Heap<Entry>()
    /// A removed timer leaves here at once, and the heap when its turn comes or when such entries prevail.
    private var bodies: [ID: @Sendable () -> Void] = [:]
    private var lastNumber: UInt64 = 0

    /// How many entries take up memory.
    var pendingCount: Int { heap.count }

    mutating func add(at deadline: ContinuousClock.Instant, _ body: @escaping @Sendable () -> Void) -> ID {
        lastNumber += 1
        let id = ID(number: lastNumber)
        bodies[id] = body
        heap.insert(Entry(deadline: deadline, id: id))
        return id
    }

    mutating func remove(_ id: ID) {
        guard bodies.removeValue(forKey: id) != nil, heap.count > 2 * bodies.count + 64 else { return }
        heap = Heap(heap.unordered.filter { bodies[$0.id] != nil })
    }

    /// How long until the first timer is due; nil when there is none.
    mutating func timeToNext() -> Duration? {
        while let first = heap.min, bodies[first.id] == nil { heap.removeMin() }
        return heap.min.map { ContinuousClock.now.duration(to: $0.deadline) }
    }

    /// Takes out the bodies of the timers that are due, soonest first.
    mutating func takeDue() -> [@Sendable () -> Void] {
        guard let first = heap.min else { return [] }
        let now = ContinuousClock.now
        guard first.deadline <= now else { return [] }
        var due: [@Sendable () -> Void] = []
        while let first = heap.min, first.deadline <= now {
            heap.removeMin()
            if let body = bodies.removeValue(forKey: first.id) { due.append(body) }
        }
        return due
    }
}
