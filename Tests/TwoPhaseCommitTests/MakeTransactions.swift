import BoundedTime
import TransactionCore

@testable import TwoPhaseCommit

let (a, b, c, d) = (ShardID("a")!, ShardID("b")!, ShardID("c")!, ShardID("d")!)
let node = NodeID(rawValue: 1)!
let refusal = TransactionError(.diskFull, "no space left on device")
let loss = TransactionError(.connectionFailure, "the connection was lost")

/// A commit timestamp of node 1.
func makeTimestamp(_ number: Int64) -> Timestamp { Timestamp(rawValue: number << Timestamp.nodeBits | 1) }

func makeID(_ number: Int64 = 1) -> TransactionID {
    TransactionID(home: a, epoch: Epoch(rawValue: 1), commitTimestamp: makeTimestamp(number))
}

func makeInterval(_ earliest: Int64, _ latest: Int64) -> TimestampInterval {
    TimestampInterval(earliest: Timestamp(rawValue: earliest), latest: Timestamp(rawValue: latest))
}

/// A timestamp that has passed, the only way there is to one.
func makePassed(_ timestamp: Timestamp) -> PassedTimestamp {
    let after = TimestampInterval(earliest: timestamp.successor, latest: timestamp.successor)
    guard case .passed(let passed) = CommitWait(until: timestamp).progress(at: after) else {
        preconditionFailure("\(timestamp) has not passed at \(after)")
    }
    return passed
}

/// What can happen to a coordinator.
enum CoordinatorInput: CaseIterable, Hashable {
    case votePrepared, voteRefused, voteLost
    case waitEnded
    case confirmedHeld, confirmedLost
    case gaveUp
    case homeCommitted, homeRefused, homeLost
    case decisionCommit, decisionAbort
    case applied
}

/// The states of a coordinator, by what has happened.
enum CoordinatorStage: CaseIterable, Hashable {
    case preparing, waited, deciding, inDoubt, settlingCommit, settlingAbort, finishedCommit, finishedAbort

    /// A coordinator in this state: home a, participants b and c, and d only read.
    func make() -> Coordinator {
        var coordinator = Coordinator(id: makeID(), participants: [b, c], readers: [d])
        _ = coordinator.commitRequested()
        for input in inputs { _ = coordinator.receive(input.0, from: input.1) }
        return coordinator
    }

    private var inputs: [(CoordinatorInput, ShardID)] {
        let deciding: [(CoordinatorInput, ShardID)] = [
            (.waitEnded, a), (.votePrepared, b), (.votePrepared, c), (.confirmedHeld, d),
        ]
        return switch self {
        case .preparing: []
        case .waited: [(.waitEnded, a)]
        case .deciding: deciding
        case .inDoubt: deciding + [(.homeLost, a)]
        case .settlingCommit: deciding + [(.homeCommitted, a)]
        case .settlingAbort: [(.voteLost, b)]
        case .finishedCommit: deciding + [(.homeCommitted, a), (.applied, b), (.applied, c)]
        case .finishedAbort: [(.voteRefused, b), (.voteRefused, c)]
        }
    }
}

extension Coordinator {
    /// Lets `input` happen, with `shard` in the place that it concerns.
    mutating func receive(_ input: CoordinatorInput, from shard: ShardID) -> [Action] {
        switch input {
        case .votePrepared: voteReceived(.prepared, from: shard)
        case .voteRefused: voteReceived(.refused(refusal), from: shard)
        case .voteLost: voteReceived(.lost(loss), from: shard)
        case .waitEnded: commitWaitEnded(makePassed(id.commitTimestamp))
        case .confirmedHeld: confirmed(.held, by: shard)
        case .confirmedLost: confirmed(.lost(loss), by: shard)
        case .gaveUp: gaveUp(because: loss)
        case .homeCommitted: homeAnswered(.committed)
        case .homeRefused: homeAnswered(.refused(refusal))
        case .homeLost: homeAnswered(.lost(loss))
        case .decisionCommit: decisionFound(.commit)
        case .decisionAbort: decisionFound(.abort)
        case .applied: applied(on: shard)
        }
    }
}

/// A value that expectations may change.
final class Box<Value> {
    var value: Value

    init(_ value: Value) {
        self.value = value
    }
}

extension Box<Coordinator> {
    func receive(_ input: CoordinatorInput, from shard: ShardID = a) -> [Coordinator.Action] {
        value.receive(input, from: shard)
    }
}
