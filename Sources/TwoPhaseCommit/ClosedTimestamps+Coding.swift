import TransactionCore

extension ClosedTimestamps.Message {
    public func write(to writer: inout ByteWriter) {
        switch self {
        case .activate(let activity):
            writer.byte(1)
            writer.number(activity)
        case .activated(let activity, let closed):
            writer.byte(2)
            writer.number(activity)
            writer.fixed(closed.rawValue)
        case .close(let round, let timestamp):
            writer.byte(3)
            writer.number(round)
            writer.fixed(timestamp.rawValue)
        case .report(let report):
            writer.byte(4)
            report.write(to: &writer)
        case .applied(let parts):
            writer.byte(5)
            writer.parts(parts)
        }
    }

    public init(from reader: inout ByteReader) throws(MalformedBytes) {
        switch try reader.byte() {
        case 1: self = .activate(try reader.number())
        case 2: self = .activated(try reader.number(), closed: try reader.timestamp())
        case 3: self = .close(round: try reader.number(), upTo: try reader.timestamp())
        case 4: self = .report(try ClosedTimestamps.Report(from: &reader))
        case 5: self = .applied(try reader.parts())
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
    }
}

extension ClosedTimestamps.Report {
    fileprivate func write(to writer: inout ByteWriter) {
        writer.number(activity)
        writer.number(round)
        writer.fixed(strongReadTimestamp.rawValue)
        switch promise {
        case .silent(let newest):
            writer.byte(0)
            writer.fixed(newest.rawValue)
        case .closed(let closed, let inFlight):
            writer.byte(1)
            writer.fixed(closed.rawValue)
            writer.parts(inFlight)
        }
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        let (activity, round) = (try reader.number(), try reader.number())
        let strongReadTimestamp = try reader.timestamp()
        let promise: Promise
        switch try reader.byte() {
        case 0: promise = .silent(newest: try reader.timestamp())
        case 1: promise = .closed(upTo: try reader.timestamp(), inFlight: try reader.parts())
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
        self.init(activity: activity, round: round, strongReadTimestamp: strongReadTimestamp, promise: promise)
    }
}

extension ByteWriter {
    fileprivate mutating func parts(_ parts: [ClosedTimestamps.TimestampOnShard]) {
        number(UInt64(parts.count))
        for part in parts {
            fixed(part.timestamp.rawValue)
            block(part.shard.rawValue.utf8)
        }
    }
}

extension ByteReader {
    fileprivate mutating func timestamp() throws(MalformedBytes) -> Timestamp {
        let value = try fixed()
        guard value >= 0 else { throw malformed(.outOfRange) }
        return Timestamp(rawValue: value)
    }

    fileprivate mutating func parts() throws(MalformedBytes) -> [ClosedTimestamps.TimestampOnShard] {
        var parts: [ClosedTimestamps.TimestampOnShard] = []
        for _ in 0..<(try count()) {
            let timestamp = try timestamp()
            guard let shard = ShardID(String(decoding: try block(), as: UTF8.self)) else {
                throw malformed(.outOfRange)
            }
            parts.append(.init(timestamp, shard))
        }
        return parts
    }
}
