import TransactionCore

/// What a replica wants done since it was asked last.
///
/// The shell makes ``records`` durable, in their order and with one flush for all; what does not depend on them goes on
/// meanwhile. Where no message waits for them they may be written with those of later orders: a crash before then loses
/// only what other nodes tell again.
public struct Orders: Hashable, Sendable {
    /// To be written and flushed, after all earlier ones.
    public var records: [DurableRecord] = []
    /// May leave at once.
    public var messages: [Envelope] = []
    /// May leave once ``records`` are durable. Some are for this node itself.
    public var messagesOnceDurable: [Envelope] = []
    /// Takes the place of the state machine's state, before ``chosen`` is applied.
    public var installed: Snapshot?
    /// To be applied, in this order; with them, everything up to `Replica.chosenUpTo` has been.
    public var chosen: [ChosenEntry] = []
    /// Reads that waited: they may be answered from the state with ``chosen`` applied.
    public var readsReady: [Replica.ReadID] = []
    /// Reads that are to be asked for again, of the leader that there will be.
    public var readsLost: [Replica.ReadID] = []

    public init() {}

    public var isEmpty: Bool { self == Orders() }
}

/// An entry and the slot for which it is chosen.
public struct ChosenEntry: Hashable, Sendable {
    public var slot: Slot
    public var entry: Entry
}
