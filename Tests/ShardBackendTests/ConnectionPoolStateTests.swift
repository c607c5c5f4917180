import Testing
import TransactionCore

@testable import ShardBackend

@Suite struct ConnectionPoolStateTests {
    typealias Action = ConnectionPoolState.Action

    private let refused = ShardError(.notConnected(nil), "connection refused")
    private var down: ShardError { ShardError(.notConnected(nil), "the shard is down: connection refused") }

    private func connection(_ number: UInt64) -> ConnectionPoolState.ConnectionID { .init(number: number) }
    private func waiter(_ number: UInt64) -> ConnectionPoolState.WaiterID { .init(number: number) }

    /// A pool whose first `count` connections are leased to waiters 1…`count`.
    private func makePool(bound: Int, leased count: UInt64) -> ConnectionPoolState {
        var pool = ConnectionPoolState(bound: bound)
        for number in 1...count {
            #expect(pool.wait(waiter(number)) == [.open(connection(number))])
            #expect(pool.opened(connection(number)) == [.lease(connection(number), to: waiter(number))])
        }
        return pool
    }

    @Test("connections are opened as they are needed, up to the bound; then requests wait in line")
    func bound() {
        var pool = makePool(bound: 2, leased: 2)
        #expect(pool.wait(waiter(3)) == [])
        #expect(pool.wait(waiter(4)) == [])
        #expect(pool.statistics.waiting == 2)
        #expect(pool.giveBack(connection(2), isReusable: true) == [.lease(connection(2), to: waiter(3))])
        #expect(pool.giveBack(connection(1), isReusable: true) == [.lease(connection(1), to: waiter(4))])
        #expect(pool.statistics.inUse == 2)
    }

    @Test("no more connections are opened than requests wait for")
    func demand() {
        var pool = ConnectionPoolState(bound: 10)
        #expect(pool.wait(waiter(1)) == [.open(connection(1))])
        #expect(pool.wait(waiter(2)) == [.open(connection(2))])
        #expect(pool.opened(connection(1)) == [.lease(connection(1), to: waiter(1))])
        #expect(pool.giveBack(connection(1), isReusable: true) == [.lease(connection(1), to: waiter(2))])
        #expect(pool.opened(connection(2)) == [], "nobody waits for it any more")
        #expect(pool.statistics.idle == 1)
    }

    @Test("the connection used last is used first")
    func reuse() {
        var pool = makePool(bound: 3, leased: 3)
        for number: UInt64 in [1, 3, 2] { #expect(pool.giveBack(connection(number), isReusable: true) == []) }
        #expect(pool.leaseIdle() == connection(2))
        #expect(pool.leaseIdle() == connection(3))
        #expect(pool.leaseIdle() == connection(1))
        #expect(pool.leaseIdle() == nil)
    }

    @Test("who gives up leaves the line, once")
    func givingUp() {
        var pool = makePool(bound: 1, leased: 1)
        #expect(pool.wait(waiter(2)) == [])
        #expect(pool.wait(waiter(3)) == [])
        let timedOut = ShardError(
            .poolWaitTimedOut, "no connection to the shard became free in time, 1 of 1 are in use")
        #expect(pool.giveUp(waiter(2), .poolWaitTimedOut) == [.fail(waiter(2), timedOut)])
        #expect(pool.giveUp(waiter(2), .cancelled) == [])
        #expect(pool.giveBack(connection(1), isReusable: true) == [.lease(connection(1), to: waiter(3))])
        #expect(pool.giveUp(waiter(3), .cancelled) == [], "it has its connection")
    }

    @Test("a connection that can't be used again is closed, and replaced for those who wait")
    func dirtyConnection() {
        var pool = makePool(bound: 1, leased: 1)
        #expect(pool.wait(waiter(2)) == [])
        #expect(pool.giveBack(connection(1), isReusable: false) == [.close(connection(1)), .open(connection(2))])
        #expect(pool.opened(connection(2)) == [.lease(connection(2), to: waiter(2))])
    }

    @Test("an idle connection that ends leaves the pool; one that is leased counts until it is given back")
    func endedConnection() {
        var pool = makePool(bound: 2, leased: 2)
        #expect(pool.giveBack(connection(1), isReusable: true) == [])
        #expect(pool.ended(connection(1)) == [.close(connection(1))])
        #expect(pool.leaseIdle() == nil)
        #expect(pool.ended(connection(2)) == [])
        #expect(pool.statistics.inUse == 1)
        #expect(pool.giveBack(connection(2), isReusable: false) == [.close(connection(2))])
        #expect(
            pool.statistics
                == {
                    var all = PoolStatistics(); all.opened = 2; all.lost = 2; return all
                }())
    }

