import TransactionCore

@testable import Metadata

/// What ``MetadataState`` should do, told another way: no trees, no indexes, no bounds, everything kept.
struct NaiveState {
    struct Session {
        var node: NodeID
        var expiry: Timestamp
        var below: UInt64 = 0
        var answers: [UInt64: MetadataAnswer] = [:]
    }

    var entries: [String: MetadataEntry] = [:]
    var sessions: [SessionID: Session] = [:]
    var changes: [MetadataChange] = []
    var epochs: [Int64] = []
    var created = 0

    mutating func apply(_ command: MetadataCommand, at revision: Revision) -> MetadataAnswer {
        switch command {
        case .openSession(let node, let expiry):
            sessions[SessionID(openedAt: revision)] = Session(node: node, expiry: expiry)
            return .session(SessionID(openedAt: revision), expiry: expiry)
        case .renewSession(let id, let expiry):
            guard let session = sessions[id] else { return .refused(.sessionUnknown) }
            sessions[id]!.expiry = expiry > session.expiry ? expiry : session.expiry
            return .session(id, expiry: sessions[id]!.expiry)
        case .closeSession(let id):
            end(id, revision)
            return .ended
        case .expireSession(let id, let expiry):
            if let session = sessions[id], expiry < session.expiry { return .session(id, expiry: session.expiry) }
            end(id, revision)
            return .ended
        case .raiseEpoch(let node, let above):
            epochs.append((epochs + [above.rawValue]).max()! + 1)
            write("/epochs/\(node)", bytes("\(epochs.last!)"), nil, revision)
            return .epoch(Epoch(rawValue: epochs.last!))
        case .transaction(let number, let transaction):
            return transact(number, transaction, revision)
        }
    }

    private mutating func end(_ id: SessionID, _ revision: Revision) {
        sessions[id] = nil
        for key in entries.keys.sorted() where entries[key]!.owner == id { remove(key, revision) }
    }

    private mutating func write(_ key: String, _ value: [UInt8], _ owner: SessionID?, _ revision: Revision) {
        let old = entries[key]
        entries[key] = MetadataEntry(
            key: MetadataKey(key)!, value: value, created: old == nil ? revision : old!.created, modified: revision,
            version: old == nil ? 1 : old!.version + 1, owner: owner)
        changes.append(
            MetadataChange(
                key: MetadataKey(key)!, previous: old?.modified, entry: entries[key]!, revision: revision))
    }

    private mutating func remove(_ key: String, _ revision: Revision) {
        let old = entries.removeValue(forKey: key)!
        changes.append(MetadataChange(key: old.key, previous: old.modified, entry: nil, revision: revision))
    }

    private mutating func transact(
        _ command: CommandNumber, _ transaction: MetadataTransaction, _ revision: Revision
    ) -> MetadataAnswer {
        guard var session = sessions[command.session] else { return .refused(.sessionUnknown) }
        session.below = max(session.below, command.answeredBelow)
        sessions[command.session]!.below = session.below
        if command.number == 0 || command.number < session.below { return .refused(.forgotten) }
        let later = session.answers.keys.filter { $0 > command.number }.count
        if later >= 64 { return .refused(.forgotten) }
        if let answer = session.answers[command.number] { return answer }
        let held = transaction.compares.allSatisfy { compare in
            switch compare {
            case .exists(let key): return entries[key.rawValue] != nil
            case .absent(let key): return entries[key.rawValue] == nil
            case .modified(let key, let revision): return entries[key.rawValue]?.modified == revision
            case .version(let key, let version): return entries[key.rawValue]?.version == version
            case .value(let key, let value): return entries[key.rawValue]?.value == value
            }
        }
        let operations = held ? transaction.then : transaction.otherwise
        var answer = MetadataAnswer.refused(.reserved)
        if !operations.contains(where: isReserved) {
            let results = operations.map { operation in run(operation, command.session, revision) }
            answer = .transaction(TransactionAnswer(revision: revision, held: held, results: results))
        }
        sessions[command.session]!.answers[command.number] = answer
        return answer
    }

    private func isReserved(_ operation: MetadataOperation) -> Bool {
        switch operation {
        case .create(let prefix, _, _), .delete(.prefix(let prefix)): ["/", "/epochs/"].contains(prefix.rawValue)
        case .put, .delete, .read: false
        }
    }

    private mutating func run(
        _ operation: MetadataOperation, _ session: SessionID, _ revision: Revision
    ) -> OperationResult {
        switch operation {
        case .put(let key, let value, let isEphemeral):
            let old = entries[key.rawValue]?.modified
            write(key.rawValue, value, isEphemeral ? session : nil, revision)
            return .put(replaced: old)
        case .create(let prefix, let value, let isEphemeral):
            created += 1
            let before = keys(prefix).last { $0 < prefix.rawValue + pad(created) }
            write(prefix.rawValue + pad(created), value, isEphemeral ? session : nil, revision)
            return .created(MetadataKey(prefix.rawValue + pad(created))!, after: before.map { MetadataKey($0)! })
        case .delete(.key(let key)):
            guard entries[key.rawValue] != nil else { return .deleted(0) }
            remove(key.rawValue, revision)
            return .deleted(1)
        case .delete(.prefix(let prefix)):
            let keys = keys(prefix)
            for key in keys { remove(key, revision) }
            return .deleted(keys.count)
        case .read(let query): return .read(read(query, revision))
        }
    }

    private func pad(_ number: Int) -> String { String(String(10_000_000_000_000_000 + number).dropFirst()) }

    private func keys(_ prefix: MetadataPrefix) -> [String] {
        entries.keys.filter { $0.hasPrefix(prefix.rawValue) }.sorted()
    }

    func read(_ query: MetadataQuery, _ revision: Revision) -> QueryAnswer {
        var (found, limit): ([String], Int)
        switch query {
        case .get(let key): (found, limit) = (entries[key.rawValue] == nil ? [] : [key.rawValue], 1)
        case .first(let prefix, let after, let count):
            (found, limit) = (keys(prefix).filter { $0 > after?.rawValue ?? "" }, count)
        case .last(let prefix, let through, let count):
            (found, limit) = (keys(prefix).filter { $0 <= through.rawValue }.reversed(), count)
        }
        return QueryAnswer(
            revision: revision, entries: found.prefix(limit).map { entries[$0]! }, isComplete: found.count <= limit)
    }
}
