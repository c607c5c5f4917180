public import TransactionCore

/// The nodes that coordinate, kept up to date by the changes of their records.
///
/// A life of a node that has ended never comes back, and no two share an epoch. So what happened between two lists can
/// be told from the lists alone, also where changes in between are not kept any more.
public struct PresentNodes: Hashable, Sendable {
    /// What became of a node.
    public enum Event: Hashable, Sendable {
        /// It is there from now on, whatever it is about.
        case appeared(Incarnation)
        /// It is there no more: it left, its session is over, it was accused, or it has begun anew.
        case vanished(Incarnation)
    }

    /// What finds them all, and room for what is none.
    public static let query = MetadataQuery.first(prefix, limit: 2 * (Int(NodeID.maximum) + 1))
    /// The newest epoch of every node; see ``TransactionCore/Incarnation/init(epochEntry:)``.
    public static let newestEpochs = MetadataQuery.first(MetadataState.epochs, limit: Int(NodeID.maximum) + 1)
    private static var prefix: MetadataPrefix {
        guard case .prefix(let prefix) = PresenceRecord.selection else { preconditionFailure("it is one node's key") }
        return prefix
    }

    public private(set) var records: [NodeID: PresenceRecord] = [:]

    /// As a list tells them.
    public init(_ entries: [MetadataEntry]) {
        _ = replace(by: entries)
    }

    public var incarnations: [Incarnation] { records.values.map(\.incarnation).sorted() }

    /// A key of ``PresenceRecord/selection`` has changed.
    public mutating func changed(_ change: MetadataChange) -> [Event] {
        if let record = change.entry.flatMap({ PresenceRecord($0) }) {
            return update(record.incarnation.node, to: record)
        }
        // It is deleted, or was set to something that is none.
        guard let former = records.values.first(where: { $0.key == change.key }) else { return [] }
        return update(former.incarnation.node, to: nil)
    }

    /// They were listed anew.
    public mutating func replace(by entries: [MetadataEntry]) -> [Event] {
        let records = entries.compactMap { PresenceRecord($0) }
        let listed = Dictionary(uniqueKeysWithValues: records.map { ($0.incarnation.node, $0) })
        return Set(self.records.keys).union(listed.keys).sorted().flatMap { update($0, to: listed[$0]) }
    }

    private mutating func update(_ node: NodeID, to record: PresenceRecord?) -> [Event] {
        let former = records[node]
        records[node] = record
        var events: [Event] = []
        if let former, former.incarnation != record?.incarnation { events.append(.vanished(former.incarnation)) }
        if let record, former?.incarnation != record.incarnation { events.append(.appeared(record.incarnation)) }
        return events
    }
}

extension Incarnation {
    /// Reads an entry of ``MetadataState/epochs``; nil when it is none.
    public init?(epochEntry entry: MetadataEntry) {
        let name = entry.key.rawValue
        guard MetadataState.epochs.contains(entry.key),
            let node = UInt16(name.dropFirst(MetadataState.epochs.rawValue.count)).flatMap(NodeID.init(rawValue:)),
            let epoch = Int64(String(decoding: entry.value, as: UTF8.self))
        else { return nil }
        self.init(node, Epoch(rawValue: epoch))
    }
}
