import Testing
import TransactionCore

@testable import Metadata

@Suite struct ContenderTests {
    private let lock = Contender.lock("l")!
    private let own = Contender.Turn(key: key("/locks/l/0000000000000002"), token: revision(7))
    private let first = key("/locks/l/0000000000000001")

    private func created(after before: MetadataKey?) -> MetadataAnswer {
        .transaction(
            TransactionAnswer(revision: own.token, held: true, results: [.created(own.key, after: before)]))
    }

    private func entry(_ key: MetadataKey, _ number: Int64) -> MetadataEntry {
        MetadataEntry(key: key, value: [], created: revision(number), modified: revision(number), version: 1)
    }

    private func deleted(_ key: MetadataKey) -> MetadataChange {
        MetadataChange(key: key, previous: revision(1), entry: nil, revision: revision(9))
    }

    private func makeWaiting() -> Contender {
        var contender = Contender.enter(lock, value: []).contender
        _ = contender.answered(created(after: first))
        return contender
    }

    // MARK: One contender

    @Test("who finds nobody before it holds at once, with one command; the token is when its key was made")
    func uncontended() {
        var (contender, actions) = Contender.enter(lock, value: [1])
        #expect(actions == [.submit(MetadataTransaction(then: [.create(lock, [1], ephemeral: true)]))])
        #expect(contender.answered(created(after: nil)) == [.held(token: revision(7))])
        #expect(contender.state == .holding(own: own))
        #expect(contender.release() == [.submit(MetadataTransaction(then: [.delete(.key(own.key))]))])
        let gone = TransactionAnswer(revision: revision(8), held: true, results: [.deleted(1)])
        #expect(contender.answered(.transaction(gone)) == [.ended])
    }

    @Test("who finds another before it watches that one key, and looks again when it is deleted")
    func contended() {
        var contender = Contender.enter(lock, value: []).contender
        #expect(contender.answered(created(after: first)) == [.watch(first, after: revision(7))])
        let put = MetadataChange(key: first, previous: nil, entry: entry(first, 8), revision: revision(8))
        #expect(contender.changed(put) == [])
        #expect(contender.changed(deleted(own.key)) == [])
        let look = Contender.Action.read(.last(lock, through: own.key, limit: 2))
        #expect(contender.changed(deleted(first)) == [.unwatch(first), look])
        let found = QueryAnswer(revision: revision(9), entries: [entry(own.key, 7)], isComplete: true)
        #expect(contender.found(found) == [.held(token: revision(7))])
    }

    @Test("who left may only have waited: then the one before it is watched")
    func waiterLeft() {
        var contender = makeWaiting()
        _ = contender.changed(deleted(first))
        let other = key("/locks/l/0000000000000000")
        let entries = [entry(own.key, 7), entry(other, 2)]
        #expect(
            contender.found(QueryAnswer(revision: revision(9), entries: entries, isComplete: true))
                == [.watch(other, after: revision(9))])
    }

    @Test("without its own key nobody holds, though no key is before it")
    func ownKeyGone() {
        for entries in [[], [entry(first, 2)]] {
            var contender = makeWaiting()
            _ = contender.changed(deleted(first))
            let found = QueryAnswer(revision: revision(9), entries: entries, isComplete: true)
            #expect(contender.found(found) == [.ended])
            #expect(contender.state == .ended)
        }
    }

    @Test("a lost watch means to look again")
    func watchLost() {
        var contender = makeWaiting()
        #expect(contender.watchLost(own.key) == [])
        #expect(contender.watchLost(first) == [.read(.last(lock, through: own.key, limit: 2))])
        #expect(contender.watchLost(first) == [])
    }

    @Test("who gives up while its key is being made deletes it, and never holds")
    func releasedEarly() {
        var contender = Contender.enter(lock, value: []).contender
        #expect(contender.release() == [])
        let delete = Contender.Action.submit(MetadataTransaction(then: [.delete(.key(own.key))]))
        #expect(contender.answered(created(after: nil)) == [delete])

        var waiting = makeWaiting()
        #expect(waiting.release() == [.unwatch(first), delete])
        #expect(waiting.changed(deleted(first)) == [])

        var looking = makeWaiting()
        _ = looking.changed(deleted(first))
        #expect(looking.release() == [delete])
        let found = QueryAnswer(revision: revision(9), entries: [entry(own.key, 7)], isComplete: true)
        #expect(looking.found(found) == [])
        #expect(looking.release() == [])
    }

    @Test("a session's end ends its contender, wherever it is, once")
    func sessionEnded() {
        var entering = Contender.enter(lock, value: []).contender
        #expect(entering.answered(.refused(.sessionUnknown)) == [.ended])
        #expect(entering.sessionEnded() == [])
        var waiting = makeWaiting()
        #expect(waiting.sessionEnded() == [.unwatch(first), .ended])
        #expect(waiting.changed(deleted(first)) == [])
        #expect(waiting.release() == [])
    }

    @Test("a name that can't be in a key has no lock")
    func names() {
        #expect(Contender.lock("a b") == nil)
        #expect(Contender.lock("") == nil)
        #expect(Contender.lock("backup")?.rawValue == "/locks/backup/")
    }

    // MARK: Many of them

    @Test("one holds at a time, in the order of their keys, each leaving wakes one at most, and nobody is forgotten")
    func schedule() throws {
        let seed = makeSeed("ContenderTests.schedule")
        var (held, died) = (0, 0)
        for round in 0..<20 as Range<UInt64> {
            var run = ContenderRun(seed: seed &+ round)
            for _ in 0..<2_000 { run.step() }
            run.drain()
            #expect(run.findings == [], "seed \(seed), round \(round)")
            (held, died) = (held + run.tokens.count, died + run.deaths)
            #expect(run.tokens == run.tokens.sorted(), "seed \(seed), round \(round): a token was smaller than before")
        }
        #expect(held > 200 && died > 50, "\(held) held, \(died) died")
    }
}
