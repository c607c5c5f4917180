import Testing
import TransactionCore

@testable import Metadata

@Suite struct MetadataStateTests {
    // MARK: Keys

    @Test(
        "a key is parts of printable ASCII, each after a slash",
        arguments: [
            ("/a", true), ("/a/b.c%20", true), ("/" + String(repeating: "a", count: 511), true), ("", false),
            ("/", false), ("a", false), ("/a/", false), ("//a", false), ("/a//b", false), ("/a b", false),
            ("/ä", false), ("/a\u{7F}", false), ("/" + String(repeating: "a", count: 512), false),
        ])
    func keys(text: String, isKey: Bool) {
        #expect((MetadataKey(text) != nil) == isKey)
        #expect(MetadataKey(text)?.rawValue == (isKey ? text : nil))
    }

    @Test(
        "a prefix ends with a slash and leaves room for a number",
        arguments: [
            ("/", true), ("/a/", true), ("/a/b/", true), ("", false), ("/a", false), ("//", false), ("a/", false),
            ("/" + String(repeating: "a", count: 478) + "/", true),
            ("/" + String(repeating: "a", count: 479) + "/", false),
        ])
    func prefixes(text: String, isPrefix: Bool) {
        #expect((MetadataPrefix(text) != nil) == isPrefix)
    }

    @Test("a prefix holds the keys below it, not those that only begin with its letters")
    func below() {
        #expect(prefix("/nodes/").contains(key("/nodes/3")))
        #expect(!prefix("/nodes/").contains(key("/nodes")))
        #expect(!prefix("/nodes/").contains(key("/nodes2/3")))
        #expect(MetadataPrefix.holding(key("/a/b/c")).map(\.rawValue) == ["/", "/a/", "/a/b/"])
    }

    // MARK: Operations

