/// Who must come before whom in every serial order. Nodes are transactions, by their places in the history, and joints
/// that keep the number of edges linear: what leads through joints is one edge, of the kind of its first part.
struct DependencyGraph {
    struct EdgeKinds: OptionSet, Hashable {
        let rawValue: UInt8

        /// Appended before the other did.
        static let writeWrite = EdgeKinds(rawValue: 1)
        /// Appended what the other read.
        static let writeRead = EdgeKinds(rawValue: 2)
        /// Read a list without what the other appended.
        static let readWrite = EdgeKinds(rawValue: 4)
        /// Ended before the other began.
        static let realTime = EdgeKinds(rawValue: 8)
        /// From a joint onwards.
        static let onward = EdgeKinds(rawValue: 16)
    }

    struct Edge {
        let from, to: Int
        let kind: EdgeKinds
        /// The key that it is about, and the place in its order: of the element before which, or up to which. Of an
        /// element that nobody read: the number of elements that somebody did.
        var key = -1
        var position = -1
    }

    let transactionCount: Int
    private(set) var nodeCount: Int
    private(set) var edges: [Edge] = []
    /// The edges from node `n`: `outgoing[starts[n] ..< starts[n + 1]]`, places in `edges`.
    private(set) var starts: [Int] = []
    private(set) var outgoing: [Int] = []

    init(transactionCount: Int) {
        self.transactionCount = transactionCount
        nodeCount = transactionCount
    }

    mutating func makeJoint() -> Int {
        nodeCount += 1
        return nodeCount - 1
    }

    mutating func add(_ edge: Edge) {
        if edge.from != edge.to { edges.append(edge) }
    }

    /// Sorts the edges by where they come from; to be called once, behind the last `add`.
    mutating func seal() {
        starts = Array(repeating: 0, count: nodeCount + 1)
        for edge in edges { starts[edge.from + 1] += 1 }
        for node in 0..<nodeCount { starts[node + 1] += starts[node] }
        var next = starts
        outgoing = Array(repeating: 0, count: edges.count)
        for (number, edge) in edges.enumerated() {
            outgoing[next[edge.from]] = number
            next[edge.from] += 1
        }
    }
}

// MARK: Edges of a history

extension VersionOrders {
    /// The dependencies between committed transactions.
    mutating func dependencyGraph() -> DependencyGraph {
        var graph = DependencyGraph(transactionCount: history.count)
        for key in keys.indices where !keys[key].isContested { addAppends(of: key, to: &graph) }
        addReads(to: &graph)
        addRealTime(to: &graph)
        graph.seal()
        return graph
    }

    private func addAppends(of key: Int, to graph: inout DependencyGraph) {
        var previous = -1
        for (position, writer) in keys[key].writers.enumerated() where writer >= 0 {
            if previous >= 0 {
                graph.add(.init(from: previous, to: writer, kind: .writeWrite, key: key, position: position))
            }
            previous = writer
        }
    }

    private mutating func addReads(to graph: inout DependencyGraph) {
        // Who wrote last before each place of an order, and who next.
        let before = keys.map { order in
            order.writers.reduce(into: [-1]) { $0.append($1 >= 0 ? $1 : $0[$0.count - 1]) }
        }
        let after = keys.map { order in
            Array(order.writers.reversed().reduce(into: [-1]) { $0.append($1 >= 0 ? $1 : $0[$0.count - 1]) }.reversed())
        }
        var readersOfAll: [[Int]] = Array(repeating: [], count: keys.count)
        for transaction in history.indices where isCommitted[transaction] {
            for case .read(let key, let list) in history[transaction].operations {
                let key = number(of: key)
                guard !keys[key].isContested else { continue }
                let version = version(of: list, key, readBy: transaction)
                if before[key][version] >= 0 {
                    graph.add(
                        .init(
                            from: before[key][version], to: transaction, kind: .writeRead, key: key, position: version))
                }
                if after[key][version] >= 0 {
                    graph.add(
                        .init(from: transaction, to: after[key][version], kind: .readWrite, key: key, position: version)
                    )
                } else {
                    readersOfAll[key].append(transaction)
                }
            }
        }
        for key in keys.indices where !keys[key].isContested {
            addUnread(of: key, before[key].last ?? -1, readersOfAll[key], to: &graph)
        }
    }

    /// Elements that nobody read come after all that somebody did: after their last writer, and after everybody who
    /// read all of them.
    ///
    /// Each of m readers comes before each of n writers but itself, by two rows of joints: from joint i of one lead
    /// ways to writers i and later, from joint i of the other to i and earlier. That is m + n edges, not m · n.
    private func addUnread(
        of key: Int, _ lastWriter: Int, _ readers: [Int], to graph: inout DependencyGraph
    ) {
        let order = keys[key]
        var writers: [Int] = []
        for append in order.appends where order.positions[append.key] == nil && isCommitted[append.value.transaction] {
            writers.append(append.value.transaction)
        }
        guard !writers.isEmpty, lastWriter >= 0 || !readers.isEmpty else { return }
        writers = Set(writers).sorted()
        let places = Dictionary(uniqueKeysWithValues: zip(writers, writers.indices))
        let later = writers.map { _ in graph.makeJoint() }
        let earlier = writers.map { _ in graph.makeJoint() }
        for (place, writer) in writers.enumerated() {
            graph.add(.init(from: later[place], to: writer, kind: .onward))
            graph.add(.init(from: earlier[place], to: writer, kind: .onward))
            guard place > 0 else { continue }
            graph.add(.init(from: later[place - 1], to: later[place], kind: .onward))
            graph.add(.init(from: earlier[place], to: earlier[place - 1], kind: .onward))
        }
        func enter(from transaction: Int, _ kind: DependencyGraph.EdgeKinds) {
            let position = order.elements.count
            let place = places[transaction] ?? -1
            if place > 0 {
                graph.add(
                    .init(from: transaction, to: earlier[place - 1], kind: kind, key: key, position: position))
            }
            if place + 1 < writers.count {
                graph.add(.init(from: transaction, to: later[place + 1], kind: kind, key: key, position: position))
            }
        }
        if lastWriter >= 0 { enter(from: lastWriter, .writeWrite) }
        for reader in readers { enter(from: reader, .readWrite) }
    }

    /// A chain of joints, one for each end in the order of time: a transaction leads to the joint of its own end, and
    /// the last joint before its begin to it. What has no known end has ended after everybody's begin.
    private func addRealTime(to graph: inout DependencyGraph) {
        let committed = history.indices.filter { isCommitted[$0] }
        let ends = committed.filter { history[$0].outcome == .committed }
            .sorted { (history[$0].ended, $0) < (history[$1].ended, $1) }
        let begins = committed.sorted { (history[$0].began, $0) < (history[$1].began, $1) }
        var last = -1
        var next = 0
        for transaction in begins {
            while next < ends.count, history[ends[next]].ended < history[transaction].began {
                let joint = graph.makeJoint()
                graph.add(.init(from: ends[next], to: joint, kind: .realTime))
                if last >= 0 { graph.add(.init(from: last, to: joint, kind: .onward)) }
                last = joint
                next += 1
            }
            if last >= 0 { graph.add(.init(from: last, to: transaction, kind: .onward)) }
        }
    }
}
