/// Finds cycles in a dependency graph: of every strongly connected component one of the most basic kind, short.
///
/// Edges are let in by and by, so that a cycle with reads is shown only where there is none of appends alone, and one
/// that needs real time only where there is none without. Within such a set of edges every cycle has an edge of the
/// kind that was let in last; a shortest way back from its end closes it.
struct CycleSearch {
    /// A transaction and the edge that leads to the next one.
    struct Step {
        let transaction: Int
        let edge: DependencyGraph.Edge
    }

    private struct Level {
        let kinds: DependencyGraph.EdgeKinds
        let newest: DependencyGraph.EdgeKinds
    }

    private static let levels = [
        Level(kinds: [.writeWrite], newest: .writeWrite),
        Level(kinds: [.writeWrite, .writeRead], newest: .writeRead),
        Level(kinds: [.writeWrite, .writeRead, .readWrite], newest: .readWrite),
        Level(kinds: [.writeWrite, .realTime], newest: .writeWrite),
        Level(kinds: [.writeWrite, .writeRead, .realTime], newest: .writeRead),
        Level(kinds: [.writeWrite, .writeRead, .readWrite, .realTime], newest: .readWrite),
    ]

    /// How many cycles of a component are looked at for the shortest one.
    private static let candidatesMax = 32
    /// How often the searches for cycles with a single antidependency may look at every edge: there is an end to them
    /// in a history that is wrong throughout. A cycle is found anyway, perhaps of a less basic kind.
    private static let passesMax = 200

    private let graph: DependencyGraph
    private(set) var cycles: [[Step]] = []
    private var search: PathSearch
    private var budget: Int

    init(_ graph: DependencyGraph) {
        self.graph = graph
        search = PathSearch(graph)
        budget = Self.passesMax * (graph.edges.count + 1)
    }

    mutating func run() {
        for level in Self.levels { run(level) }
    }

    private mutating func run(_ level: Level) {
        let components = graph.components(over: level.kinds)
        let shown = Set(
            cycles.compactMap { cycle -> Int? in
                let touched = Set(cycle.map { components[$0.transaction] })
                return touched.count == 1 ? touched.first : nil
            })
        var candidates: [Int: [Int]] = [:]
        for (number, edge) in graph.edges.enumerated()
        where edge.kind == level.newest && components[edge.from] == components[edge.to] {
            candidates[components[edge.from], default: []].append(number)
        }
        guard !candidates.isEmpty else { return }
        let inner = level.newest == .readWrite ? graph.components(over: level.kinds.subtracting(.readWrite)) : []
        for (component, edges) in candidates.sorted(by: { $0.key < $1.key }) where !shown.contains(component) {
            let single =
                inner.isEmpty ? nil : singleAntidependency(edges, inner, over: level.kinds.subtracting(.readWrite))
            guard let cycle = single ?? anyCycle(edges, components, over: level.kinds) else { continue }
            cycles.append(steps(of: cycle))
        }
    }

    /// A cycle of one of these rw edges and none else. Without them the component has no cycle, so the numbers of
    /// `inner` fall along every way: only an edge against that order can be closed, and a short one is the likeliest.
    private mutating func singleAntidependency(
        _ candidates: [Int], _ inner: [Int], over kinds: DependencyGraph.EdgeKinds
    ) -> [Int]? {
        func span(_ number: Int) -> Int { inner[graph.edges[number].to] - inner[graph.edges[number].from] }
        var best: [Int]?
        var attemptsLeft = Int.max
        for number in candidates.filter({ span($0) >= 0 }).sorted(by: { (span($0), $0) < (span($1), $1) }) {
            guard attemptsLeft > 0, budget > 0 else { break }
            let edge = graph.edges[number]
            let range = inner[edge.from]...inner[edge.to]
            let way = search.shortest(from: edge.to, to: edge.from, over: kinds, within: inner, range)
            budget -= search.edgesSeen
            if let way, way.count < (best?.count ?? .max) - 1 { best = [number] + way }
            if best != nil { attemptsLeft = min(attemptsLeft, Self.candidatesMax) - 1 }
        }
        return best
    }

    /// A short cycle through one of these edges, which lie within their components.
    private mutating func anyCycle(
        _ candidates: [Int], _ components: [Int], over kinds: DependencyGraph.EdgeKinds
    ) -> [Int]? {
        var best: [Int]?
        for place in stride(from: 0, to: candidates.count, by: max(1, candidates.count / Self.candidatesMax)) {
            let edge = graph.edges[candidates[place]]
            let range = components[edge.from]...components[edge.from]
            guard let way = search.shortest(from: edge.to, to: edge.from, over: kinds, within: components, range)
            else { continue }
            if way.count < (best?.count ?? .max) - 1 { best = [candidates[place]] + way }
        }
        return best
    }

    /// The transactions of a cycle, what lies between two of them taken together.
    private func steps(of cycle: [Int]) -> [Step] {
        cycle.map { graph.edges[$0] }.filter { $0.from < graph.transactionCount }
            .map { Step(transaction: $0.from, edge: $0) }
    }
}

/// Shortest ways through a dependency graph, by breadth; parts from a joint onwards cost nothing.
private struct PathSearch {
    private let graph: DependencyGraph
    /// Of each node, in which search it was met and left, how far away, and by which edge it was reached.
    private var met: [Int]
    private var left: [Int]
    private var distance: [Int]
    private var arrival: [Int]
    private var number = 0
    /// How many edges the last search looked at.
    private(set) var edgesSeen = 0

    init(_ graph: DependencyGraph) {
        self.graph = graph
        met = Array(repeating: 0, count: graph.nodeCount)
        left = met
        distance = met
        arrival = met
    }

    /// The edges of a shortest way between nodes whose values in `places` are in `range`, by edges of these kinds.
    mutating func shortest(
        from start: Int, to end: Int, over kinds: DependencyGraph.EdgeKinds, within places: [Int],
        _ range: ClosedRange<Int>
    ) -> [Int]? {
        let kinds = kinds.union(.onward)
        number += 1
        edgesSeen = 0
        met[start] = number
        distance[start] = 0
        arrival[start] = -1
        var near = [start]
        var far: [Int] = []
        while !near.isEmpty {
            while let node = near.popLast() {
                guard left[node] < number else { continue }
                left[node] = number
                if node == end { return way(to: end) }
                for place in graph.starts[node]..<graph.starts[node + 1] {
                    let edge = graph.edges[graph.outgoing[place]]
                    edgesSeen += 1
                    guard kinds.rawValue & edge.kind.rawValue != 0, range.contains(places[edge.to]) else { continue }
                    let isOnward = edge.kind == .onward
                    let length = distance[node] + (isOnward ? 0 : 1)
                    if met[edge.to] == number, distance[edge.to] <= length { continue }
                    met[edge.to] = number
                    distance[edge.to] = length
                    arrival[edge.to] = graph.outgoing[place]
                    if isOnward { near.append(edge.to) } else { far.append(edge.to) }
                }
            }
            (near, far) = (far, [])
        }
        return nil
    }

    private func way(to end: Int) -> [Int] {
        var edges: [Int] = []
        var node = end
        while arrival[node] >= 0 {
            edges.append(arrival[node])
            node = graph.edges[arrival[node]].from
        }
        return edges.reversed()
    }
}
