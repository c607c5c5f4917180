extension VersionOrders {
    /// What a cycle is called, and why each of its transactions comes before the next.
    func anomaly(of cycle: [CycleSearch.Step]) -> ListAppendAnomaly {
        let next = cycle.dropFirst() + cycle.prefix(1)
        let reasons = zip(cycle, next).map { reason(for: $0.edge, before: $1.transaction) }
        return ListAppendAnomaly(
            kind: kind(of: cycle), message: reasons.joined(separator: "; "), witnesses: cycle.map(\.transaction))
    }

    /// The dependencies that contradict the commit timestamps.
    func timestampAnomalies(_ graph: DependencyGraph) -> [ListAppendAnomaly] {
        graph.edges.compactMap { edge in
            guard edge.kind != .realTime, edge.kind != .onward, max(edge.from, edge.to) < history.count,
                let earlier = history[edge.from].timestamp, let later = history[edge.to].timestamp, earlier >= later
            else { return nil }
            return ListAppendAnomaly(
                kind: .timestampOrder,
                message: reason(for: edge, before: edge.to) + "; t\(edge.from) committed at \(earlier), t\(edge.to) at "
                    + "\(later)",
                witnesses: [edge.from, edge.to])
        }
    }

    private func kind(of cycle: [CycleSearch.Step]) -> ListAppendAnomaly.Kind {
        let kinds = cycle.map(\.edge.kind)
        let isInRealTime = kinds.contains(.realTime)
        switch kinds.count(where: { $0 == .readWrite }) {
        case 0 where !kinds.contains(.writeRead): return isInRealTime ? .writeCycleInRealTime : .writeCycle
        case 0: return isInRealTime ? .circularReadInRealTime : .circularRead
        case 1: return isInRealTime ? .singleAntidependencyInRealTime : .singleAntidependency
        default: return isInRealTime ? .antidependencyCycleInRealTime : .antidependencyCycle
        }
    }

    private func reason(for edge: DependencyGraph.Edge, before transaction: Int) -> String {
        let one = "t\(edge.from)"
        let other = "t\(transaction)"
        if edge.kind == .realTime {
            return "\(one) ended at \(history[edge.from].ended), \(other) began at \(history[transaction].began)"
        }
        let order = keys[edge.key]
        let read = text(of: Array(order.elements.prefix(edge.position)))
        let missing =
            order.elements[edge.position...].first { order.appends[$0]?.transaction == transaction }
            .map { "\($0)" } ?? unread(of: transaction, edge.key)
        switch edge.kind {
        case .writeRead: return "\(other) read \(order.key) = \(read), of which \(one) wrote the end"
        case .readWrite: return "\(one) read \(order.key) = \(read), without \(missing) of \(other)"
        default: return "\(one) appended the end of \(order.key) = \(read), then \(other) appended \(missing)"
        }
    }

    /// What a transaction appended to a key and nobody read.
    private func unread(of transaction: Int, _ key: Int) -> String {
        for case .append(let name, let element) in history[transaction].operations
        where name == keys[key].key && keys[key].positions[element] == nil {
            return "\(element), which nobody read,"
        }
        return "something"
    }
}
