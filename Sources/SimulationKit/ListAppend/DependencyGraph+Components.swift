extension DependencyGraph {
    /// The strongly connected components of the graph with edges of these kinds, as a number for each node: where an
    /// edge leads from one component to another, the number falls.
    ///
    /// Tarjan, "Depth-first search and linear graph algorithms", SIAM J. Comput. 1 (1972), with a stack of its own:
    /// a history is a deep graph.
    func components(over kinds: EdgeKinds) -> [Int] {
        let kinds = kinds.union(.onward)
        var component = Array(repeating: -1, count: nodeCount)
        var index = Array(repeating: -1, count: nodeCount)
        var low = Array(repeating: 0, count: nodeCount)
        var cursor = starts
        var visited = 0
        var count = 0
        /// Nodes without a component yet, and the path from the root to where the search is.
        var open: [Int] = []
        var path: [Int] = []
        for root in 0..<nodeCount where index[root] < 0 {
            path.append(root)
            while let node = path.last {
                if index[node] < 0 {
                    index[node] = visited
                    low[node] = visited
                    visited += 1
                    open.append(node)
                }
                var descends = false
                while cursor[node] < starts[node + 1] {
                    let edge = edges[outgoing[cursor[node]]]
                    cursor[node] += 1
                    guard kinds.rawValue & edge.kind.rawValue != 0 else { continue }
                    if index[edge.to] < 0 {
                        path.append(edge.to)
                        descends = true
                        break
                    }
                    if component[edge.to] < 0 { low[node] = min(low[node], index[edge.to]) }
                }
                if descends { continue }
                path.removeLast()
                if let parent = path.last { low[parent] = min(low[parent], low[node]) }
                guard low[node] == index[node] else { continue }
                while let member = open.popLast() {
                    component[member] = count
                    if member == node { break }
                }
                count += 1
            }
        }
        return component
    }
}