    @Test("while the shard is down requests fail at once, and attempts are made at growing, bounded intervals")
    func shardDown() {
        var pool = ConnectionPoolState(bound: 2)
        #expect(pool.wait(waiter(1)) == [.open(connection(1))])
        #expect(
            pool.notOpened(connection(1), refused) == [.fail(waiter(1), down), .retry(after: .milliseconds(50))])
        var intervals: [Duration] = []
        for number: UInt64 in 2...9 {
            #expect(pool.wait(waiter(number)) == [.fail(waiter(number), down)])
            #expect(pool.retryDue() == [.open(connection(number))])
            #expect(pool.wait(waiter(number)) == [.fail(waiter(number), down)], "an attempt under way is no hope")
            guard case .retry(let interval)? = pool.notOpened(connection(number), refused).last else { continue }
            intervals.append(interval)
        }
        #expect(intervals == [100, 200, 400, 800, 1600, 2000, 2000, 2000].map { .milliseconds($0) })
        #expect(pool.retryDue() == [.open(connection(10))])
        #expect(pool.opened(connection(10)) == [])
        #expect(pool.leaseIdle() == connection(10), "the shard is back")
        #expect(pool.wait(waiter(20)) == [.open(connection(11))])
        #expect(pool.retryDue() == [])
    }

    @Test("attempts made together fail together and are retried once")
    func failedBatch() {
        var pool = ConnectionPoolState(bound: 3)
        for number: UInt64 in 1...3 { _ = pool.wait(waiter(number)) }
        #expect(pool.notOpened(connection(1), refused) == [.retry(after: .milliseconds(50))])
        #expect(pool.notOpened(connection(2), refused) == [])
        #expect(pool.retryDue() == [], "one attempt is still under way")
        #expect(
            pool.notOpened(connection(3), refused)
                == (1...3).map { .fail(waiter($0), down) } + [.retry(after: .milliseconds(100))])
    }

    @Test("a shard that refuses more connections is not down as long as some are open")
    func connectionLimit() {
        let tooMany = ShardError(.notConnected(.tooManyConnections), "sorry, too many clients already")
        var pool = makePool(bound: 2, leased: 1)
        #expect(pool.wait(waiter(2)) == [.open(connection(2))])
        #expect(pool.notOpened(connection(2), tooMany) == [.retry(after: .milliseconds(50))])
        #expect(pool.wait(waiter(3)) == [], "only the retry opens connections now")
        #expect(pool.giveBack(connection(1), isReusable: true) == [.lease(connection(1), to: waiter(2))])
        guard case .fail(_, let error)? = pool.giveUp(waiter(3), .poolWaitTimedOut).first else {
            return #expect(Bool(false), "the waiter is told")
        }
        #expect(error.message.hasSuffix("too many clients already"))
        #expect(pool.retryDue() == [], "nobody waits for another")
        #expect(pool.wait(waiter(4)) == [.open(connection(3))])
    }

    @Test("the shard is down when the last connection ends before a failed attempt was made good")
    func lastConnectionEnds() {
        var pool = makePool(bound: 2, leased: 1)
        _ = pool.wait(waiter(2))
        _ = pool.notOpened(connection(2), refused)
        #expect(
            pool.giveBack(connection(1), isReusable: false) == [.close(connection(1)), .fail(waiter(2), down)])
        #expect(pool.retryDue() == [.open(connection(3))], "it is tried although nobody waits")
    }

    @Test("the shard is down although connections are leased, when they have ended too")
    func leasedConnectionsEnd() {
        var pool = makePool(bound: 3, leased: 2)
        #expect(pool.wait(waiter(3)) == [.open(connection(3))])
        #expect(pool.ended(connection(1)) == [])
        #expect(pool.notOpened(connection(3), refused) == [.retry(after: .milliseconds(50))])
        #expect(pool.ended(connection(2)) == [.fail(waiter(3), down)])
        #expect(pool.giveBack(connection(1), isReusable: false) == [.close(connection(1))])
        #expect(pool.wait(waiter(4)) == [.fail(waiter(4), down)])
        #expect(pool.retryDue() == [.open(connection(4))])
        #expect(pool.opened(connection(4)) == [])
    }

    @Test("a closed pool leases nothing and closes what comes back")
    func closing() {
        let closed = ShardError(.closed, "the pool was closed")
        var pool = makePool(bound: 3, leased: 2)
        _ = pool.giveBack(connection(1), isReusable: true)
        _ = pool.leaseIdle()
        _ = pool.wait(waiter(3))
        _ = pool.wait(waiter(4))
        _ = pool.giveBack(connection(2), isReusable: true)
        #expect(pool.close() == [.fail(waiter(4), closed)])
        #expect(pool.wait(waiter(5)) == [.fail(waiter(5), closed)])
        #expect(pool.giveBack(connection(1), isReusable: true) == [.close(connection(1))])
        #expect(pool.opened(connection(3)) == [.close(connection(3))])
        #expect(pool.retryDue() == [])
    }

    @Test("random events never break the bound, lose a waiter or serve one twice", arguments: 0..<50)
    func randomEvents(seed: UInt64) {
        var random = SplitMix(state: seed)
        var pool = ConnectionPoolState(bound: 3)
        var (opening, leased, idle, waiting) = ([], [], [], []) as ([UInt64], [UInt64], Set<UInt64>, Set<UInt64>)
        var (isRetryPending, lastWaiter) = (false, UInt64(0))
        func carryOut(_ actions: [Action]) {
            for action in actions {
                switch action {
                case .open(let id): opening.append(id.number)
                case .retry:
                    #expect(!isRetryPending)
                    isRetryPending = true
                case .close(let id): idle.remove(id.number)
                case .fail(let id, _): #expect(waiting.remove(id.number) != nil)
                case .lease(let id, let waiter):
                    #expect(waiting.remove(waiter.number) != nil)
                    leased.append(id.number)
                    idle.remove(id.number)
                }
            }
        }
        for _ in 0..<500 {
            switch random.next() % 8 {
            case 0, 1:
                lastWaiter += 1
                waiting.insert(lastWaiter)
                carryOut(pool.wait(waiter(lastWaiter)))
            case 2 where !opening.isEmpty:
                let id = opening.removeFirst()
                idle.insert(id)
                carryOut(pool.opened(connection(id)))
            case 3 where !opening.isEmpty: carryOut(pool.notOpened(connection(opening.removeFirst()), refused))
            case 4, 5:
                guard !leased.isEmpty else { continue }
                let id = leased.removeFirst()
                let isReusable = random.next() % 4 > 0
                if isReusable { idle.insert(id) }
                carryOut(pool.giveBack(connection(id), isReusable: isReusable))
            case 6:
                if let id = idle.min() { carryOut(pool.ended(connection(id))) }
                if let id = waiting.min() { carryOut(pool.giveUp(waiter(id), .cancelled)) }
            default:
                if isRetryPending {
                    isRetryPending = false
                    carryOut(pool.retryDue())
                }
            }
            #expect(opening.count + leased.count + idle.count <= 3)
            let counted = pool.statistics
            #expect([counted.opening, counted.inUse, counted.idle] == [opening.count, leased.count, idle.count])
            #expect(counted.waiting == waiting.count)
            #expect(waiting.isEmpty || !opening.isEmpty || !leased.isEmpty || isRetryPending, "someone waits for ever")
        }
    }
}

/// A small generator of reproducible random numbers (Steele, Lea and Flood: Fast Splittable Pseudorandom Number
/// Generators, 2014).
private struct SplitMix {
    var state: UInt64

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var mixed = state
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return mixed ^ (mixed >> 31)
    }
}
