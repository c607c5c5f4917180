import ShardBackend
import Synchronization
import Testing

/// A client of one node, which tells for how long it was not served: it changes rows of its own on all shards in one
/// transaction after the other, reads them back, and has nothing to wait for but the service.
final class ChaosProbe: Sendable {
    struct State {
        /// When each change began, and what it has made was read.
        var served: [(began: ContinuousClock.Instant, ended: ContinuousClock.Instant)] = []
        /// Changes that were acknowledged.
        var changes = 0
        /// Those of which the client was told nothing.
        var unknown = 0
        var isStopped = false
    }

    /// So many rows lie on all shards as good as certainly.
    private static let rowCount = 12

    let node: Int
    private let cluster: ChaosCluster
    private let state = Mutex(State())

    init(_ node: Int, of cluster: ChaosCluster) {
        (self.node, self.cluster) = (node, cluster)
    }

    private var rows: Range<Int> { node * 100..<node * 100 + Self.rowCount }
    private var keys: String { rows.map(String.init).joined(separator: ", ") }

    static func makeTable(_ probes: [ChaosProbe], by client: ShardConnection) async throws {
        try await client.text("CREATE TABLE probe (id int PRIMARY KEY, count int NOT NULL)")
        let rows = probes.flatMap(\.rows).map { "(\($0), 0)" }.joined(separator: ", ")
        try await client.text("INSERT INTO probe VALUES \(rows)")
    }

    /// Asks until ``stop()``. What it finds first on a new connection is what the node that serves now has made of the
    /// change whose answer was lost: all of it or nothing, also before anybody has had time to settle it.
    func run() async {
        var connection: ShardConnection?
        while !state.withLock({ $0.isStopped }) {
            var hasAsked = false
            do {
                if connection == nil {
                    let made = try await cluster.connect(to: node)
                    connection = made
                    try await check(by: made)
                }
                let began = ContinuousClock.now
                hasAsked = true
                try await connection?.text("UPDATE probe SET count = count + 1 WHERE id IN (\(keys))")
                state.withLock { $0.changes += 1 }
                hasAsked = false
                // The change may need no other node; a read that misses nothing of theirs does.
                if let connection { try await check(by: connection) }
                state.withLock { $0.served.append((began, .now)) }
            } catch {
                let error = error as? ShardError
                let isUnknown = error?.serverFields == nil || error?.sqlState == .transactionResolutionUnknown
                if hasAsked, isUnknown { state.withLock { $0.unknown += 1 } }
                await connection?.close()
                connection = nil
            }
            try? await Task.sleep(for: .milliseconds(10))
        }
        await connection?.close()
    }

    func stop() { state.withLock { $0.isStopped = true } }

    /// Whether something that began after `moment` was done.
    func isServed(since moment: ContinuousClock.Instant) -> Bool {
        state.withLock { $0.served.last.map { $0.began >= moment } ?? false }
    }

    /// The longest time without an acknowledgement that touches what lies between these moments.
    func longestGap(from start: ContinuousClock.Instant, to end: ContinuousClock.Instant) -> Duration {
        let ends = state.withLock { $0.served.map(\.ended) }
        let before = ends.last { $0 <= start } ?? start
        let within = [before] + ends.filter { start < $0 && $0 < end } + [end]
        return zip(within, within.dropFirst()).map { $1 - $0 }.max() ?? .zero
    }

    /// Expects that all its rows were changed equally often, as often as it was told, or more often where it was told
    /// nothing.
    func check(by client: ShardConnection) async throws {
        let counts = try await client.text("SELECT DISTINCT count FROM probe WHERE id IN (\(keys))")
        let told = state.withLock { $0.changes...$0.changes + $0.unknown }
        let isRight = Int(counts).map(told.contains) ?? false
        #expect(
            isRight,
            "node \(node)'s client was told of \(told) changes, and its rows have seen \(counts.debugDescription)")
    }
}
