import Testing
import TransactionCore

@testable import SimulationKit

@Suite struct LockTableTests {
    private let target = LockTable.Target.row(RowKey(shard: ShardID("a")!, table: .account, row: 0))

    @Test("share locks go together, an exclusive one with nobody")
    func modes() {
        let table = Locks()
        #expect(table.request(target, .share, by: 1) == nil)
        #expect(table.request(target, .share, by: 2) == nil)
        let ticket = table.request(target, .exclusive, by: 3)
        #expect(ticket != nil)
        #expect(table.release(1) == [])
        #expect(table.release(2) == [ticket])
        #expect(table.request(target, .share, by: 4) != nil)
    }

    @Test("nobody overtakes a waiter, so that it is served some day")
    func fairness() {
        let table = Locks()
        #expect(table.request(target, .share, by: 1) == nil)
        let (second, third) = (table.request(target, .exclusive, by: 2), table.request(target, .share, by: 3))
        #expect(second != nil && third != nil)
        #expect(table.release(1) == [second])
        #expect(table.release(2) == [third])
    }

    @Test("the holder of a share lock that wants more goes before those who have none")
    func upgrade() {
        let table = Locks()
        #expect(table.request(target, .share, by: 1) == nil)
        #expect(table.request(target, .share, by: 2) == nil)
        let (waiter, upgrade) = (table.request(target, .exclusive, by: 3), table.request(target, .exclusive, by: 1))
        #expect(waiter != nil)
        #expect(table.release(2) == [upgrade])
        #expect(table.held(by: 1).map(\.mode) == [.exclusive])
        #expect(table.release(1) == [waiter])
    }

    @Test("a waiter that gives up lets those behind it go on")
    func cancel() throws {
        let table = Locks()
        #expect(table.request(target, .share, by: 1) == nil)
        let second = try #require(table.request(target, .exclusive, by: 2))
        let third = table.request(target, .share, by: 3)
        #expect(table.cancel(second, for: target) == [third])
        #expect(table.release(2) == [])
    }
}

/// Holds the table, so that expectations may change it.
private final class Locks {
    private var table = LockTable()

    func request(_ target: LockTable.Target, _ mode: LockTable.Mode, by owner: Int) -> LockTable.Ticket? {
        table.request(target, mode, by: owner)
    }

    func cancel(_ ticket: LockTable.Ticket, for target: LockTable.Target) -> [LockTable.Ticket] {
        table.cancel(ticket, for: target)
    }

    func release(_ owner: Int) -> [LockTable.Ticket] { table.release(owner) }

    func held(by owner: Int) -> [(target: LockTable.Target, mode: LockTable.Mode)] { table.held(by: owner) }
}
