public import TransactionCore

/// A session that has not ended.
struct OpenSession: Sendable {
    /// How many answers are kept: a client that has more commands under way than that is told so, not answered wrongly.
    static let answersMax = MetadataSession.unansweredMax

    let node: NodeID
    var expiry: Timestamp
    /// The keys that end with it.
    var keys: Set<MetadataKey> = []
    /// Answers of which it isn't known whether they have arrived, by rising number.
    private(set) var answers: [(number: UInt64, answer: MetadataAnswer)] = []
    /// Answers up to here are not kept.
    private(set) var forgottenThrough: UInt64 = 0

    init(node: NodeID, expiry: Timestamp) {
        (self.node, self.expiry) = (node, expiry)
    }

    /// As it was stored; `answers` by rising number, all after `forgottenThrough`.
    init(
        node: NodeID, expiry: Timestamp, forgottenThrough: UInt64, answers: [(number: UInt64, answer: MetadataAnswer)]
    ) {
        (self.node, self.expiry, self.forgottenThrough, self.answers) = (node, expiry, forgottenThrough, answers)
    }

    mutating func forget(below number: UInt64) {
        guard number > 0, number - 1 > forgottenThrough else { return }
        forgottenThrough = number - 1
        answers.removeFirst(index(of: number))
    }

    /// The answer to a command that was done; nil when it is yet to be done.
    func answer(to number: UInt64) -> MetadataAnswer? {
        guard number > forgottenThrough else { return .refused(.forgotten) }
        let index = index(of: number)
        return index < answers.count && answers[index].number == number ? answers[index].answer : nil
    }

    mutating func keep(_ answer: MetadataAnswer, to number: UInt64) {
        answers.insert((number, answer), at: index(of: number))
        if answers.count > Self.answersMax { forgottenThrough = answers.removeFirst().number }
    }

    private func index(of number: UInt64) -> Int { firstIndex(below: answers.count) { answers[$0].number >= number } }
}

extension MetadataState {
    /// Ends a session and, at the same revision, its keys.
    mutating func end(_ id: SessionID, _ changes: inout [MetadataChange]) {
        guard let session = sessions.remove(id) else { return }
        for key in session.keys.sorted() { delete(key, &changes) }
    }

    /// The sessions that are open, and the nodes that hold them.
    public var openSessions: [(id: SessionID, node: NodeID, expiry: Timestamp)] {
        sessions.elements.map { ($0.key, $0.value.node, $0.value.expiry) }
    }

    /// What a leader proposes: the end of every session whose expiry has certainly passed.
    public func expirations(at now: TimestampInterval) -> [MetadataCommand] {
        sessions.elements.filter { now.isAfter($0.value.expiry) }.map {
            .expireSession($0.key, expiry: $0.value.expiry)
        }
    }
}
