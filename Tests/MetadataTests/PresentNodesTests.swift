import Testing
import TransactionCore

@testable import Metadata

@Suite struct PresentNodesTests {
    /// Changes as a state makes them, and what they come to.
    private struct Run {
        var subject = Subject()
        var present: PresentNodes
        var position = Revision.zero

        init() { present = PresentNodes([]) }

        mutating func set(_ name: String, _ text: String?) throws -> [PresentNodes.Event] {
            let operation: MetadataOperation =
                text.map { .put(key("/presence/\(name)"), bytes($0)) } ?? .delete(.key(key("/presence/\(name)")))
            subject.results(operation)
            let changes = try subject.state.changes(after: position, of: PresenceRecord.selection)
            position = subject.state.revision
            return changes.flatMap { present.changed($0) }
        }

        var list: [MetadataEntry] { subject.state.read(PresentNodes.query).entries }
    }

    private func life(_ number: UInt16, _ epoch: Int64) -> Incarnation {
        Incarnation(node(number), Epoch(rawValue: epoch))
    }

    @Test("a node appears with a life's record, and vanishes when that goes or is another life's, whatever it is about")
    func events() throws {
        var run = Run()
        #expect(try run.set("1", "7 starting") == [.appeared(life(1, 7))])
        #expect(try run.set("1", "7 serving") == [])
        #expect(try run.set("1", "7 leaving") == [])
        #expect(try run.set("1", nil) == [.vanished(life(1, 7))])
        #expect(try run.set("2", "8 leaving") == [.appeared(life(2, 8))])
        #expect(try run.set("2", "9 serving") == [.vanished(life(2, 8)), .appeared(life(2, 9))])
        #expect(run.present.incarnations == [life(2, 9)])
        #expect(try run.set("2", "nonsense") == [.vanished(life(2, 9))])
        #expect(try run.set("x", "3 serving") == [])
        #expect(run.present.incarnations == [])
    }

    @Test("a list tells what the changes would have told, from whichever state one begins")
    func lists() throws {
        let texts: [String?] = [nil, "1 starting", "1 serving", "1 leaving", "2 starting", "2 serving"]
        for before in texts {
            for after in texts where before != after {
                // A life that has gone on does not go back.
                guard (before ?? "0") < "2" || after?.first != "1" else { continue }
                var changed = Run()
                _ = try changed.set("1", before)
                var listed = changed
                let events = try changed.set("1", after)
                #expect(listed.present.replace(by: changed.list) == events, "\(before ?? "none"), \(after ?? "none")")
                #expect(listed.present == changed.present)
            }
        }
    }

    @Test("all nodes that there can be are in one list")
    func room() throws {
        var subject = Subject()
        for number in 0...NodeID.maximum {
            let record = PresenceRecord(life(number, 1), .serving)
            subject.results(.put(record.key!, record.value))
        }
        let answer = subject.state.read(PresentNodes.query)
        #expect(answer.isComplete)
        #expect(PresentNodes(answer.entries).incarnations.count == Int(NodeID.maximum) + 1)
    }
}
