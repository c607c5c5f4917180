import Testing
import TransactionCore

@testable import TwoPhaseCommit

private typealias Message = ClosedTimestamps.Message
private typealias Action = ClosedTimestamps.Action
private typealias Part = ClosedTimestamps.TimestampOnShard

/// Node 1 with epoch 11 is the one under test; 2 and 3 are peers.
private let (own, second, third) = (makeIncarnation(1, 11), makeIncarnation(2, 12), makeIncarnation(3, 13))

private func makeIncarnation(_ node: UInt16, _ epoch: Int64) -> Incarnation {
    Incarnation(NodeID(rawValue: node)!, Epoch(rawValue: epoch))
}

/// A commit timestamp of node 2.
private func peerTimestamp(_ number: Int64) -> Timestamp { Timestamp(rawValue: number << Timestamp.nodeBits | 2) }

private func interval(_ number: Int64) -> TimestampInterval {
    TimestampInterval(earliest: makeTimestamp(number - 1), latest: makeTimestamp(number))
}

private func makeReport(
    _ activity: UInt64, round: UInt64 = 0, strong: Int64 = 0, _ promise: ClosedTimestamps.Report.Promise
) -> Message {
    .report(
        ClosedTimestamps.Report(
            activity: activity, round: round, strongReadTimestamp: makeTimestamp(strong), promise: promise))
}

private func silent(_ activity: UInt64, round: UInt64 = 0, newest: Int64 = 0, strong: Int64 = 0) -> Message {
    makeReport(activity, round: round, strong: strong, .silent(newest: makeTimestamp(newest)))
}

private func closed(
    _ activity: UInt64, round: UInt64 = 0, upTo: Int64, strong: Int64 = 0, _ inFlight: [Part] = []
) -> Message {
    makeReport(activity, round: round, strong: strong, .closed(upTo: makeTimestamp(upTo), inFlight: inFlight))
}

@Suite struct ClosedTimestampsTests {
    /// A coordinator that started after timestamp 100, among peers.
    private final class Coordinating {
        var tracker = SafeTimeTracker(node: node, newest: makeTimestamp(100))
        var closed: ClosedTimestamps

        init(_ peers: Incarnation...) {
            closed = ClosedTimestamps(own, peers: peers, &tracker)
        }

        func receive(_ message: Message, from peer: Incarnation = second) -> [Action] {
            closed.received(message, from: peer, &tracker)
        }

        func fenced(_ peer: Incarnation, _ number: Int64 = 500) -> [Action] {
            closed.fenced(peer, readingFrom: makeTimestamp(number), &tracker)
        }

        func appeared(_ peer: Incarnation) { closed.appeared(peer, &tracker) }

        func fallSilent(_ number: Int64) -> [Action] { closed.fallSilent(at: interval(number), &tracker) }

        func choose(_ number: Int64, _ shards: [ShardID] = [a]) -> Timestamp {
            precondition(closed.isActive)
            return tracker.choose(at: interval(number), writing: shards)
        }

        func retire(_ timestamp: Timestamp, on shard: ShardID) -> [Action] {
            _ = tracker.retire(timestamp, on: shard)
            return closed.retired(timestamp, on: shard)
        }

        func isCurrent(_ number: Int64 = 400) -> Bool { tracker.isCurrent(at: makeTimestamp(number), on: a) }

        /// Lets the second node say that it is silent.
        func silence(_ activity: UInt64 = 0, _ peer: Incarnation = second) {
            _ = receive(silent(activity), from: peer)
        }
    }

    /// One that is active, with silent peers.
    private func makeActive(_ peers: Incarnation...) -> Coordinating {
        let made = Coordinating()
        for peer in peers { made.appeared(peer) }
        for peer in peers { made.silence(0, peer) }
        #expect(made.closed.activate() == [.activated])
        return made
    }

    // MARK: Peers

