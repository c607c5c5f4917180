import TransactionCore

extension MetadataState {
    /// Does a transaction of a session, or finds that it was done before.
    mutating func answer(
        to transaction: MetadataTransaction, _ command: CommandNumber, _ changes: inout [MetadataChange]
    ) -> MetadataAnswer {
        let known = sessions.update(command.session) { session in
            session.forget(below: command.answeredBelow)
            return session.answer(to: command.number)
        }
        guard let known else { return .refused(.sessionUnknown) }
        if let known { return known }
        let held = transaction.compares.allSatisfy(holds)
        let operations = held ? transaction.then : transaction.otherwise
        let answer: MetadataAnswer
        if operations.contains(where: touchesReserved) {
            answer = .refused(.reserved)
        } else {
            var space = QueryAnswer.bytesMax
            let results = operations.map { result(of: $0, command.session, &space, &changes) }
            answer = .transaction(TransactionAnswer(revision: revision, held: held, results: results))
        }
        _ = sessions.update(command.session) { $0.keep(answer, to: command.number) }
        return answer
    }

    private func holds(_ compare: MetadataCompare) -> Bool {
        switch compare {
        case .exists(let key): tree[key] != nil
        case .absent(let key): tree[key] == nil
        case .modified(let key, let revision): tree[key]?.modified == revision
        case .version(let key, let version): tree[key]?.version == version
        case .value(let key, let value): tree[key]?.value == value
        }
    }

    private func touchesReserved(_ operation: MetadataOperation) -> Bool {
        switch operation {
        case .put(let key, _, _), .delete(.key(let key)): Self.epochs.contains(key)
        case .create(let prefix, _, _), .delete(.prefix(let prefix)): Self.epochs.overlaps(prefix)
        case .read: false
        }
    }

    private mutating func result(
        of operation: MetadataOperation, _ session: SessionID, _ space: inout Int, _ changes: inout [MetadataChange]
    ) -> OperationResult {
        switch operation {
        case .put(let key, let value, let isEphemeral):
            return .put(replaced: put(key, value, owner: isEphemeral ? session : nil, &changes))
        case .create(let prefix, let value, let isEphemeral):
            numbered += 1
            let key = MetadataKey(unchecked: prefix.rawValue + decimal(numbered))
            let last = tree.last(before: key)?.key
            put(key, value, owner: isEphemeral ? session : nil, &changes)
            return .created(key, after: last.flatMap { prefix.contains($0) ? $0 : nil })
        case .delete(let selection):
            let entries = entries(in: selection)
            for entry in entries { delete(entry.key, &changes) }
            return .deleted(entries.count)
        case .read(let query):
            return .read(read(query, &space))
        }
    }

    // MARK: Keys

    /// Returns the revision of the value before.
    @discardableResult
    mutating func put(
        _ key: MetadataKey, _ value: [UInt8], owner: SessionID?, _ changes: inout [MetadataChange]
    ) -> Revision? {
        let previous = tree[key]
        let entry = MetadataEntry(
            key: key, value: value, created: previous?.created ?? revision, modified: revision,
            version: (previous?.version ?? 0) + 1, owner: owner)
        tree.set(key, entry)
        if let before = previous?.owner, before != owner { _ = sessions.update(before) { $0.keys.remove(key) } }
        if let owner { _ = sessions.update(owner) { $0.keys.insert(key) } }
        changes.append(MetadataChange(key: key, previous: previous?.modified, entry: entry, revision: revision))
        return previous?.modified
    }

    mutating func delete(_ key: MetadataKey, _ changes: inout [MetadataChange]) {
        guard let entry = tree.remove(key) else { return }
        if let owner = entry.owner { _ = sessions.update(owner) { $0.keys.remove(key) } }
        changes.append(MetadataChange(key: key, previous: entry.modified, entry: nil, revision: revision))
    }

    func entries(in selection: MetadataSelection) -> [MetadataEntry] {
        switch selection {
        case .key(let key): tree[key].map { [$0] } ?? []
        case .prefix(let prefix):
            tree.elements(from: prefix.start).prefix { prefix.contains($0.key) }.map(\.value)
        }
    }

    // MARK: Reading

    /// Reads until the limit or the space is used up.
    func read(_ query: MetadataQuery, _ space: inout Int) -> QueryAnswer {
        var answer = QueryAnswer(revision: revision, entries: [], isComplete: true)
        func take(_ entry: MetadataEntry, limit: Int) -> Bool {
            guard answer.entries.count < limit, entry.size <= space else {
                answer.isComplete = false
                return false
            }
            space -= entry.size
            answer.entries.append(entry)
            return true
        }
        switch query {
        case .get(let key):
            if let entry = tree[key] { _ = take(entry, limit: 1) }
        case .first(let prefix, let after, let limit):
            for element in tree.elements(from: max(after ?? prefix.start, prefix.start)) {
                if element.key == after { continue }
                guard prefix.contains(element.key), take(element.value, limit: limit) else { break }
            }
        case .last(let prefix, let through, let limit):
            var entry = through < prefix.end ? tree[through] : nil
            entry = entry ?? tree.last(before: min(through, prefix.end))?.value
            while let found = entry, prefix.contains(found.key), take(found, limit: limit) {
                entry = tree.last(before: found.key)?.value
            }
        }
        return answer
    }
}

/// In 16 digits, so that the order of the texts is that of the numbers: a million of them a second for 300 years.
private func decimal(_ number: UInt64) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, 16 - digits.utf8.count)) + digits
}