    @Test("put makes a key at version 1, then counts its versions and keeps when it was created")
    func put() {
        var subject = Subject()
        #expect(subject.results(.put(key("/a"), [1])) == [.put(replaced: nil)])
        #expect(subject.results(.put(key("/a"), [2])) == [.put(replaced: revision(2))])
        #expect(
            subject.entry("/a")
                == MetadataEntry(
                    key: key("/a"), value: [2], created: revision(2), modified: revision(3), version: 2))
        subject.results(.delete(.key(key("/a"))))
        subject.results(.put(key("/a"), [3]))
        #expect(subject.entry("/a")?.created == revision(5))
        #expect(subject.entry("/a")?.version == 1)
    }

    @Test("delete says how many keys there were, and spares what lies beside the prefix")
    func delete() {
        var subject = Subject()
        subject.results(.put(key("/a"), []), .put(key("/a/1"), []), .put(key("/a/2/3"), []), .put(key("/a0"), []))
        #expect(subject.results(.delete(.prefix(prefix("/a/")))) == [.deleted(2)])
        #expect(subject.results(.delete(.key(key("/x"))), .delete(.key(key("/a0")))) == [.deleted(0), .deleted(1)])
        #expect(subject.keys(.first(.all, limit: 9)) == ["/a"])
    }

    @Test("a numbered key is larger than all before, of every prefix, and names the one before it in its own")
    func create() {
        var subject = Subject()
        let names = (1...3).map { "/q/000000000000000\($0)" }
        #expect(subject.results(.create(prefix("/q/"), [])) == [.created(key(names[0]), after: nil)])
        #expect(subject.results(.create(prefix("/p/"), [])) == [.created(key("/p/0000000000000002"), after: nil)])
        #expect(subject.results(.create(prefix("/q/"), [])) == [.created(key(names[2]), after: key(names[0]))])
        subject.results(.delete(.prefix(prefix("/q/"))))
        #expect(
            subject.results(.create(prefix("/q/"), [])) == [.created(key("/q/0000000000000004"), after: nil)],
            "a name never comes again")
    }

    @Test("queries find one key, the first of a prefix after another, or the last up to one")
    func queries() {
        var subject = Subject()
        for name in ["/a/1", "/a/2", "/a/3", "/b"] { subject.results(.put(key(name), [])) }
        #expect(subject.keys(.get(key("/a/2"))) == ["/a/2"])
        #expect(subject.keys(.get(key("/a/4"))) == [])
        #expect(subject.keys(.first(prefix("/a/"), limit: 2)) == ["/a/1", "/a/2"])
        #expect(subject.keys(.first(prefix("/a/"), after: key("/a/1"), limit: 9)) == ["/a/2", "/a/3"])
        #expect(subject.keys(.first(prefix("/a/"), after: key("/b"), limit: 9)) == [])
        #expect(subject.keys(.last(prefix("/a/"), through: key("/a/2"), limit: 9)) == ["/a/2", "/a/1"])
        #expect(subject.keys(.last(prefix("/a/"), through: key("/z"), limit: 1)) == ["/a/3"])
        #expect(subject.state.read(.first(prefix("/a/"), limit: 3)).isComplete)
        #expect(!subject.state.read(.first(prefix("/a/"), limit: 2)).isComplete)
    }

    @Test("an answer has room for any two values, and says when something had no room")
    func room() {
        var subject = Subject()
        let large = [UInt8](repeating: 7, count: MetadataEntry.valueBytesMax)
        for number in 1...5 { subject.results(.put(key("/a/\(number)"), large)) }
        let all = subject.state.read(.first(.all, limit: 9))
        #expect(all.entries.count == 3 && !all.isComplete)
        #expect(subject.state.read(.last(.all, through: key("/a/5"), limit: 2)).entries.count == 2)
        let queries = (1...5).map { MetadataOperation.read(.get(key("/a/\($0)"))) }
        let counts = subject.done(MetadataTransaction(then: queries))?.results.map { result in
            if case .read(let answer) = result { answer.entries.count + (answer.isComplete ? 0 : 10) } else { -1 }
        }
        #expect(counts == [1, 1, 1, 10, 10], "one transaction's reads share the room")
    }

    // MARK: Transactions

    @Test(
        "operations are done when all comparisons hold, the others when one does not",
        arguments: [
            (.exists(key("/a")), true), (.exists(key("/b")), false), (.absent(key("/a")), false),
            (.absent(key("/b")), true), (.modified(key("/a"), revision(3)), true),
            (.modified(key("/a"), revision(2)), false), (.version(key("/a"), 2), true), (.version(key("/a"), 1), false),
            (.value(key("/a"), [2]), true), (.value(key("/a"), [1]), false), (.value(key("/b"), []), false),
        ] as [(MetadataCompare, Bool)])
    func compares(compare: MetadataCompare, isHeld: Bool) {
        var subject = Subject()
        subject.results(.put(key("/a"), [1]))
        subject.results(.put(key("/a"), [2]))
        let answer = subject.done(
            MetadataTransaction(
                compares: [.exists(key("/a")), compare], then: [.put(key("/then"), [])],
                otherwise: [.put(key("/otherwise"), [])]))
        #expect(answer?.held == isHeld)
        #expect((subject.entry("/then") != nil) == isHeld)
        #expect((subject.entry("/otherwise") != nil) == !isHeld)
    }

    @Test("a transaction's operations see those before them, and make their changes at one revision in their sequence")
    func sequence() {
        var subject = Subject()
        let number = subject.next()
        let (answer, changes) = subject.apply(
            .transaction(
                number,
                MetadataTransaction(then: [
                    .put(key("/a"), [1]), .put(key("/a"), [2]), .delete(.key(key("/a"))), .read(.get(key("/a"))),
                ])))
        #expect(
            answer
                == .transaction(
                    TransactionAnswer(
                        revision: revision(2), held: true,
                        results: [
                            .put(replaced: nil), .put(replaced: revision(2)), .deleted(1),
                            .read(QueryAnswer(revision: revision(2), entries: [], isComplete: true)),
                        ])))
        #expect(changes.map(\.entry?.value) == [[1], [2], nil])
        #expect(changes.map(\.previous) == [nil, revision(2), revision(2)])
        #expect(changes.allSatisfy { $0.revision == revision(2) })
    }

    // MARK: Epochs

    @Test("an epoch is larger than every one before, of any node, and than what it was asked to exceed (R6)")
    func epochs() {
        var subject = Subject()
        #expect(subject.apply(.raiseEpoch(node(1), above: Epoch(rawValue: 7))).answer == .epoch(Epoch(rawValue: 8)))
        #expect(subject.apply(.raiseEpoch(node(2), above: Epoch(rawValue: 3))).answer == .epoch(Epoch(rawValue: 9)))
        #expect(subject.apply(.raiseEpoch(node(1), above: Epoch(rawValue: 0))).answer == .epoch(Epoch(rawValue: 10)))
        #expect(subject.state.epoch(of: node(1)) == Epoch(rawValue: 10))
        #expect(subject.state.epoch(of: node(2)) == Epoch(rawValue: 9))
        #expect(subject.state.epoch(of: node(3)) == nil)
        #expect(subject.value("/epochs/1") == "10")
    }

    @Test(
        "nothing but raising writes epochs: not even what would do something else first",
        arguments: [
            .put(key("/epochs/1"), []), .delete(.key(key("/epochs/1"))), .delete(.prefix(.all)),
            .delete(.prefix(prefix("/epochs/"))), .create(prefix("/epochs/"), []), .create(prefix("/epochs/a/"), []),
        ] as [MetadataOperation])
    func reserved(operation: MetadataOperation) {
        var subject = Subject()
        subject.apply(.raiseEpoch(node(1), above: Epoch(rawValue: 7)))
        let number = subject.next()
        let transaction = MetadataTransaction(then: [.put(key("/a"), []), operation])
        #expect(subject.apply(.transaction(number, transaction)) == (.refused(.reserved), []))
        #expect(subject.value("/epochs/1") == "8")
        #expect(subject.entry("/a") == nil)
        #expect(subject.done(MetadataTransaction(then: [.delete(.prefix(prefix("/e/")))])) != nil)
    }
}

private func == (
    lhs: (answer: MetadataAnswer, changes: [MetadataChange]), rhs: (MetadataAnswer, [MetadataChange])
) -> Bool {
    lhs.answer == rhs.0 && lhs.changes == rhs.1
}
