import Testing
import TransactionCore

@Suite struct NodeIDTests {
    @Test("a node's number fits the low bits of a timestamp")
    func limits() {
        #expect(NodeID.maximum == 1_023)
        #expect(NodeID(rawValue: 0)?.rawValue == 0)
        #expect(NodeID(rawValue: 1_023)?.description == "1023")
        #expect(NodeID(rawValue: 1_024) == nil)
    }
}

@Suite struct ShardIDTests {
    @Test(
        "a shard's name is a lower-case letter and up to 62 letters, digits and underscores",
        arguments: ["a", "s1", "eu_west_1", String(repeating: "z", count: 63)])
    func accepted(name: String) {
        #expect(ShardID(name)?.rawValue == name)
    }

    @Test(
        "any other name is refused, such as one that would break a gid or a quoted name",
        arguments: [
            "", "1a", "_a", "A", "a:b", "a b", "a'", "a\"", "é", "a\n", "a\0", String(repeating: "z", count: 64),
        ])
    func refused(name: String) {
        #expect(ShardID(name) == nil)
    }

    @Test("shards are ordered by name")
    func order() throws {
        #expect(try #require(ShardID("s1")) < #require(ShardID("s2")))
    }
}

@Suite struct TransactionIDTests {
    private func makeID(home: String = "s1", epoch: Int64 = 7, timestamp: Int64 = 1_700_000_000_123_457_539) throws
        -> TransactionID
    {
        TransactionID(
            home: try #require(ShardID(home)), epoch: Epoch(rawValue: epoch),
            commitTimestamp: Timestamp(rawValue: timestamp))
    }

    @Test("the gid says home, node, epoch and commit timestamp")
    func text() throws {
        let id = try makeID()
        #expect(id.node.rawValue == 1_700_000_000_123_457_539 % 1_024)
        #expect(id.description == "meridian:s1:\(id.node):7:1700000000123457539")
    }

    @Test("a gid reads back as the transaction that it names", arguments: [Int64.min, -1, 0, .max], [0, 1_023, .max])
    func roundTrip(epoch: Int64, timestamp: Int64) throws {
        let id = try makeID(epoch: epoch, timestamp: timestamp)
        #expect(TransactionID(id.description) == id)
    }

    @Test("the longest gid is shorter than the 200 bytes that PostgreSQL allows")
    func longest() throws {
        let id = try makeID(home: String(repeating: "z", count: ShardID.lengthMax), epoch: .min, timestamp: .min)
        #expect(id.description.utf8.count < 200)
    }

    @Test(
        "a stranger's gid is not taken for ours",
        arguments: [
            "", "meridian", "meridian:", "meridian:s1:1:7", "meridian:s1:1:7:1025:9", "Meridian:s1:1:7:1025",
            "meridian:S1:1:7:1025", "meridian::1:7:1025", "meridian:s1:01:7:1025", "meridian:s1:1:+7:1025",
            "meridian:s1:1:7:01025", "meridian:s1:1:7:1025 ", " meridian:s1:1:7:1025", "meridian:s1:1:7:",
            "meridian:s1:1024:7:1024", "meridian:s1:-1:7:1025", "meridian:s1:1:7:9223372036854775808",
        ])
    func rubbish(gid: String) {
        #expect(TransactionID("meridian:s1:1:7:1025") != nil)
        #expect(TransactionID(gid) == nil)
    }

    @Test("a gid whose node is not that of its timestamp is not ours")
    func wrongNode() {
        #expect(TransactionID("meridian:s1:2:7:1025") == nil)
    }
}
