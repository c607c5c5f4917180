public import TransactionCore

/// Which shard holds which of the 4096 buckets that shard keys hash to.
public struct BucketMap: Hashable, Sendable {
    /// How many buckets there are: enough to spread over hundreds of shards, few enough to send to anyone.
    public static let bucketCount = 4096

    /// Grows with every change.
    public let version: UInt64
    /// The shards that hold buckets, each once, in sequence.
    public let shards: [ShardID]
    /// For each bucket, its shard's index in ``shards``.
    public let owners: [UInt16]

    /// Spreads the buckets evenly: shard i of n gets the i-th n-th of them. At least one shard, none twice.
    public init(shards: [ShardID], version: UInt64 = 1) {
        precondition(!shards.isEmpty && shards.count <= Self.bucketCount, "\(shards.count) shards for the buckets")
        precondition(Set(shards).count == shards.count, "a shard is named twice: \(shards)")
        self.shards = shards
        self.version = version
        owners = (0..<Self.bucketCount).map { UInt16($0 * shards.count / Self.bucketCount) }
    }

    private init(shards: [ShardID], owners: [UInt16], version: UInt64) {
        (self.shards, self.owners, self.version) = (shards, owners, version)
    }

    /// The map that was stored; nil when the parts don't fit each other.
    public init?(storedShards shards: [ShardID], owners: [UInt16], version: UInt64) {
        guard owners.count == Self.bucketCount, Set(shards).count == shards.count,
            owners.allSatisfy({ $0 < shards.count })
        else { return nil }
        self.init(shards: shards, owners: owners, version: version)
    }

    /// The bucket of a hash: the unsigned remainder.
    public static func bucket(ofHash hash: Int64) -> Int { Int(UInt64(bitPattern: hash) % UInt64(bucketCount)) }

    /// The shard that holds the rows whose key has this hash.
    public func shard(forHash hash: Int64) -> ShardID { shard(ofBucket: Self.bucket(ofHash: hash)) }

    /// The shard that holds a bucket.
    public func shard(ofBucket bucket: Int) -> ShardID { shards[Int(owners[bucket])] }

    /// The map after buckets have moved to a shard, which may be new.
    public func moving(_ buckets: some Sequence<Int>, to shard: ShardID) -> BucketMap {
        let shards = shards.contains(shard) ? shards : shards + [shard]
        var owners = owners
        for bucket in buckets { owners[bucket] = UInt16(shards.firstIndex(of: shard)!) }
        let used = Set(owners).sorted()
        let renumbered = Dictionary(uniqueKeysWithValues: used.enumerated().map { ($0.element, UInt16($0.offset)) })
        return BucketMap(
            shards: used.map { shards[Int($0)] }, owners: owners.map { renumbered[$0]! }, version: version + 1)
    }

    /// The buckets of a shard.
    public func buckets(of shard: ShardID) -> [Int] {
        (0..<Self.bucketCount).filter { self.shard(ofBucket: $0) == shard }
    }
}
