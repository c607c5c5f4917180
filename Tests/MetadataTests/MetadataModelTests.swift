import Testing
import TransactionCore

@testable import Metadata

@Suite struct MetadataModelTests {
    @Test("thousands of commands by chance give the answers, changes and keys of a naive model")
    func model() throws {
        let seed = makeSeed("MetadataModelTests.model")
        var source = CommandSource(seed: seed)
        var state = MetadataState()
        var naive = NaiveState()
        for slot in 1...8_000 {
            // Not every slot holds a command.
            let revision = revision(Int64(slot) * 2)
            let command = source.next(at: revision)
            let known = naive.changes.count
            let expected = naive.apply(command, at: revision)
            let (answer, changes) = state.apply(command, at: revision)
            try #require(answer == expected, "seed \(seed), slot \(slot): \(command)")
            try #require(changes == Array(naive.changes[known...]), "seed \(seed), slot \(slot): \(command)")
            let query = source.query()
            try #require(state.read(query) == naive.read(query, revision), "seed \(seed), slot \(slot): \(query)")
        }
        #expect(state.tree.elements.map(\.value) == naive.entries.values.sorted { $0.key < $1.key })
        #expect(state.openSessions.map(\.id) == naive.sessions.keys.sorted())
        #expect(naive.changes.count > 2_000)
        for selection in [MetadataSelection.prefix(.all), .prefix(prefix("/a/")), .key(key("/c3"))] {
            let start = state.history.completeAfter
            let expected = naive.changes.filter { $0.revision > start && selection.contains($0.key) }
            #expect(try state.changes(after: start, of: selection) == expected)
        }
    }

    @Test("a state that was written and read at any moment has the same future, byte for byte")
    func snapshots() throws {
        let seed = makeSeed("MetadataModelTests.snapshots")
        var source = CommandSource(seed: seed)
        var (state, twin) = (MetadataState(), MetadataState())
        for slot in 1...4_000 {
            if source.number(0...40) == 0 {
                let bytes = state.snapshot
                twin = try MetadataState(snapshot: bytes)
                try #require(twin.snapshot == bytes, "seed \(seed), slot \(slot)")
            }
            let command = try MetadataCommand(decoding: source.next(at: revision(Int64(slot))).encoded())
            let (one, other) = (
                state.apply(command, at: revision(Int64(slot))), twin.apply(command, at: revision(Int64(slot)))
            )
            try #require(one.answer == other.answer, "seed \(seed), slot \(slot): \(command)")
            try #require(one.changes == other.changes, "seed \(seed), slot \(slot): \(command)")
        }
        #expect(state.snapshot == twin.snapshot)
    }

    @Test("a sorted map holds what a dictionary does, in order, whatever is put and removed")
    func sortedMap() throws {
        let seed = makeSeed("MetadataModelTests.sortedMap")
        var source = CommandSource(seed: seed)
        var map = SortedMap<Int, Int>()
        var known: [Int: Int] = [:]
        for step in 0..<20_000 {
            // Grows for a while, then shrinks, over many runs and back to none.
            let key = source.number(0...2_000)
            if source.number(0...9) < (step / 5_000 % 2 == 0 ? 8 : 2) {
                #expect(map.set(key, step) == known.updateValue(step, forKey: key))
            } else {
                #expect(map.remove(key) == known.removeValue(forKey: key))
            }
            try #require(map.count == known.count)
            if step % 500 == 0 {
                let copy = map
                #expect(map.elements.map(\.key) == known.keys.sorted(), "seed \(seed), step \(step)")
                #expect(map.elements(from: key).map(\.key) == known.keys.filter { $0 >= key }.sorted())
                #expect(map.last(before: key)?.key == known.keys.filter { $0 < key }.max())
                #expect(map.last?.key == known.keys.max())
                for key in known.keys { map.remove(key) }
                #expect(map.isEmpty && map.last == nil)
                map = copy
            }
        }
    }

    @Test("keys in rising order fill their runs")
    func risingKeys() {
        var map = SortedMap<Int, Int>()
        for number in 0..<10_000 { map.set(number, number) }
        #expect(map.elements.map(\.value) == Array(0..<10_000))
        #expect(map.runCount < 10_000 / 100)
    }
}
