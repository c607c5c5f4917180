import TransactionCore

/// The learner: what is chosen, and getting it from others.
extension Replica {
    /// The leader of `ballot` knows every slot up to `slot` to be chosen. Where this node accepted something under that
    /// very ballot, that is the chosen value; elsewhere it has to ask.
    mutating func learn(upTo slot: Slot, of ballot: Ballot, from sender: NodeID, at now: TimestampInterval) {
        heardChosenUpTo = max(heardChosenUpTo, slot)
        // What it proposes begins where it knew of nothing chosen when it asked for promises: it finds out by itself.
        guard leadership == nil else { return }
        var known = chosenUpTo
        while known < slot, durable.accepted[known.next]?.ballot == ballot { known = known.next }
        choose(upTo: known)
        if chosenUpTo < slot, now.latest >= catchUpDue { askForChosen(of: sender, at: now) }
    }

    /// What was accepted in every slot up to `slot` is chosen.
    mutating func choose(upTo slot: Slot) {
        let first = chosenUpTo.next
        guard slot >= first else { return }
        record(.chosenUpTo(slot))
        precondition(chosenUpTo == slot, "chosen up to \(slot), but entries are held up to \(chosenUpTo) only")
        for slot in first...slot { apply(durable.chosenEntry(in: slot), in: slot) }
    }

    private mutating func apply(_ entry: Entry, in slot: Slot) {
        orders.chosen.append(ChosenEntry(slot: slot, entry: entry))
    }

    mutating func askForChosen(of sender: NodeID, at now: TimestampInterval) {
        guard sender != node else { return }
        catchUpDue = now.latest.advanced(byNanoseconds: timing.resendNanoseconds)
        send(.catchUp(from: chosenUpTo.next), to: sender)
    }

    /// Sends what is chosen from `first` on, or the snapshot where it is in there.
    mutating func sendChosen(from first: Slot, to recipient: NodeID, at now: TimestampInterval) {
        guard first <= chosenUpTo else { return }
        guard first > durable.snapshot.slot else { return sendSnapshot(to: recipient, at: now) }
        let start = Int(durable.snapshot.slot.distance(to: first)) - 1
        send(.chosen(first: first, entries: durable.chosen.dropFirst(start).oneMessage), to: recipient)
    }

    /// A large one is on its way for a while: who asks again too soon gets it once all the same.
    private mutating func sendSnapshot(to recipient: NodeID, at now: TimestampInterval) {
        guard now.latest >= snapshotDue[recipient] ?? .zero else { return }
        snapshotDue[recipient] = now.latest.advanced(byNanoseconds: 4 * timing.resendNanoseconds)
        send(.snapshot(durable.snapshot), to: recipient)
    }

    mutating func chosenReceived(_ entries: [Entry], first: Slot, from sender: NodeID, at now: TimestampInterval) {
        let before = chosenUpTo
        var slot = first
        for entry in entries {
            if slot == chosenUpTo.next {
                record(.learned(slot, entry))
                apply(entry, in: slot)
            }
            slot = slot.next
        }
        if chosenUpTo > before { caughtUp(from: sender, at: now) }
    }

    mutating func snapshotReceived(_ snapshot: Snapshot, from sender: NodeID, at now: TimestampInterval) {
        guard snapshot.slot > chosenUpTo else { return }
        record(.snapshot(snapshot))
        orders.installed = snapshot
        orders.chosen.removeAll()
        caughtUp(from: sender, at: now)
    }

    /// It knows more than before, and asks on while it lacks something.
    private mutating func caughtUp(from sender: NodeID, at now: TimestampInterval) {
        if leadership != nil || canvass != nil {
            // It asked for promises from a slot on that had been chosen long ago: once more, from the right one.
            stepDown()
            electionDue = now.earliest
        }
        if chosenUpTo < heardChosenUpTo { askForChosen(of: sender, at: now) }
    }
}
