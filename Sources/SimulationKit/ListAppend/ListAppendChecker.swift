/// Judges whether a history of transactions over lists is strictly serializable, and says why not.
///
/// Elle's way (Kingsbury and Alvaro, "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020,
/// §3-§6): a list that can only be appended to shows its own history, so from what was read follows who came before
/// whom (ww, wr, rw); together with real time that must be free of cycles.
///
/// Where commit timestamps are known, each of those edges must agree with them, whether a cycle comes of it or not.
///
/// Exact both ways: a history without anomalies has a serial order, since every order of the transactions that agrees
/// with the edges explains all reads; and no edge is a guess. Elements that nobody read come after those that
/// somebody did, in an order that does not matter.
///
/// Linear in the size of the history, but for the choice of a short cycle to show.
public struct ListAppendChecker<Key: Hashable & Sendable, Element: Hashable & Sendable>: Sendable {
    public typealias Transaction = ListAppendTransaction<Key, Element>

    public init() {}

    /// What is wrong with a history: first what its reads say by themselves, then for every knot of contradictions the
    /// cycle of the most basic kind.
    public func check(_ history: [Transaction]) -> [ListAppendAnomaly] {
        var orders = VersionOrders(history)
        orders.infer()
        let graph = orders.dependencyGraph()
        var search = CycleSearch(graph)
        search.run()
        return orders.anomalies + orders.timestampAnomalies(graph) + search.cycles.map { orders.anomaly(of: $0) }
    }
}
