import Testing
import TransactionCore

@testable import Metadata

@Suite struct WatchesTests {
    /// A state and those who watch it, in step.
    private struct Observed {
        var subject = Subject()
        var watches: Watches

        init() {
            watches = Watches(of: subject.state)
        }

        /// Returns who is ready.
        mutating func put(_ names: String...) -> [Watches.WatchID] {
            let number = subject.next()
            let operations = names.map { MetadataOperation.put(key($0), []) }
            let changes = subject.apply(.transaction(number, MetadataTransaction(then: operations))).changes
            return watches.applied(changes, at: subject.state.revision)
        }

        mutating func take(_ id: Watches.WatchID, countMax: Int = 1_000) throws -> [String] {
            try watches.take(id, from: subject.state, countMax: countMax).changes.map {
                "\($0.key)@\($0.revision)"
            }
        }
    }

    @Test("a watch is told of its key or prefix and of nothing else, once for as long as it does not take")
    func selected() throws {
        var observed = Observed()
        let one = observed.watches.watch(.key(key("/a/1")), after: revision(1)).id
        let all = observed.watches.watch(.prefix(prefix("/a/")), after: revision(1)).id
        let root = observed.watches.watch(.prefix(.all), after: revision(1)).id
        #expect(observed.put("/a/1") == [one, all, root])
        #expect(observed.put("/a/2", "/a/3") == [])
        #expect(observed.put("/b") == [])
        #expect(try observed.take(one) == ["/a/1@2"])
        #expect(try observed.take(one) == [])
        #expect(try observed.take(all) == ["/a/1@2", "/a/2@3", "/a/3@3"])
        #expect(try observed.take(root) == ["/a/1@2", "/a/2@3", "/a/3@3", "/b@4"])
        #expect(observed.put("/a/4") == [all, root])
        #expect(try observed.take(all) == ["/a/4@5"])
    }

    @Test("a watcher that comes back is told what it missed, in order, and a cancelled one nothing")
    func comingBack() throws {
        var observed = Observed()
        for name in ["/a/1", "/b", "/a/2"] { #expect(observed.put(name) == []) }
        let (id, isReady) = observed.watches.watch(.prefix(prefix("/a/")), after: revision(2))
        #expect(isReady)
        #expect(try observed.take(id) == ["/a/2@4"])
        observed.watches.cancel(id)
        observed.watches.cancel(id)
        #expect(observed.put("/a/1") == [])
        #expect(try observed.take(id) == [])
    }

    @Test("a watch from a revision that this node has yet to reach is told only what comes after it")
    func fromTheFuture() throws {
        var observed = Observed()
        let (id, isReady) = observed.watches.watch(.key(key("/a")), after: revision(3))
        #expect(!isReady)
        #expect(observed.put("/a") == [])
        #expect(observed.put("/a") == [])
        #expect(observed.put("/a") == [id])
        #expect(try observed.take(id) == ["/a@4"])
    }

    @Test("much is taken in parts that end with a revision")
    func parts() throws {
        var observed = Observed()
        _ = (observed.put("/1", "/2", "/3"), observed.put("/4"), observed.put("/5"))
        let id = observed.watches.watch(.prefix(.all), after: revision(1)).id
        #expect(try observed.take(id, countMax: 2) == ["/1@2", "/2@2", "/3@2"])
        let (changes, isReady) = try observed.watches.take(id, from: observed.subject.state, countMax: 1)
        #expect(changes.map(\.key) == [key("/4")] && isReady)
        #expect(observed.put("/6") == [], "it has something to take already")
        #expect(try observed.take(id) == ["/5@4", "/6@5"])
    }

    @Test("whole revisions are given up for space, and who needs them is told from where to begin")
    func compacted() throws {
        var observed = Observed()
        let slow = observed.watches.watch(.prefix(.all), after: revision(1)).id
        let idle = observed.watches.watch(.key(key("/b")), after: revision(1)).id
        let names = (1...64).map { MetadataOperation.put(key("/a/\($0)"), []) }
        for _ in 1...160 {
            let number = observed.subject.next()
            let changes = observed.subject.apply(.transaction(number, MetadataTransaction(then: names))).changes
            _ = observed.watches.applied(changes, at: observed.subject.state.revision)
        }
        // Of the revisions 2 ... 161 there is room for 156, and a quarter of one more.
        #expect(observed.subject.state.history.completeAfter == revision(5))
        #expect(observed.subject.state.history.changes.count == 156 * 64)
        #expect(throws: CompactedError(completeAfter: revision(5))) { try observed.take(slow) }
        #expect(try observed.take(slow) == [], "the watch is over")
        #expect(observed.put("/b") == [idle])
        #expect(try observed.take(idle) == ["/b@162"], "one that only waited has missed nothing")
        #expect(try observed.subject.state.changes(after: revision(5), of: .key(key("/a/7"))).count == 156)
        #expect(throws: CompactedError(completeAfter: revision(5))) {
            try observed.subject.state.changes(after: revision(4), of: .key(key("/a/7")))
        }
    }

