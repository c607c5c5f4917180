/// Who watches which keys, and how far each has been told.
///
/// A watch holds no changes: it reads them in the state's history when it asks. What is ready is named by the inputs,
/// for the shell to call whoever waits.
public struct Watches: Sendable {
    /// Names a watch.
    public struct WatchID: Hashable, Comparable, Sendable {
        let rawValue: UInt64

        public static func < (lhs: WatchID, rhs: WatchID) -> Bool { lhs.rawValue < rhs.rawValue }
    }

    private struct Watch {
        let selection: MetadataSelection
        /// Has been told of everything up to here.
        var position: Revision
        /// Something after ``position`` concerns it.
        var isReady: Bool
    }

    /// The state's revision, as far as it was told.
    private var revision: Revision
    private var watches: [WatchID: Watch] = [:]
    /// For each selection its watches, by rising name.
    private var bySelection: [MetadataSelection: [WatchID]] = [:]
    private var count: UInt64 = 0

    /// Nobody watches a state yet.
    public init(of state: MetadataState) {
        revision = state.revision
    }

    /// Watches from after `revision` on: usually that of the ``QueryAnswer`` the watcher begins with. It may be one
    /// that this node has yet to reach.
    ///
    /// - Returns: the watch, and whether it has something to take already.
    public mutating func watch(
        _ selection: MetadataSelection, after revision: Revision
    ) -> (id: WatchID, isReady: Bool) {
        count += 1
        let id = WatchID(rawValue: count)
        let isReady = revision < self.revision
        watches[id] = Watch(selection: selection, position: revision, isReady: isReady)
        bySelection[selection, default: []].append(id)
        return (id, isReady)
    }

    /// Ends a watch.
    public mutating func cancel(_ id: WatchID) {
        guard let watch = watches.removeValue(forKey: id) else { return }
        bySelection[watch.selection]!.removeAll { $0 == id }
        if bySelection[watch.selection]!.isEmpty { bySelection[watch.selection] = nil }
    }

    /// The state made these changes at `revision`.
    ///
    /// - Returns: the watches that have something to take and had nothing before, in the order of their names.
    public mutating func applied(_ changes: [MetadataChange], at revision: Revision) -> [WatchID] {
        defer { self.revision = revision }
        var ready: [WatchID] = []
        for change in changes {
            let selections = [.key(change.key)] + MetadataPrefix.holding(change.key).map(MetadataSelection.prefix)
            for id in selections.flatMap({ bySelection[$0] ?? [] }) where makeReady(id, at: revision) {
                ready.append(id)
            }
        }
        return ready.sorted()
    }

    /// A snapshot took the state's place. Every watch has something to take: what it missed, or that this is not known.
    public mutating func installed(_ state: MetadataState) -> [WatchID] {
        defer { revision = state.revision }
        return watches.keys.sorted().filter { makeReady($0, at: state.revision) }
    }

    /// Whether the watch has something to take: then it is not named by the inputs again before it has taken it.
    public func isReady(_ id: WatchID) -> Bool { watches[id]?.isReady ?? false }

    /// What a watch has to be told next, in order: whole revisions, about `countMax` changes at most.
    ///
    /// - Returns: the changes, and whether there may be more to take at once.
    /// - Throws: when some of them are not kept any more. The watch is over; read the keys, and watch from there.
    public mutating func take(
        _ id: WatchID, from state: MetadataState, countMax: Int = 1_000
    ) throws(CompactedError) -> (changes: [MetadataChange], isReady: Bool) {
        guard let watch = watches[id], watch.isReady else { return ([], false) }
        do throws(CompactedError) {
            let found = try state.history.changes(after: watch.position, of: watch.selection, countMax: countMax)
            watches[id]!.position = found.through ?? state.revision
            watches[id]!.isReady = found.through != nil
            return (found.changes, found.through != nil)
        } catch {
            cancel(id)
            throw error
        }
    }

    /// Whether that is news. A watch with nothing to take has seen all that was before.
    private mutating func makeReady(_ id: WatchID, at revision: Revision) -> Bool {
        guard let watch = watches[id], !watch.isReady, watch.position < revision else { return false }
        watches[id]!.position = max(watch.position, self.revision)
        watches[id]!.isReady = true
        return true
    }
}
