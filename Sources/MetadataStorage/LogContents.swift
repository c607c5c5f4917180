import Consensus
import TransactionCore

/// Whose log it is, and which of the logs that followed each other there: its first frame's payload.
struct LogHeader: Hashable {
    static let version: UInt8 = 1

    var identity: StorageIdentity
    /// Counted up with every log that took the place of another.
    var generation: UInt64

    init(identity: StorageIdentity, generation: UInt64) {
        self.identity = identity
        self.generation = generation
    }

    var encoded: [UInt8] {
        var writer = ByteWriter()
        writer.byte(Self.version)
        writer.number(generation)
        writer.number(UInt64(identity.node.rawValue))
        writer.block(identity.cluster.utf8)
        return writer.bytes
    }

    init(encoded bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        let version = try reader.byte()
        guard version == Self.version else { throw reader.malformed(.unknownVersion(version)) }
        generation = try reader.number()
        guard let node = NodeID(rawValue: UInt16(try reader.number(max: UInt64(NodeID.maximum)))) else {
            throw reader.malformed(.outOfRange)
        }
        identity = StorageIdentity(cluster: String(decoding: try reader.block(), as: UTF8.self), node: node)
        try reader.end()
    }
}

/// Several records: a frame's payload.
enum RecordBatch {
    static func encode(_ records: [DurableRecord]) -> [UInt8] {
        var writer = ByteWriter()
        writer.number(UInt64(records.count))
        for record in records { writer.block(record.encoded) }
        return writer.bytes
    }

    static func decode(_ bytes: [UInt8]) throws(MalformedBytes) -> [DurableRecord] {
        var reader = ByteReader(bytes)
        var records: [DurableRecord] = []
        for _ in 0..<(try reader.count()) { records.append(try DurableRecord(encoded: try reader.block())) }
        try reader.end()
        return records
    }
}

extension DurableState {
    /// What a log begins with: the fewest records that give this state, the first membership too.
    var firstBatch: [DurableRecord] { isFresh ? [.snapshot(snapshot)] : records }

    /// Nil where `records` are no log's first batch.
    init?(firstBatch records: [DurableRecord]) {
        guard case .snapshot(let snapshot) = records.first else { return nil }
        self.init(membership: snapshot.membership)
        // The state before the first slot is what there is without any record.
        for record in snapshot.slot == .zero ? records.dropFirst() : records[...] { append(record) }
    }
}

/// What a log says.
struct LogContents {
    let header: LogHeader
    private(set) var state: DurableState
    /// Bytes at the end that are what a crash has left of a batch.
    private(set) var tornBytes = 0

    /// Reads a whole log.
    ///
    /// - Throws: where anything is wrong with it that an unfinished write does not explain.
    init(_ bytes: [UInt8], path: String) throws(StorageError) {
        var frames = Frames(bytes: bytes, path: path)
        guard bytes.starts(with: LogFrame.mark) else {
            throw StorageError("\(path) is no log of Meridian's", hint: "which directory is the node's?")
        }
        // Both were durable before the file got its name: no crash explains that one is missing.
        guard let header = try frames.next(), let first = try frames.next() else { throw frames.corrupt() }
        self.header = try frames.decoded { () throws(MalformedBytes) in try LogHeader(encoded: header) }
        let records = try frames.decoded { () throws(MalformedBytes) in try RecordBatch.decode(first) }
        guard let state = DurableState(firstBatch: records) else { throw frames.corrupt() }
        self.state = state
        while let batch = try frames.next() {
            let records = try frames.decoded { () throws(MalformedBytes) in try RecordBatch.decode(batch) }
            for record in records { self.state.append(record) }
        }
        tornBytes = frames.tornBytes
    }

    private struct Frames {
        let bytes: [UInt8]
        let path: String
        var offset = LogFrame.mark.count
        var previous: UInt32 = 0
        /// Where the last one that was returned begins.
        var lastOffset = LogFrame.mark.count
        var tornBytes = 0

        init(bytes: [UInt8], path: String) {
            self.bytes = bytes
            self.path = path
        }

        /// The next payload; nil at the end.
        mutating func next() throws(StorageError) -> [UInt8]? {
            switch LogFrame.find(in: bytes, at: offset, previous: previous) {
            case .frame(let payload, let check):
                (lastOffset, offset, previous) = (offset, payload.endIndex, check)
                return Array(payload)
            case .end: return nil
            case .broken:
                lastOffset = offset
                if let later = LogFrame.findHead(in: bytes, after: offset) {
                    throw corrupt("what was written after it begins at byte \(later)")
                }
                tornBytes = bytes.count - offset
                return nil
            }
        }

        func decoded<Value>(_ decode: () throws(MalformedBytes) -> Value) throws(StorageError) -> Value {
            do throws(MalformedBytes) {
                return try decode()
            } catch {
                if case .unknownVersion = error.reason {
                    throw StorageError(
                        "\(path) was written by a newer version", detail: "at byte \(lastOffset): \(error)",
                        hint: "start the node with the version that ran last")
                }
                throw corrupt("\(error)")
            }
        }

        func corrupt(_ detail: String? = nil) -> StorageError {
            StorageError(
                "\(path) is corrupt at byte \(lastOffset)", detail: detail,
                hint: "what the node has promised is not known any more: "
                    + "remove it from the cluster, and have it join with an empty directory and a new number")
        }
    }
}
