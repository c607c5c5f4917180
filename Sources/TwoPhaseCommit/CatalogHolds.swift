import TransactionCore

/// That no node plans statements by the catalog while another one's change of it commits.
///
/// Who changes the catalog asks all peers to *hold*: to plan nothing, and to commit nothing that was planned before,
/// until the change is over and they have read the catalog anew. A peer that does not answer is waited for until it is
/// fenced; one that holds for a node that was fenced goes on when that is settled. A node that begins asks all peers
/// whether they are changing something before it plans at all.
///
/// Two nodes may change at once: both hold until both are done. That their changes don't contradict each other is seen
/// to by the shards' locks on the tables. Messages may be lost; ``ticked()`` repeats them.
public struct CatalogHolds: Sendable {
    public enum Message: Hashable, Sendable {
        /// Is a change under way? Answered by `hold` or `released`.
        case ask
        /// The sender is to make its change of that number.
        case hold(UInt64)
        /// The sender holds for it.
        case held(UInt64)
        /// The changes up to that number are over.
        case released(UInt64)
    }

    public enum Action: Hashable, Sendable {
        case send(Message, to: Incarnation)
        /// Everybody holds: the change may be committed.
        case mayChange
        /// Somebody's change is over: the catalog is to be read anew before anything is planned.
        case reload
    }

    private var number: UInt64 = 0
    private var isChanging = false
    /// Peers that do not hold yet for the change that is under way.
    private var missing: Set<Incarnation> = []
    /// Peers that have not said yet whether they are changing something.
    private var unheard: Set<Incarnation>
    /// The changes for which this node holds.
    private var heldFor: [Incarnation: UInt64] = [:]
    /// A `hold` up to that number comes too late.
    private var released: [Incarnation: UInt64] = [:]

    /// Begins holding, until each of `peers` was heard; ``ticked()`` asks them.
    public init(peers: some Sequence<Incarnation>) {
        unheard = Set(peers)
    }

    /// Nothing is to be planned.
    public var isHeld: Bool { !heldFor.isEmpty || !unheard.isEmpty }

    /// Peers whose answer is waited for.
    public var unanswering: [Incarnation] { missing.union(unheard).sorted() }

    // MARK: Own changes

    /// Asks `peers`, which are all that there are, to hold; ``Action/mayChange`` comes when they do.
    public mutating func beginChange(among peers: [Incarnation]) -> [Action] {
        precondition(!isChanging, "one change at a time")
        number += 1
        (isChanging, missing) = (true, Set(peers))
        return missing.isEmpty ? [.mayChange] : askToHold()
    }

    /// The change is over, made or not.
    public mutating func endChange(among peers: [Incarnation]) -> [Action] {
        (isChanging, missing) = (false, [])
        return peers.map { .send(.released(number), to: $0) }
    }

    private func askToHold() -> [Action] { missing.sorted().map { .send(.hold(number), to: $0) } }

    // MARK: Peers

    public mutating func received(_ message: Message, from peer: Incarnation) -> [Action] {
        switch message {
        case .ask: return [.send(isChanging ? .hold(number) : .released(number), to: peer)]
        case .hold(let change):
            guard change > released[peer] ?? 0 else { return [] }
            heldFor[peer] = change
            unheard.remove(peer)
            return [.send(.held(change), to: peer)]
        case .held(let change):
            guard isChanging, change == number else {
                return change <= number && !isChanging ? [.send(.released(number), to: peer)] : []
            }
            return answered(by: peer)
        case .released(let change):
            released[peer] = max(released[peer] ?? 0, change)
            let wasHeld = isHeld
            unheard.remove(peer)
            if let held = heldFor[peer], held <= change { heldFor[peer] = nil }
            return wasHeld && !isHeld ? [.reload] : []
        }
    }

    /// All of that incarnation is settled.
    public mutating func fenced(_ peer: Incarnation) -> [Action] {
        let wasHeld = isHeld
        unheard.remove(peer)
        heldFor[peer] = nil
        released[peer] = nil
        return (wasHeld && !isHeld ? [.reload] : []) + answered(by: peer)
    }

    private mutating func answered(by peer: Incarnation) -> [Action] {
        guard missing.remove(peer) != nil, missing.isEmpty else { return [] }
        return [.mayChange]
    }

    /// Some time has passed.
    public func ticked() -> [Action] {
        unheard.sorted().map { .send(.ask, to: $0) } + askToHold()
            + heldFor.sorted { $0.key < $1.key }.map { .send(.held($0.value), to: $0.key) }
    }
}
