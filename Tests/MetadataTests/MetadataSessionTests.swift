import Testing
import TransactionCore

@testable import Metadata

@Suite struct MetadataSessionTests {
    private let putOnce = MetadataTransaction(then: [.create(prefix("/q/"), [])])

    // MARK: Once

    @Test("a command that comes again is not done again: it gets its first answer, and nothing changes")
    func once() {
        var subject = Subject()
        let command = MetadataCommand.transaction(subject.next(), putOnce)
        let first = subject.apply(command)
        let second = subject.apply(command)
        #expect(first.answer == second.answer)
        #expect(first.changes.count == 1 && second.changes == [])
        #expect(subject.keys(.first(prefix("/q/"), limit: 9)).count == 1)
    }

    @Test("commands may overtake each other: each is done once, when it comes first")
    func overtaking() {
        var subject = Subject()
        func command(_ number: UInt64) -> MetadataCommand {
            .transaction(CommandNumber(session: subject.session, number: number, answeredBelow: 1), putOnce)
        }
        let commands = [3, 1, 3, 2, 1].map { command($0) }
        let changes = commands.map { subject.apply($0).changes.count }
        #expect(changes == [1, 1, 0, 1, 0])
    }

    @Test("an answer is kept until its arrival is told, and then refused rather than done again")
    func acknowledged() {
        var subject = Subject()
        func command(_ number: UInt64, _ below: UInt64) -> MetadataCommand {
            .transaction(CommandNumber(session: subject.session, number: number, answeredBelow: below), putOnce)
        }
        for number in 1...3 as ClosedRange<UInt64> { subject.apply(command(number, 1)) }
        #expect(subject.apply(command(2, 1)).answer != .refused(.forgotten))
        subject.apply(command(4, 3))
        #expect(subject.apply(command(2, 1)).answer == .refused(.forgotten))
        #expect(subject.apply(command(3, 1)).changes == [])
        #expect(subject.apply(command(0, 0)).answer == .refused(.forgotten))
        #expect(subject.keys(.first(prefix("/q/"), limit: 9)).count == 4)
    }

    @Test("of a client that tells nothing, the last 64 answers are kept")
    func bounded() {
        var subject = Subject()
        func command(_ number: UInt64) -> MetadataCommand {
            .transaction(CommandNumber(session: subject.session, number: number, answeredBelow: 0), putOnce)
        }
        for number in 1...65 as ClosedRange<UInt64> { subject.apply(command(number)) }
        #expect(subject.apply(command(1)).answer == .refused(.forgotten))
        #expect(subject.apply(command(2)).answer != .refused(.forgotten))
        #expect(subject.keys(.first(prefix("/q/"), limit: 99)).count == 65)
    }

    @Test("numbers at the ends of their range do no harm")
    func extremes() {
        var subject = Subject()
        for number in [UInt64.max, UInt64.max - 1, 0, UInt64.max] {
            for below in [UInt64.max, 0, UInt64.max] {
                subject.apply(
                    .transaction(
                        CommandNumber(session: subject.session, number: number, answeredBelow: below), putOnce))
            }
        }
        #expect(subject.keys(.first(prefix("/q/"), limit: 9)).count == 1)
    }

    // MARK: The end of a session

