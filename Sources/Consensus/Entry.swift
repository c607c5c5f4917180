import TransactionCore

/// What a slot is given.
public enum Entry: Hashable, Sendable {
    /// Fills a slot that somebody began and nobody knows the value of (Paxos Made Simple §3).
    case noOperation
    /// Bytes that the state machine understands.
    case command([UInt8])
    /// Who takes part from the next slot on.
    case membership(Membership)
}

extension Entry {
    /// About how many bytes it takes in a message or a record.
    var byteCount: Int {
        switch self {
        case .noOperation: 1
        case .command(let bytes): bytes.count + 8
        case .membership(let membership): 4 * membership.members.count + 8
        }
    }
}

extension Sequence<Entry> {
    /// The first ones: as many as a message carries, so that no other waits long behind it, and at least one.
    var oneMessage: [Entry] {
        var entries: [Entry] = []
        var byteCount = 0
        for entry in self {
            byteCount += entry.byteCount
            guard entries.isEmpty || (entries.count < 256 && byteCount < 1 << 20) else { break }
            entries.append(entry)
        }
        return entries
    }
}

/// What an acceptor holds in a slot: the entry, and the ballot under which it accepted it.
public struct AcceptedEntry: Hashable, Sendable {
    public var slot: Slot
    public var ballot: Ballot
    public var entry: Entry

    public init(slot: Slot, ballot: Ballot, entry: Entry) {
        self.slot = slot
        self.ballot = ballot
        self.entry = entry
    }
}

/// The state machine's state after `slot`, in the place of all entries up to there.
public struct Snapshot: Hashable, Sendable {
    public var slot: Slot
    /// Who takes part after `slot`.
    public var membership: Membership
    /// What the state machine wrote; empty before the first slot.
    public var state: [UInt8]

    public init(slot: Slot, membership: Membership, state: [UInt8]) {
        self.slot = slot
        self.membership = membership
        self.state = state
    }
}
