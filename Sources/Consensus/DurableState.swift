import DequeModule
import TransactionCore

/// What must be durable, in this order, before messages that depend on it leave.
public enum DurableRecord: Hashable, Sendable {
    /// The node accepts nothing under a smaller ballot any more.
    case promised(Ballot)
    /// The node accepted an entry, and promised its ballot.
    case accepted(AcceptedEntry)
    /// What was accepted in every slot up to here is chosen.
    case chosenUpTo(Slot)
    /// The next slot's chosen entry, learned from another node, whatever was accepted there.
    case learned(Slot, Entry)
    /// The state after a slot; it takes the place of the entries up to there and touches nothing above it.
    case snapshot(Snapshot)
}

/// What a node has promised, accepted and learned: all its records, one after the other.
///
/// A running node's state is changed by appending records and by nothing else, so that what a restart replays is what
/// the node had.
public struct DurableState: Hashable, Sendable {
    public private(set) var promised = Ballot.zero
    /// The state after some chosen slot.
    public private(set) var snapshot: Snapshot
    /// The chosen entries above the snapshot.
    public private(set) var chosen: Deque<Entry> = []
    /// What was accepted above those.
    public private(set) var accepted: [Slot: AcceptedEntry] = [:]
    /// Who takes part after ``chosenUpTo``.
    public private(set) var membership: Membership
    /// Whether there was any record: a node without may never have promised or granted anything.
    public private(set) var isFresh = true

    /// The state of a node that has no records; the nodes of `membership` take part from the first slot on.
    public init(membership: Membership) {
        self.snapshot = Snapshot(slot: .zero, membership: membership, state: [])
        self.membership = membership
    }

    /// Every slot up to here is known to be chosen.
    public var chosenUpTo: Slot { snapshot.slot.advanced(by: Int64(chosen.count)) }

    /// The chosen entry in a slot above the snapshot and up to ``chosenUpTo``.
    public func chosenEntry(in slot: Slot) -> Entry {
        chosen[Int(snapshot.slot.distance(to: slot)) - 1]
    }

    /// Takes in the next record.
    public mutating func append(_ record: DurableRecord) {
        isFresh = false
        switch record {
        case .promised(let ballot):
            promised = max(promised, ballot)
        case .accepted(let entry):
            promised = max(promised, entry.ballot)
            if entry.slot > chosenUpTo { accepted[entry.slot] = entry }
        case .chosenUpTo(let slot):
            while chosenUpTo < slot, let next = accepted.removeValue(forKey: chosenUpTo.next) { choose(next.entry) }
        case .learned(let slot, let entry):
            guard slot == chosenUpTo.next else { return }
            accepted[slot] = nil
            choose(entry)
        case .snapshot(let snapshot):
            replace(with: snapshot)
        }
    }

    private mutating func choose(_ entry: Entry) {
        chosen.append(entry)
        if case .membership(let membership) = entry { self.membership = membership }
    }

    private mutating func replace(with snapshot: Snapshot) {
        let distance = self.snapshot.slot.distance(to: snapshot.slot)
        guard distance >= 0 else { return }
        if snapshot.slot > chosenUpTo { membership = snapshot.membership }
        chosen.removeFirst(min(chosen.count, Int(distance)))
        self.snapshot = snapshot
        // What was accepted above may be chosen already, with this node's word: it stays.
        for slot in accepted.keys where slot <= snapshot.slot { accepted[slot] = nil }
    }

    /// Who takes part after `slot`, which lies between the snapshot and ``chosenUpTo``.
    public func membership(after slot: Slot) -> Membership {
        var membership = snapshot.membership
        for entry in chosen.prefix(Int(snapshot.slot.distance(to: slot))) {
            if case .membership(let changed) = entry { membership = changed }
        }
        return membership
    }

    /// The fewest records that give this state.
    public var records: [DurableRecord] {
        var records: [DurableRecord] = [.snapshot(snapshot)]
        var slot = snapshot.slot
        for entry in chosen {
            slot = slot.next
            records.append(.learned(slot, entry))
        }
        for slot in accepted.keys.sorted() { records.append(.accepted(accepted[slot]!)) }
        records.append(.promised(promised))
        return records
    }
}
