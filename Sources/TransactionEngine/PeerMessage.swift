import TransactionCore
import TwoPhaseCommit

/// What the engines of nodes say to each other.
enum PeerMessage: Hashable, Sendable {
    case timestamps(ClosedTimestamps.Message)
    case catalog(CatalogHolds.Message)
    /// Who works in these sessions? Answered by ``owners(_:)``.
    case findOwners([SessionID])
    /// Those of them that the sender's transactions have.
    case owners([SessionOwner])
    /// The first one of these transactions is to end: each waits for the next one, and the last for the first.
    case deadlock([UInt64])

    struct SessionOwner: Hashable, Sendable {
        var session: SessionID
        /// See ``LockOwner/number``.
        var number: UInt64
    }

    var encoded: [UInt8] {
        var writer = ByteWriter()
        switch self {
        case .timestamps(let message):
            writer.byte(1)
            message.write(to: &writer)
        case .catalog(let message):
            writer.byte(2)
            message.write(to: &writer)
        case .findOwners(let sessions):
            writer.byte(3)
            writer.number(UInt64(sessions.count))
            for session in sessions { session.write(to: &writer) }
        case .owners(let owners):
            writer.byte(4)
            writer.number(UInt64(owners.count))
            for owner in owners {
                owner.session.write(to: &writer)
                writer.number(owner.number)
            }
        case .deadlock(let cycle):
            writer.byte(5)
            writer.number(UInt64(cycle.count))
            for number in cycle { writer.number(number) }
        }
        return writer.bytes
    }

    init(encoded bytes: [UInt8]) throws(MalformedBytes) {
        var reader = ByteReader(bytes)
        switch try reader.byte() {
        case 1: self = .timestamps(try ClosedTimestamps.Message(from: &reader))
        case 2: self = .catalog(try CatalogHolds.Message(from: &reader))
        case 3:
            var sessions: [SessionID] = []
            for _ in 0..<(try reader.count()) { sessions.append(try SessionID(from: &reader)) }
            self = .findOwners(sessions)
        case 4:
            var owners: [SessionOwner] = []
            for _ in 0..<(try reader.count()) {
                owners.append(SessionOwner(session: try SessionID(from: &reader), number: try reader.number()))
            }
            self = .owners(owners)
        case 5:
            var cycle: [UInt64] = []
            for _ in 0..<(try reader.count()) { cycle.append(try reader.number()) }
            self = .deadlock(cycle)
        case let kind: throw reader.malformed(.unknownKind(kind))
        }
        try reader.end()
    }
}

extension CatalogHolds.Message {
    /// What a node answers that plans nothing, and will ask before it does; nil where there is nothing to say.
    var answerOfWhoPlansNothing: CatalogHolds.Message? {
        switch self {
        case .ask: .released(0)
        case .hold(let number): .held(number)
        case .held, .released: nil
        }
    }
}

/// A session by what a shard calls it.
struct SessionID: Hashable, Sendable {
    var shard: ShardID
    var process: Int32

    init(_ shard: ShardID, _ process: Int32) {
        (self.shard, self.process) = (shard, process)
    }

    fileprivate func write(to writer: inout ByteWriter) {
        writer.block(shard.rawValue.utf8)
        writer.number(UInt64(UInt32(bitPattern: process)))
    }

    fileprivate init(from reader: inout ByteReader) throws(MalformedBytes) {
        guard let shard = ShardID(String(decoding: try reader.block(), as: UTF8.self)) else {
            throw reader.malformed(.outOfRange)
        }
        self.init(shard, Int32(bitPattern: UInt32(try reader.number(max: UInt64(UInt32.max)))))
    }
}
