import Testing
import TransactionCore

@testable import TwoPhaseCommit

private let timestamp = makeTimestamp(1)
private let commit = DecidedTransaction(id: makeID(), decision: .commit)
private let abort = DecidedTransaction(id: makeID(), decision: .abort)

@Suite struct CoordinatorTests {
    private func make(_ stage: CoordinatorStage) -> Box<Coordinator> { Box(stage.make()) }

    // MARK: The way to a decision

    @Test("COMMIT requested: every participant but home prepares while commit-wait runs (R2)")
    func start() {
        let coordinator = Coordinator(id: makeID(), participants: [b, c], readers: [d])
        #expect(coordinator.commitRequested() == [.prepare(b), .prepare(c), .waitOut(timestamp)])
    }

    @Test(
        "COMMIT is sent home only after every vote, commit-wait and every confirmation, whatever comes last (R2, R3)",
        arguments: [
            [(.waitEnded, a), (.confirmedHeld, d), (.votePrepared, b), (.votePrepared, c)],
            [(.waitEnded, a), (.votePrepared, b), (.votePrepared, c), (.confirmedHeld, d)],
            [(.votePrepared, c), (.waitEnded, a), (.confirmedHeld, d), (.votePrepared, b)],
            [(.votePrepared, c), (.votePrepared, b), (.waitEnded, a), (.confirmedHeld, d)],
        ] as [[(CoordinatorInput, ShardID)]])
    func allMustBeIn(inputs: [(CoordinatorInput, ShardID)]) {
        let coordinator = make(.preparing)
        for (input, shard) in inputs.dropLast() {
            #expect(coordinator.receive(input, from: shard) == (input == .waitEnded ? [.confirm(d)] : []))
            guard case .preparing = coordinator.value.state else {
                Issue.record("\(coordinator.value.state)")
                return
            }
        }
        let (last, shard) = inputs[inputs.count - 1]
        #expect(coordinator.receive(last, from: shard) == [.commitHome(PreparedTransaction(id: makeID()))])
        #expect(coordinator.value.state == .deciding)
    }

    @Test("without read locks to confirm, all votes alone still don't send COMMIT: commit-wait does (R2)")
    func waitIsLast() {
        let coordinator = Box(Coordinator(id: makeID(), participants: [b, c], readers: []))
        #expect(coordinator.receive(.votePrepared, from: b) == [])
        #expect(coordinator.receive(.votePrepared, from: c) == [])
        #expect(coordinator.receive(.waitEnded) == [.commitHome(PreparedTransaction(id: makeID()))])
    }

    @Test("one vote twice is one vote")
    func repeatedVote() {
        let coordinator = make(.waited)
        _ = coordinator.receive(.confirmedHeld, from: d)
        #expect(coordinator.receive(.votePrepared, from: b) == [])
        #expect(coordinator.receive(.votePrepared, from: b) == [])
        #expect(coordinator.receive(.votePrepared, from: d) == [], "d is no participant")
        guard case .preparing(votesMissing: [c], _, _) = coordinator.value.state else {
            Issue.record("\(coordinator.value.state)")
            return
        }
    }

    @Test("read locks are confirmed only once commit-wait is over, so that they have outlived it (R7)")
    func confirmation() {
        let early = make(.preparing)
        #expect(early.receive(.confirmedHeld, from: d) == [])
        #expect(early.receive(.waitEnded) == [.confirm(d)])
        guard case .preparing(_, confirmationsMissing: [d], isWaitOver: true) = early.value.state else {
            Issue.record("\(early.value.state)")
            return
        }
    }

