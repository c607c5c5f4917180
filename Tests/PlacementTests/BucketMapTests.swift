import Placement
import Testing
import TransactionCore

@Suite struct BucketMapTests {
    private let names = (1...7).map { ShardID("shard\($0)")! }

    @Test("the first assignment is even: no shard has two buckets more than another", arguments: 1...7)
    func even(count: Int) {
        let map = BucketMap(shards: Array(names.prefix(count)))
        let counts = map.shards.map { map.buckets(of: $0).count }
        #expect(counts.reduce(0, +) == BucketMap.bucketCount)
        #expect(counts.max()! - counts.min()! <= 1)
    }

    @Test("a negative hash has the bucket of its unsigned value")
    func negative() {
        #expect(BucketMap.bucket(ofHash: -1) == 4095)
        #expect(BucketMap.bucket(ofHash: .min) == 0)
        #expect(BucketMap.bucket(ofHash: 4097) == 1)
    }

    @Test("moved buckets belong to their new shard, all others stay, and the version grows")
    func moving() {
        let map = BucketMap(shards: Array(names.prefix(2)))
        let moved = map.moving(0..<10, to: names[2])
        #expect(moved.version == map.version + 1)
        for bucket in 0..<BucketMap.bucketCount {
            #expect(moved.shard(ofBucket: bucket) == (bucket < 10 ? names[2] : map.shard(ofBucket: bucket)))
        }
        let emptied = moved.moving(moved.buckets(of: names[1]), to: names[0])
        #expect(emptied.shards == [names[0], names[2]])
    }
}
