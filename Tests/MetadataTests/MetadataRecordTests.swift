import Testing
import TransactionCore

@testable import Metadata

@Suite struct MetadataRecordTests {
    private func check<Record: MetadataRecord>(_ record: Record, _ name: String, _ text: String) {
        #expect(record.key?.rawValue == name)
        #expect(String(decoding: record.value, as: UTF8.self) == text)
        #expect(Record(makeEntry(name, text)) == record)
        #expect(Record(makeEntry("/elsewhere", text)) == nil)
    }

    private func makeEntry(_ name: String, _ text: String) -> MetadataEntry {
        MetadataEntry(key: key(name), value: bytes(text), created: revision(1), modified: revision(1), version: 1)
    }

    @Test("records are lines of text under keys of their own, and are read as they were written")
    func roundTrips() {
        check(ClusterRecord(identity: "d3b0"), "/cluster", "d3b0")
        check(
            NodeRecord(node(3), .serving, clientAddress: "10.0.0.3:5432", peerAddress: "[::1]:7000"), "/nodes/3",
            "serving 10.0.0.3:5432 [::1]:7000")
        for state in ["starting", "serving", "leaving"] {
            check(
                PresenceRecord(Incarnation(node(1023), Epoch(rawValue: 8)), PresenceRecord.State(rawValue: state)!),
                "/presence/1023", "8 \(state)")
        }
        check(ShardRecord(ShardID("s1")!, conninfo: "host=db1 dbname=bank"), "/shards/s1", "host=db1 dbname=bank")
        check(UserRecord(name: "alice", verifier: "SCRAM-SHA-256$x"), "/users/alice", "SCRAM-SHA-256$x")
    }

    @Test(
        "a name of any text is a part of a key, and no two names are one key",
        arguments: [
            ("a/b", "/users/a%2Fb"), ("a%2Fb", "/users/a%252Fb"), ("zoë q", "/users/zo%C3%AB%20q"),
            ("\0", "/users/%00"),
        ])
    func names(name: String, key: String) {
        check(UserRecord(name: name, verifier: "v"), key, "v")
    }

    @Test("a name that no key has room for has none")
    func noKey() {
        #expect(UserRecord(name: "", verifier: "v").key == nil)
        #expect(UserRecord(name: String(repeating: "é", count: 90), verifier: "v").key == nil)
        #expect(UserRecord(name: String(repeating: "é", count: 31), verifier: "v").key != nil)
    }

    @Test("a state tells all records of a kind in the order of their keys, without what is none")
    func records() {
        var subject = Subject()
        let shards = ["s2", "s10", "s1"].map { ShardRecord(ShardID($0)!, conninfo: "host=\($0)") }
        for shard in shards { subject.results(.put(shard.key!, shard.value)) }
        subject.results(.put(key("/shards/S"), []), .put(key("/shards0"), []), .put(key("/cluster"), bytes("8")))
        #expect(subject.state.records() == [shards[2], shards[1], shards[0]])
        #expect(subject.state.records(ClusterRecord.self) == [ClusterRecord(identity: "8")])
        #expect(subject.state.records(NodeRecord.self) == [])
    }

    @Test("what is no record is not taken for one")
    func refused() {
        for name in ["/nodes/03", "/nodes/+3", "/nodes/1024", "/nodes/x", "/nodes/3/x"] {
            #expect(NodeRecord(makeEntry(name, "serving a b")) == nil, "\(name)")
        }
        for text in ["", "serving", "serving a", "serving a b c", "asleep a b"] {
            #expect(NodeRecord(makeEntry("/nodes/3", text)) == nil, "\(text)")
        }
        for name in ["/users/%", "/users/%4", "/users/%zz", "/users/%2f", "/users/%61", "/users/%FF", "/users/a/b"] {
            #expect(UserRecord(makeEntry(name, "v")) == nil, "\(name)")
        }
        for text in ["", "8", "x serving", "8 serving serving", "8  serving", "8 asleep"] {
            #expect(PresenceRecord(makeEntry("/presence/3", text)) == nil, "\(text)")
        }
        #expect(ShardRecord(makeEntry("/shards/S1", "host=a")) == nil)
        #expect(ClusterRecord(makeEntry("/cluster", "")) == nil)
        let broken = MetadataEntry(
            key: key("/cluster"), value: [0xFF], created: revision(1), modified: revision(1), version: 1)
        #expect(ClusterRecord(broken) == nil)
    }
}