    @Test("values count as well as changes do")
    func compactedBySize() {
        var subject = Subject()
        let large = [UInt8](repeating: 0, count: MetadataEntry.valueBytesMax)
        for _ in 1...8 { subject.results(.put(key("/a"), large)) }
        #expect(subject.state.history.completeAfter == revision(2))
        #expect(subject.state.history.changes.map(\.revision) == (3...9).map { revision($0) })
    }

    @Test("a snapshot that takes the state's place loses no change that its history still holds")
    func installed() throws {
        var (ahead, behind) = (Observed(), Observed())
        let idle = behind.watches.watch(.key(key("/a")), after: revision(1)).id
        let ready = behind.watches.watch(.prefix(.all), after: revision(1)).id
        let future = behind.watches.watch(.key(key("/a")), after: revision(3)).id
        for observed in 0..<2 { _ = observed == 0 ? ahead.put("/b") : behind.put("/b") }
        for name in ["/a", "/a", "/c"] { _ = ahead.put(name) }
        behind.subject.state = try MetadataState(snapshot: ahead.subject.state.snapshot)
        #expect(behind.watches.installed(behind.subject.state) == [idle, future])
        #expect(try behind.take(idle) == ["/a@3", "/a@4"])
        #expect(try behind.take(ready) == ["/b@2", "/a@3", "/a@4", "/c@5"])
        #expect(try behind.take(future) == ["/a@4"])
    }

    @Test("whoever watches, takes, breaks off and comes back at any moment is told of every change once, in order")
    func nothingMissed() throws {
        let seed = makeSeed("WatchesTests.nothingMissed")
        var source = CommandSource(seed: seed)
        var state = MetadataState()
        var watches = Watches(of: state)
        var all: [MetadataChange] = []
        let selections: [MetadataSelection] = [
            .prefix(.all), .prefix(prefix("/a/")), .prefix(prefix("/a/x/")), .key(key("/b/1")), .key(key("/c2")),
        ]
        var told = selections.map { _ in [MetadataChange]() }
        var position = selections.map { _ in Revision.zero }
        var ids = selections.map { watches.watch($0, after: .zero).id }
        var ready = Set<Watches.WatchID>()
        for slot in 1...6_000 {
            let revision = revision(Int64(slot))
            let (_, changes) = state.apply(source.next(at: revision), at: revision)
            all += changes
            if source.number(0...200) == 0 {
                state = try MetadataState(snapshot: state.snapshot)
                ready.formUnion(watches.installed(state))
            } else {
                ready.formUnion(watches.applied(changes, at: revision))
            }
            for index in selections.indices where source.number(0...(index * 4)) == 0 {
                if ready.contains(ids[index]) {
                    let taken = try watches.take(ids[index], from: state, countMax: source.number(1...5))
                    told[index] += taken.changes
                    if let last = taken.changes.last { position[index] = last.revision }
                    if !taken.isReady { ready.remove(ids[index]) }
                }
                if source.number(0...30) == 0 {
                    watches.cancel(ids[index])
                    let watch = watches.watch(selections[index], after: position[index])
                    ids[index] = watch.id
                    if watch.isReady { ready.insert(watch.id) }
                }
            }
        }
        for (index, selection) in selections.enumerated() {
            if ready.contains(ids[index]) {
                told[index] += try watches.take(ids[index], from: state, countMax: .max).changes
            }
            #expect(told[index] == all.filter { selection.contains($0.key) }, "seed \(seed), \(selection)")
            #expect(!told[index].isEmpty)
        }
    }
}
