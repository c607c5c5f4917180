/// Decides when a transaction may begin, by two bounds.
///
/// The open transactions are bounded by the connections, so that an admitted one finds a connection on every shard and
/// none wait for connections in a circle. The *busy requests* are bounded because PostgreSQL does most work per core
/// with a few busy sessions per core: beyond that, processor caches and locks cost more than concurrency wins. What
/// only waits, for its client or for a row lock, costs the shards nothing and does not count: a request counts from its
/// start for one to two ``Admission/tick()``s.
struct Admission {
    /// Ends a request's being counted; from ``requestBegan()``.
    struct Request {
        fileprivate let generation: UInt64
    }

    private let openMax: Int
    private let busyMax: Int
    /// Transactions that were admitted and have not ended.
    private(set) var open = 0
    /// Requests under way by when they began: since the last tick, and since the one before.
    private var (recent, previous) = (0, 0)
    private var underWay = 0
    private var generation: UInt64 = 0

    init(openMax: Int, busyMax: Int) {
        self.openMax = openMax
        self.busyMax = busyMax
    }

    /// Whether one more transaction may begin now.
    var hasRoom: Bool { open < openMax && recent + previous < busyMax }

    /// Some request was under way at the last two ticks: it waits for something.
    var hasLongRequests: Bool { underWay > recent + previous }

    mutating func opened() { open += 1 }

    mutating func closed() {
        precondition(open > 0, "a transaction ended that was not open")
        open -= 1
    }

    /// A shard is asked to do something for an open transaction.
    mutating func requestBegan() -> Request {
        recent += 1
        underWay += 1
        return Request(generation: generation)
    }

    mutating func requestEnded(_ request: Request) {
        underWay -= 1
        switch generation - request.generation {
        case 0: recent -= 1
        case 1: previous -= 1
        default: break
        }
    }

    /// Some time has passed: what was under way at the last tick, too, is taken for waiting.
    mutating func tick() {
        generation += 1
        (recent, previous) = (0, recent)
    }
}