    @Test("read locks that are lost abort the transaction before COMMIT is sent (R7)")
    func confirmationLost() {
        let coordinator = make(.waited)
        _ = coordinator.receive(.votePrepared, from: b)
        #expect(
            coordinator.receive(.confirmedLost, from: d) == [
                .retire(a), .retire(b), .retire(c), .answer(.failed(loss)), .rollback(a), .apply(abort, on: b),
                .release(d),
            ])
        #expect(coordinator.value.state == .settling(.abort, votesMissing: [c], applying: [b]))
    }

    @Test("a transaction that wrote one shard waits, and commits there without a PREPARE (R2)")
    func oneShard() {
        let coordinator = Box(Coordinator(id: makeID(), participants: [], readers: []))
        #expect(coordinator.value.commitRequested() == [.waitOut(timestamp)])
        #expect(coordinator.receive(.waitEnded) == [.commitHome(PreparedTransaction(id: makeID()))])
        #expect(coordinator.receive(.homeCommitted) == [.retire(a), .answer(.committed(timestamp))])
        #expect(coordinator.value.state == .finished(.commit))
    }

    // MARK: The decision

    @Test("the client is told of a commit by the home shard's answer and nothing else (R3)")
    func answered() {
        for stage in CoordinatorStage.allCases {
            for input in CoordinatorInput.allCases {
                let coordinator = make(stage)
                let isAnswered = coordinator.receive(input, from: input.shard).contains(.answer(.committed(timestamp)))
                let isDecision =
                    (stage == .deciding && input == .homeCommitted) || (stage == .inDoubt && input == .decisionCommit)
                #expect(isAnswered == isDecision, "\(stage) \(input)")
            }
        }
    }

    @Test("after the decision home is retired, then the client told, then the others apply it; readers let go (R3, R8)")
    func committed() {
        let coordinator = make(.deciding)
        #expect(
            coordinator.receive(.homeCommitted) == [
                .retire(a), .answer(.committed(timestamp)), .apply(commit, on: b), .apply(commit, on: c), .release(d),
            ])
        #expect(coordinator.value.state == .settling(.commit, votesMissing: [], applying: [b, c]))
    }

    @Test("a committed transaction stays in flight on a participant until that one has applied it (R8)")
    func inFlightUntilApplied() {
        let coordinator = make(.settlingCommit)
        #expect(coordinator.receive(.applied, from: c) == [.retire(c)])
        #expect(coordinator.receive(.applied, from: c) == [])
        #expect(coordinator.value.state == .settling(.commit, votesMissing: [], applying: [b]))
        #expect(coordinator.receive(.applied, from: b) == [.retire(b)])
        #expect(coordinator.value.state == .finished(.commit))
    }

    @Test("a home shard that refused to commit has aborted the transaction, and the others roll back (R3)")
    func homeRefused() {
        let coordinator = make(.deciding)
        #expect(
            coordinator.receive(.homeRefused) == [
                .retire(a), .retire(b), .retire(c), .answer(.failed(refusal)), .rollback(a), .apply(abort, on: b),
                .apply(abort, on: c), .release(d),
            ])
    }

    // MARK: Unknown outcomes

    @Test("when home's answer to COMMIT is lost, the decision is found before anything is told or applied (R5)")
    func homeLost() {
        let coordinator = make(.deciding)
        #expect(coordinator.receive(.homeLost) == [.findDecision])
        #expect(coordinator.value.state == .inDoubt)
    }

    @Test("a lost answer that turns out to be a commit is told as one (R5)")
    func foundCommitted() {
        let coordinator = make(.inDoubt)
        #expect(
            coordinator.receive(.decisionCommit) == [
                .retire(a), .answer(.committed(timestamp)), .apply(commit, on: b), .apply(commit, on: c), .release(d),
            ])
    }

    @Test("a lost answer is told as 40001 only once nothing was, or ever will be, committed (R5)")
    func foundAborted() throws {
        let coordinator = make(.inDoubt)
        let actions = coordinator.receive(.decisionAbort)
        let error = try #require(failure(in: actions))
        #expect(error.sqlState == .serializationFailure && error.outcome == .aborted)
        #expect(
            actions == [
                .retire(a), .retire(b), .retire(c), .answer(.failed(error)), .rollback(a), .apply(abort, on: b),
                .apply(abort, on: c), .release(d),
            ])
    }

    @Test(
        "whoever gives up after COMMIT was sent is told 08007 with the gid, and the decision is applied anyway (R5)",
        arguments: [CoordinatorStage.deciding, .inDoubt])
    func gaveUpLate(stage: CoordinatorStage) throws {
        let coordinator = make(stage)
        let before = coordinator.value.state
        let actions = coordinator.receive(.gaveUp)
        let error = try #require(failure(in: actions))
        #expect(actions == [.answer(.failed(error))])
        #expect(error.sqlState == .transactionResolutionUnknown && error.outcome == .indeterminate(makeID()))
        #expect(error.detail?.contains("\(makeID())") == true)
        #expect(coordinator.value.state == before)
        #expect(
            coordinator.receive(stage == .deciding ? .homeCommitted : .decisionCommit) == [
                .retire(a), .apply(commit, on: b), .apply(commit, on: c), .release(d),
            ])
    }

    // MARK: Aborts

    @Test("a refused vote aborts: told at once, rolled back where prepared, and home without a tombstone")
    func voteRefused() {
        let coordinator = make(.preparing)
        _ = coordinator.receive(.votePrepared, from: c)
        #expect(
            coordinator.receive(.voteRefused, from: b) == [
                .retire(a), .retire(b), .retire(c), .answer(.failed(refusal)), .rollback(a), .rollback(b),
                .apply(abort, on: c), .release(d),
            ])
        #expect(coordinator.value.state == .settling(.abort, votesMissing: [], applying: [c]))
    }

    @Test("a vote that is lost may be a yes: it is rolled back by name, as a prepared one")
    func voteLost() {
        let coordinator = make(.preparing)
        #expect(
            coordinator.receive(.voteLost, from: b) == [
                .retire(a), .retire(b), .retire(c), .answer(.failed(loss)), .rollback(a), .apply(abort, on: b),
                .release(d),
            ])
    }

    @Test("a vote that comes after the abort is undone: rolled back by name unless it was a no")
    func lateVote() {
        for (input, action) in [
            (CoordinatorInput.votePrepared, Coordinator.Action.apply(abort, on: c)), (.voteLost, .apply(abort, on: c)),
            (.voteRefused, .rollback(c)),
        ] {
            let coordinator = make(.settlingAbort)
            #expect(coordinator.receive(input, from: c) == [action])
            _ = coordinator.receive(.applied, from: b)
            #expect((coordinator.value.state == .finished(.abort)) == (input == .voteRefused))
            _ = coordinator.receive(.applied, from: c)
            #expect(coordinator.value.state == .finished(.abort))
        }
    }

    @Test("a transaction is not over while a vote is missing: what it prepares late is not yet undone")
    func notOverBeforeVotes() {
        let coordinator = make(.settlingAbort)
        #expect(coordinator.receive(.applied, from: b) == [], "nothing was visible, so b was retired at the abort")
        #expect(coordinator.value.state == .settling(.abort, votesMissing: [c], applying: []))
    }

    @Test("giving up before COMMIT was sent aborts", arguments: [CoordinatorStage.preparing, .waited])
    func gaveUpEarly(stage: CoordinatorStage) {
        let coordinator = make(stage)
        #expect(
            coordinator.receive(.gaveUp) == [
                .retire(a), .retire(b), .retire(c), .answer(.failed(loss)), .rollback(a), .release(d),
            ])
        #expect(coordinator.value.state == .settling(.abort, votesMissing: [b, c], applying: []))
    }

    @Test("after an abort COMMIT is never sent home, whatever comes in")
    func abortIsFinal() {
        for stage in [CoordinatorStage.settlingAbort, .finishedAbort] {
            for input in CoordinatorInput.allCases {
                let coordinator = make(stage)
                for shard in [a, b, c, d] {
                    let actions = coordinator.receive(input, from: shard)
                    #expect(!actions.contains(.commitHome(PreparedTransaction(id: makeID()))), "\(stage) \(input)")
                }
            }
        }
    }

    // MARK: Every state and every input

    @Test("an input that does not belong to a state orders nothing and changes nothing")
    func strayInputs() {
        let belonging: [CoordinatorStage: Set<CoordinatorInput>] = [
            .preparing: [.votePrepared, .voteRefused, .voteLost, .waitEnded, .gaveUp],
            .waited: [.votePrepared, .voteRefused, .voteLost, .confirmedHeld, .confirmedLost, .gaveUp],
            .deciding: [.homeCommitted, .homeRefused, .homeLost, .gaveUp],
            .inDoubt: [.decisionCommit, .decisionAbort, .gaveUp],
            .settlingCommit: [.applied],
            .settlingAbort: [.votePrepared, .voteRefused, .voteLost],
            .finishedCommit: [], .finishedAbort: [],
        ]
        for stage in CoordinatorStage.allCases {
            for input in CoordinatorInput.allCases {
                let coordinator = make(stage)
                let before = coordinator.value.state
                let actions = coordinator.receive(input, from: input.shard)
                let isStray = actions.isEmpty && coordinator.value.state == before
                #expect(isStray != belonging[stage]!.contains(input), "\(stage) \(input): \(actions)")
            }
        }
    }

    @Test("the client is answered once on every path")
    func answeredOnce() {
        for stage in CoordinatorStage.allCases {
            for first in CoordinatorInput.allCases {
                for second in CoordinatorInput.allCases {
                    let coordinator = make(stage)
                    let actions =
                        coordinator.receive(first, from: first.shard) + coordinator.receive(second, from: second.shard)
                    let answers = actions.count { if case .answer = $0 { true } else { false } }
                    #expect(answers <= 1, "\(stage) \(first) \(second)")
                }
            }
        }
    }

    private func failure(in actions: [Coordinator.Action]) -> TransactionError? {
        actions.lazy.compactMap { if case .answer(.failed(let error)) = $0 { error } else { nil } }.first
    }
}

extension CoordinatorInput {
    /// The shard that it comes from where it belongs to a state.
    fileprivate var shard: ShardID {
        switch self {
        case .votePrepared, .voteRefused, .voteLost, .applied: c
        case .confirmedHeld, .confirmedLost: d
        default: a
        }
    }
}
