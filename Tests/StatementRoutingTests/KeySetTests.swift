import Placement
import StatementRouting
import Testing
import TransactionCore

@Suite struct KeySetTests {
    private let buckets = makeCatalog().buckets

    private func shards(_ text: String, _ parameters: BoundParameter...) throws -> Route.Destination {
        try makePlan(text).route.shards(for: parameters, in: buckets)
    }

    private func shard(_ key: Int64) -> ShardID { buckets.shard(forHash: ShardKeyHash.hash(key)) }

    @Test("parameters lead to shards in either format, whatever integer type they have")
    func parameters() throws {
        let text = "SELECT * FROM accounts WHERE id = $1"
        #expect(try shards(text, BoundParameter(text: "7")) == .shards([shard(7)]))
        #expect(try shards(text, BoundParameter(type: 23, format: .binary, [0, 0, 0, 7])) == .shards([shard(7)]))
        #expect(try shards(text, BoundParameter(type: 21, text: "7")) == .shards([shard(7)]))
        #expect(try shards(text, BoundParameter(type: 1700, text: "7")) == .every, "numeric compares otherwise")
        #expect(try shards(text, BoundParameter(type: 25, text: "7")) == .every)
        #expect(try shards(text, BoundParameter(text: "x")) == .every, "the shards will say what is wrong with it")
        #expect(try shards(text) == .every)
    }

    @Test("NULL equals nothing, so any shard has the answer")
    func nulls() throws {
        #expect(try shards("SELECT * FROM accounts WHERE id = NULL") == .shards([buckets.shards[0]]))
        #expect(try shards("SELECT * FROM accounts WHERE id = $1", BoundParameter(nil)) == .shards([buckets.shards[0]]))
        #expect(try shards("SELECT * FROM accounts WHERE id IN (NULL, 7)") == .shards([shard(7)]))
        #expect(try shards("SELECT * FROM accounts WHERE id = ANY ('{}')") == .shards([buckets.shards[0]]))
    }

    @Test("arrays lead to the shards of their elements")
    func arrays() throws {
        let text = "SELECT * FROM accounts WHERE id = ANY ($1)"
        let expected = Route.Destination.shards(Set([shard(1), shard(2), shard(30)]).sorted())
        #expect(try shards(text, BoundParameter(text: "{1, \"2\",NULL,30}")) == expected)
        func word(_ value: UInt32) -> [UInt8] { (0..<4).map { UInt8(truncatingIfNeeded: value >> (24 - 8 * $0)) } }
        let head: [UInt32] = [1, 1, 20, 4, 1]
        var bytes = head.flatMap { word($0) }
        for value: UInt32 in [1, 2, 30] { bytes += word(8) + word(0) + word(value) }
        bytes += word(.max)
        #expect(try shards(text, BoundParameter(format: .binary, bytes)) == expected)
        for broken in ["{1", "{{1},{2}}", "1", "{1,}", "[0:1]={1,2}", "{\"1}"] {
            #expect(try shards(text, BoundParameter(text: broken)) == .every, "\(broken)")
        }
        #expect(try shards(text, BoundParameter(format: .binary, Array(bytes.dropLast()))) == .every)
    }

    @Test("a text parameter that is used elsewhere too may be of another type there, unless it is cast or declared")
    func untyped() throws {
        let text = "SELECT * FROM users WHERE name = $1 AND email = $1"
        let value = BoundParameter(text: "x")
        let shard = buckets.shard(forHash: ShardKeyHash.hash(Array("x".utf8)))
        #expect(try shards(text, value) == .every)
        #expect(try shards(text, BoundParameter(type: 25, text: "x")) == .shards([shard]))
        #expect(try shards(text, BoundParameter(type: 1042, text: "x")) == .every)
        #expect(try shards("SELECT * FROM users WHERE name = $1", value) == .shards([shard]))
        #expect(try shards("SELECT * FROM users WHERE name = $1::text AND email = $1", value) == .every)
    }

    @Test("keys that must agree and don't are apart; a key that can't be read is too")
    func agreement() throws {
        let text = "SELECT * FROM accounts a, orders o WHERE a.id = $1 AND o.customer = $2"
        let one = BoundParameter(text: "1")
        #expect(try shards(text, one, one) == .shards([shard(1)]))
        let other = try #require((2...100).first { shard($0) != shard(1) })
        #expect(try shards(text, one, BoundParameter(text: String(other))) == .apart)
        #expect(try shards(text, one, BoundParameter(text: "x")) == .apart)
        let whole = "SELECT string_agg(note, ',') FROM orders WHERE customer = ANY ($1)"
        #expect(try shards(whole, BoundParameter(text: "{1,1}")) == .shards([shard(1)]))
        #expect(try shards(whole, BoundParameter(text: "{1,\(other)}")) == .apart)
    }

    @Test("dates that only a session can read may be anywhere")
    func dates() throws {
        #expect(try shards("SELECT * FROM days WHERE day = 'today'") == .every)
        guard case .shards(let found) = try shards("SELECT * FROM days WHERE day = '2023-01-02'") else {
            Issue.record("every")
            return
        }
        #expect(found.count == 1)
    }
}
