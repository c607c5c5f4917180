public import BoundedTime
import Consensus
public import Metadata
public import TransactionCore

/// Joining and leaving, as people and nodes do it: who takes part, and the record that tells the others where.
extension MetadataClient {
    /// All records of a kind.
    public nonisolated func records<Record: MetadataRecord>(
        _ kind: Record.Type, deadline: ContinuousClock.Instant
    ) async throws(MetadataError) -> [Record] {
        switch kind.selection {
        case .key(let key): return try await read(.get(key), deadline: deadline).entries.compactMap { Record($0) }
        case .prefix(let prefix):
            var (records, pages): ([Record], MetadataPages) = ([], pages(of: prefix))
            while let entries = try await pages.next(deadline: deadline) {
                records += entries.compactMap { Record($0) }
            }
            return records
        }
    }

    /// Makes a node a member: writes down where it is, lets it follow, and lets it vote when it has caught up. Whatever
    /// of it was done before is not done again.
    ///
    /// Throws ``MetadataError/Kind/refused`` where a node of that number has left.
    public nonisolated func add(
        _ record: NodeRecord, clock: any IntervalClock, deadline: ContinuousClock.Instant
    ) async throws {
        try await NodeSession.with(self, clock: clock, deadline: deadline) { session in
            try await session.write(record, deadline: deadline)
        }
        try await change(.addLearner(record.node), deadline: deadline)
        try await change(.promote(record.node), deadline: deadline)
    }

    /// Makes a node no member any more; its number is never given again.
    public nonisolated func remove(
        _ node: NodeID, clock: any IntervalClock, deadline: ContinuousClock.Instant
    ) async throws {
        try await change(.remove(node), deadline: deadline)
        let known = try await records(NodeRecord.self, deadline: deadline).first { $0.node == node }
        var record = known ?? NodeRecord(node, .left, clientAddress: "-", peerAddress: "-")
        record.state = .left
        try await NodeSession.with(self, clock: clock, deadline: deadline) { [record] session in
            try await session.write(record, deadline: deadline)
        }
    }
}

extension NodeSession {
    /// Writes down what the others are to know of a node.
    ///
    /// Throws ``MetadataError/Kind/refused`` where a node of that number has left.
    public func write(_ record: NodeRecord, deadline: ContinuousClock.Instant) async throws(MetadataError) {
        guard let key = record.key else { preconditionFailure("the number of node \(record.node) is too long") }
        while true {
            let entry = try await client.read(.get(key), deadline: deadline).entries.first
            let known = entry.flatMap { NodeRecord($0) }
            guard known != record else { return }
            guard known?.state != .left else {
                throw MetadataError(
                    .refused, "node \(record.node) has left the cluster", detail: "its number is never given again",
                    hint: "give the node a number that none has had, and an empty directory")
            }
            let compare = entry.map { MetadataCompare.modified(key, $0.modified) } ?? .absent(key)
            let change = MetadataTransaction(compares: [compare], then: [.put(key, record.value)])
            if try await transaction(change, deadline: deadline).held { return }
        }
    }
}
