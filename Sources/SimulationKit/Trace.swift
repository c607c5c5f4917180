import TransactionCore

/// One thing that happened in a run.
public struct TraceEvent: Hashable, Sendable {
    /// Where it happened.
    public enum Place: Hashable, Sendable {
        case client(Int)
        /// The coordinating process that was started as the so-manieth.
        case node(Int)
        case shard(ShardID)
    }

    /// When it happened, in true time.
    public let time: Timestamp
    public let place: Place
    public let what: String
    /// The client's number of the transaction or read that it concerns.
    public let number: Int?
    /// The commit or read timestamp that it concerns.
    public let timestamp: Timestamp?
}

extension TraceEvent: CustomStringConvertible {
    /// Milliseconds since the run began, the place, what happened, and to which transaction.
    public var description: String {
        let microseconds = String(time.nanoseconds(since: Scheduler.epoch) / 1_000)
        let padded = String(repeating: "0", count: max(0, 4 - microseconds.count)) + microseconds
        var line = "\(padded.dropLast(3)).\(padded.suffix(3)) ms  \(place): \(what)"
        if let number { line += " t\(number)" }
        if let timestamp { line += " @\(timestamp)" }
        return line
    }
}

extension TraceEvent.Place: CustomStringConvertible {
    public var description: String {
        switch self {
        case .client(let number): "client \(number)"
        case .node(let number): "node \(number)"
        case .shard(let shard): "shard \(shard)"
        }
    }
}

/// The trace of a run in full.
public struct Trace: Sendable {
    public let events: [TraceEvent]

    /// A number that is the same for the same events, in every process (64-bit FNV-1a of their text).
    public var digest: UInt64 {
        var hash: UInt64 = 0xCBF2_9CE4_8422_2325
        for event in events {
            for byte in event.description.utf8 { hash = (hash ^ UInt64(byte)) &* 0x100_0000_01B3 }
        }
        return hash
    }

    /// The last `limit` events that concern the transactions and reads of these numbers.
    public func concerning(_ numbers: [Int], limit: Int) -> [TraceEvent] {
        let timestamps = Set(events.filter { numbers.contains($0.number ?? -1) }.compactMap(\.timestamp))
        return events.filter { event in
            event.number.map { numbers.contains($0) } ?? event.timestamp.map { timestamps.contains($0) } ?? false
        }.suffix(limit)
    }
}
