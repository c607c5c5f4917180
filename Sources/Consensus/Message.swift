import TransactionCore

/// What nodes tell each other. Messages may be lost, repeated, and overtake each other.
public enum Message: Hashable, Sendable {
    /// Asks for the promise to accept nothing under a smaller ballot, and for what was accepted from `from` on.
    /// A canvass asks only whether the answer would be yes, and changes nothing.
    case prepare(Ballot, from: Slot, isCanvass: Bool)
    /// The answer to a canvass.
    case willing(Ballot)
    /// The promise, with everything accepted in slots that the promising node does not know to be chosen.
    case promise(Ballot, accepted: [AcceptedEntry])
    case accept(Accept)
    case accepted(Accepted)
    /// A prepare or accept under `ballot` came too late: this was promised; or, where `promised` is smaller, the node
    /// has granted another one a lease.
    case refused(ballot: Ballot, promised: Ballot)
    /// The leader of `ballot` knows every slot up to `upTo` to be chosen.
    case chosenUpTo(Ballot, upTo: Slot)
    /// Asks for the chosen entries from here on.
    case catchUp(from: Slot)
    /// Entries that are chosen, one after the other from `first` on.
    case chosen(first: Slot, entries: [Entry])
    /// In the place of entries that are there no more.
    case snapshot(Snapshot)
    /// The leader of `ballot` stops, and gives its lease back; `successor` may try at once.
    case release(Ballot, successor: NodeID?)

    /// The leader's orders to its acceptors; without entries a heartbeat.
    public struct Accept: Hashable, Sendable {
        public var ballot: Ballot
        /// The slot of the first entry; the others follow it.
        public var first: Slot
        public var entries: [Entry]
        /// The leader knows every slot up to here to be chosen.
        public var chosenUpTo: Slot
        /// The answer names it, so that the leader knows it was still the leader when it sent this.
        public var round: UInt64
        /// Until when the leader asks the acceptor to promise nothing to any other node.
        public var leaseExpiry: Timestamp
    }

    /// An acceptor's answer to ``Accept``, once what it accepted is durable.
    public struct Accepted: Hashable, Sendable {
        public var ballot: Ballot
        public var first: Slot
        public var count: Int
        /// The acceptor knows every slot up to here to be chosen.
        public var chosenUpTo: Slot
        public var round: UInt64
        /// Until when it will promise nothing to any other node.
        public var leaseExpiry: Timestamp
    }
}

/// A message and whom it is for, which may be the sender itself.
public struct Envelope: Hashable, Sendable {
    public var recipient: NodeID
    public var message: Message
}
