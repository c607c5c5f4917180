public import TransactionCore

/// The state that the log makes: keys with values, sessions, and what has changed lately.
///
/// The same commands at the same revisions make the same state, answers and changes on every node.
public struct MetadataState: Sendable {
    /// Where each node's newest epoch is: `/epochs/3`, in decimal. Only ``MetadataCommand/raiseEpoch(_:above:)`` writes
    /// it.
    public static let epochs = MetadataPrefix("/epochs/")!

    /// That of the last command.
    public internal(set) var revision = Revision.zero
    var tree = SortedMap<MetadataKey, MetadataEntry>()
    var sessions = SortedMap<SessionID, OpenSession>()
    /// What has changed lately.
    public internal(set) var history = MetadataHistory()
    /// How many keys were numbered. One count for all prefixes: a name never comes again, and nothing is kept for a
    /// prefix that nobody uses.
    var numbered: UInt64 = 0
    /// The largest epoch that was ever given.
    var epoch = Epoch(rawValue: 0)

    /// The state before the first command.
    public init() {}

    /// Does what a command says. `revision` is its slot in the log, later than those before.
    ///
    /// - Returns: the answer for who sent it, and the changes for those who watch (``Watches/applied(_:at:)``).
    public mutating func apply(
        _ command: MetadataCommand, at revision: Revision
    ) -> (answer: MetadataAnswer, changes: [MetadataChange]) {
        precondition(revision > self.revision, "revision \(revision) after \(self.revision)")
        self.revision = revision
        var changes: [MetadataChange] = []
        let answer = answer(to: command, &changes)
        history.append(changes)
        return (answer, changes)
    }

    private mutating func answer(
        to command: MetadataCommand, _ changes: inout [MetadataChange]
    ) -> MetadataAnswer {
        switch command {
        case .openSession(let node, let expiry):
            let id = SessionID(openedAt: revision)
            sessions.set(id, OpenSession(node: node, expiry: expiry))
            return .session(id, expiry: expiry)
        case .renewSession(let id, let expiry):
            let renewed = sessions.update(id) { session in
                session.expiry = max(session.expiry, expiry)
                return session.expiry
            }
            return renewed.map { .session(id, expiry: $0) } ?? .refused(.sessionUnknown)
        case .closeSession(let id):
            end(id, &changes)
            return .ended
        case .expireSession(let id, let expiry):
            if let current = sessions[id]?.expiry, current > expiry { return .session(id, expiry: current) }
            end(id, &changes)
            return .ended
        case .raiseEpoch(let node, let above):
            epoch = Epoch(rawValue: max(epoch, above).rawValue + 1)
            put(MetadataKey("\(Self.epochs)\(node)")!, Array(epoch.description.utf8), owner: nil, &changes)
            return .epoch(epoch)
        case .transaction(let number, let transaction):
            return answer(to: transaction, number, &changes)
        }
    }

    /// The newest epoch of a node; nil when it never had one.
    public func epoch(of node: NodeID) -> Epoch? {
        tree[MetadataKey("\(Self.epochs)\(node)")!].flatMap { Incarnation(epochEntry: $0)?.epoch }
    }

    /// Reads keys.
    public func read(_ query: MetadataQuery) -> QueryAnswer {
        var space = QueryAnswer.bytesMax
        return read(query, &space)
    }

    /// The changes after `revision` to what is selected, in order. Throws when some of them are not kept any more.
    public func changes(
        after revision: Revision, of selection: MetadataSelection
    ) throws(CompactedError) -> [MetadataChange] {
        try history.changes(after: revision, of: selection, countMax: .max).changes
    }
}
