import Testing
import TransactionCore

@testable import Metadata

@Suite struct CodingTests {
    private func makeCommands(_ source: inout CommandSource, _ count: Int) -> [MetadataCommand] {
        (1...count).map { source.next(at: revision(Int64($0))) }
    }

    private func makeAnswers() -> [MetadataAnswer] {
        let entry = MetadataEntry(
            key: key("/a"), value: [1, 2], created: revision(3), modified: revision(300), version: 5,
            owner: SessionID(openedAt: revision(2)))
        let results: [OperationResult] = [
            .put(replaced: nil), .put(replaced: revision(7)), .created(key("/a/1"), after: nil),
            .created(key("/a/1"), after: key("/a/0")), .deleted(70_000),
            .read(QueryAnswer(revision: revision(300), entries: [entry], isComplete: false)),
        ]
        return [
            .session(SessionID(openedAt: revision(9)), expiry: time(-1)), .ended, .epoch(Epoch(rawValue: 1 << 61)),
            .transaction(TransactionAnswer(revision: revision(300), held: false, results: results)),
            .refused(.sessionUnknown), .refused(.forgotten), .refused(.reserved),
        ]
    }

    private func makeState(_ source: inout CommandSource, _ count: Int) -> MetadataState {
        var state = MetadataState()
        for slot in 1...Int64(count) { _ = state.apply(source.next(at: revision(slot)), at: revision(slot)) }
        return state
    }

    @Test("commands and answers are read as they were written")
    func roundTrips() throws {
        let seed = makeSeed("CodingTests.roundTrips")
        var source = CommandSource(seed: seed)
        for command in makeCommands(&source, 2_000) {
            #expect(try MetadataCommand(decoding: command.encoded()) == command, "seed \(seed)")
        }
        for answer in makeAnswers() { #expect(try MetadataAnswer(decoding: answer.encoded) == answer) }
    }

    @Test("what is longer than it may be is refused before it is in the log")
    func tooLong() {
        let number = CommandNumber(session: SessionID(openedAt: revision(1)), number: 1, answeredBelow: 1)
        let fits = [UInt8](repeating: 0, count: MetadataEntry.valueBytesMax)
        func encode(_ operations: [MetadataOperation]) throws {
            _ = try MetadataCommand.transaction(number, MetadataTransaction(then: operations)).encoded()
        }
        #expect(throws: Never.self) { try encode([.put(key("/a"), fits)]) }
        #expect(throws: MalformedBytes.self) { try encode([.put(key("/a"), fits + [0])]) }
        #expect(throws: MalformedBytes.self) { try encode([.put(key("/a"), fits), .put(key("/b"), fits)]) }
        #expect(throws: Never.self) { try encode(Array(repeating: .read(.get(key("/a"))), count: 128)) }
        #expect(throws: MalformedBytes.self) { try encode(Array(repeating: .read(.get(key("/a"))), count: 129)) }
        #expect(throws: MalformedBytes.self) { try encode([.read(.first(.all, limit: -1))]) }
        #expect(throws: MalformedBytes.self) {
            try MetadataCommand.raiseEpoch(node(1), above: Epoch(rawValue: .max)).encoded()
        }
        #expect(throws: MalformedBytes.self) {
            try MetadataCommand.closeSession(SessionID(openedAt: revision(-1))).encoded()
        }
    }

    @Test("another version is told apart from nonsense: a node must not go on past it")
    func versions() throws {
        let command = try MetadataCommand.closeSession(SessionID(openedAt: revision(1))).encoded()
        #expect(reason { try MetadataCommand(decoding: [2] + command.dropFirst()) } == .unknownVersion(2))
        let snapshot = [2] + MetadataState().snapshot.dropFirst()
        #expect(reason { try MetadataState(snapshot: snapshot) } == .unknownVersion(2))
    }

    @Test("bytes that are cut off or go on are refused, at every length")
    func lengths() throws {
        var source = CommandSource(seed: 1)
        let answers = makeAnswers().map(\.encoded)
        for bytes in answers {
            for count in 0..<bytes.count {
                #expect(throws: MalformedBytes.self) { try MetadataAnswer(decoding: Array(bytes[..<count])) }
            }
            #expect(reason { try MetadataAnswer(decoding: bytes + [0]) } == .trailing)
        }
        for command in makeCommands(&source, 200) {
            let bytes = try command.encoded()
            for count in 0..<bytes.count {
                #expect(throws: MalformedBytes.self) { try MetadataCommand(decoding: Array(bytes[..<count])) }
            }
            #expect(reason { try MetadataCommand(decoding: bytes + [0]) } == .trailing)
        }
        let snapshot = makeState(&source, 60).snapshot
        for count in 0..<snapshot.count {
            #expect(throws: MalformedBytes.self) { try MetadataState(snapshot: Array(snapshot[..<count])) }
        }
        #expect(reason { try MetadataState(snapshot: snapshot + [0]) } == .trailing)
    }

    @Test("whatever bytes are changed, reading throws or gives something that works and is written the same")
    func hostile() throws {
        let seed = makeSeed("CodingTests.hostile")
        var source = CommandSource(seed: seed)
        let commands = makeCommands(&source, 300)
        let snapshots = [20, 60, 400].map { makeState(&source, $0).snapshot }
        var read = 0
        for _ in 0..<3_000 {
            let changed = change(try source.pick(commands).encoded(), &source)
            guard let command = try? MetadataCommand(decoding: changed) else { continue }
            read += 1
            #expect(try command.encoded() == changed, "seed \(seed)")
        }
        for _ in 0..<3_000 {
            let changed = change(source.pick(snapshots), &source)
            guard var state = try? MetadataState(snapshot: changed) else { continue }
            read += 1
            #expect(state.snapshot == changed, "seed \(seed)")
            for slot in 1...5 as ClosedRange<Int64> {
                let next = revision(state.revision.rawValue + slot)
                _ = state.apply(source.next(at: next), at: next)
            }
            for id in state.openSessions.map(\.id) {
                _ = state.apply(.closeSession(id), at: revision(state.revision.rawValue + 1))
            }
        }
        #expect(read > 100)
    }

    @Test(
        "a length that nothing follows costs no memory",
        arguments: [[1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]] as [[UInt8]])
    func lengthAlone(start: [UInt8]) {
        let length = [UInt8](repeating: 0xFF, count: 8) + [0x7F]
        #expect(throws: MalformedBytes.self) { try MetadataState(snapshot: start + length) }
    }

    private func reason(_ read: () throws -> some Any) -> MalformedBytes.Reason? {
        do {
            _ = try read()
            return nil
        } catch {
            return (error as? MalformedBytes)?.reason
        }
    }

    private func change(_ bytes: [UInt8], _ source: inout CommandSource) -> [UInt8] {
        var changed = bytes
        for _ in 0...source.number(0...2) {
            let position = source.number(1...(changed.count - 1))
            switch source.number(0...4) {
            case 0: changed.remove(at: position)
            case 1: changed.insert(UInt8(source.number(0...255)), at: position)
            case 2: changed[position] = UInt8(source.number(0...255))
            case 3: changed[position] ^= 1 << UInt8(source.number(0...7))
            default: changed.swapAt(position, source.number(1...(changed.count - 1)))
            }
            if changed.count < 2 { return changed }
        }
        return changed
    }
}
