import AdminInterface
import Synchronization
import SystemClock
import TransactionCore
import TransactionEngine

/// What a node's admin interface tells of it.
final class NodeStatus: Sendable {
    private let engine = Mutex<TransactionEngine?>(nil)
    private let servesElsewhere: @Sendable () -> Bool

    /// - Parameter servesElsewhere: whether another node serves the clients that come to this one now.
    init(servesElsewhere: @escaping @Sendable () -> Bool = { false }) {
        self.servesElsewhere = servesElsewhere
    }

    /// Whether clients that come now are served.
    var isReady: Bool {
        get async {
            if let engine = engine.withLock({ $0 }) { return await !engine.isFenced }
            return servesElsewhere()
        }
    }

    /// The engine, while this node coordinates.
    func coordinates(by engine: TransactionEngine?) {
        self.engine.withLock { $0 = engine }
    }

    /// What the engine counts; where the node has begun anew, since then.
    func samples(_ clock: SystemBoundedClock) async -> [MetricSample] {
        let engine = engine.withLock { $0 }
        var samples = [MetricSample("meridian_node_coordinates", [], engine == nil ? 0 : 1)]
        if let now = try? clock.now() {
            let width = Double(now.latest.rawValue - now.earliest.rawValue)
            samples.append(MetricSample("meridian_clock_uncertainty_seconds", [], width / 2e9))
        }
        guard let statistics = await engine?.currentStatistics() else { return samples }
        func count(_ name: String, _ value: Int, _ labels: [(String, String)] = []) {
            samples.append(MetricSample("meridian_\(name)_total", labels, Double(value), isCounter: true))
        }
        count("commits", statistics.oneShardCommits, [("shards", "one")])
        count("commits", statistics.crossShardCommits, [("shards", "several")])
        for (state, number) in statistics.aborts { count("aborts", number, [("sqlstate", state.rawValue)]) }
        count("deadlocks", statistics.deadlocks)
        count("reads", statistics.reads)
        count("reads_of_the_past", statistics.readsOfThePast)
        count("reads_that_waited", statistics.readsThatWaited)
        count("recovered_transactions", statistics.recovered)
        let times = [
            ("commit_seconds", statistics.commitTime), ("exposed_commit_wait_seconds", statistics.exposedCommitWait),
        ]
        for (name, time) in times {
            samples.append(MetricSample("meridian_\(name)_total", [], time / .seconds(1), isCounter: true))
        }
        return samples
    }
}
