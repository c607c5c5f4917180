import Testing
import TransactionCore

@testable import TwoPhaseCommit

@Suite struct RecoveryTests {
    private let commit = DecidedTransaction(id: makeID(), decision: .commit)
    private let abort = DecidedTransaction(id: makeID(), decision: .abort)

    private func make(_ inputs: (inout Recovery) -> Void = { _ in }) -> Box<Recovery> {
        var recovery = Recovery(id: makeID())
        inputs(&recovery)
        return Box(recovery)
    }

    @Test("recovery begins by asking the home shard")
    func start() {
        let recovery = make()
        #expect(recovery.value.started() == .lookUpDecision)
        #expect(recovery.value.state == .lookingUp)
    }

    @Test("a committed row at home commits the orphan (R3, R4)")
    func committed() {
        let recovery = make { _ = $0.started() }
        #expect(recovery.value.decisionRead(.commit) == .apply(commit))
        #expect(recovery.value.state == .decided(commit))
    }

    @Test("an aborted row at home rolls the orphan back (R4)")
    func aborted() {
        let recovery = make { _ = $0.started() }
        #expect(recovery.value.decisionRead(.abort) == .apply(abort))
    }

    @Test("no row at home proves nothing: the tombstone comes first, the rollback never (R4)")
    func tombstoneFirst() {
        let recovery = make { _ = $0.started() }
        #expect(recovery.value.decisionRead(nil) == .insertTombstone)
        #expect(recovery.value.state == .insertingTombstone)
    }

    @Test("the orphan is rolled back behind a durable tombstone of ours (R4)")
    func tombstoneStands() {
        let recovery = make { _ = $0.started() }
        #expect(recovery.value.decisionRead(nil) == .insertTombstone)
        guard recovery.value.state == .insertingTombstone else { return }
        #expect(recovery.value.tombstoneInserted(true) == .apply(abort))
    }

    @Test("a tombstone that met another row decides nothing: the row is read again (R4)")
    func tombstoneConflicts() {
        let recovery = make { _ = $0.started() }
        #expect(recovery.value.decisionRead(nil) == .insertTombstone)
        guard recovery.value.state == .insertingTombstone else { return }
        #expect(recovery.value.tombstoneInserted(false) == .lookUpDecision)
        #expect(recovery.value.state == .lookingUp)
        #expect(recovery.value.decisionRead(.commit) == .apply(commit))
    }

    @Test("recovery can begin again after any step, and asks again")
    func restart() {
        let steps: [(inout Recovery) -> Void] = [
            { _ = $0.started() }, { _ = $0.decisionRead(nil) }, { _ = $0.decisionRead(.commit) },
        ]
        for step in steps {
            let recovery = make(step)
            #expect(recovery.value.started() == .lookUpDecision)
            #expect(recovery.value.state == .lookingUp)
        }
    }

    @Test("orphans are ours by their gid and live nowhere; strangers' transactions are left alone (R4)")
    func orphans() {
        let (first, second) = (makeID(1), makeID(2))
        let prepared = [first.description, "stranger", "meridian:a:2:1:1025", "meridian:", second.description]
        #expect(Recovery.orphans(among: prepared, live: []) == [first, second])
        #expect(Recovery.orphans(among: prepared, live: [first]) == [second])
        #expect(Recovery.orphans(among: prepared, live: [first, second, makeID(3)]) == [])
    }
}