    @Test("a session's end deletes its keys in order, at the same revision, and its commands are refused")
    func end() {
        var subject = Subject()
        subject.results(
            .put(key("/b"), [], ephemeral: true), .put(key("/a"), [], ephemeral: true), .put(key("/c"), []))
        let number = subject.next()
        let (answer, changes) = subject.apply(.closeSession(subject.session))
        #expect(answer == .ended)
        #expect(changes.map(\.key) == [key("/a"), key("/b")])
        #expect(changes.allSatisfy { $0.entry == nil && $0.revision == revision(3) })
        #expect(subject.keys(.first(.all, limit: 9)) == ["/c"])
        #expect(subject.apply(.transaction(number, putOnce)).answer == .refused(.sessionUnknown))
        #expect(
            subject.apply(.renewSession(subject.session, expiry: time(9))).answer == .refused(.sessionUnknown))
        #expect(subject.apply(.closeSession(subject.session)).answer == .ended, "also the second time")
    }

    @Test("a key belongs to who put it last")
    func owner() {
        var subject = Subject()
        let other = subject.open()
        subject.results(.put(key("/a"), [], ephemeral: true), .put(key("/b"), [], ephemeral: true))
        subject.results(.put(key("/b"), []), .delete(.key(key("/a"))), .put(key("/a"), [], ephemeral: true))
        subject.apply(
            .transaction(
                CommandNumber(session: other, number: 1, answeredBelow: 1),
                MetadataTransaction(then: [.put(key("/a"), [], ephemeral: true)])))
        subject.apply(.closeSession(subject.session))
        #expect(subject.keys(.first(.all, limit: 9)) == ["/a", "/b"])
        subject.apply(.closeSession(other))
        #expect(subject.keys(.first(.all, limit: 9)) == ["/b"])
    }

    @Test("a renewal that came before the expiry wins, one that comes after finds nothing")
    func renewal() {
        var subject = Subject()
        let id = subject.open(expiry: 10)
        #expect(subject.apply(.renewSession(id, expiry: time(20))).answer == .session(id, expiry: time(20)))
        #expect(subject.apply(.expireSession(id, expiry: time(10))).answer == .session(id, expiry: time(20)))
        #expect(subject.apply(.renewSession(id, expiry: time(15))).answer == .session(id, expiry: time(20)))
        #expect(subject.apply(.expireSession(id, expiry: time(20))).answer == .ended)
        #expect(subject.apply(.renewSession(id, expiry: time(30))).answer == .refused(.sessionUnknown))
    }

    @Test("a session opened twice is two sessions, and the one that nobody knows expires")
    func openedTwice() {
        var subject = Subject()
        let (first, second) = (subject.open(expiry: 10), subject.open(expiry: 10))
        #expect(first != second)
        #expect(subject.state.openSessions.map(\.id) == [subject.session, first, second])
    }

    // MARK: The holder and the leader

    @Test("no clock within its bound lets a leader end a session that its holder takes for alive")
    func neverOverlap() {
        // One real moment, seen by two clocks; all positions of both around the expiry.
        var sawDeath = false
        for present in 90...130 as ClosedRange<Int64> {
            for (holder, leader) in [(-5, 0), (0, -5), (-5, -5), (0, 0), (-2, -3)] as [(Int64, Int64)] {
                let subject = Subject()
                var state = subject.state
                _ = state.apply(.openSession(node: node(1), expiry: time(110)), at: revision(2))
                let session = MetadataSession(
                    SessionID(openedAt: revision(2)), expiry: time(110), durationNanoseconds: 30)
                let alive = session.isAlive(at: interval(present + holder))
                let ended = !state.expirations(at: interval(present + leader)).isEmpty
                #expect(!(alive && ended), "at \(present)")
                sawDeath = sawDeath || ended
            }
        }
        #expect(sawDeath)
    }

    @Test("a leader proposes the end of those sessions whose expiry has certainly passed")
    func expirations() {
        var subject = Subject()
        let (first, second) = (subject.open(expiry: 10), subject.open(expiry: 20))
        #expect(subject.state.expirations(at: interval(10)) == [])
        #expect(subject.state.expirations(at: interval(11)) == [.expireSession(first, expiry: time(10))])
        #expect(subject.state.expirations(at: interval(21)).count == 2)
        subject.apply(.expireSession(first, expiry: time(10)))
        #expect(subject.state.expirations(at: interval(21)) == [.expireSession(second, expiry: time(20))])
    }

    @Test("a holder renews when a sixth of the time has passed, and never believes in an earlier expiry")
    func renewing() {
        var session = MetadataSession(SessionID(openedAt: revision(1)), expiry: time(400), durationNanoseconds: 300)
        #expect(session.renewal(at: interval(145)) == nil)
        #expect(session.renewal(at: interval(146)) == .renewSession(session.id, expiry: time(446)))
        session.renewed(until: time(496))
        session.renewed(until: time(450))
        #expect(session.expiry == time(496))
        #expect(session.isAlive(at: interval(490)) && !session.isAlive(at: interval(491)))
        #expect(
            MetadataSession.opening(node: node(1), durationNanoseconds: 300, at: interval(100))
                == .openSession(node: node(1), expiry: time(400)))
    }

    @Test("what is unanswered can be sent again, and no more goes out than answers are kept")
    func unanswered() {
        var session = MetadataSession(SessionID(openedAt: revision(1)), expiry: time(9), durationNanoseconds: 3)
        let sent = (0..<MetadataSession.unansweredMax).compactMap { _ in session.submit(putOnce) }
        #expect(sent.count == MetadataSession.unansweredMax)
        #expect(session.submit(putOnce) == nil)
        session.answered(2)
        #expect(session.submit(putOnce) == nil, "the oldest holds them all up")
        session.answered(1)
        let next = session.submit(putOnce)
        #expect(next == .transaction(CommandNumber(session: session.id, number: 65, answeredBelow: 3), putOnce))
        #expect(session.unanswered.count == 63)

        var subject = Subject()
        for command in sent + session.unanswered { subject.apply(command) }
        #expect(subject.keys(.first(prefix("/q/"), limit: 99)).count == 65)
    }

    private func interval(_ earliest: Int64) -> TimestampInterval {
        TimestampInterval(earliest: time(earliest), latest: time(earliest + 5))
    }
}
