import SimulationKit
import TransactionCore

@testable import Consensus

/// Draws values of everything that has a form in bytes, small and large numbers alike.
struct RandomValues {
    var random: SeededGenerator

    init(seed: UInt64) {
        random = SeededGenerator(seed: seed)
    }

    mutating func number() -> UInt64 {
        let bits = UInt64.random(in: 0...62, using: &random)
        return UInt64.random(in: 0...(1 << bits), using: &random)
    }

    mutating func node() -> NodeID { NodeID(rawValue: .random(in: 0...NodeID.maximum, using: &random))! }

    mutating func slot() -> Slot { Slot(rawValue: Int64(number())) }

    mutating func ballot() -> Ballot { Ballot(round: number(), node: node()) }

    mutating func time() -> Timestamp { Timestamp(rawValue: .random(in: .min ... .max, using: &random)) }

    mutating func bytes() -> [UInt8] {
        (0..<Int.random(in: 0...300, using: &random)).map { _ in UInt8.random(in: 0...255, using: &random) }
    }

    mutating func list<Value>(_ make: (inout RandomValues) -> Value) -> [Value] {
        (0..<Int.random(in: 0...5, using: &random)).map { _ in make(&self) }
    }

    mutating func membership() -> Membership {
        Membership(voters: NodeSet(list { $0.node() }), learners: NodeSet(list { $0.node() }))
    }

    mutating func entry() -> Entry {
        switch Int.random(in: 0...3, using: &random) {
        case 0: .noOperation
        case 1: .membership(membership())
        default: .command(bytes())
        }
    }

    mutating func acceptedEntry() -> AcceptedEntry { AcceptedEntry(slot: slot(), ballot: ballot(), entry: entry()) }

    mutating func snapshot() -> Snapshot { Snapshot(slot: slot(), membership: membership(), state: bytes()) }

    /// One of each kind.
    mutating func messages() -> [Message] {
        [
            .prepare(ballot(), from: slot(), isCanvass: .random(using: &random)),
            .willing(ballot()),
            .promise(ballot(), accepted: list { $0.acceptedEntry() }),
            .accept(
                Message.Accept(
                    ballot: ballot(), first: slot(), entries: list { $0.entry() }, chosenUpTo: slot(), round: number(),
                    leaseExpiry: time())),
            .accepted(
                Message.Accepted(
                    ballot: ballot(), first: slot(), count: .random(in: 0...Int(UInt32.max), using: &random),
                    chosenUpTo: slot(), round: number(), leaseExpiry: time())),
            .refused(ballot: ballot(), promised: ballot()),
            .chosenUpTo(ballot(), upTo: slot()),
            .catchUp(from: slot()),
            .chosen(first: slot(), entries: list { $0.entry() }),
            .snapshot(snapshot()),
            .release(ballot(), successor: .random(using: &random) ? node() : nil),
        ]
    }

    /// One of each kind.
    mutating func records() -> [DurableRecord] {
        [
            .promised(ballot()), .accepted(acceptedEntry()), .chosenUpTo(slot()), .learned(slot(), entry()),
            .snapshot(snapshot()),
        ]
    }
}