    @Test("alone it may choose and read at once, and tells nobody")
    func alone() {
        let made = Coordinating()
        #expect(made.closed.isSole && made.isCurrent())
        #expect(made.closed.activate() == [.activated])
        #expect(
            made.closed.requestRound(upTo: makeTimestamp(900)).actions == [
                .roundEnded(1, upTo: makeTimestamp(900))
            ])
        #expect(made.closed.isClosed(upTo: makeTimestamp(900)))
        let chosen = made.choose(300)
        #expect(made.retire(chosen, on: a) == [])
        #expect(made.fallSilent(400) == [])
        #expect(!made.closed.isActive)
    }

    @Test("a peer that was there before is taken for active until it says that it is silent (R8)")
    func activeUntilTold() {
        let made = Coordinating(second)
        made.appeared(second)
        #expect(!made.closed.isSole && !made.isCurrent() && !made.closed.isClosed(upTo: makeTimestamp(1)))
        #expect(made.closed.closedByPeers == .zero)
        #expect(made.receive(silent(0)) == [] && made.closed.closedByPeers == nil)
        #expect(made.closed.isSole && made.isCurrent() && made.closed.isClosed(upTo: makeTimestamp(900)))
    }

    @Test("a peer that comes later holds nobody up before it has asked to choose (R8)")
    func silentUntilItAsks() {
        let made = Coordinating()
        made.appeared(second)
        #expect(made.closed.isSole && made.isCurrent() && made.closed.unanswered.isEmpty)
        made.tracker.close(upTo: makeTimestamp(300))
        #expect(made.receive(.activate(1)) == [.send(.activated(1, closed: makeTimestamp(300)), to: second)])
        #expect(!made.closed.isSole && !made.isCurrent() && made.closed.closedByPeers == makeTimestamp(300))
    }

    @Test("who has not appeared is not heard, nor who is fenced, nor another life of the own node")
    func strangers() {
        let made = Coordinating(second)
        for stranger in [third, makeIncarnation(1, 9), makeIncarnation(2, 10)] {
            #expect(made.receive(.activate(1), from: stranger) == [])
            #expect(made.receive(.close(round: 1, upTo: makeTimestamp(200)), from: stranger) == [])
        }
        made.appeared(makeIncarnation(1, 9))
        _ = made.fenced(second)
        made.appeared(second)
        #expect(made.receive(.activate(1)) == [])
        #expect(made.closed.peerIncarnations == [])
    }

    @Test("one life of a node that is fenced takes earlier ones with it and leaves later ones (R6)")
    func livesFenced() {
        let (early, late) = (makeIncarnation(2, 5), makeIncarnation(2, 20))
        let made = Coordinating(early, second, late, third)
        _ = made.fenced(second)
        #expect(made.closed.peerIncarnations == [late, third])
        made.appeared(early)
        _ = made.fenced(early)
        made.appeared(second)
        #expect(made.closed.peerIncarnations == [late, third])
    }

    @Test("while it starts it remembers what it was told, and reads from the shards' newest timestamp on (R8, R9)")
    func starting() {
        let made = Coordinating(second)
        _ = made.receive(.activate(4))
        _ = made.receive(closed(4, upTo: 130, [Part(peerTimestamp(120), a)]))
        made.tracker.begins(after: makeTimestamp(150))
        // Of an activity before.
        _ = made.receive(silent(3))
        #expect(!made.closed.isSole)
        #expect(made.tracker.strongReadTimestamp == makeTimestamp(150) && made.tracker.closed == makeTimestamp(150))
        #expect(made.tracker.inFlight(on: a) == [peerTimestamp(120)])
        _ = made.receive(silent(4))
        #expect(!made.isCurrent(149) && made.isCurrent(150))
        #expect(made.closed.activate() == [.send(.activate(1), to: second)])
    }

    // MARK: Choosing

    @Test("none is chosen before every peer has answered, and none that a peer has read at (R8)")
    func activate() {
        let made = Coordinating(second, third)
        #expect(made.closed.activate() == [.send(.activate(1), to: second), .send(.activate(1), to: third)])
        #expect(made.closed.activate() == [] && made.closed.broadcast(closing: .zero, &made.tracker) == [])
        #expect(made.receive(.activated(1, closed: makeTimestamp(800))) == [])
        #expect(!made.closed.isActive && made.closed.unanswered == [third: .activate(1)])
        #expect(made.receive(.activated(1, closed: makeTimestamp(700)), from: third) == [.activated])
        #expect(made.choose(200) > makeTimestamp(800))
    }

    @Test("lost questions are asked again, of those who have not answered")
    func activateAgain() {
        let made = Coordinating(second, third)
        _ = made.closed.activate()
        _ = made.receive(.activated(1, closed: .zero), from: third)
        #expect(made.closed.ticked(made.tracker) == [.send(.activate(1), to: second)])
        #expect(made.receive(.activated(1, closed: .zero)) == [.activated])
        #expect(made.closed.ticked(made.tracker) == [])
    }

    @Test("an answer of an earlier activity does not count")
    func activatedLate() {
        let made = Coordinating(second)
        _ = made.closed.activate()
        _ = made.receive(.activated(1, closed: .zero))
        #expect(made.fallSilent(300) == [.send(silent(1, newest: 100, strong: 100), to: second)])
        #expect(made.closed.activate() == [.send(.activate(2), to: second)])
        #expect(made.receive(.activated(1, closed: makeTimestamp(200))) == [])
        #expect(!made.closed.isActive)
        #expect(made.receive(.activated(2, closed: makeTimestamp(250))) == [.activated])
    }

    @Test("a peer that came later takes this one for active already, and is not asked")
    func activateKnown() {
        let made = Coordinating()
        made.appeared(second)
        #expect(made.closed.activate() == [.activated])
    }

    @Test("an answer says what was read at, and what the peer closes at least is remembered from the first one on (R8)")
    func answerActivation() {
        let made = Coordinating(second)
        made.silence()
        _ = made.tracker.readRequested(at: makeTimestamp(300), on: a)
        #expect(made.receive(.activate(1)) == [.send(.activated(1, closed: makeTimestamp(300)), to: second)])
        #expect(made.closed.isClosed(upTo: makeTimestamp(300)) && !made.closed.isClosed(upTo: makeTimestamp(301)))
        // The peer had the first answer and chose 350 perhaps; the question came twice.
        made.tracker.close(upTo: makeTimestamp(600))
        #expect(made.receive(.activate(1)) == [.send(.activated(1, closed: makeTimestamp(300)), to: second)])
        #expect(!made.closed.isClosed(upTo: makeTimestamp(301)))
    }

    @Test("a question that comes after a report of the same activity is answered with what was read at before it (R8)")
    func answerAfterReport() {
        let made = Coordinating(second)
        made.silence()
        _ = made.tracker.readRequested(at: makeTimestamp(300), on: a)
        _ = made.receive(closed(1, upTo: 150))
        #expect(made.receive(.activate(1)) == [.send(.activated(1, closed: makeTimestamp(300)), to: second)])
    }

    @Test("a question that comes late makes no silent peer active")
    func activateDuplicated() {
        let made = Coordinating(second)
        _ = made.receive(.activate(1))
        made.silence(1)
        _ = made.receive(.activate(1))
        #expect(made.closed.isSole)
        _ = made.receive(.activate(2))
        #expect(!made.closed.isSole)
        #expect(made.receive(.activate(1)) == [])
    }

    @Test("it does not fall silent while something is in flight, or the newest has not passed (R9)")
    func notSilent() {
        let made = makeActive(second)
        let chosen = made.choose(300, [a, b])
        _ = made.retire(chosen, on: a)
        #expect(made.fallSilent(900) == [])
        _ = made.retire(chosen, on: b)
        #expect(made.fallSilent(300) == [])
        #expect(made.fallSilent(900) == [.send(silent(1, newest: 300, strong: 300), to: second)])
        #expect(made.fallSilent(900) == [], "it is silent")
        #expect(made.tracker.strongReadTimestamp == chosen)
    }

    @Test("what a peer has in flight does not keep it from falling silent")
    func silentAmongActive() {
        let made = makeActive(second)
        _ = made.receive(closed(1, upTo: 300, [Part(peerTimestamp(250), a)]))
        #expect(made.fallSilent(900) == [.send(silent(1, newest: 100, strong: 100), to: second)])
    }

    @Test("a silent report that comes after a newer activity is of no use")
    func silentLate() {
        let made = Coordinating(second)
        _ = made.receive(.activate(2))
        made.silence(1)
        #expect(!made.closed.isSole)
        made.silence(2)
        #expect(made.closed.isSole)
        // Of the activity before.
        _ = made.receive(closed(2, upTo: 400, [Part(peerTimestamp(350), a)]))
        #expect(made.closed.isSole && made.tracker.inFlight(on: a) == [])
    }

    // MARK: Rounds

    @Test("a round asks the active peers, and ends when all have answered (R8, R9)")
    func round() {
        let made = Coordinating(second, third)
        made.silence(0, third)
        let upTo = makeTimestamp(400)
        let (number, asked) = made.closed.requestRound(upTo: upTo)
        #expect(asked == [.send(.close(round: 1, upTo: upTo), to: second)])
        #expect(!made.closed.isClosed(upTo: upTo) && made.closed.unanswered == [second: .close(round: 1)])
        #expect(made.receive(closed(0, upTo: 500)) == [], "it answers no round")
        #expect(made.closed.ticked(made.tracker) == asked, "asks again")
        #expect(made.receive(closed(0, round: 1, upTo: 500, strong: 450)) == [.roundEnded(number, upTo: upTo)])
        #expect(made.tracker.strongReadTimestamp == makeTimestamp(450))
        #expect(made.closed.isClosed(upTo: makeTimestamp(500)))
        #expect(made.receive(closed(0, round: 1, upTo: 500)) == [], "once")
    }

    @Test("who asks while a round is under way shares the next one (R9)")
    func roundsShared() {
        let made = Coordinating(second)
        _ = made.closed.requestRound(upTo: makeTimestamp(400))
        for number: Int64 in [420, 440, 430] {
            let (round, asked) = made.closed.requestRound(upTo: makeTimestamp(number))
            #expect(round == 2 && asked == [])
        }
        #expect(
            made.receive(closed(0, round: 1, upTo: 400)) == [
                .roundEnded(1, upTo: makeTimestamp(400)),
                .send(.close(round: 2, upTo: makeTimestamp(440)), to: second),
            ])
        #expect(made.closed.unanswered == [second: .close(round: 2)])
        let answers = made.receive(closed(0, round: 1, upTo: 600)) + made.receive(silent(0))
        #expect(answers == [.roundEnded(2, upTo: makeTimestamp(440))], "the first of them answers another round")
    }

    @Test("a round ends when those that have not answered are silent or fenced, and with it the next")
    func roundOfTheGone() {
        let made = Coordinating(second, third)
        _ = made.closed.requestRound(upTo: makeTimestamp(400))
        _ = made.closed.requestRound(upTo: makeTimestamp(450))
        #expect(made.receive(silent(0, round: 1)) == [])
        #expect(
            made.fenced(third) == [.roundEnded(1, upTo: makeTimestamp(400)), .roundEnded(2, upTo: makeTimestamp(450))])
        #expect(made.tracker.strongReadTimestamp == makeTimestamp(500), "what it had acknowledged is no later (R9)")
    }

    @Test("a round that was answered in silence is not over for who has been active since (R8)")
    func answeredInSilence() {
        let (made, upTo) = (Coordinating(second), makeTimestamp(400))
        _ = made.closed.requestRound(upTo: upTo)
        // Its answer, that it is silent, was lost; then it asked, which asks it once more.
        #expect(
            made.receive(.activate(1)) == [
                .send(.activated(1, closed: makeTimestamp(100)), to: second),
                .send(.close(round: 1, upTo: upTo), to: second),
            ])
        #expect(made.receive(closed(1, round: 1, upTo: 200)) == [])
        #expect(made.closed.ticked(made.tracker) == [.send(.close(round: 1, upTo: upTo), to: second)])
        #expect(made.receive(closed(1, round: 1, upTo: 400)) == [.roundEnded(1, upTo: upTo)])
    }

    @Test("asked to close, it chooses no such timestamp any more, and says what it has acknowledged and in flight (R8)")
    func close() {
        let made = makeActive(second)
        let chosen = made.choose(300, [b, a])
        made.tracker.acknowledged(makeTimestamp(200))
        #expect(
            made.receive(.close(round: 7, upTo: makeTimestamp(900))) == [
                .send(closed(1, round: 7, upTo: 900, strong: 200, [Part(chosen, a), Part(chosen, b)]), to: second)
            ])
        #expect(made.choose(400) > makeTimestamp(900))
    }

    @Test("in silence nothing is closed: the answer is that nothing is chosen")
    func closeSilent() {
        let made = Coordinating(second)
        #expect(
            made.receive(.close(round: 1, upTo: makeTimestamp(900))) == [
                .send(silent(0, round: 1, newest: 100, strong: 100), to: second)
            ])
        #expect(made.tracker.closed == makeTimestamp(100))
        #expect(made.closed.activate() == [.send(.activate(1), to: second)])
    }

    @Test("a peer that came later is told of silence when it asks, and is asked from then on (R8)")
    func silenceTold() {
        let made = Coordinating()
        made.appeared(second)
        _ = made.receive(.close(round: 1, upTo: makeTimestamp(900)))
        #expect(made.closed.activate() == [.send(.activate(1), to: second)])
    }

    @Test("a broadcast tells every peer what is closed, without a question")
    func broadcast() {
        let made = makeActive(second, third)
        let chosen = made.choose(300)
        let told = [second, third].map { Action.send(closed(1, upTo: 350, strong: 100, [Part(chosen, a)]), to: $0) }
        #expect(made.closed.broadcast(closing: makeTimestamp(350), &made.tracker) == told)
    }

    // MARK: In flight

    @Test("what peers have in flight holds reads back until they say that it is applied (R8)")
    func held() throws {
        let made = Coordinating(second)
        let parts = [Part(peerTimestamp(250), a), Part(peerTimestamp(250), b), Part(peerTimestamp(260), a)]
        _ = made.receive(closed(1, upTo: 300, parts))
        guard case .wait(let waiter) = made.tracker.readRequested(at: makeTimestamp(255), on: a) else {
            Issue.record("the read was not held")
            return
        }
        #expect(made.tracker.readRequested(at: makeTimestamp(240), on: a) == .proceed)
        #expect(made.receive(.applied([parts[1]])) == [])
        #expect(made.receive(.applied([parts[0]])) == [.release([waiter])])
        #expect(made.receive(.applied([parts[0]])) == [], "once")
        #expect(made.tracker.inFlight(on: a) == [peerTimestamp(260)] && made.tracker.inFlight(on: b) == [])
    }

    @Test("a newer report, silence, a newer activity and a fence each release what is not in flight any more (R8)")
    func released() {
        let newer: [(Coordinating) -> [Action]] = [
            { $0.receive(closed(1, upTo: 400, [Part(peerTimestamp(350), a)])) },
            { $0.receive(closed(1, upTo: 300)) },
            { $0.receive(silent(1, newest: 250)) },
            { $0.receive(.activate(2)) },
            { $0.receive(closed(2, upTo: 300)) },
            { $0.fenced(second) },
        ]
        for act in newer {
            let made = Coordinating(second)
            _ = made.receive(closed(1, upTo: 300, [Part(peerTimestamp(250), a)]))
            guard case .wait(let waiter) = made.tracker.readRequested(at: makeTimestamp(300), on: a) else {
                Issue.record("the read was not held")
                continue
            }
            #expect(act(made).contains(.release([waiter])))
        }
    }

    @Test("reports may come in any order and twice: what is closed never goes back, nor comes back what is applied")
    func reordered() {
        let part = (Part(peerTimestamp(250), a), Part(peerTimestamp(350), a))
        let messages = [
            closed(1, upTo: 300, [part.0]), closed(1, upTo: 400, [part.0, part.1]), closed(1, upTo: 400, [part.1]),
        ]
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0, 1], [2, 0, 0, 2], [0, 2, 1]] {
            let made = Coordinating(second)
            for index in order { _ = made.receive(messages[index]) }
            #expect(made.closed.isClosed(upTo: makeTimestamp(400)))
            #expect(made.tracker.inFlight(on: a) == [peerTimestamp(350)], "\(order)")
        }
    }

    @Test("what is in flight for long is asked after, also while a round waits for somebody else")
    func askedAfter() {
        let made = Coordinating(second, third)
        made.silence(0, third)
        _ = made.receive(closed(1, upTo: 300, [Part(peerTimestamp(250), a)]))
        let question = Action.send(.close(round: 0, upTo: makeTimestamp(300)), to: second)
        #expect(made.closed.ticked(made.tracker) == [question])
        _ = made.receive(.activate(1), from: third)
        _ = made.closed.requestRound(upTo: makeTimestamp(300))
        _ = made.receive(closed(1, round: 1, upTo: 300, [Part(peerTimestamp(250), a)]))
        #expect(
            made.closed.ticked(made.tracker) == [
                .send(.close(round: 1, upTo: makeTimestamp(300)), to: third),
                .send(.close(round: 1, upTo: makeTimestamp(300)), to: second),
            ])
    }

    @Test("who was told of something in flight, and nobody else, is told when it is applied")
    func tellsApplied() {
        let made = makeActive(second, third)
        let chosen = made.choose(300, [a, b])
        _ = made.receive(.close(round: 1, upTo: makeTimestamp(300)))
        #expect(made.retire(chosen, on: a) == [.send(.applied([Part(chosen, a)]), to: second)])
        _ = made.receive(.close(round: 1, upTo: makeTimestamp(300)), from: third)
        let told = [second, third].map { Action.send(.applied([Part(chosen, b)]), to: $0) }
        #expect(made.retire(chosen, on: b) == told)
        #expect(made.retire(chosen, on: b) == [])
    }

    // MARK: Plain reads

    @Test("what the tables hold is not the state at a timestamp when a peer was active since, and chose (R10)")
    func notCurrent() {
        let made = Coordinating(second)
        made.silence()
        #expect(made.isCurrent())
        _ = made.receive(.activate(1))
        #expect(!made.isCurrent())
        _ = made.receive(silent(1, newest: 450))
        #expect(!made.isCurrent(400) && made.isCurrent(450))
    }

    @Test("a peer that was active since and chose nothing does no harm")
    func currentAgain() {
        let made = Coordinating(second)
        made.silence()
        _ = made.receive(.activate(1))
        _ = made.receive(silent(1, newest: 300))
        #expect(made.isCurrent())
    }

    @Test("what a fenced peer had written is no later than where reads begin after it (R9, R10)")
    func currentAfterFence() {
        let made = Coordinating(second)
        #expect(made.fenced(second, 500) == [])
        #expect(!made.isCurrent(499) && made.isCurrent(500))
    }

    @Test("a peer that waits for the last answer is active when the one that owes it is fenced")
    func activatedByFence() {
        let made = Coordinating(second, third)
        _ = made.closed.activate()
        _ = made.receive(.activated(1, closed: .zero), from: third)
        #expect(made.fenced(second) == [.activated])
    }
}
