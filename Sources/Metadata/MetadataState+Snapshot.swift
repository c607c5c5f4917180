import TransactionCore

extension MetadataState {
    /// The whole state in bytes: equal states have equal ones.
    public var snapshot: [UInt8] {
        var writer = ByteWriter()
        writer.byte(codingVersion)
        writer.write(revision)
        writer.number(numbered)
        writer.write(epoch)
        writer.number(UInt64(sessions.count))
        for element in sessions.elements {
            writer.write(element.key)
            writer.write(element.value)
        }
        writer.number(UInt64(tree.count))
        for element in tree.elements { writer.write(element.value) }
        writer.write(history.completeAfter)
        writer.number(UInt64(history.changes.count))
        for change in history.changes { writer.write(change) }
        return writer.bytes
    }

    /// Reads what ``snapshot`` made.
    public init(snapshot bytes: [UInt8]) throws(MalformedBytes) {
        self.init()
        var reader = ByteReader(bytes)
        try reader.checkVersion()
        revision = try reader.value()
        numbered = UInt64(try reader.integer(max: numberMax))
        epoch = try reader.value()
        for _ in 0..<(try reader.integer(max: .max)) { try readSession(&reader) }
        for _ in 0..<(try reader.integer(max: .max)) { try readEntry(&reader) }
        try readHistory(&reader)
        try reader.end()
    }

    private mutating func readSession(_ reader: inout ByteReader) throws(MalformedBytes) {
        let id = try reader.value(SessionID.self)
        let session = try reader.value(OpenSession.self)
        guard sessions.last.map({ $0.key < id }) ?? true, id.openedAt <= revision else {
            throw reader.malformed(.outOfRange)
        }
        sessions.set(id, session)
    }

    private mutating func readEntry(_ reader: inout ByteReader) throws(MalformedBytes) {
        let entry = try reader.value(MetadataEntry.self)
        guard tree.last.map({ $0.key < entry.key }) ?? true, entry.modified <= revision else {
            throw reader.malformed(.outOfRange)
        }
        if let owner = entry.owner {
            guard sessions.update(owner, { $0.keys.insert(entry.key).inserted }) != nil else {
                throw reader.malformed(.outOfRange)
            }
        }
        tree.set(entry.key, entry)
    }

    private mutating func readHistory(_ reader: inout ByteReader) throws(MalformedBytes) {
        history = MetadataHistory(completeAfter: try reader.value())
        let changes = try reader.list(of: MetadataChange.self, max: MetadataHistory.changesMax)
        var last = history.completeAfter.rawValue + 1
        for change in changes {
            guard change.revision.rawValue >= last, change.revision <= revision else {
                throw reader.malformed(.outOfRange)
            }
            last = change.revision.rawValue
        }
        history.append(changes)
    }
}

extension OpenSession: ByteCoded {
    init(from reader: inout ByteReader) throws(MalformedBytes) {
        let (node, expiry) = (try reader.value(NodeID.self), try reader.value(Timestamp.self))
        let forgotten = try reader.number()
        var answers: [(number: UInt64, answer: MetadataAnswer)] = []
        for _ in 0..<(try reader.integer(max: Self.answersMax)) {
            let number = try reader.number()
            guard number > answers.last?.number ?? forgotten else { throw reader.malformed(.outOfRange) }
            answers.append((number, try reader.value()))
        }
        self.init(node: node, expiry: expiry, forgottenThrough: forgotten, answers: answers)
    }

    func write(to writer: inout ByteWriter) {
        writer.write(node)
        writer.write(expiry)
        writer.number(forgottenThrough)
        writer.number(UInt64(answers.count))
        for (number, answer) in answers {
            writer.number(number)
            writer.write(answer)
        }
    }
}
