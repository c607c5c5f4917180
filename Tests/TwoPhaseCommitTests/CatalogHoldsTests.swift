import Testing
import TransactionCore
import TwoPhaseCommit

private func makeIncarnation(_ node: UInt16, _ epoch: Int64) -> Incarnation {
    Incarnation(NodeID(rawValue: node)!, Epoch(rawValue: epoch))
}

/// Nothing is planned by a catalog that another node is changing.
@Suite struct CatalogHoldsTests {
    private static let second = makeIncarnation(2, 12)
    private static let third = makeIncarnation(3, 13)

    @Test("alone a change may be made at once")
    func alone() {
        var holds = CatalogHolds(peers: [])
        #expect(!holds.isHeld)
        #expect(holds.beginChange(among: []) == [.mayChange])
        #expect(!holds.isHeld, "its own change is the shell's to wait for")
        #expect(holds.endChange(among: []) == [])
    }

    @Test("a change waits until every peer holds, is asked again, and ends with all of them told")
    func change() {
        var holds = CatalogHolds(peers: [])
        let asked = [Self.second, Self.third].map { CatalogHolds.Action.send(.hold(1), to: $0) }
        #expect(holds.beginChange(among: [Self.second, Self.third]) == asked)
        #expect(holds.ticked() == asked)
        #expect(holds.received(.held(1), from: Self.third) == [])
        #expect(holds.received(.held(1), from: Self.third) == [], "twice is not two")
        #expect(holds.ticked() == [asked[0]] && holds.unanswering == [Self.second])
        #expect(holds.received(.held(1), from: Self.second) == [.mayChange])
        #expect(holds.received(.held(1), from: Self.second) == [], "once")
        #expect(
            holds.endChange(among: [Self.second, Self.third])
                == [Self.second, Self.third].map { .send(.released(1), to: $0) })
        #expect(holds.ticked() == [])
    }

    @Test("an answer to an earlier change does not count for the next one")
    func lateAnswer() {
        var holds = CatalogHolds(peers: [])
        _ = holds.beginChange(among: [Self.second])
        _ = holds.received(.held(1), from: Self.second)
        _ = holds.endChange(among: [Self.second])
        _ = holds.beginChange(among: [Self.second])
        #expect(holds.received(.held(1), from: Self.second) == [])
        #expect(holds.received(.held(2), from: Self.second) == [.mayChange])
    }

    @Test("a peer that was fenced is waited for no more")
    func fencedWhileChanging() {
        var holds = CatalogHolds(peers: [])
        _ = holds.beginChange(among: [Self.second, Self.third])
        #expect(holds.received(.held(1), from: Self.second) == [])
        #expect(holds.fenced(Self.third) == [.mayChange])
    }

    @Test("who was asked holds until the change is over, and reads the catalog anew before it plans")
    func hold() {
        var holds = CatalogHolds(peers: [])
        #expect(holds.received(.hold(4), from: Self.second) == [.send(.held(4), to: Self.second)])
        #expect(holds.isHeld)
        #expect(holds.received(.hold(4), from: Self.second) == [.send(.held(4), to: Self.second)], "it was not heard")
        #expect(holds.ticked() == [.send(.held(4), to: Self.second)])
        #expect(holds.received(.released(3), from: Self.second) == [] && holds.isHeld)
        #expect(holds.received(.released(4), from: Self.second) == [.reload] && !holds.isHeld)
        #expect(holds.received(.hold(4), from: Self.second) == [] && !holds.isHeld, "it comes too late")
    }

    @Test("who holds for a change whose end was lost is told of it when it says so again")
    func lostRelease() {
        var holds = CatalogHolds(peers: [])
        _ = holds.beginChange(among: [Self.second])
        _ = holds.endChange(among: [Self.second])
        #expect(holds.received(.held(1), from: Self.second) == [.send(.released(1), to: Self.second)])
    }

    @Test("who holds for several plans when the last is done, and when the node that changes is fenced")
    func several() {
        var holds = CatalogHolds(peers: [])
        _ = holds.received(.hold(1), from: Self.second)
        _ = holds.received(.hold(7), from: Self.third)
        #expect(holds.received(.released(1), from: Self.second) == [] && holds.isHeld)
        #expect(holds.fenced(Self.third) == [.reload] && !holds.isHeld)
    }

    @Test("a node that begins plans nothing before every peer has said whether it is changing something")
    func beginning() {
        var holds = CatalogHolds(peers: [Self.second, Self.third])
        #expect(holds.isHeld)
        #expect(holds.ticked() == [Self.second, Self.third].map { .send(.ask, to: $0) })
        #expect(holds.received(.released(0), from: Self.second) == [] && holds.isHeld)
        #expect(holds.received(.hold(2), from: Self.third) == [.send(.held(2), to: Self.third)] && holds.isHeld)
        #expect(holds.received(.released(2), from: Self.third) == [.reload] && !holds.isHeld)

        var changing = CatalogHolds(peers: [])
        #expect(changing.received(.ask, from: Self.second) == [.send(.released(0), to: Self.second)])
        _ = changing.beginChange(among: [Self.third])
        #expect(changing.received(.ask, from: Self.second) == [.send(.hold(1), to: Self.second)])
    }

    @Test("two nodes that change something at once don't wait for each other")
    func both() {
        var (first, second) = (CatalogHolds(peers: []), CatalogHolds(peers: []))
        let own = makeIncarnation(1, 11)
        _ = first.beginChange(among: [Self.second])
        _ = second.beginChange(among: [own])
        #expect(second.received(.hold(1), from: own) == [.send(.held(1), to: own)])
        #expect(first.received(.held(1), from: Self.second) == [.mayChange])
        #expect(first.received(.hold(1), from: Self.second) == [.send(.held(1), to: Self.second)])
        #expect(second.received(.held(1), from: own) == [.mayChange])
        _ = first.endChange(among: [Self.second])
        #expect(first.isHeld && second.isHeld)
        #expect(second.received(.released(1), from: own) == [.reload])
        _ = second.endChange(among: [own])
        #expect(first.received(.released(1), from: Self.second) == [.reload])
    }
}
