import DequeModule

/// The changes of the last revisions, for those who watch keys.
///
/// It is the buffer of every watcher: one that is too slow costs nothing more, and finds at last that what it wants
/// next is gone.
public struct MetadataHistory: Sendable {
    /// How many changes are kept: at ten thousand changes a second, a second; in ordinary life, days.
    public static let changesMax = 10_000
    /// How many bytes they may take in memory and in a snapshot.
    public static let bytesMax = 8 << 20

    private(set) var changes: Deque<MetadataChange> = []
    /// All changes after this revision are here.
    public private(set) var completeAfter: Revision
    private var size = 0

    init(completeAfter: Revision = .zero) {
        self.completeAfter = completeAfter
    }

    /// Adds the changes of a revision later than all before. Gives up the oldest revisions, whole ones, for space.
    mutating func append(_ added: some Sequence<MetadataChange>) {
        for change in added {
            size += change.size
            changes.append(change)
        }
        while changes.count > Self.changesMax || size > Self.bytesMax, let oldest = changes.first?.revision {
            completeAfter = oldest
            while changes.first?.revision == oldest { size -= changes.removeFirst().size }
        }
    }

    /// The changes after `revision` to what is selected, in order; of whole revisions, until `countMax` is reached.
    ///
    /// - Returns: the changes, and the revision up to which there are no others; nil for "all there are".
    func changes(
        after revision: Revision, of selection: MetadataSelection, countMax: Int
    ) throws(CompactedError) -> (changes: [MetadataChange], through: Revision?) {
        guard revision >= completeAfter else { throw CompactedError(completeAfter: completeAfter) }
        var found: [MetadataChange] = []
        for change in changes[firstIndex(below: changes.count) { changes[$0].revision > revision }...] {
            if let last = found.last, found.count >= countMax, change.revision > last.revision {
                return (found, last.revision)
            }
            if selection.contains(change.key) { found.append(change) }
        }
        return (found, nil)
    }
}

/// What was wanted is not kept any more: read the keys anew, and watch from there.
public struct CompactedError: Error, Hashable, Sendable {
    /// The oldest revision after which all changes are still there.
    public var completeAfter: Revision

    public init(completeAfter: Revision) {
        self.completeAfter = completeAfter
    }
}
